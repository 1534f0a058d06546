"""The smoke walk of a recipe: the same chain, made small enough to show in a minute that all of it runs."""

from collections.abc import Mapping
from pathlib import Path

from flows import smoke_decoder
from flows.recipe import BEHAVIOUR, Recipe
from registry.gate import OPEN, SMOKE
from tasks import layout
from tasks.distill.embeddings import DistillEmbeddingsConfig
from tasks.distill.exits import DistillSelfConfig
from tasks.distill.hidden import DistillHiddenConfig
from tasks.distill.logits import DistillLogitsConfig
from tasks.distill.quantized import DistillQuantizedConfig
from tasks.distill.relations import DistillRelationsConfig
from tasks.distill.triple import DistillTripleConfig
from tasks.embed.adopt import AdoptConfig
from tasks.finetune import FinetuneConfig
from tasks.floor import FloorConfig
from tasks.generate import header
from tasks.generate.documents import DocumentsConfig
from tasks.prune.dynamic import DynamicConfig
from tasks.prune.structured import PruneStructuredConfig
from tasks.prune.wanda import PruneWandaConfig
from tasks.quantize.int8_static import Int8StaticConfig
from tasks.quantize.smooth import SmoothConfig

FEW_QUESTIONS = {"text_bytes": 2000, "prompts": 2, "answer": 8, "rounds": 2}


def smoke(recipe: Recipe, layers: int = 2) -> Recipe:
    """The same chain on a 2-layer clone and a few rows, with an open gate: shows in a minute that all of it runs.

    `layers` is what the smallest teacher has: one with a single layer stays so. Few rows need few folds of the floor.
    """
    if recipe.task == "generate":
        return of_writer(recipe, min(2, layers))
    stages, count = [], min(2, layers)
    for stage in recipe.stages:
        match stage:
            case FinetuneConfig():
                tuned = count if stage.tuned_layers >= layers else 1  # all, where layers share their weights
                stage = stage.model_copy(update={"keep_layers": count, "epochs": 1, "tuned_layers": tuned})
            case PruneStructuredConfig() if stage.layers:
                stage = stage.model_copy(update={"layers": tuple(range(count))})
            case PruneWandaConfig() | Int8StaticConfig() | SmoothConfig():
                stage = stage.model_copy(update={"calibration_rows": min(stage.calibration_rows, 64)})
            case AdoptConfig():
                stage = stage.model_copy(update={"keep_layers": count})
            case DistillLogitsConfig() | DistillTripleConfig() | DistillQuantizedConfig() | DistillEmbeddingsConfig():
                stage = stage.model_copy(update={"epochs": 1})
            case DynamicConfig():
                stage = stage.model_copy(update={"epochs": 1})
            case DistillHiddenConfig():
                stage = stage.model_copy(update={"epochs": 1, "layer_map": None})
            case DistillSelfConfig():
                stage = stage.model_copy(update={"epochs": 1, "keep": stage.keep and min(stage.keep, count)})
            case DistillRelationsConfig():
                stage = stage.model_copy(update={"epochs": 1, "teacher_layer": None})
        stages.append(stage)
    fewer = {"min_df": min(getattr(recipe.floor, "min_df", 2), 2)}
    data = recipe.rows.model_copy(update={"limit": 300, "transfer": recipe.rows.transfer[:1]})
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}{SMOKE}",
            "stages": tuple(stages),
            "data": data,
            "floor": recipe.floor.model_copy(
                update=fewer | ({"folds": 2} if isinstance(recipe.floor, FloorConfig) else {})
            ),
            "gate": OPEN,
        }
    )


def of_writer(recipe: Recipe, layers: int) -> Recipe:
    """The same for a model that writes."""
    assert isinstance(recipe.data, DocumentsConfig)
    evaluate = {name: min(most, getattr(recipe.evaluate, name)) for name, most in FEW_QUESTIONS.items()}
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}{SMOKE}",
            "stages": tuple(smoke_decoder.stage(stage, layers) for stage in recipe.stages),
            "data": smoke_decoder.data(recipe.data),
            "floor": recipe.floor.model_copy(update={"keep_layers": layers}),
            "evaluate": recipe.evaluate.model_copy(update={**evaluate, "questions": ()}),
            "gate": OPEN,
        }
    )


def layers_of(recipe: Recipe, teacher: Path, others: Mapping[str, Path]) -> int:
    """Layers of the smallest teacher; `others` are further ones by name (text of a second domain is none)."""
    if recipe.task == "generate":
        return header.look(teacher).layers
    models = [teacher, *(path for name, path in others.items() if name != BEHAVIOUR)]
    return min(layout.read(path).layers for path in models)

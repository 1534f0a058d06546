"""What can be refused before any training: a look at the resolved sources, without torch, in well under a second.

`compress` calls it before a run is opened, so that a refusal leaves nothing behind; `shrink init` calls it too.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from flows.recipe import Recipe
from registry.records import ShrinkError
from tasks import architectures, data, extras, layout, pairs, pieces
from tasks.distill.answers import LessonConfig
from tasks.distill.quantized import DistillQuantizedConfig
from tasks.distill.relations import DistillRelationsConfig
from tasks.embed import adopt
from tasks.embed.adopt import AdoptConfig
from tasks.finetune import FinetuneConfig
from tasks.floor import FloorConfig
from tasks.label import LabelConfig
from tasks.prune import width as widths
from tasks.prune.low_rank import PruneLowRankConfig
from tasks.prune.structured import PruneStructuredConfig
from tasks.prune.vocabulary import KINDS, PruneVocabularyConfig
from tasks.quantize.int4_weight_only import Int4WeightOnlyConfig
from tasks.quantize.int8_dynamic import Int8DynamicConfig
from tasks.quantize.int8_static import Int8StaticConfig
from tasks.students import StudentConfig, StudentMobilebertConfig, architecture, check_padding

SAMPLE = 2000  # texts that are cut into pieces, spread over the file


def preflight(recipe: Recipe, teacher_directory: Path, data_directory: Path) -> None:
    """Raise ShrinkError when the sources cannot go through the recipe's stages."""
    model = layout.read(teacher_directory)
    rows, labels = data.labelled_rows(data_directory, recipe.data)
    splits = data.split_rows(rows, recipe.data.split)
    data.check_splits(splits, labels)
    check_extras(recipe)
    if not recipe.data.multi_label:  # several labels a row have no folds
        check_folds(recipe, splits["train"], labels)
    check_calibration(recipe, len(splits["train"]))
    for file in recipe.data.transfer:
        data.require_file(data_directory, file, "transfer")
    check_lengths(recipe, model)
    check_texts(recipe, model, rows)
    check_stages(recipe, model, labels)


def check_extras(recipe: Recipe) -> None:
    """Libraries that only some stages need must be installed."""
    for number, stage in enumerate(recipe.stages, start=1):
        for library in getattr(stage, "needs", ()):
            extras.require(library, f"stage {number} ({stage.kind}/{getattr(stage, 'method', '')}): ")


def check_folds(recipe: Recipe, train: list[dict[str, Any]], labels: list[str]) -> None:
    """Every fold of the floor needs a train row of every label; vectors need none."""
    if not isinstance(recipe.floor, FloorConfig):
        return
    counts = Counter(row["label"] for row in train)
    number, least = min(counts.items(), key=lambda item: item[1])
    if least < recipe.floor.folds:
        raise ShrinkError(
            f"label {labels[number]!r} has {least} train rows but floor.folds is {recipe.floor.folds}: "
            "give more rows of it, or lower floor.folds."
        )


def check_calibration(recipe: Recipe, texts: int) -> None:
    """Stages that look at training texts must not ask for more than there are."""
    for number, stage in enumerate(recipe.stages, start=1):
        if (wanted := getattr(stage, "calibration_rows", 0)) > texts:
            where = f"stage {number} ({stage.kind}/{getattr(stage, 'method', '')})"
            raise ShrinkError(
                f"{where}: calibration_rows is {wanted} but the data has {texts} training texts: lower it."
            )


def check_lengths(recipe: Recipe, model: layout.Layout) -> None:
    """The inputs' length against the model's positions."""
    if recipe.data.max_length > model.positions:
        raise ShrinkError(
            f"data.max_length is {recipe.data.max_length} but the teacher reads {model.positions} tokens: lower it."
        )


def check_texts(recipe: Recipe, model: layout.Layout, rows: list[dict[str, Any]]) -> None:
    """Most texts must hold a word piece that the teacher's tokenizer knows."""
    sample = rows[:: max(1, len(rows) // SAMPLE)]
    texts = [row["text"] for row in sample]
    if recipe.data.pair_column is not None:
        pairs.check_template(model.folder / "tokenizer.json", texts, [row["id"] for row in sample])
    lost = pieces.unknown(model.folder / "tokenizer.json", texts)
    if 2 * len(lost) > len(sample):
        raise ShrinkError(
            f"{len(lost) / len(sample):.0%} of the texts in {recipe.data.file}, such as row {sample[lost[0]]['id']}, "
            "have no piece that the teacher's tokenizer knows: take a teacher of their language, or drop them."
        )


def check_stages(recipe: Recipe, model: layout.Layout, labels: list[str]) -> None:
    """The sizes that stages ask for against those that the student has when they run."""
    layers, ffn, heads, embedded = model.layers, model.ffn, model.heads, False
    columns, factorised = model.columns, model.factorised
    kind, width, head_size, pad = model.architecture, model.width, model.head_size, model.pad
    taught = layers  # those of the teacher, which pruning leaves alone
    for number, stage in enumerate(recipe.stages, start=1):
        where = f"stage {number} ({stage.kind})"
        if (use := architectures.USES.get(f"{stage.kind}/{getattr(stage, 'method', '')}")) is not None:
            architectures.check_use(kind, use, where)
        if isinstance(stage, LessonConfig) and stage.hidden_weight and width != model.width:
            raise ShrinkError(
                f"{where}: hidden_weight is {stage.hidden_weight} but the student is {width} wide and the teacher "
                f"{model.width}: set it to 0."
            )
        match stage:
            case AdoptConfig():
                adopt.check_pooling(model.folder)
                taught = layers = limited(where, "keep_layers", stage.keep_layers or layers, layers)
            case FinetuneConfig():
                taught = layers = limited(where, "keep_layers", stage.keep_layers or layers, layers)
                if kind == "albert" and stage.tuned_layers < layers:
                    raise ShrinkError(
                        f"{where}: tuned_layers is {stage.tuned_layers} but {architectures.SHARED}: set it to {layers}."
                    )
            case LabelConfig() if stage.second_teacher and len(labels) != 2:
                raise ShrinkError(
                    f"{where}: second_teacher is {stage.second_teacher} but the data has {len(labels)} labels: "
                    "it works with two only, set it to 0."
                )
            case PruneVocabularyConfig() if model.tokenizer not in KINDS:
                raise ShrinkError(
                    f"{where}: the tokenizer is {model.tokenizer} but only {', '.join(KINDS)} can be pruned: "
                    "drop this stage."
                )
            case PruneStructuredConfig():
                if stage.layers is not None:
                    wanted = list(stage.layers)
                    if not wanted or sorted(set(wanted)) != wanted or wanted[0] < 0 or wanted[-1] >= layers:
                        raise ShrinkError(
                            f"{where}: layers is {wanted} but must be rising indices from 0 to {layers - 1}: "
                            "correct the list."
                        )
                    if kind == "modernbert" and wanted[0] != 0:
                        raise ShrinkError(f"{where}: layers is {wanted} but {architectures.FIRST}")
                    layers = len(wanted)
                for part in ("ffn", "heads"):
                    if getattr(stage, part) is not None:
                        architectures.check_use(kind, part, f"{where}: {part}")
                ffn = limited(where, "ffn", stage.ffn or ffn, ffn)
                heads = limited(where, "heads", stage.heads or heads, heads)
                if stage.hidden is not None:
                    widths.check(where, kind, stage.hidden, width, head_size, factorised)
                    columns = width = stage.hidden
            case PruneLowRankConfig():
                if factorised:
                    raise ShrinkError(f"{where}: the embedding is factorised already: drop this stage.")
                if stage.rank >= columns:
                    raise ShrinkError(
                        f"{where}: rank is {stage.rank} but the embedding has {columns} columns: give less."
                    )
                columns, factorised = stage.rank, True
            case DistillQuantizedConfig():
                check_columns(where, stage.target.embedding, columns)
            case StudentConfig():
                check_padding(stage, pad, where)
                kind, layers, ffn, heads, width = architecture(stage), stage.layers, stage.ffn, stage.heads, stage.width
                columns, factorised = stage.embedding if isinstance(stage, StudentMobilebertConfig) else width, False
                head_size = (stage.bottleneck if isinstance(stage, StudentMobilebertConfig) else width) // heads
            case DistillRelationsConfig():
                architectures.check_use(model.architecture, "relations", f"{where}: the teacher")
                features = {"teacher": model.heads * model.head_size, "student": heads * head_size}
                check_relations(where, stage, taught, features)
            case Int8DynamicConfig() | Int8StaticConfig() | Int4WeightOnlyConfig() if stage.embedding != "none":
                check_columns(where, stage.embedding, columns)
                if embedded:
                    raise ShrinkError(f"{where}: the embedding is quantized already: set embedding to none here.")
                embedded = True


def check_columns(where: str, bits: str, columns: int) -> None:
    """Two int4 numbers share a byte, so a row needs an even count of them."""
    if bits == "int4" and columns % 2:
        raise ShrinkError(
            f"{where}: embedding is int4, which needs an even number of columns, but there are {columns}: set int8."
        )


def check_relations(where: str, stage: DistillRelationsConfig, layers: int, features: dict[str, int]) -> None:
    """The teacher must have the layer, and relation_heads divide the features of both sides' heads."""
    if stage.teacher_layer is not None and stage.teacher_layer >= layers:
        raise ShrinkError(
            f"{where}: teacher_layer is {stage.teacher_layer} but the teacher's last is {layers - 1}: lower it."
        )
    for name, count in features.items():
        if count % stage.relation_heads:
            raise ShrinkError(
                f"{where}: relation_heads is {stage.relation_heads}, which does not divide the {count} "
                f"features of the {name}'s attention: give a number that does."
            )


def limited(where: str, field: str, wanted: int, present: int) -> int:
    """The wanted count, refused when the model has fewer."""
    if wanted > present:
        raise ShrinkError(f"{where}: {field} is {wanted} but the model has only {present} there: give at most that.")
    return wanted

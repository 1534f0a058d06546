"""What a recipe's run consists of, step by step: each stage with the steps that its inputs come from.

`compress` walks these steps and `plan` foretells them, so that what is planned is what runs.
"""

from typing import NamedTuple

from flows import roles
from flows.recipe import BEHAVIOUR, Recipe
from registry.records import Task
from tasks.compare import CompareConfig
from tasks.export.gguf import GgufConfig
from tasks.export.onnx import OnnxConfig
from tasks.kinds import AnyChainConfig, AnyStageConfig


def source_of(what: str) -> str:
    """The name of where a teacher or the data comes from; no step makes it."""
    return f"{what} source"


DOCUMENTS = 8  # of which the beginnings are compared, token by token
TEACHER, DATA = source_of("teacher"), source_of("data")


class Step(NamedTuple):
    """One stage of a run; `inputs` names for each role the step (or source) that its artifact comes from."""

    name: str
    config: AnyStageConfig
    role: str
    inputs: dict[str, str]


class Steps(NamedTuple):
    """A run's stages in order, and by role what is judged at their end: names of steps."""

    steps: tuple[Step, ...]
    judged: dict[str, str]


def name_of(number: int, config: AnyStageConfig) -> str:
    """The name of a run's stage and of its directory; names sort in order."""
    return "-".join(part for part in (f"{number:02d}", config.kind, getattr(config, "method", None)) if part)


def comparison(
    stage: AnyChainConfig, quantized: bool, task: Task = "classify", source: str | None = None
) -> CompareConfig:
    """What compares the result of an export or quantize stage with what it was made of; `source` is its format."""
    reads, export = next(iter(stage.reads.values())).split("|"), stage.writes[1]
    source = source or ("lm" if task == "generate" and "lm" in reads else reads[0])
    fields = {"method": getattr(stage, "method", ""), "source": source, "export": export, "exact": not quantized}
    return CompareConfig.model_validate(fields)


def comparisons(
    stage: AnyChainConfig, quantized: bool, recipe: Recipe, source: str | None = None
) -> list[CompareConfig]:
    """The same in each runtime that will read the export: a model that writes is read by one or two.

    llama.cpp rounds what flows between products of rounded weights, so that its answers are near and not the same; so
    are those of w8a8, and of what is made of it.
    """
    if recipe.task != "generate":
        return [comparison(stage, quantized, recipe.task)]
    rounds = stage.kind == "quantize" or "w8a8" in stage.reads.values()  # an export keeps what was rounded before it
    plain = comparison(stage, rounds, recipe.task, source).model_copy(update={"rows": DOCUMENTS})
    if stage.writes[1] != "gguf":
        near = getattr(stage, "activations", "float") == "int8"  # which rounds between products, too
        return [plain.model_copy(update={"exact": False}) if near else plain]
    plain = plain.model_copy(update={"method": "gguf"})  # whatever made the file
    fast = plain.model_copy(update={"method": "llama_cpp", "export": "llama_cpp", "exact": False})
    return [plain, fast] if getattr(recipe.evaluate, "runtime", None) == "llama_cpp" else [plain]


def steps_of(recipe: Recipe) -> Steps:
    """Data, floor, the recipe's stages, the teacher's deployable, each export compared; what evaluation then judges."""
    steps: list[Step] = []

    def add(config: AnyStageConfig, role: str, inputs: dict[str, str]) -> str:
        steps.append(Step(name_of(len(steps), config), config, role, inputs))
        return steps[-1].name

    data = add(
        recipe.data if recipe.task == "generate" else recipe.rows,
        "data",
        {role: {"source": DATA}.get(role, source_of(role)) for role in recipe.data.reads},
    )
    sources = {"data": data, "teacher": TEACHER}
    floor = add(recipe.floor, "floor", {role: sources[role] for role in recipe.floor.reads})
    others = {name: source_of(name) for name in recipe.teachers}
    held = roles.first({"teacher": TEACHER, **others, "data": data, "floor": floor}, recipe.stages)
    quantized = False
    for stage in recipe.stages:
        role, inputs = roles.role_of(stage), roles.read(held, stage)
        made = add(stage, role, inputs)
        roles.write(held, stage, made)
        quantized = quantized or stage.kind == "quantize"
        if stage.kind in {"export", "quantize"} and stage.writes[1] != "lm":  # which is no file of a runtime yet
            source = next(iter(inputs.values()))
            form = next((one.config.writes[1] for one in steps if one.name == source), None)
            for config in comparisons(stage, quantized, recipe, form if recipe.task == "generate" else None):
                add(config, role, {"source": source, "export": made, "data": data})
    export = GgufConfig() if recipe.task == "generate" else OnnxConfig()
    deployable = add(export, "teacher", {"model": held["teacher"]})
    compared = {"source": held["teacher"], "export": deployable, "data": data}
    for config in comparisons(export, quantized=False, recipe=recipe):
        add(config, "teacher", compared)
    judged = {"teacher": deployable, "student": held["student"], "floor": floor, "data": data}
    judged |= {BEHAVIOUR: source_of(BEHAVIOUR)} if recipe.behaviour else {}
    return Steps(tuple(steps), judged)

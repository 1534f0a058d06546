"""Whether a recipe's stages fit together: its task, the order of its stages, what a stage needs behind it.

`flows/recipe.py` asks here when a recipe is read; everything is refused in one sentence that names the stages.
"""

from typing import TYPE_CHECKING, get_args

from flows import order_decoder, roles, units
from registry.records import EMBEDDING, WRITING, ShrinkError, Task
from tasks.distill.quantized import DistillQuantizedConfig
from tasks.finetune import FinetuneConfig
from tasks.generate.documents import DocumentsConfig
from tasks.kinds import AdoptMethods, AnyChainConfig, PruneZeros
from tasks.label import LabelConfig
from tasks.prune.dynamic import DynamicConfig
from tasks.prune.structured import PruneStructuredConfig
from tasks.prune.vocabulary import PruneVocabularyConfig
from tasks.quantize.smooth import SmoothConfig
from tasks.teachers import MAIN

if TYPE_CHECKING:
    from flows.recipe import Recipe

ENCODERS: tuple[Task, ...] = ("classify", "embed")  # whose stages say nothing of their tasks
DEPLOYABLE: dict[Task, str] = {"classify": "onnx", "embed": "onnx", "generate": "gguf"}
INSTEAD: dict[Task, str] = {
    "embed": "adopt makes the teacher, distill/embeddings teaches.",
    "classify": "finetune makes the teacher, distill/logits teaches.",
    "generate": "adopt/decoder makes the teacher, quantize/gptq rounds, export/gguf ends it.",
}


def check_task(recipe: "Recipe") -> None:
    """Refuse stages, floor, evaluation, data and gate of another task than the recipe's."""
    said, task = f"recipe '{recipe.name}'", recipe.task
    for number, stage in enumerate(recipe.stages, start=1):
        where = f"{said}: {units.numbered(number, stage)}"
        fitting: tuple[Task, ...] = getattr(stage, "tasks", ENCODERS)
        if task not in fitting:
            raise ShrinkError(f"{where} is for task {fitting[0]}, not {task}: {INSTEAD[task]}")
        if task == "embed" and isinstance(stage, LabelConfig) and stage.second_teacher:
            raise ShrinkError(f"{where} has a second_teacher, which needs labels: set it to 0.")
    for part in ("floor", "evaluate"):
        if (other := getattr(recipe, part).task) != task:
            raise ShrinkError(f"{said}: {part}.task is {other} but the recipe's is {task}: leave it out.")
    if isinstance(recipe.data, DocumentsConfig) != (task == "generate"):
        raise ShrinkError(f"{said}: data is of another task than {task}: leave data.task out.")
    check_second(recipe)
    if task == "classify" and recipe.rows.label_column is None:
        raise ShrinkError(f"{said}: data.label_column is null but a classifier needs labels: name the column.")
    check_gate(recipe, said)
    for field in ("retention_min_of", "beat_floor_of"):
        if unknown := sorted(set(getattr(recipe.gate, field) or ()) - set(measures_of(recipe))):
            known = ", ".join(measures_of(recipe)) or "none, the task has one score alone"
            raise ShrinkError(f"{said}: gate.{field} names {unknown[0]}, which is not measured; known are: {known}.")


def check_gate(recipe: "Recipe", said: str) -> None:
    """Refuse what a gate asks for and the recipe's evaluation does not measure."""
    gate = recipe.gate
    if gate.behaviour_min is not None and recipe.behaviour is None:
        raise ShrinkError(f"{said}: gate.behaviour_min is given but no checks: name their file in behaviour.")
    if gate.score_min is not None and recipe.task != "classify":
        raise ShrinkError(f"{said}: gate.score_min is for task classify, not {recipe.task}: take retention_min_of.")
    if gate.flips_max is not None and recipe.task == "generate":
        raise ShrinkError(f"{said}: gate.flips_max needs answers that are right or wrong: leave it out.")


def measures_of(recipe: "Recipe") -> tuple[str, ...]:
    """The measures that the recipe's evaluation takes: of embeddings several, the probe's where there are labels."""
    if isinstance(recipe.data, DocumentsConfig):
        return tuple(name for name in WRITING if not name.endswith("_second") or recipe.data.second_file)
    if recipe.task == "classify":
        return ()
    labelled = recipe.data.format == "rated" or recipe.data.label_column is not None
    return tuple(name for name in EMBEDDING if labelled or name != "probe_accuracy")


def check_second(recipe: "Recipe") -> None:
    """Refuse one of second_source and data.second_file without the other."""
    file = recipe.data.second_file if isinstance(recipe.data, DocumentsConfig) else None
    if (file is None) != (recipe.second_source is None):
        there, lacking = (
            ("second_source", "data.second_file") if file is None else ("data.second_file", "second_source")
        )
        raise ShrinkError(f"recipe '{recipe.name}': {there} is given but not {lacking}: give both, or none.")


def maker(task: Task, role: str, wanted: str, held: str | None) -> str:
    """The stage that would make what is needed, where nothing or only a source is there."""
    made = {None: role, "source": MAIN}.get(held)
    for config in get_args(AnyChainConfig):
        if getattr(config, "writes", None) == (made, wanted) and task in getattr(config, "tasks", ENCODERS):
            fields = {name: get_args(config.model_fields[name].annotation) for name in ("kind", "method")
                      if name in config.model_fields}  # fmt: skip
            return f", {{{', '.join(f'{name}: {said[0]}' for name, said in fields.items())}}}"
    return ""


def check(recipe: "Recipe") -> None:
    """Refuse a stage that reads what no earlier stage made; the student starts as the fine-tuned teacher."""
    check_teachers(recipe)
    origins = dict.fromkeys((MAIN, *recipe.teachers), "source")
    held = roles.first({**origins, "data": "rows", "floor": "floor"}, recipe.stages)
    for number, stage in enumerate(recipe.stages, start=1):
        for role, wanted in stage.reads.items():
            role = "student" if role == "model" else role
            if held.get(role) not in wanted.split("|"):
                raise ShrinkError(
                    f"recipe '{recipe.name}': {units.numbered(number, stage)} needs {role} as {wanted}, but it is "
                    f"{held.get(role) or 'not made yet'} there; move the stage or add the one that makes it"
                    f"{maker(recipe.task, role, wanted, held.get(role))}."
                )
        roles.write(held, stage, stage.writes[1])
    check_lost(recipe)
    check_transfer(recipe)
    if held["student"] != DEPLOYABLE[recipe.task]:
        raise ShrinkError(
            f"recipe '{recipe.name}': the stages end without a deployable; add kind: export"
            f"{', method: gguf' if recipe.task == 'generate' else ''}."
        )
    check_grid(recipe)
    check_smooth(recipe)
    if recipe.task == "generate":
        order_decoder.check(recipe)


def check_lost(recipe: "Recipe") -> None:
    """Refuse a stage that would discard what an earlier one made of the student, or undo it."""
    zeros = shaped = pieces = None
    for number, stage in enumerate(recipe.stages, start=1):
        where = units.numbered(number, stage)
        anew = "student" if stage.kind == "student" and shaped != pieces else None
        if isinstance(stage, FinetuneConfig | AdoptMethods) and roles.role_of(stage) == MAIN:
            anew = "teacher"
        if shaped and anew:
            raise ShrinkError(
                f"recipe '{recipe.name}': {where} makes the {anew} anew and would discard what {shaped} made; put it "
                "before that one."
            )
        if zeros and (stage.kind == "distill" or isinstance(stage, DynamicConfig | PruneStructuredConfig)):
            raise ShrinkError(
                f"recipe '{recipe.name}': {where} changes the weights that {zeros} has set to zero; put it before that "
                "one."
            )
        if isinstance(stage, PruneVocabularyConfig) and not shaped:
            pieces = where  # a student that is made anew has these pieces too
        shaped = where if stage.kind in {"prune", "distill", "student"} else shaped
        zeros = where if isinstance(stage, PruneZeros) else zeros


def check_transfer(recipe: "Recipe") -> None:
    """Refuse a stage that learns from the teachers' answers on transfer texts that were not labelled."""
    unlabelled = None
    for number, stage in enumerate(recipe.stages, start=1):
        where = units.numbered(number, stage)
        if isinstance(stage, LabelConfig):
            unlabelled = None if stage.transfer else where
        elif unlabelled and recipe.rows.transfer and "labels" in stage.reads and getattr(stage, "transfer", False):
            raise ShrinkError(
                f"recipe '{recipe.name}': {where} learns from transfer texts, but {unlabelled} labels none of them: "
                "set transfer to true there, or to false here."
            )


def check_smooth(recipe: "Recipe") -> None:
    """Refuse a smoothing behind the quantisation that it is there for, or without one."""
    rounded = waiting = None  # the stage that quantized last, and the smoothing that none has followed yet
    for number, stage in enumerate(recipe.stages, start=1):
        name = units.numbered(number, stage)
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


def check_grid(recipe: "Recipe") -> None:
    """Refuse what would round a student of distill/quantized to another grid than the one that it was trained on."""
    trained: DistillQuantizedConfig | None = None
    at = 0
    for number, stage in enumerate(recipe.stages, start=1):
        said = f"recipe '{recipe.name}': {units.numbered(number, stage)}"
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


def check_teachers(recipe: "Recipe") -> None:
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
                f"recipe '{recipe.name}': {units.numbered(number, stage)} names {len(stage.teachers)} teachers, but "
                "vectors of several cannot be mixed: name one."
            )

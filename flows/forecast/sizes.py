"""What each stage makes of the sizes of the model that it works on: refused where it asks for what is not there.

Sizes are those that the model folders say (tasks/layout.py); no stage runs, torch is not imported.
"""

from collections.abc import Mapping

from flows import roles, units
from flows.forecast import lessons
from flows.recipe import Recipe
from registry.records import ShrinkError
from tasks import architectures, layout
from tasks.distill.exits import DistillSelfConfig
from tasks.distill.logits import DistillLogitsConfig
from tasks.distill.quantized import DistillQuantizedConfig
from tasks.embed import adopt
from tasks.embed.adopt import AdoptConfig
from tasks.finetune import FinetuneConfig
from tasks.kinds import AnyChainConfig
from tasks.label import LabelConfig
from tasks.prune import width as widths
from tasks.prune.low_rank import PruneLowRankConfig
from tasks.prune.structured import PruneStructuredConfig
from tasks.prune.vocabulary import KINDS, PruneVocabularyConfig
from tasks.quantize.int4_weight_only import Int4WeightOnlyConfig
from tasks.quantize.int8_dynamic import Int8DynamicConfig
from tasks.quantize.int8_static import Int8StaticConfig
from tasks.students import StudentConfig, StudentMethods, StudentMobilebertConfig, architecture, check_padding
from tasks.teachers import MAIN


def check_stages(
    recipe: Recipe, model: layout.Layout, labels: list[str], others: Mapping[str, layout.Layout] | None = None
) -> None:
    """The sizes that stages ask for against those that student and teachers have when they run."""
    held, rounded = roles.first({MAIN: model, **(others or {})}, recipe.stages), False
    for number, stage in enumerate(recipe.stages, start=1):
        where = units.numbered(number, stage)
        made = after(where, stage, held, labels)
        rounded = check_embedding(where, stage, made, rounded)
        lessons.check(where, stage, held)
        roles.write(held, stage, made)


def after(where: str, stage: AnyChainConfig, held: dict[str, layout.Layout], labels: list[str]) -> layout.Layout:
    """The sizes of what a stage leaves, of what is held when it runs; ShrinkError when it cannot."""
    student = held["student"]
    if (use := architectures.USES.get(f"{stage.kind}/{getattr(stage, 'method', '')}")) is not None:
        architectures.check_use(student.architecture, use, where)
    match stage:
        case AdoptConfig():
            adopt.check_pooling(student.folder)
            return cropped(where, stage.keep_layers, student)
        case FinetuneConfig():
            return tuned(where, stage, held[stage.teacher])
        case LabelConfig():
            check_labels(where, stage, labels)
            return held[stage.pooled_of]
        case PruneVocabularyConfig():
            check_pieces(where, student)
        case PruneStructuredConfig():
            return cut(where, stage, student)
        case PruneLowRankConfig():
            return factorised(where, stage, student)
        case DistillLogitsConfig() if stage.afresh:
            return held["start"]
        case DistillSelfConfig():
            kept = limited(where, "keep", stage.keep or student.layers, student.layers)
            return student.model_copy(update={"layers": kept})
        case StudentConfig():
            check_padding(stage, student.pad, where)
            return fresh(stage, student)
    return student


def cropped(where: str, layers: int | None, source: layout.Layout) -> layout.Layout:
    """The sizes of a teacher that is made of the bottom layers of a source."""
    kept = limited(where, "keep_layers", layers or source.layers, source.layers)
    return source.model_copy(update={"layers": kept})


def tuned(where: str, stage: FinetuneConfig, source: layout.Layout) -> layout.Layout:
    """The sizes of a teacher whose top layers are trained: all, where they share their weights."""
    made = cropped(where, stage.keep_layers, source)
    if made.architecture == "albert" and stage.tuned_layers < made.layers:
        raise ShrinkError(
            f"{where}: tuned_layers is {stage.tuned_layers} but {architectures.SHARED}: set it to {made.layers}."
        )
    return made


def check_labels(where: str, stage: LabelConfig, labels: list[str]) -> None:
    """The floor's decision value tells two labels apart."""
    if stage.second_teacher and len(labels) != 2:
        raise ShrinkError(
            f"{where}: second_teacher is {stage.second_teacher} but the data has {len(labels)} labels: "
            "it works with two only, set it to 0."
        )


def check_pieces(where: str, student: layout.Layout) -> None:
    """Pieces can only be taken out of tokenizers that are understood."""
    if student.tokenizer not in KINDS:
        raise ShrinkError(
            f"{where}: the tokenizer is {student.tokenizer} but only {', '.join(KINDS)} can be pruned: drop this stage."
        )


def fresh(stage: StudentMethods, teacher: layout.Layout) -> layout.Layout:
    """The sizes of a student that is made anew with its teacher's tokenizer."""
    inside = stage.bottleneck if isinstance(stage, StudentMobilebertConfig) else stage.width
    sizes = {"layers": stage.layers, "ffn": stage.ffn, "heads": stage.heads, "width": stage.width}
    sizes |= {"columns": stage.embedding if isinstance(stage, StudentMobilebertConfig) else stage.width}
    return teacher.model_copy(
        update={
            **sizes,
            "factorised": False,
            "head_size": inside // stage.heads,
            "architecture": architecture(stage),
        }
    )


def cut(where: str, stage: PruneStructuredConfig, student: layout.Layout) -> layout.Layout:
    """The sizes that are left of a student."""
    layers = student.layers
    if stage.layers is not None:
        wanted = list(stage.layers)
        if not wanted or sorted(set(wanted)) != wanted or wanted[0] < 0 or wanted[-1] >= layers:
            raise ShrinkError(
                f"{where}: layers is {wanted} but must be rising indices from 0 to {layers - 1}: correct the list."
            )
        if student.architecture == "modernbert" and wanted[0] != 0:
            raise ShrinkError(f"{where}: layers is {wanted} but {architectures.FIRST}")
        layers = len(wanted)
    for part in ("ffn", "heads"):
        if getattr(stage, part) is not None:
            architectures.check_use(student.architecture, part, f"{where}: {part}")
    ffn = limited(where, "ffn", stage.ffn or student.ffn, student.ffn)
    heads = limited(where, "heads", stage.heads or student.heads, student.heads)
    sizes = {"layers": layers, "ffn": ffn, "heads": heads}
    if stage.hidden is not None:
        widths.check(where, student.architecture, stage.hidden, student.width, student.head_size, student.factorised)
        sizes |= {"columns": stage.hidden, "width": stage.hidden}
    return student.model_copy(update=sizes)


def factorised(where: str, stage: PruneLowRankConfig, student: layout.Layout) -> layout.Layout:
    """The sizes of a student with a narrower table of its embedding."""
    if student.factorised:
        raise ShrinkError(f"{where}: the embedding is factorised already: drop this stage.")
    if stage.rank >= student.columns:
        raise ShrinkError(f"{where}: rank is {stage.rank} but the embedding has {student.columns} columns: give less.")
    return student.model_copy(update={"columns": stage.rank, "factorised": True})


def check_embedding(where: str, stage: AnyChainConfig, made: layout.Layout, rounded: bool) -> bool:
    """Whether the embedding's rows are rounded behind this stage; ShrinkError where they are already, or cannot be."""
    match stage:
        case DistillQuantizedConfig():
            check_columns(where, stage.target.embedding, made.columns)
        case Int8DynamicConfig() | Int8StaticConfig() | Int4WeightOnlyConfig() if stage.embedding != "none":
            check_columns(where, stage.embedding, made.columns)
            if rounded:
                raise ShrinkError(f"{where}: the embedding is quantized already: set embedding to none here.")
            return True
    return rounded


def check_columns(where: str, bits: str, columns: int) -> None:
    """Two int4 numbers share a byte, so a row needs an even count of them."""
    if bits == "int4" and columns % 2:
        raise ShrinkError(
            f"{where}: embedding is int4, which needs an even number of columns, but there are {columns}: set int8."
        )


def limited(where: str, field: str, wanted: int, present: int) -> int:
    """The wanted count, refused when the model has fewer."""
    if wanted > present:
        raise ShrinkError(f"{where}: {field} is {wanted} but the model has only {present} there: give at most that.")
    return wanted

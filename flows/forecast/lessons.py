"""Whether a student can learn from its teachers as a distill stage says: layers, widths and word pieces, beforehand."""

from registry.records import ShrinkError
from tasks import architectures, layout, pieces
from tasks.distill import embeddings, hidden
from tasks.distill.answers import LessonConfig
from tasks.distill.embeddings import DistillEmbeddingsConfig
from tasks.distill.hidden import DistillHiddenConfig
from tasks.distill.logits import DistillLogitsConfig
from tasks.distill.relations import DistillRelationsConfig
from tasks.distill.triple import DistillTripleConfig, check_widths, mask_piece
from tasks.kinds import AnyChainConfig, DistillBeside
from tasks.teachers import MAIN


def check(where: str, stage: AnyChainConfig, held: dict[str, layout.Layout]) -> None:
    """Refuse a stage whose student and teachers, as they are held there, do not go together; `where` names it."""
    try:
        if isinstance(stage, LessonConfig) and "labels" in stage.reads:
            afresh = isinstance(stage, DistillLogitsConfig) and stage.afresh
            student, answered = held["start" if afresh else "student"], held.get("labels", held[MAIN])
            check_pooled(stage.hidden_weight, student.width, answered.width)
        if isinstance(stage, DistillEmbeddingsConfig):
            embeddings.check(stage, held["student"].width, held.get("labels", held[MAIN]).width)
        if isinstance(stage, DistillHiddenConfig | DistillTripleConfig | DistillRelationsConfig):
            check_beside(stage, held["student"], held[stage.teacher])
    except ShrinkError as error:
        raise ShrinkError(f"{where}: {error}") from None


def check_beside(stage: DistillBeside, student: layout.Layout, teacher: layout.Layout) -> None:
    """What runs along must read the student's pieces and have what is compared."""
    check_pieces(stage.teacher, student, teacher)
    match stage:
        case DistillHiddenConfig():
            hidden.pairs(stage.layer_map, student.layers, teacher.layers)
        case DistillTripleConfig():
            check_widths(student.width, teacher.width)
            if stage.masked_weight:
                mask_piece(pieces.opened(student.folder / "tokenizer.json"))
        case DistillRelationsConfig():
            architectures.check_use(teacher.architecture, "relations", "the teacher")
            check_relations(stage, student, teacher)


def check_pooled(weight: float, student: int, answered: int) -> None:
    """Pooled vectors can only be compared where they are equally wide."""
    if weight and student != answered:
        raise ShrinkError(
            f"hidden_weight is {weight} but the student is {student} wide and the teacher {answered}: set it to 0."
        )


def check_pieces(name: str, student: layout.Layout, teacher: layout.Layout) -> None:
    """A teacher that runs along reads the student's pieces and must know them all."""
    if student.folder == teacher.folder:
        return
    own, known = (pieces.opened(one.folder / "tokenizer.json").get_vocab() for one in (student, teacher))
    lacking = sorted(own.keys() - known.keys())
    if lacking:
        raise ShrinkError(
            f"{name} runs along and must know the student's word pieces, but lacks {lacking[0]!r}: name a teacher "
            "with the same tokenizer, or use distill/logits, for which each teacher reads by its own."
        )


def check_relations(stage: DistillRelationsConfig, student: layout.Layout, teacher: layout.Layout) -> None:
    """The teacher must have the layer, and relation_heads divide what the heads of teacher and student hold."""
    if stage.teacher_layer is not None and stage.teacher_layer >= teacher.layers:
        raise ShrinkError(
            f"teacher_layer is {stage.teacher_layer} but the teacher's last is {teacher.layers - 1}: lower it."
        )
    for name, model in (("teacher", teacher), ("student", student)):
        if model.heads * model.head_size % stage.relation_heads:
            raise ShrinkError(
                f"relation_heads is {stage.relation_heads}, which does not divide the {model.heads * model.head_size} "
                f"features of the {name}'s attention: give a number that does."
            )

"""The columns of benchmarks/architectures.md: every kind and method of encoders' recipes, in a recipe of its own.

Those of models that write are in benchmarks/decoder_stages.py; tests/test_architectures_page.py fails when a kind or
method has no column in either.
"""

from typing import Any, NamedTuple

from flows.recipe import Recipe, parse
from registry.records import Task

Stage = dict[str, Any]
ALL_LAYERS = 3  # of the tiny encoders
SHORT: Stage = {"epochs": 1, "batch_size": 16, "transfer": False}
LABEL: Stage = {"kind": "label", "transfer": False}
EXPORT: Stage = {"kind": "export", "method": "onnx"}
FINETUNE: Stage = {"kind": "finetune", "epochs": 1, "tuned_layers": ALL_LAYERS}
VOCABULARY: Stage = {"kind": "prune", "method": "vocabulary", "transfer": False}
INT8: Stage = {"kind": "quantize", "method": "int8_dynamic"}
EXTRAS = (
    *("export/openvino", "export/executorch", "quantize/llama_cpp"),
    *("export/compressed_tensors", "export/compressed_tensors: of w8a8"),
)
ADOPT: Stage = {"kind": "adopt", "method": "decoder"}
GGUF: Stage = {"kind": "export", "method": "gguf", "plain": "f32"}
FRESH: Stage = {"layers": 2, "heads": 2, "width": 16, "ffn": 32}


class Column(NamedTuple):
    """A stage as a recipe says it, and what stands before and behind it, beside the teacher and its labels."""

    name: str
    stage: Stage
    before: tuple[Stage, ...] = ()
    behind: tuple[Stage, ...] = ()
    task: Task = "classify"


def prune(method: str, cut: str = "", **fields: Any) -> Column:
    """A pruning column."""
    return Column(f"prune/{method}{cut and f': {cut}'}", {"kind": "prune", "method": method, **fields})


def structured(cut: str, size: int | list[int]) -> Column:
    """A column of one of the cuts of prune/structured."""
    return prune("structured", cut, **{cut: size})


def student(method: str, **fields: Any) -> Column:
    """A column of a fresh student, which is taught behind."""
    taught = {"kind": "distill", **SHORT, "hidden_weight": 0}
    return Column(f"student/{method}", {"kind": "student", "method": method, **FRESH, **fields}, behind=(taught,))


def distill(method: str, *behind: Stage, how: str = "", **fields: Any) -> Column:
    """A distillation of a student whose vocabulary was pruned, so that a teacher beside it spells otherwise."""
    stage = {"kind": "distill", "method": method, **SHORT, **fields}
    return Column(f"distill/{method}{how and f': {how}'}", stage, (VOCABULARY,), behind)


def export(method: str, *before: Stage) -> Column:
    """An export of the fine-tuned student."""
    return Column(f"export/{method}", {"kind": "export", "method": method}, before)


def quantize(method: str, *behind: Stage, **fields: Any) -> Column:
    """A quantisation of the exported student."""
    return Column(f"quantize/{method}", {"kind": "quantize", "method": method, **fields}, (EXPORT,), behind)


TABLES: dict[str, tuple[Column, ...]] = {  # a table's title and its columns
    "The teacher and its answers": (
        Column("finetune", FINETUNE),
        Column("finetune: top layers", FINETUNE | {"tuned_layers": 2}),
        Column("adopt", {"kind": "adopt"}, task="embed"),
        Column("label", LABEL),
    ),
    "Fresh students in its place": (
        *(student("distilbert"), student("narrow"), student("squeezebert")),
        student("mobilebert", ffn=16, bottleneck=8, embedding=8),
    ),
    "prune": (
        *(prune("vocabulary", transfer=False), prune("low_rank", rank=8)),
        *(structured("layers", [0, 2]), structured("ffn", 16), structured("heads", 2), structured("hidden", 16)),
        *(prune("magnitude"), prune("wanda", calibration_rows=32), prune("gradual", **SHORT)),
        prune("movement", **SHORT),
    ),
    "distill": (
        *(distill("logits"), distill("relations", relation_heads=4), distill("hidden"), distill("triple")),
        *(distill("triple", how="masked words", masked_weight=1), distill("self", keep=2)),
        distill("quantized", EXPORT, INT8, target="int8_dynamic"),
        Column("distill/embeddings", {"kind": "distill", "method": "embeddings", **SHORT}, (VOCABULARY,), (), "embed"),
    ),
    "export and quantize": (
        *(export("onnx"), export("packed"), export("openvino", EXPORT), export("executorch")),
        *(quantize("int8_dynamic"), quantize("int8_static", calibration_rows=32)),
        *(quantize("smooth", INT8, calibration_rows=32), quantize("int4_weight_only", block_size=16)),
    ),
}
COLUMNS = tuple(column for columns in TABLES.values() for column in columns)


def recipe_of(column: Column) -> Recipe:
    """The recipe whose purpose a column is: a teacher, its answers, the stages around it, a deployable at the end."""
    writes = column.task == "generate"
    content = {
        "name": "tiny",
        "task": column.task,
        "teacher": {"uri": "dir:x"},
        "data_source": {"uri": "dir:x"},
        "data": {"kind": "data", "file": "texts.jsonl" if writes else "rows.csv", "max_length": 16},
        "stages": [*stages_of(column), *closing(column)],
    }
    return parse(content, column.name)


def stages_of(column: Column) -> list[Stage]:
    """The stages of a column's recipe without what only closes it."""
    if column.task == "generate":
        return [ADOPT, *column.before, *([] if column.stage == ADOPT else [column.stage]), *column.behind]
    if column.stage["kind"] in {"finetune", "adopt"}:
        return [column.stage, LABEL]
    teacher = FINETUNE if column.task == "classify" else {"kind": "adopt"}
    return [teacher, LABEL, *column.before, *([] if column.stage == LABEL else [column.stage]), *column.behind]


def closing(column: Column) -> list[Stage]:
    """What a recipe must end with, where it does not yet: a deployable."""
    last = GGUF if column.task == "generate" else EXPORT
    stages = stages_of(column)
    return [] if last in stages or stages[-1].get("method") == "llama_cpp" else [last]

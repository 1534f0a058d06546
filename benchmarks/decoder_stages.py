"""The columns of benchmarks/decoder_families.md: every kind and method of `task: generate`, in a recipe of its own."""

from typing import Any

from benchmarks.architectures_stages import ADOPT, GGUF, Column, Stage

CALIBRATED: Stage = {"calibration_blocks": 4, "calibration_length": 16}
SEEN: Stage = {"windows": 4, "length": 16}
LABEL: Stage = {"kind": "label", "method": "top_k", "k": 8, **SEEN}
MERGES: Stage = {"kind": "prune", "method": "merges"}
RTN: Stage = {"kind": "quantize", "method": "rtn", "grid": "q4_0"}
W8A8: Stage = {"kind": "quantize", "method": "w8a8", **CALIBRATED}


def column(name: str, *before: Stage, **fields: Any) -> Column:
    """A column by its name: kind/method, and how."""
    kind, _, method = name.partition(":")[0].partition("/")
    return Column(name, {"kind": kind, **({"method": method} if method else {}), **fields}, before, task="generate")


TABLES: dict[str, tuple[Column, ...]] = {  # a table's title and its columns
    "The teacher and its answers": (
        Column("adopt/decoder", ADOPT, task="generate"),
        *(column("correct", steps=2, length=16), column("correct: top layers", steps=2, length=16, layers=[2])),
        *(
            column("label/top_k", k=8, **SEEN),
            column("label/top_k: of the student", MERGES, k=8, model="student", **SEEN),
        ),
    ),
    "prune": (
        column("prune/depth", keep=2, **SEEN),
        *(column(f"prune/width: {part}", **{part: size}, **SEEN) for part, size in (("ffn", 32), ("groups", 1))),
        *(column("prune/width: hidden", hidden=16, **SEEN), column("prune/grouped", kv_heads=1)),
        column("prune/merges"),
        *(column("prune/sparse", **CALIBRATED), column("prune/sparse: 2 of 4", pattern="2:4", **CALIBRATED)),
    ),
    "distill": (
        column("distill/tokens", LABEL, {"kind": "prune", "method": "depth", "keep": 2, **SEEN}, steps=2),
        column("distill/rounded", LABEL, RTN, steps=2),
        column("distill/rounded: integers", LABEL, RTN, steps=2, learn="integers"),
    ),
    "quantize and export": (
        *(column(f"quantize/{method}", grid="q4_0", **CALIBRATED) for method in ("rtn", "gptq", "awq")),
        column("quantize/gptq: a target", target=12.0, **CALIBRATED),
        column("quantize/w8a8", **CALIBRATED),
        column("quantize/llama_cpp", type="Q4_0", **CALIBRATED),
        Column("export/gguf", GGUF, task="generate"),
        column("export/compressed_tensors", RTN),
        column("export/compressed_tensors: of w8a8", W8A8, model="w8a8"),
        column("export/matmul_nbits", RTN),
    ),
}
COLUMNS = tuple(one for columns in TABLES.values() for one in columns)

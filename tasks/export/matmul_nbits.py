"""Export a language model for ONNX Runtime on CPUs: one graph with a cache, its products MatMulNBits of the integers.

What was rounded keeps its integers, scales and zeros; a table that is embedding and head is stored once. Integers of 5
to 8 bits take 8 (3 take 4), other matrices become half precision. With float `activations` the graph computes what the
rounded weights mean; with int8 what flows into a product is rounded to 8 bits in blocks, as in llama.cpp: faster, near.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError, Task
from tasks import layout, progress

INT8 = 4  # MatMulNBits' accuracy_level


class MatmulNbitsConfig(BaseModel):
    """The student for ONNX Runtime; stands beside what is served."""

    model_config = STRICT
    tasks: ClassVar[tuple[Task, ...]] = ("generate",)
    reads: ClassVar[dict[str, str]] = {"student": "lm"}
    writes: ClassVar[tuple[str, str]] = ("matmul_nbits", "matmul_nbits")
    kind: Literal["export"] = Field("export", description="The stage's kind.")
    method: Literal["matmul_nbits"] = Field("matmul_nbits", description="The export format.")
    activations: Literal["float", "int8"] = Field(
        "float", description="What flows into a product: as it is, or rounded to 8 bits, which is faster and not exact."
    )


def run(inputs: dict[str, Path], config: MatmulNbitsConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write model.onnx of inputs["student"]; measured: its bytes, weights that are integers, bits per weight over all.

    Raises ShrinkError where nothing is rounded, or the model is none that the graph can compute.
    """
    from tasks.export.onnx import save
    from tasks.generate import choices, lm, nbits_fit, nbits_graph
    from tasks.generate.nbits_weights import Weights

    source = inputs["student"]
    said = layout.read_json(source / "config.json")
    nbits_fit.check_config(said)
    weights = Weights(source, config.activations == "float")
    if not any(".layers." in name for name in weights.rounded):
        raise ShrinkError("no layer of the student is rounded: put a quantize stage before this export.")
    for name, grid in weights.grids.items():
        if choices.block_of(grid.group) is None:
            raise ShrinkError(
                f"{name.removesuffix('.weight')} lies on {grid.name}, whose groups of {grid.group} are no multiple of "
                "16 as MatMulNBits needs them: quantize to another grid, such as int4_g32."
            )
    if reason := nbits_fit.too_large(weights.bytes()):
        raise ShrinkError(reason)
    sizes = nbits_fit.sizes(source, tied="lm_head.weight" not in weights.shapes)
    accuracy = 0 if config.activations == "float" else INT8
    made = nbits_graph.build(sizes, weights, accuracy, lambda done: progress.report(done, sizes.layers, "layers"))
    save(made, out / "model.onnx")
    for name in lm.TOKENIZER:
        if (source / name).is_file():
            (out / name).write_bytes((source / name).read_bytes())
    kept = {name: said.get(name) for name in ("model_type", "max_position_embeddings", "vocab_size", "eos_token_id")}
    about = {"task": "generate", "activations": config.activations, **kept}
    (out / "config.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    size = (out / "model.onnx").stat().st_size
    packed = sum(one.codes.numel() for one in weights.rounded.values())
    return {"onnx_bytes": size, "packed_weights": packed, "bits_per_weight": round(8 * size / weights.count, 4)}

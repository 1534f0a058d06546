"""The honest floor of a `generate` recipe: the teacher in plain 4-bit blocks, as anybody has them in a minute.

Every product is rounded to the nearest of llama.cpp's Q4_0 with its own scale a block (the largest size falls on -8),
the embedding to Q8_0: no calibration, no training. Rows that are no whole blocks stay in half precision, as llama.cpp
leaves them. Written as the GGUF file that it would be.
"""

import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, Task


class GenerateFloorConfig(BaseModel):
    """Settings of the floor."""

    model_config = STRICT
    tasks: ClassVar[tuple[Task, ...]] = ("generate",)
    reads: ClassVar[dict[str, str]] = {"teacher": "source"}
    writes: ClassVar[tuple[str, str]] = ("floor", "gguf")
    kind: Literal["floor"] = Field("floor", description="The stage's kind.")
    task: Literal["generate"] = Field("generate", description="What the recipe's models are for.")
    keep_layers: int | None = Field(None, ge=1, description="Keep only the bottom layers (smoke runs).")


def run(inputs: dict[str, Path], config: GenerateFloorConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the teacher's plain 4-bit GGUF folder; measured: as of an export."""
    from tasks.export import gguf
    from tasks.generate import adopt, lm
    from tasks.generate.grids import GGUF

    with tempfile.TemporaryDirectory(dir=out) as scratch:  # inside, so that a kill leaves nothing
        folder, rounded = Path(scratch) / "teacher", Path(scratch) / "rounded"
        model = adopt.take(inputs["teacher"], folder, config.keep_layers)
        size = GGUF["q4_0"].group
        matrices = {
            name: value
            for name, value in lm.own_weights(model).items()
            if value.ndim == 2 and value.shape[1] % size == 0
        }
        grids = {name: GGUF["q8_0" if "embed" in name else "q4_0"] for name in matrices}
        lm.save(rounded, model, folder, {name: plain(one, grids[name]) for name, one in matrices.items()}, grids)
        return gguf.run({"model": rounded}, gguf.GgufConfig(), out, seed)


def plain(weight: Any, grid: Any) -> Any:
    """A weight [outputs, inputs] rounded to the nearest on the full range of each block."""
    import torch

    from tasks.generate import grids

    scale, shift = grids.ranged(grids.grouped(weight, grid), grid, 1.0)
    code = grids.codes(weight, grids.spread(scale, grid), grids.spread(shift, grid), grid)
    return grids.Rounded(code.to(torch.int8), scale, shift)

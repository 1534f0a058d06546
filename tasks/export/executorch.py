"""Export a torch artifact to ExecuTorch (model.pte), for phones and small devices; XNNPACK does the arithmetic.

An extra (`pip install 'shrinking-frontier[executorch]'`). One text a call, of any length up to the model's longest.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from registry.records import STRICT
from tasks import extras, progress


class ExecutorchConfig(BaseModel):
    """The student in full precision for ExecuTorch's runtime; stands beside what is served."""

    model_config = STRICT
    reads: ClassVar[dict[str, str]] = {"student": "torch"}
    writes: ClassVar[tuple[str, str]] = ("executorch", "executorch")
    needs: ClassVar[tuple[str, ...]] = ("executorch",)
    kind: Literal["export"] = Field("export", description="The stage's kind.")
    method: Literal["executorch"] = Field("executorch", description="The export format.")


def run(inputs: dict[str, Path], config: ExecutorchConfig, out: Path, seed: int) -> dict[str, Any]:
    """Lower inputs["student"]; measured: bytes of its weights and of the program."""
    from tasks.export.onnx import write_sidecars

    extras.require("executorch")
    source = inputs["student"]
    progress.report(0, 1, "lowering")
    (out / "model.pte").write_bytes(lowered(source))
    write_sidecars(source, out)
    size = (out / "model.pte").stat().st_size
    progress.report(1, 1, f"{size} bytes")
    return {"dense_bytes": (source / "model.safetensors").stat().st_size, "executorch_bytes": size}


def lowered(source: Path) -> bytes:
    """The program: inputs input_ids and attention_mask [1, length], one output [1, width]."""
    import torch

    from tasks.export.onnx import example
    from tasks.models import load

    model, _, head = load(source)
    least = 3 if model.config.model_type == "mobilebert" else 2  # whose pieces see both neighbours
    length = torch.export.Dim("length", min=least, max=head.max_length)
    logging.getLogger("torch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        tokens, _ = example(model, 1, 16, torch.Generator().manual_seed(0))
        shapes = ({1: length}, {1: length})
        exported = torch.export.export(model.eval(), (tokens, torch.ones_like(tokens)), dynamic_shapes=shapes)
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    return bytes(program.buffer)


def predict(directory: Path, texts: Sequence[Any]) -> NDArray[np.float32]:
    """Answers [texts, width] by ExecuTorch's runtime, one text a call."""
    import torch
    from executorch.runtime import Runtime

    from tasks import runtime

    method = Runtime.get().load_program(directory / "model.pte").load_method("forward")
    feeds = [runtime.feeds([ids]) for ids in runtime.encode(directory, texts)]
    found = [method.execute([torch.from_numpy(value) for value in one.values()])[0].clone() for one in feeds]
    return np.asarray(torch.cat(found).numpy(), dtype=np.float32)

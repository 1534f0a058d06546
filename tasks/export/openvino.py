"""Export an ONNX artifact to OpenVINO's format (IR: model.xml and model.bin) with OpenVINO's own converter.

An extra (`pip install 'shrinking-frontier[openvino]'`). OpenVINO reports its very import to its makers unless the user
has opted out, so the reporting module is kept from being imported: nothing leaves.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from registry.records import STRICT
from tasks import extras, progress

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}  # on CPUs with AMX it else computes in bfloat16


class OpenvinoConfig(BaseModel):
    """The student for OpenVINO's runtime; stands beside what is served."""

    model_config = STRICT
    reads: ClassVar[dict[str, str]] = {"student": "onnx"}
    writes: ClassVar[tuple[str, str]] = ("openvino", "openvino")
    needs: ClassVar[tuple[str, ...]] = ("openvino",)
    kind: Literal["export"] = Field("export", description="The stage's kind.")
    method: Literal["openvino"] = Field("openvino", description="The export format.")


def run(inputs: dict[str, Path], config: OpenvinoConfig, out: Path, seed: int) -> dict[str, Any]:
    """Convert inputs["student"], its weights as they are; measured: bytes of both graphs."""
    from tasks.export.onnx import copy_sidecars

    library, source = opened(), inputs["student"]
    progress.report(0, 1, "converting")
    model = library.convert_model(source / "model.onnx")
    library.save_model(model, out / "model.xml", compress_to_fp16=False)
    copy_sidecars(source, out)
    size = sum((out / name).stat().st_size for name in ("model.xml", "model.bin"))
    progress.report(1, 1, f"{size} bytes")
    return {"onnx_bytes": (source / "model.onnx").stat().st_size, "openvino_bytes": size}


def opened() -> Any:
    """The library, which finds no telemetry to send; raises ShrinkError when it is not installed."""
    extras.require("openvino")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it fails: OpenVINO has a stub then
    import openvino

    return openvino


def predict(directory: Path, texts: Sequence[Any]) -> NDArray[np.float32]:
    """Answers [texts, width] by OpenVINO's runtime on the CPU, one thread and one text a call."""
    from tasks import runtime

    core = opened().Core()
    compiled = core.compile_model(core.read_model(directory / "model.xml"), "CPU", EXACT)
    found = [compiled(runtime.feeds([ids]))[0] for ids in runtime.encode(directory, texts)]
    return np.concatenate(found).astype(np.float32)

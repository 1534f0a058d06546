"""What a user would pick instead of us: other libraries' own ways to a smaller model, by their defaults.

Used by benchmarks/frontier.py. Each reads an ONNX artifact and writes a deployable beside the same tokenizer.
OpenVINO's needs `pip install openvino nncf`.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks import runtime
from tasks.export.onnx import copy_sidecars


def default_dynamic(source: Path, out: Path, texts: list[str]) -> None:
    """ONNX Runtime's dynamic quantisation as its documentation shows it: no option set."""
    from onnxruntime.quantization import quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)
    quantize_dynamic(source / "model.onnx", out / "model.onnx")
    copy_sidecars(source, out)


def nncf_int8(source: Path, out: Path, texts: list[str]) -> None:
    """NNCF's post-training int8 of an OpenVINO model, its preset for transformers, 300 calibration texts."""
    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino.Core().read_model(source / "model.onnx")
    feeds = [runtime.feeds([ids]) for ids in runtime.encode(source, texts)]
    small = nncf.quantize(model, nncf.Dataset(feeds), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(feeds))
    openvino.save_model(small, out / "model.xml", compress_to_fp16=False)
    copy_sidecars(source, out)


def openvino_caller(directory: Path) -> Callable[[Sequence[str]], Any]:
    """A function from texts to logits in OpenVINO's runtime, one thread."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(directory / "model.xml", "CPU", settings)
    request, encoder = compiled.create_infer_request(), runtime.tokenizer(directory)

    def call(texts: Sequence[str]) -> Any:
        found = request.infer(runtime.feeds([encoder.encode(text).ids or [0] for text in texts]))
        return np.array(found[compiled.output(0)])

    return call

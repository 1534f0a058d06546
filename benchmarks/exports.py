"""How far every export of a finished run's student is from its source, what it weighs, and how fast a browser is.

Run: python -m benchmarks.exports RUN [--work .shrink/exports]   (RUN: a finished run, a folder in .shrink/runs)
A line an export, compared as the flow does it (tasks/compare.py); OpenVINO and ExecuTorch where they are installed.
Then, where Chromium and npm are there, a line an ONNX student: the bundle's bytes and the median milliseconds of one
golden text in the browser and outside of it, tokenising included, one thread each, one after the other.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from flows import bundle
from flows.steps import comparison
from registry.records import ShrinkError, StageRecord, directory_bytes
from tasks import bench, compare
from tasks.kinds import AnyChainConfig, EveryStage, function_of

METHODS: dict[str, dict[str, Any]] = {
    "onnx": {"kind": "export"},
    "executorch": {"kind": "export", "method": "executorch"},
    "int8_dynamic": {"kind": "quantize", "method": "int8_dynamic"},
    "int8_static": {"kind": "quantize", "method": "int8_static"},
    "int4_weight_only": {"kind": "quantize", "method": "int4_weight_only", "embedding": "int4"},
    "openvino of onnx": {"kind": "export", "method": "openvino"},
    "openvino of int8_dynamic": {"kind": "export", "method": "openvino"},
}
READY = "(document.body?.dataset.state ?? 'loading') !== 'loading'"


def exported(name: str, config: AnyChainConfig, inputs: dict[str, Path], data: Path, out: Path) -> dict[str, Any]:
    """Make one export in this process and compare it with what it was made of."""
    out.mkdir(parents=True)
    function_of(config)(inputs, config, out, 0)
    compared = comparison(config, quantized=config.kind == "quantize")
    with tempfile.TemporaryDirectory() as folder:
        both = {"source": next(iter(inputs.values())), "export": out, "data": data}
        seen = compare.run(both, compared, Path(folder), 0)
    return {"export": name, "bytes": directory_bytes(out)} | seen


def browsed(name: str, model: Path, evidence: Path, work: Path) -> dict[str, Any]:
    """Bundle a student and read the page's own check; beside it the same texts outside of the browser."""
    from tests import chromium

    version = work / f"version of {name}"
    shutil.copytree(model, version / "model")
    shutil.copytree(evidence, version / "evidence")
    made = bundle.browser(version, "0", work / f"page of {name}", work)
    with chromium.opened_folder(Path(made["folder"]), work / "profile") as (page, _, _):
        page.until(READY)
        seen: dict[str, Any] = json.loads(page.value("document.getElementById('check').dataset.result"))
    call, texts = bench.caller(model), json.loads((evidence / "golden.json").read_text())["texts"]
    taken = []
    for text in texts * 6:
        start = time.perf_counter()
        call([text])
        taken.append((time.perf_counter() - start) * 1e3)
    outside = statistics.median(taken[len(texts) :])
    line: dict[str, Any] = {"page of": name, "bytes": made["bytes"], "native_p50_ms": outside}
    return line | seen


def main() -> None:
    """Every export, then the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".shrink/exports"))
    asked = parser.parse_args()
    made = [
        (StageRecord.model_validate_json(at.read_text()), at.parent / "out") for at in asked.run.glob("*/record.json")
    ]
    stages = {record.kind: out for record, out in made}
    data, taught = stages["data"], stages["distill"]
    for name, fields in METHODS.items():
        config: Any = EveryStage.validate_python(fields)
        source = taught if config.reads.get("model", config.reads.get("student")) == "torch" else asked.work / "onnx"
        source = asked.work / name.partition(" of ")[2] if " of " in name else source
        role = next(iter(config.reads))
        try:
            line = exported(name, config, {role: source, "data": data}, data, asked.work / name)
        except ShrinkError as error:
            line = {"export": name, "left out": str(error)}
        print(json.dumps(line), flush=True)
    for name in ("onnx", "int8_dynamic", "int8_static", "int4_weight_only"):
        print(json.dumps(browsed(name, asked.work / name, asked.run / "evidence", asked.work)), flush=True)


if __name__ == "__main__":
    main()

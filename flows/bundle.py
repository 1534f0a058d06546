"""`shrink bundle MODEL --browser DIR`: a folder in which a registered version runs in a browser, on the device alone.

Inside: the page (flows/templates/browser.*), the model as it was registered, golden answers computed here, and two npm
packages, pinned by hash: onnxruntime-web and tokenizers.js. The folder appears complete or not at all.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from flows import npm, units
from registry.gate import is_smoke
from registry.records import METRICS, ShrinkError, digest_directory, directory_bytes

TEMPLATES = Path(__file__).parent / "templates"
PAGE = {"browser.html": "index.html", "browser.js": "app.js", "browser.css": "style.css", "browser.svg": "icon.svg"}
INTEGERS = {"DynamicQuantizeLinear", "QuantizeLinear", "MatMulNBits"}  # operators that round activations as they run
TOLERANCES = {True: 0.05, False: 1e-4}  # of the largest number in the answers: with rounded activations, without
PACKAGES = {
    npm.Package(
        name="onnxruntime-web",
        version="1.30.0",
        sha512="q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        licence="MIT",
    ): ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"),
    npm.Package(
        name="@huggingface/tokenizers",
        version="0.2.0",
        sha512="LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        licence="Apache-2.0",
    ): ("dist/tokenizers.min.mjs", "LICENSE"),
}


def free(target: Path, option: str = "browser") -> None:
    """Raise ShrinkError unless the target is a folder that can be made: absent or empty."""
    try:
        taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise ShrinkError(f"{option} is '{target}' but it cannot be looked at ({error.strerror}).") from None
    if taken:
        raise ShrinkError(f"{option} is '{target}' but that is there and not empty; name a new folder.")


def check(model: Path) -> None:
    """Raise ShrinkError for a model that the page has no form for."""
    about = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if about.get("task") == "generate":
        raise ShrinkError(f"the model writes text, which the page cannot show: ask it with {units.WRITES}.")
    if about.get("pairs"):
        raise ShrinkError("the model answers pairs of texts, which the page cannot ask for; `shrink deploy` serves it.")


def browser(version: Path, number: str, target: Path, home: Path) -> dict[str, Any]:
    """Write the bundle of a fetched version (model/ and evidence/) to `target`; what it weighs, in bytes.

    Raises ShrinkError when the target is taken, or npm's packages cannot be had or are not those that are pinned.
    """
    free(target)
    check(version / "model")
    runtime = {
        Path(name).name if name != "LICENSE" else f"{package.name.rpartition('/')[2]}.LICENSE": content
        for package, members in PACKAGES.items()
        for name, content in npm.read(package, members, home).items()
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.{os.getpid()}.", dir=target.parent))
    except OSError as error:
        raise ShrinkError(f"browser is '{target}' but nothing can be written there ({error.strerror}).") from None
    try:
        scratch.chmod(0o755)
        fill(scratch, version, number, runtime)
        free(target)
        scratch.rename(target)  # an empty folder is replaced
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    weights = {"bytes": directory_bytes(target), "runtime": directory_bytes(target / "runtime")}
    return weights | {"folder": str(target), "model": directory_bytes(target / "model")}


def fill(folder: Path, version: Path, number: str, runtime: dict[str, bytes]) -> None:
    """Write every file of the bundle below a folder."""
    for name, other in PAGE.items():
        shutil.copyfile(TEMPLATES / name, folder / other)
    (folder / "runtime").mkdir()
    for name, content in runtime.items():
        (folder / "runtime" / name).write_bytes(content)
    shutil.copytree(version / "model", folder / "model")
    write(folder / "golden.json", golden(version))
    shown = json.loads((version / "evidence" / "show.json").read_text(encoding="utf-8"))
    write(folder / "facts.json", facts(shown, number, folder))


def golden(version: Path) -> dict[str, Any]:
    """The version's golden texts with the tokens and answers that they get here, and how far a browser may be off.

    Where activations are rounded to integers, ONNX Runtime is as far from itself already: without its fusions, on the
    recipe `sentiment`, by 0.010 (int8_dynamic) and 0.078 (int8_static) of logits that go up to 2.9.
    """
    import onnx

    from tasks import runtime

    model = version / "model"
    texts = json.loads((version / "evidence" / "golden.json").read_text(encoding="utf-8"))["texts"]
    ids = runtime.encode(model, texts)
    answers = runtime.predict(model, texts, batch=1)
    rounded = any(node.op_type in INTEGERS for node in onnx.load(model / "model.onnx").graph.node)
    tolerance = TOLERANCES[rounded] * float(abs(answers).max())
    return {"texts": texts, "ids": ids, "answers": answers.tolist(), "tolerance": tolerance}


def facts(shown: dict[str, Any], number: str, folder: Path) -> dict[str, Any]:
    """What the page says of the model: a name, a figure and a detail each."""
    size, speed, kept, verdict = shown["bytes"], shown["latency_ms"], shown["retention"], shown["verdict"]
    interval = f"{units.percent(kept['low'])} to {units.percent(kept['high'])}"
    metric = METRICS[shown.get("metric", "accuracy")]
    judged = (
        "an open gate, which says nothing of quality"
        if is_smoke(shown["model"])
        else f"{len(verdict['checks'])} checks"
    )
    whole, runtime = directory_bytes(folder), directory_bytes(folder / "runtime")
    made = " and ".join(f"{package.spec} ({package.licence})" for package in PACKAGES)
    return {
        "title": f"{shown['model']}, version {number}",
        "model_bytes": (folder / "model" / "model.onnx").stat().st_size,
        "facts": [
            ["Model", units.size(size["student"]), f"{units.number(size['ratio'])}× smaller than its teacher"],
            ["Keeps", units.percent(kept["point"]), f"{interval} of the teacher's {metric}"],
            ["Gate", "passed" if verdict["passed"] else "rejected", judged],
            ["Outside of a browser", units.milliseconds(speed["student"]), "a text, where it was judged, one thread"],
            ["This page", units.size(whole), f"of it {units.size(runtime)} what runs it; loaded once, kept"],
        ],
        "origin": f"Model {digest_directory(folder / 'model')} (SHA-256 over its files). It runs on {made}.",
    }


def write(path: Path, value: Any) -> None:
    """JSON for the page."""
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")

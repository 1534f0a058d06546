"""The browser bundle: refusals that leave nothing behind, and the page in a real browser that has no network."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import bundle, npm, report
from flows.shown import shown
from registry.carbon.inputs import basis
from registry.records import Evaluation, ShrinkError, StageRecord, Verdict
from tasks import evaluate, models, runtime
from tasks.export import onnx
from tasks.quantize import int4_weight_only, int8_dynamic, int8_static
from tests import chromium
from tests.flows.test_compress import ROOT
from tests.flows.test_report import EVALUATION, run, stage
from tests.tasks.test_onnx_stages import made, write_rows
from tests.tasks.test_torch_stages import make_model, make_tokenizer

Versions = dict[str, Path]
READY = "(document.body?.dataset.state ?? 'loading') !== 'loading' && document.body.dataset.state"
SPENT = "document.getElementById('spent').textContent"
LOOPBACK = ("unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
ODD = "Ünïcode — “quotes”, 3½ 日本語 😀 [MASK] don't " + "good film " * 30


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    """Fetched versions, one a method of quantising: model/ and evidence/."""
    root = tmp_path_factory.mktemp("versions")
    (root / "torch").mkdir()
    head = models.Head(labels=("negative", "positive"), max_length=24)
    models.save(root / "torch", make_model(), make_tokenizer(), head)
    data = write_rows(root / "data")
    exported = made(onnx, onnx.OnnxConfig(), {"model": root / "torch"}, root / "onnx")
    inputs = {"student": exported, "data": data}
    kept = {
        "onnx": exported,
        "int8": made(int8_dynamic, int8_dynamic.Int8DynamicConfig(), inputs, root / "int8"),
        "static": made(int8_static, int8_static.Int8StaticConfig(calibration_rows=40), inputs, root / "static"),
        "int4": made(int4_weight_only, int4_weight_only.Int4WeightOnlyConfig(embedding="int4"), inputs, root / "int4"),
    }
    return {name: fetched(root / f"version-{name}", model) for name, model in kept.items()}


def fetched(folder: Path, model: Path) -> Path:
    shutil.copytree(model, folder / "model")
    (folder / "evidence").mkdir()
    evaluate.write_golden(folder / "model", folder / "evidence" / "golden.json")
    journal = run(stage("distill", 3.0))
    records = [StageRecord.model_validate(one) for one in journal["stages"]]
    judged, verdict = Evaluation.model_validate(EVALUATION), Verdict.model_validate(journal["verdict"])
    facts = shown("tiny", "r1", "abc", judged, verdict, records, report.build([journal]), basis(None, None))
    (folder / "evidence" / "show.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with both npm packages, fetched for real; skips where that cannot be done."""
    folder = tmp_path_factory.mktemp("home")
    if chromium.found() is None:
        pytest.skip("no Chromium is installed here")
    for package in bundle.PACKAGES:
        try:
            npm.archive(package, folder)
        except ShrinkError as error:
            pytest.skip(f"npm's packages cannot be had here: {error}")
    return folder


@pytest.mark.parametrize("name", ["onnx", "int8", "static", "int4"])
def test_the_page_answers_as_onnx_runtime_does_with_no_network(
    name: str, versions: Versions, home: Path, tmp_path: Path
) -> None:
    made = bundle.browser(versions[name], "7", tmp_path / "page", home)
    assert made["bytes"] > made["model"] + made["runtime"] and made["runtime"] > 10_000_000
    with chromium.opened_folder(tmp_path / "page", tmp_path / "profile") as (page, url, stop):
        assert page.until(READY) == "ready", page.value("document.body.innerText")
        seen = json.loads(page.value("document.getElementById('check').dataset.result"))
        assert seen["passed"] and seen["tokens"] and seen["texts"] == len(evaluate.GOLDEN) and seen["p50_ms"] > 0
        assert seen["largest"] <= seen["tolerance"] and (name != "onnx" or seen["largest"] < 1e-5)
        stop()  # from here on there is nobody left to ask
        for text in ("good fine great film", ODD):
            page.type("#text", text)
            page.until(f"document.getElementById('text').value === {json.dumps(text)} && {SPENT}")
            shown = page.value("[...document.querySelectorAll('.label span:last-child')].map(e => e.textContent)")
            row = runtime.predict(versions[name] / "model", [text])[0].tolist()
            share = 100 / (1 + math.exp(row[1] - row[0]))
            assert float(shown[0].split()[0]) == pytest.approx(share, abs=0.06 + 60 * seen["tolerance"])
            count = len(runtime.encode(versions[name] / "model", [text])[0])
            assert f", {count} tokens" in page.value("document.getElementById('spent').textContent")
            page.value("document.getElementById('spent').textContent = ''")
        assert {one for one in page.asked() if not one.startswith(url)} == set() and len(page.asked()) > 8
        assert page.said() == []
        for outside in ("https://example.com/", "http://127.0.0.1:9/"):
            refused = page.value(f"fetch({outside!r}).then(() => 'answered', (error) => error.message)")
            assert refused == "Failed to fetch"
        assert sum("Content Security Policy" in line for line in page.said()) >= 2, page.said()


def test_the_page_answers_in_a_namespace_that_has_only_loopback(versions: Versions, home: Path, tmp_path: Path) -> None:
    tried = subprocess.run([*LOOPBACK, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"no network namespace with loopback can be made here: {tried.stderr.strip()}")
    bundle.browser(versions["int8"], "7", tmp_path / "page", home)
    text = "good fine great film"
    command = [*LOOPBACK, sys.executable, "-m", "tests.alone", str(tmp_path / "page"), str(tmp_path / "profile"), text]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert (seen["interfaces"], seen["outside"]) == (["lo"], "Network is unreachable"), seen
    assert (seen["state"], seen["others"], seen["check"]["passed"]) == ("ready", [], True)
    row = runtime.predict(versions["int8"] / "model", [text])[0].tolist()
    share = 100 / (1 + math.exp(row[1] - row[0]))
    tolerance = 0.06 + 60 * seen["check"]["tolerance"]
    assert float(seen["labels"][0].split()[0]) == pytest.approx(share, abs=tolerance)


def test_an_embedding_model_asks_for_two_texts_and_says_how_alike_they_are(
    versions: Versions, home: Path, tmp_path: Path
) -> None:
    version = Path(shutil.copytree(versions["int8"], tmp_path / "version"))
    path = version / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task": "embed"}))  # its two logits are the embedding
    bundle.browser(version, "7", tmp_path / "page", home)
    with chromium.opened_folder(tmp_path / "page", tmp_path / "profile") as (page, _, stop):
        assert page.until(READY) == "ready", page.value("document.body.innerText")
        stop()
        texts = ("good fine film", "bad dull film")
        page.type("#text", texts[0])
        page.type("#other", texts[1])
        page.until(SPENT)
        one, other = runtime.predict(version / "model", texts).astype(float)
        cosine = one @ other / (one @ one * (other @ other)) ** 0.5
        shown = page.value("document.querySelector('.verdict').textContent")
        assert float(shown.split()[0]) == pytest.approx(cosine, abs=0.05) and "cosine" in shown


@pytest.mark.parametrize("spoil", ["ids", "answers", "model"])
def test_a_page_whose_answers_are_others_refuses_to_answer(
    spoil: str, versions: Versions, home: Path, tmp_path: Path
) -> None:
    bundle.browser(versions["int8"], "7", tmp_path / "page", home)
    path = tmp_path / "page" / "golden.json"
    golden: dict[str, Any] = json.loads(path.read_text())
    if spoil == "model":
        shutil.copy(versions["int4"] / "model" / "model.onnx", tmp_path / "page" / "model" / "model.onnx")
    elif spoil == "ids":
        golden["ids"][3][1] += 1
    else:
        golden["answers"][-1][0] += 2 * golden["tolerance"] + 0.1
    path.write_text(json.dumps(golden))
    with chromium.opened_folder(tmp_path / "page", tmp_path / "profile") as (page, _, _):
        assert page.until(READY) == "failed"
        assert page.value("document.getElementById('text').disabled") is True
        said = page.value("document.getElementById('state').textContent")
        assert ("is shorter than it was" if spoil == "model" else "not those that it was judged by") in said


def fake_npm(folder: Path, script: str) -> str:
    """A PATH on which npm is this script."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def pairs(version: Path) -> None:
    path = version / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pairs": True}))


TAMPERED = 'for last; do :; done; echo evil > "$last/onnxruntime-web-1.30.0.tgz"'
OFFLINE = "echo 'npm error code ENOTFOUND' >&2; exit 1"
REFUSALS: dict[str, tuple[str | None, Callable[[Path], Any], str]] = {
    "tampered": (TAMPERED, lambda version: None, r"@1.30.0 as npm delivered it is not the file that is pinned"),
    "offline": (
        OFFLINE,
        lambda version: None,
        r"@1.30.0 could not be fetched \(code ENOTFOUND\); check npm's settings",
    ),
    "no npm": (None, lambda version: None, r"npm is not installed, which fetches onnxruntime-web@1.30.0: `apt install"),
    "pairs": (OFFLINE, pairs, r"the model answers pairs of texts, which the page cannot ask for"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_made_leaves_nothing(
    case: str, versions: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, change, message = REFUSALS[case]
    monkeypatch.setenv("PATH", fake_npm(tmp_path / "bin", script) if script else str(tmp_path))
    version = Path(shutil.copytree(versions["int8"], tmp_path / "version"))
    change(version)
    with pytest.raises(ShrinkError, match=message):
        bundle.browser(version, "7", tmp_path / "out" / "page", tmp_path / "home")
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.glob("home/**/*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("taken", ["file", "full"])
def test_a_folder_that_is_taken_is_not_touched(
    taken: str, versions: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    target = tmp_path / "page"
    if taken == "full":
        target.mkdir()
    mine = target / "mine.txt" if taken == "full" else target
    mine.write_text("mine")
    with pytest.raises(ShrinkError, match=r"browser is '.*page' but that is there and not empty; name a new folder"):
        bundle.browser(versions["int8"], "7", target, tmp_path / "home")
    assert mine.read_text() == "mine" and not (tmp_path / "home").exists()


def test_our_own_files_name_no_other_place() -> None:
    for name in bundle.PAGE:
        text = (bundle.TEMPLATES / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text, name
    page = (bundle.TEMPLATES / "browser.html").read_text(encoding="utf-8")
    assert "content=\"default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; form-action 'none'" in page

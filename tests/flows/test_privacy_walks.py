"""The search of test_privacy.py after runs on vectors and on pairs, and after live traffic: shadowed and refused."""

import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from flows.serve import deployed
from infra.addresses import Services
from tests.flows.test_deploy import put
from tests.flows.test_privacy import MARK, OURS, TOKEN, every_store_is_clean, holding, run
from tests.tasks.test_torch_stages import make_model, make_texts, make_tokenizer

BEARER = f"{TOKEN}-served"  # 16 characters are asked for
SHORT = [{"kind": "export", "method": "onnx"}, {"kind": "quantize", "method": "int8_dynamic"}]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tasks import models

    folder = tmp_path_factory.mktemp("walks")
    models.save(folder, make_model(), make_tokenizer(), models.Head(labels=("a", "b"), max_length=16))
    return folder


def recipe_of(folder: Path, teacher: Path, name: str, **changes: Any) -> Path:
    """A short recipe over rows that all carry marks, two texts each; only pairs read the second."""
    (folder / "data").mkdir()
    rows = [
        {"text": f"qzmark{n} {text}", "other": f"{text} Qzmarkother{n}", "label": "good" if mean > 0 else "bad"}
        for n, (text, mean) in enumerate(make_texts(160, 1))
    ]
    (folder / "data" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    content: dict[str, Any] = {
        "name": name,
        "teacher": {"uri": f"dir:{teacher}"},
        "data_source": {"uri": f"dir:{folder / 'data'}"},
        "data": {"kind": "data", "file": "rows.jsonl", "format": "jsonl", "max_length": 16},
        "gate": {"beat_floor": False, "bytes_ratio_min": 1.01, "retention_min": 0.01},
    }
    content |= {key: {**content.get(key, {}), **one} if isinstance(one, dict) else one for key, one in changes.items()}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def test_no_text_of_a_run_on_vectors_leaves_the_machine_and_hashes_are_keyed(
    servers: Services, servers_home: Path, teacher: Path, tmp_path: Path
) -> None:
    checks = [
        "group,kind,text,other,cosine,nearer,farther",
        "same,invariance,a qzmarkcheck film,a qzmarkcheck film,1,,",
    ]
    checks.append("turned,order,qzmarkcheck good fine,,,bad plot qzmarkcheck,qzmarkcheck good fine")  # none passes it
    (tmp_path / "checks.csv").write_text("\n".join(checks))
    changes: dict[str, Any] = {"task": "embed", "keep_text": "hash", "data": {"label_column": None}}
    changes |= {"behaviour": {"uri": "file:checks.csv"}, "gate": {"behaviour_min": 0.5}}
    path = recipe_of(tmp_path, teacher, "marked-vectors", stages=[{"kind": "adopt"}, *SHORT], **changes)
    said = run(servers_home, "run", str(path), check=3).stdout
    assert "the worst of 2 groups is 'turned': the student passes 0 of 1 checks" in said and "line 3" in said
    answer = run(servers_home, "predict", "marked-vectors@1", "a qzmarkasked film", "another", "--json").stdout
    assert len(json.loads(answer)) == 2
    assert "turned " in run(servers_home, "why", "marked-vectors@1").stdout
    every_store_is_clean(servers_home, servers)
    held = json.loads((servers_home / "models" / "marked-vectors" / "1" / "evidence" / "texts.json").read_text())
    (rows,) = [one for one in (servers_home / "cache").glob("*/test.jsonl") if holding(iter([one]), MARK)]
    judged = [json.loads(line)["text"] for line in rows.read_text().splitlines()]
    secret = bytes.fromhex((servers_home / "keys" / "text.key").read_text().strip())
    assert held == {
        "keep_text": "hash",
        "split": "test",
        "hmac_sha256": [hmac.new(secret, text.encode(), hashlib.sha256).hexdigest() for text in judged],
    }, "of the judged texts the hashes, of others nothing"


def test_no_text_of_a_run_on_pairs_leaves_the_machine(
    servers: Services, servers_home: Path, teacher: Path, tmp_path: Path
) -> None:
    stages = [{"kind": "finetune", "epochs": 1, "lr": 1e-3}, *SHORT]
    path = recipe_of(tmp_path, teacher, "marked-pairs", stages=stages, data={"pair_column": "other"})
    run(servers_home, "run", str(path))
    texts = ("--pair", "a qzmarkanswer")
    answer = json.loads(run(servers_home, "predict", "marked-pairs@champion", "a qzmarkasked", *texts, "--json").stdout)
    assert answer[0]["label"] in {"good", "bad"}
    every_store_is_clean(servers_home, servers)
    ours = [path for part in OURS for path in (servers_home / part).rglob("*.jsonl")]
    assert len(holding(iter(ours), MARK)) >= 3, "the search finds the rows where they may lie"


@pytest.fixture
def served(servers: Services, servers_home: Path) -> Iterator[Callable[..., str]]:
    """Starts `shrink deploy` on a model, with a token; everything that it may write lies below the home."""
    started: list[subprocess.Popen[bytes]] = []

    def start(model: str) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        scratch = servers_home / "scratch"
        scratch.mkdir(exist_ok=True)
        environment = {**os.environ, "SHRINK_HOME": str(servers_home), "SHRINK_TOKEN": BEARER, "TMPDIR": str(scratch)}
        command = [sys.executable, "-m", "flows.cli", "deploy", model, "--port", str(port)]
        with (scratch / "served.log").open("wb") as log:
            options = ["--shadow", "8", "--canary", "0.5"]
            started.append(subprocess.Popen([*command, *options], env=environment, stdout=log, stderr=log))
        return f"http://127.0.0.1:{port}"

    yield start
    for one in started:
        processes = psutil.Process(one.pid).children(recursive=True)
        one.terminate()
        one.wait(30)
        psutil.wait_procs(processes, 10)


def until(asked: Callable[[], httpx.Response], wanted: Callable[[httpx.Response], bool]) -> list[httpx.Response]:
    """Ask until an answer is as wanted; all answers."""
    found, ends = [], time.monotonic() + 120
    while time.monotonic() < ends:
        try:
            found.append(asked())
        except httpx.ConnectError:
            time.sleep(0.2)
            continue
        if wanted(found[-1]):
            return found
        time.sleep(0.05)
    raise AssertionError(found[-1].text if found else "nobody answered")


def test_no_text_that_a_server_is_asked_stays_anywhere(
    client: Any, servers: Services, servers_home: Path, tmp_path: Path, served: Callable[..., str]
) -> None:
    versions = [put(client, "marked-live", tmp_path / str(place), 1.0 + place) for place in range(3)]
    client.set_registered_model_alias("marked-live", "live", versions[0])
    address = served("marked-live@live")
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {BEARER}"}, trust_env=False) as http:

        def asked() -> httpx.Response:
            return http.post("/predict", json={"texts": ["a qzmarklive good film", "bad qzmarklive"]}, timeout=20)

        until(asked, lambda answer: answer.status_code == 200)
        misspelt(http)
        client.set_registered_model_alias("marked-live", "live", versions[1])  # as good: shadow, canary, full
        until(asked, lambda answer: answer.status_code == 200 and answer.json()["version"] == versions[1])
        differs = put(client, "marked-live", tmp_path / "differs", 3.0, unknown=9.0)  # in the shadow only
        client.set_registered_model_alias("marked-live", "live", differs)
        until(asked, lambda answer: http.get("/healthz").json().get("refused") is not None)
        for path in ("/metrics", "/healthz", "/openapi.json"):
            assert not MARK.search(http.get(path).content), path
        for one in [psutil.Process(), *psutil.Process().children(recursive=True)][1:]:
            if "zygote" in (said := " ".join(one.cmdline())) or "answering" in said:
                assert not MARK.search(said.encode()) and servers.secret_key not in json.dumps(one.environ())
        until(asked, lambda answer: deployed.TAG in client.get_model_version("marked-live", differs).tags)
        tags = json.dumps(dict(client.get_model_version("marked-live", differs).tags))
        assert "rolled back" in tags and not MARK.search(tags.encode())
    every_store_is_clean(servers_home, servers)
    assert "serving version" in (servers_home / "scratch" / "served.log").read_text()


def misspelt(http: httpx.Client) -> None:
    """Requests that are refused, each with a mark where it may be quoted."""
    bodies = (
        b'{"texts": ["qzmark',
        b"\xffqzmark",
        b'{"qzmark": 1}',
        b'{"texts": "qzmark"}',
        b'{"texts": [["qzmark"]]}',
    )
    for body in bodies:
        assert http.post("/predict", content=body).status_code == 422, body
    assert http.post("/predict", json={"texts": ["qzmark " * 3000]}).status_code == 422
    assert http.post("/predict", content=b"qzmark" * 300_000).status_code == 413
    assert http.post("/generate", json={"prompt": "qzmark"}).status_code == 404
    assert http.get("/qzmark?text=qzmark", headers={"X-Text": "qzmark"}).status_code == 404
    assert http.post("/predict", json={"texts": ["qzmark"]}, headers={"Authorization": "Bearer no"}).status_code == 401

"""MLflow's own clients use registered versions: `mlflow models serve` and load_model; never an unsigned byte."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows import pyfunc
from infra import addresses
from infra.addresses import Services
from registry import mlmodel
from tasks import runtime
from tests.flows.test_deploy import TEXTS, enrol, make_golden, make_model, put

pd: Any = pytest.importorskip("pandas")  # MLflow needs it
SERVE = ("models", "serve", "--env-manager", "local", "--host", "127.0.0.1")


@contextlib.contextmanager
def served(model: str, log: Path) -> Iterator[str]:
    """The address at which `mlflow models serve` answers for a model."""
    holder = addresses.bind(0)
    assert holder is not None
    with holder:
        port = holder.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", *SERVE, "-m", f"models:/{model}", "-p", str(port)]
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # as in an activated environment
    with log.open("w") as told:
        process = subprocess.Popen(
            command, stdout=told, stderr=told, env={**os.environ, **path}, start_new_session=True
        )
    try:
        wait(process, f"http://127.0.0.1:{port}/ping", log)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_mlflow_serves_a_registered_version(client: Any, tmp_path: Path) -> None:
    version = put(client, "served", tmp_path / "1", 2.0)
    client.set_registered_model_alias("served", "champion", version)
    with served("served@champion", tmp_path / "log.txt") as address:
        sent = {"dataframe_split": {"columns": ["text"], "data": [[text] for text in TEXTS]}}
        seen = httpx.post(address, json=sent, timeout=60).json()["predictions"]
        model = tmp_path / "1" / "model"
        assert seen == runtime.answers(runtime.predict(model, TEXTS), runtime.settings(model))
        assert [one["label"] for one in seen[:2]] == ["positive", "negative"]
        short = httpx.post(address, json={"inputs": TEXTS}, timeout=60)
        assert short.json()["predictions"] == seen, short.text
        wrong = httpx.post(address, json={"dataframe_records": [{"txt": "a"}]})
        assert wrong.status_code == 400 and "text" in wrong.text


def test_mlflow_serves_a_model_that_writes(client: Any, tmp_path: Path) -> None:
    from flows import writer
    from tests.tasks.generate import decoders
    from tests.tasks.generate.test_export import export

    model, evidence = tmp_path / "model", tmp_path / "evidence"
    export(decoders.folder(tmp_path / "lm", head_dim=16), model)
    evidence.mkdir()
    (evidence / "show.json").write_text("{}")
    version = enrol(client, "wrote", model, evidence)
    _, opened = writer.opened_by("auto", model, 1)
    expected = writer.answered(opened, writer.asked(opened, "the fox", raw=False), 5, writer.unseen).text
    with served(f"wrote/{version}", tmp_path / "log.txt") as address:
        found = httpx.post(address, json={"inputs": ["the fox"], "params": {"max_tokens": 5}}, timeout=120)
    assert found.json() == {"predictions": [{"text": expected}]}, found.text


def test_load_model_opens_a_model_of_embeddings(client: Any, tmp_path: Path) -> None:
    import mlflow

    model = make_model(tmp_path / "model", 1.0)
    about = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(about | {"labels": [], "task": "embed"}))
    version = enrol(client, "vectors", model, make_golden(tmp_path / "evidence", model))
    mlflow.set_tracking_uri(client.tracking_uri)
    mlflow.set_registry_uri(client.tracking_uri)
    loaded = mlflow.pyfunc.load_model(f"models:/vectors/{version}", suppress_warnings=True)
    found = loaded.predict(pd.DataFrame({"text": TEXTS}))
    assert [one["embedding"] for one in found] == runtime.predict(model, TEXTS).tolist()


def wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until the server answers; raises with the end of its log when it does not."""
    for _ in range(480):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.25)
    raise AssertionError(log.read_text()[-3000:])


def test_load_model_verifies_what_was_downloaded(client: Any, tmp_path: Path) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    version = put(client, "loaded", tmp_path / "1", 2.0)
    mlflow.set_tracking_uri(client.tracking_uri)
    mlflow.set_registry_uri(client.tracking_uri)
    folder = tmp_path / "downloaded"
    folder.mkdir()
    model = mlflow.pyfunc.load_model(f"models:/loaded/{version}", dst_path=str(folder), suppress_warnings=True)
    assert [one["label"] for one in model.predict(pd.DataFrame({"text": TEXTS}))][:2] == ["positive", "negative"]
    (got,) = [path.parent for path in folder.rglob("MLmodel")]
    assert "code" not in (got / "MLmodel").read_text() and not list(got.rglob("*.pkl"))
    with pytest.raises(MlflowException, match="text"):
        model.predict(pd.DataFrame({"txt": TEXTS}))

    graph = got / "model" / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RuntimeError, match=r"does not hold what was signed: model/model\.onnx was changed"):
        mlflow.pyfunc.load_model(str(got), suppress_warnings=True)
    graph.write_bytes(whole)
    (got / "model" / "more.json").write_text("{}")
    with pytest.raises(RuntimeError, match=r"more\.json was added: it is not loaded"):
        mlflow.pyfunc.load_model(str(got), suppress_warnings=True)
    (got / "model" / "more.json").unlink()
    (got / mlmodel.META).write_text("model_name: another\nmodel_version: '1'\n")
    with pytest.raises(RuntimeError, match="was signed as a version of 'loaded'"):
        mlflow.pyfunc.load_model(str(got), suppress_warnings=True)
    shutil.rmtree(got / "signature")
    with pytest.raises(RuntimeError, match="is not signed"):
        mlflow.pyfunc.load_model(str(got), suppress_warnings=True)


def test_answers_follow_the_models_task(servers: Services, tmp_path: Path) -> None:
    model = make_model(tmp_path / "embed", 1.0)
    about = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(about | {"labels": [], "task": "embed"}))
    served = pyfunc.Served(model)
    assert [len(one["embedding"]) for one in served.predict(["good", "bad film"])] == [2, 2]
    (model / "config.json").write_text(json.dumps(about | {"pairs": True}))
    served = pyfunc.Served(model)
    assert len(served.predict(pd.DataFrame({"text": ["a"], "pair": ["b"]}))) == 1
    with pytest.raises(ValueError, match="column 'pair' is missing"):
        served.predict(pd.DataFrame({"text": ["a"]}))

"""Fixtures shared by all tests: one real S3 endpoint, MLflow server and Prefect server for the whole session."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import services

os.environ.update(  # before anything imports Prefect or MLflow; no test phones home
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="true",
    ORT_DISABLE_TELEMETRY="1",
)
# whoever else is metered on this machine, these tests count their own energy
slot = tempfile.NamedTemporaryFile(prefix="shrink-meter-", suffix=".lock")  # noqa: SIM115 - until this process ends
os.environ["SHRINK_METER_SLOT"] = slot.name


@pytest.fixture(scope="session")
def servers_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def servers(servers_home: Path) -> Iterator[services.Services]:
    """The real services, and this process pointed at them (Prefect too, even when it was imported before)."""
    running = services.up(servers_home, dict(os.environ))
    variables = services.environment(running, servers_home)
    del variables["SHRINK_HOME"]  # a test that wants this home says so
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

            chosen = {PREFECT_API_URL: running.prefect_api, PREFECT_HOME: Path(variables["PREFECT_HOME"])}
            with temporary_settings(chosen):
                yield running
    finally:
        services.down(servers_home)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that walks every stage in under a minute, `tiny.yaml`, and one that its gate rejects."""
    import yaml

    from tasks import models as encoders
    from tests.tasks.test_torch_stages import make_model, make_texts, make_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "teacher").mkdir()
    head = encoders.Head(labels=("negative", "positive"), max_length=16)
    encoders.save(folder / "teacher", make_model(), make_tokenizer(), head)
    (folder / "data").mkdir()
    lines = [f"{number}\t{mean}\t{text}" for number, (text, mean) in enumerate(make_texts(400, 1), start=1)]
    (folder / "data" / "rated.txt").write_text("\n".join(lines), encoding="utf-8")
    content: dict[str, Any] = {
        "name": "tiny",
        "teacher": {"uri": f"dir:{folder / 'teacher'}"},
        "data_source": {"uri": f"dir:{folder / 'data'}"},
        "data": {"kind": "data", "file": "rated.txt", "format": "rated", "max_length": 16},
        "stages": [
            {"kind": "finetune", "epochs": 1, "lr": 1e-3},
            {"kind": "label", "transfer": False},
            {"kind": "prune", "method": "structured", "layers": [0, 2], "ffn": 24},
            {"kind": "distill", "method": "logits", "epochs": 3, "lr": 1e-3, "transfer": False},
            {"kind": "export", "method": "onnx"},
            {"kind": "quantize", "method": "int8_dynamic"},
        ],
        "gate": {"beat_floor": False, "bytes_ratio_min": 1.1},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    content["name"], content["gate"]["bytes_ratio_min"] = "tiny-rejected", 1000.0
    (folder / "rejected.yaml").write_text(yaml.safe_dump(content))
    return folder

"""The whole loop on a tiny recipe against the real servers, through the command: passes, re-uses, survives a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.services import Services
from tasks import models as encoders
from tests.tasks.test_torch_stages import make_model, make_texts, make_tokenizer


def shrink(home: Path, *words: str, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SHRINK_HOME": str(home), "SHRINK_THREADS": "1"}
    command = [sys.executable, "-m", "flows.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert check is None or done.returncode == check, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_the_whole_loop(servers: Services, servers_home: Path, tiny: Path) -> None:
    printed = shrink(servers_home, "run", str(tiny / "tiny.yaml"), "--json").stdout
    first = json.loads(printed[printed.index("{\n") :])
    assert first["status"] == "passed"
    shown = json.loads(shrink(servers_home, "show", "tiny@champion", "--json").stdout)
    assert shown["digest"] == first["digest"] and shown["verdict"]["passed"]
    answer = json.loads(shrink(servers_home, "predict", "tiny@champion", "good fine great film", "--json").stdout)
    assert answer[0]["label"] in {"negative", "positive"} and 0.5 <= answer[0]["score"] <= 1.0


def test_a_rejected_candidate_is_registered_and_moves_no_alias(
    servers: Services, servers_home: Path, tiny: Path
) -> None:
    shrink(servers_home, "run", str(tiny / "rejected.yaml"), check=3)
    refused = shrink(servers_home, "show", "tiny-rejected@champion", check=2)
    assert "no alias 'champion'" in refused.stderr
    assert json.loads(shrink(servers_home, "show", "tiny-rejected@1", "--json").stdout)["verdict"]["passed"] is False


def test_second_run_reuses_and_registers_nothing_twice(servers: Services, servers_home: Path, tiny: Path) -> None:
    shrink(servers_home, "run", str(tiny / "tiny.yaml"))
    journals = json.loads(shrink(servers_home, "runs", "--json").stdout)
    last = [journal for journal in journals if journal["recipe"] == "tiny"][-1]
    assert all(stage["cached"] for stage in last["stages"])
    assert last["version"] == "1"


def test_a_killed_run_is_resumed_with_the_same_digest(servers: Services, servers_home: Path, tiny: Path) -> None:
    content = yaml.safe_load((tiny / "tiny.yaml").read_text()) | {"name": "tiny-killed", "seed": 5}
    (tiny / "killed.yaml").write_text(yaml.safe_dump(content))
    environment = {**os.environ, "SHRINK_HOME": str(servers_home), "SHRINK_THREADS": "1"}
    command = [sys.executable, "-m", "flows.cli", "run", str(tiny / "killed.yaml")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "label" in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shrink(servers_home, "run", str(tiny / "killed.yaml"))
    journals = json.loads(shrink(servers_home, "runs", "--json").stdout)
    runs = [journal for journal in journals if journal["recipe"] == "tiny-killed"]
    assert len(runs) == 1 and runs[0]["resumed"] == 1 and runs[0]["status"] == "passed"
    kept = {stage["kind"] for stage in runs[0]["stages"] if stage["cached"]}
    assert {"data", "floor", "finetune", "label"} <= kept

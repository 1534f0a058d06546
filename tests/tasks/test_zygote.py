"""Stage processes: torch ones are forked from one process that stays, others from a fresh one; either may be killed."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.settings import worker_environment
from tasks import models, stage
from tests.tasks.test_torch_stages import make_model, make_texts, make_tokenizer


@pytest.fixture(autouse=True)
def no_zygote_left() -> Iterator[None]:
    yield
    while stage.kept:
        _, zygote = stage.kept.popitem()
        zygote.kill()
        with contextlib.suppress(OSError), zygote:
            pass


@pytest.fixture
def call(tmp_path: Path) -> stage.StageCall:
    (tmp_path / "model").mkdir()
    head = models.Head(labels=("negative", "positive"), max_length=16)
    models.save(tmp_path / "model", make_model(), make_tokenizer(), head)
    (tmp_path / "data").mkdir()
    rows = [{"id": str(n), "text": text, "label": int(mean > 0)} for n, (text, mean) in enumerate(make_texts(20, 1))]
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return stage.StageCall(
        name="cut",
        config={"kind": "prune", "method": "structured", "layers": [0, 1]},
        inputs={"student": str(tmp_path / "model"), "data": str(tmp_path / "data")},
        directory=str(tmp_path / "first"),
        seed=0,
        threads=1,
        environment=worker_environment(1),
    )


def parent(call: stage.StageCall) -> int:
    return int(json.loads((Path(call.directory) / "call.json").read_text())["parent"])


def test_torch_stages_share_a_zygote_that_may_die(call: stage.StageCall) -> None:
    second = call.model_copy(update={"directory": str(Path(call.directory).with_name("second"))})
    third = call.model_copy(update={"directory": str(Path(call.directory).with_name("third"))})
    results = [stage.run_stage.fn(one) for one in (call, second)]
    assert parent(call) == parent(second)
    assert results[0].measured == results[1].measured and results[1].cpu_seconds < 60
    os.kill(parent(second), signal.SIGKILL)
    psutil.Process(parent(second)).wait(10)
    stage.run_stage.fn(third)
    assert parent(third) != parent(second)
    files = [Path(one.directory) / "out" / "model.safetensors" for one in (call, second, third)]
    assert len({path.read_bytes() for path in files}) == 1


def test_a_stage_that_breaks_says_why_and_harms_no_later_one(call: stage.StageCall) -> None:
    broken = call.model_copy(update={"inputs": {**call.inputs, "student": str(Path(call.directory) / "nowhere")}})
    with pytest.raises(Exception, match=r"model folder|nowhere|head\.json"):
        stage.run_stage.fn(broken)
    assert stage.run_stage.fn(call).measured["parameters"] > 0


def test_a_stage_without_torch_has_a_process_of_its_own_that_ends(call: stage.StageCall) -> None:
    data = {"kind": "data", "file": "rated.txt", "format": "rated"}
    source = Path(call.directory).with_name("source")
    source.mkdir()
    lines = [f"{number}\t{mean}\t{text}" for number, (text, mean) in enumerate(make_texts(200, 1), start=1)]
    (source / "rated.txt").write_text("\n".join(lines), encoding="utf-8")
    light = call.model_copy(update={"config": data, "inputs": {"source": str(source)}})
    stage.run_stage.fn(light)
    assert not psutil.pid_exists(parent(light))

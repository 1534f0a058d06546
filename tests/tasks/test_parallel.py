"""Trainings by several processes and in bf16: the same as in one, the same twice, gone on with when killed."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from flows.settings import worker_environment
from registry.records import ShrinkError
from tasks import losses, models, parallel, stage, train
from tasks.distill import logits
from tasks.kinds import EveryStage, function_of
from tasks.way import Way
from tests.tasks.test_stage import gone, soon
from tests.tasks.test_torch_stages import make_texts

LESSON = {"epochs": 2, "lr": 2e-3, "batch_size": 7, "class_weights": "balanced"}
ENVIRONMENT = worker_environment(1)  # before a test has its name in it, so that one zygote serves all


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    command = [sys.executable, "-m", "tests.tasks.sharing", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert "cut [-9, 1]" in done.stdout and "on [0, 0]" in done.stdout, done.stdout + done.stderr
    return folder


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / f"{name}.safetensors")
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_two_processes_end_where_one_ends_whatever_the_losses_are_means_over(shared: Path) -> None:
    one, two = weights(shared, "alone-0"), weights(shared, "shared-0")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-5, rtol=1e-4)
    assert not same(one, weights(shared, "whole-0")), "dropout changes nothing, so the comparison is one of nothing"


def test_processes_agree_and_repeat_themselves_with_dropout_too(shared: Path) -> None:
    whole = weights(shared, "whole-0")
    assert all(same(whole, weights(shared, name)) for name in ("whole-1", "again-0", "again-1"))


def test_killed_in_the_middle_and_gone_on_with_is_the_same(shared: Path) -> None:
    assert not (shared / "cut-0.safetensors").exists()
    assert all(same(weights(shared, "whole-0"), weights(shared, name)) for name in ("on-0", "on-1"))


@pytest.fixture
def call(made: dict[str, Path], tmp_path: Path) -> stage.StageCall:
    """A distillation without dropout, shared by two processes."""
    student = tmp_path / "student"
    student.mkdir()
    for file in made["student"].iterdir():
        (student / file.name).write_bytes(file.read_bytes())
    described = json.loads((student / "config.json").read_text())
    described |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (student / "config.json").write_text(json.dumps(described))
    return stage.StageCall(
        name="06-distill",
        config={"kind": "distill", "method": "logits", **LESSON},
        inputs={"student": str(student), **{name: str(made[name]) for name in ("labels", "data")}},
        directory=str(tmp_path / "stage"),
        seed=0,
        threads=2,
        environment=ENVIRONMENT,
        key="key",
        way=Way(processes=2),
    )


def inputs(call: stage.StageCall) -> dict[str, Path]:
    return {role: Path(path) for role, path in call.inputs.items()}


def answers(folder: Path, texts: list[str]) -> torch.Tensor:
    """Not the weights are compared: where a gradient is nothing but rounding (a key's bias), Adam goes anywhere."""
    model, tokenizer, _ = models.load(folder)
    return train.predict(model, train.tokenize(tokenizer, texts))[0]


def test_a_stage_by_torchrun_is_the_one_of_a_single_process(call: stage.StageCall, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    config = logits.DistillLogitsConfig.model_validate(call.config)
    alone = logits.run(inputs(call), config, tmp_path / "alone", 0)
    result = stage.run_stage.fn(call)
    assert result.measured["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    texts = [text for text, _ in make_texts(30, 3)]
    one, two = (answers(folder, texts) for folder in (tmp_path / "alone", Path(result.out)))
    torch.testing.assert_close(two, one, atol=1e-3, rtol=1e-3)
    assert (one - answers(Path(call.inputs["student"]), texts)).abs().max() > 0.1, "nothing was learnt"
    left = {path.name for path in Path(call.directory).iterdir()}
    assert left == {"call.json", "lock", "log.txt", "out", "result.json"}, "what two processes needed is gone"
    assert result.peak_rss_mb > 300 and result.curves, "the memory of both counts, and the first one reports"


def test_what_one_of_the_processes_says_is_the_stages_sentence(call: stage.StageCall) -> None:
    wild = call.model_copy(update={"config": {**call.config, "lr": 1e38}})
    with pytest.raises(ShrinkError, match=r"^training diverged: .* lower `lr` of this stage\.$"):
        stage.run_stage.fn(wild)


def test_no_process_outlives_a_killed_parent(call: stage.StageCall) -> None:
    long = call.model_copy(update={"config": {**call.config, "epochs": 100_000}, "memory_limit_mb": 1e6})
    code = "import sys; from tasks.stage import *; run_stage.fn(StageCall.model_validate_json(sys.argv[1]))"
    parent = subprocess.Popen([sys.executable, "-c", code, long.model_dump_json()])
    leader = psutil.Process(parent.pid)

    def ranks() -> list[psutil.Process]:
        family = leader.children(recursive=True)
        return [one for one in family if "tasks.rank" in one.cmdline() and one.num_threads() > 2]

    assert soon(lambda: len(ranks()) == 2, 300)
    family = leader.children(recursive=True)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert soon(lambda: all(map(gone, family)))


@pytest.fixture
def in_bf16() -> Iterator[None]:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    parallel.become(Way(precision="bf16"))
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    parallel.crew = None


def test_bf16_stays_near_full_precision_and_its_weights_are_fp32(
    call: stage.StageCall, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = logits.DistillLogitsConfig.model_validate(call.config)
    found = []
    for name in ("fp32", "bf16"):
        (tmp_path / name).mkdir()
        found.append(logits.run(inputs(call), config, tmp_path / name, 0)["loss"])
        request.getfixturevalue("in_bf16")
    assert found[0] != found[1] and found[1] == pytest.approx(found[0], rel=0.03)
    assert {value.dtype for value in weights(tmp_path / "bf16", "model").values()} == {torch.float32}


class Computed(Exception):
    """Stands for the rest of a training."""


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter:UserWarning")
@pytest.mark.parametrize(
    "stage_of",
    [
        {"kind": "distill", "method": "logits"},
        {"kind": "distill", "method": "self"},
        {"kind": "distill", "method": "quantized", "target": "int8_dynamic"},
        {"kind": "prune", "method": "gradual"},
        {"kind": "prune", "method": "movement"},
        {"kind": "finetune"},
    ],
)
def test_all_that_a_training_computes_with_lies_on_its_device(
    stage_of: dict[str, Any], made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of a GPU a device that computes nothing, but refuses a tensor that lies elsewhere."""

    def fit(
        model: nn.Module, lengths: Any, loss_of: Any, schedule: Any, companion: train.Companion = train.ALONE
    ) -> Any:
        companion.after(0, 10)
        loss_of([0, 1, 2, 3]).backward()
        assert {weight.device.type for weight in model.parameters()} == {"meta"}
        raise Computed

    def label_loss(logits: Any, labels: Any, weights: Any = None) -> Any:  # which rows have one depends on numbers
        return torch.nn.functional.cross_entropy(logits, labels, weights)

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(train, "accuracy", lambda logits, labels: 0.0)
    monkeypatch.setattr(losses, "label_loss", label_loss)
    start = made["teacher" if stage_of["kind"] != "finetune" else "start"]
    at = {**made, "teacher": start}
    with pytest.raises(Computed), torch.device("meta"):
        config = EveryStage.validate_python(stage_of)
        function_of(config)(at, config, tmp_path, 0)


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ShrinkError, match=r"^SHRINK_DEVICE is cuda and SHRINK_PROCESSES 1, but torch sees 0 GPUs: "):
        parallel.join(Way(device="cuda"), Path())

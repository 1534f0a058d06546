"""Several teachers: their shares and losses against numpy, whole stages, and a generation taught by the one before."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from registry.records import ShrinkError, digest_directory
from tasks import data, finetune, label, losses, models
from tasks.distill import logits
from tests.tasks.test_torch_stages import make_model, make_tokenizer

QUICK: dict[str, Any] = {"epochs": 2, "lr": 4e-3, "batch_size": 16, "transfer": True}


def softmax(values: Any, axis: int = -1) -> Any:
    raised = np.exp(values - values.max(axis, keepdims=True))
    return raised / raised.sum(axis, keepdims=True)


def test_the_mixture_pulls_as_the_weighted_divergences_do() -> None:
    rng = np.random.default_rng(0)
    teachers, shares = torch.tensor(rng.normal(size=(5, 3, 4))), torch.tensor(rng.dirichlet(np.ones(3), size=5))
    student = torch.tensor(rng.normal(size=(5, 4)), requires_grad=True)
    each = [
        sum(shares[row, k] * losses.kd_loss(student[row : row + 1], teachers[row : row + 1, k], 2.5) for k in range(3))
        for row in range(5)
    ]
    (wanted,) = torch.autograd.grad(torch.stack([torch.as_tensor(one) for one in each]).mean(), student)
    (found,) = torch.autograd.grad(losses.mixture_kd_loss(student, teachers, shares, 2.5), student)
    assert torch.allclose(found, wanted) and float(found.abs().max()) > 0.01
    one = torch.ones(5, 1, dtype=torch.float64)
    alone = losses.mixture_kd_loss(student, teachers[:, :1], one, 2.5)
    assert float(alone.detach()) == pytest.approx(float(losses.kd_loss(student, teachers[:, 0], 2.5).detach()))


def test_confidence_is_by_the_true_label_and_by_entropy_where_there_is_none() -> None:
    logits, labels = np.random.default_rng(1).normal(size=(6, 3, 4)) * 2, np.array([0, 3, -1, 1, -1, 2])
    chances = softmax(logits)
    doubt = np.array(
        [
            [-np.log(p[y]) if y >= 0 else -(p * np.log(p)).sum() for p in row]
            for row, y in zip(chances, labels, strict=True)
        ]
    )
    wanted = (1 - np.exp(doubt) / np.exp(doubt).sum(1, keepdims=True)) / 2
    found = losses.confidence(torch.tensor(logits), torch.tensor(labels)).numpy()
    assert np.allclose(found, wanted) and np.allclose(found.sum(1), 1)
    assert (found.argmax(1) == doubt.argmin(1)).all()
    equal = losses.confidence(torch.tensor(logits[:, :1]).expand(-1, 3, -1), torch.tensor(labels))
    assert torch.allclose(equal, torch.full((6, 3), 1 / 3, dtype=torch.float64))


@pytest.fixture(scope="module")
def two(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `made` has and a smaller teacher with fewer pieces, made of the same source."""
    small = tmp_path_factory.mktemp("small")
    config = finetune.FinetuneConfig(teacher="small", keep_layers=1, tuned_layers=1, epochs=2, lr=5e-3, batch_size=16)
    assert config.reads == {"small": "torch|source", "data": "rows"} and config.writes == ("small", "torch")
    finetune.run({"small": made["start"], "data": made["data"]}, config, small, 0)
    return {**made, "small": small, "floor": made["data"]}


def labelled(inputs: dict[str, Path], out: Path, **settings: Any) -> tuple[Path, dict[str, Any]]:
    """The labels that some teachers give, and what was measured."""
    config = label.LabelConfig.model_validate(settings)
    out.mkdir()
    return out, label.run({role: inputs[role] for role in config.reads}, config, out, 0)


def test_several_teachers_keep_their_answers_apart_with_shares_by_row(two: dict[str, Path], tmp_path: Path) -> None:
    alone = {name: labelled(two, tmp_path / name, teachers={name: 2.0})[0] for name in ("small", "teacher")}
    static, _ = labelled(two, tmp_path / "static", teachers={"teacher": 3.0, "small": 1.0})
    sure, measured = labelled(two, tmp_path / "sure", teachers={"teacher": 3.0, "small": 1.0}, confidence=True)
    answers = {name: load_file(path / "logits.safetensors") for name, path in alone.items()}
    both = load_file(sure / "logits.safetensors")
    truth = torch.tensor([row["label"] for row in data.read_rows(two["data"], "train")])
    for part in ("train", "transfer"):
        assert torch.equal(both[part], torch.stack([answers[name][part] for name in sorted(answers)], dim=1))
        shares = load_file(static / "shares.safetensors")[part]
        assert torch.allclose(shares, torch.tensor([0.25, 0.75]).expand_as(shares))
        known = truth if part == "train" else torch.full((len(both[part]),), -1)
        weighed = losses.confidence(both[part].double(), known) * torch.tensor([1.0, 3.0], dtype=torch.float64)
        wanted = (weighed / weighed.sum(1, keepdim=True)).float()
        assert torch.allclose(load_file(sure / "shares.safetensors")[part], wanted)
    assert not (alone["teacher"] / "shares.safetensors").exists()
    hidden = (load_file(path / "hidden.safetensors")["train"] for path in (sure, alone["teacher"]))
    assert torch.equal(*hidden)
    assert set(measured["teachers"]) == {"small", "teacher"}
    assert 0 < measured["teachers"]["small"]["transfer_share"] < measured["teachers"]["teacher"]["transfer_share"] < 1


def test_a_student_learns_from_two_teachers_and_then_teaches_its_next_generation(
    two: dict[str, Path], tmp_path: Path
) -> None:
    labels, _ = labelled(two, tmp_path / "labels", teachers={"teacher": 1.0, "small": 0.5}, confidence=True)
    inputs, outs = {**two, "labels": labels}, [tmp_path / str(number) for number in range(4)]
    for out in outs:
        out.mkdir()
    measured = logits.run(inputs, logits.DistillLogitsConfig(**QUICK), outs[0], 0)
    assert measured["loss"][-1] < 0.8 * measured["loss"][0] and measured["validation_accuracy"] > 0.85
    plain = logits.run(two, logits.DistillLogitsConfig(**QUICK), outs[1], 0)
    assert plain["loss"] != measured["loss"]

    again, _ = labelled({**inputs, "student": outs[0]}, tmp_path / "again", teachers={"student": 1.0})
    config = logits.DistillLogitsConfig(**QUICK, afresh=True)
    assert set(config.reads) == {"start", "labels", "data"}
    next_inputs = {"start": two["student"], "student": outs[0], "labels": again, "data": two["data"]}
    born = logits.run(next_inputs, config, outs[2], 0)
    assert born["validation_accuracy_before"] == measured["validation_accuracy_before"]
    assert born["validation_accuracy"] > 0.85
    logits.run({**next_inputs, "student": two["student"]}, config.model_copy(update={"afresh": False}), outs[3], 0)
    assert digest_directory(outs[2]) == digest_directory(outs[3]) != digest_directory(outs[0])


def test_teachers_of_other_labels_are_refused(two: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    models.save(other, make_model(1), make_tokenizer(), models.Head(labels=("x", "y"), max_length=32))
    with pytest.raises(ShrinkError, match=r"teacher knows the labels .* and another teacher .*: train both on this"):
        labelled({**two, "other": other}, tmp_path / "out", teachers={"teacher": 1.0, "other": 1.0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teachers": {"teacher": 0.0, "small": 0.0}}, r"needs weights of 0 or more, one above 0"),
        ({"teachers": {"teacher": 2.0, "small": -1.0}}, r"needs weights of 0 or more"),
        ({"teachers": {}}, r"needs weights of 0 or more, one above 0"),
        ({"confidence": True}, r"confidence weighs teachers against each other, but teachers names one"),
        ({"teachers": {"floor": 1.0}}, r"floor is not free for a teacher"),
        ({"teachers": {"Big One": 1.0}}, r"should match pattern"),
    ],
)
def test_weights_that_say_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label.LabelConfig.model_validate(settings)

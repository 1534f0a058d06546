"""Hidden states, the triple loss and early exits: the maths against numpy, whole stages, a kill amid each."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from registry.records import ShrinkError
from tasks import data, losses, models, train
from tasks.distill import exits, hidden, logits, states, triple
from tasks.kinds import EveryStage, function_of
from tests import kills
from tests.tasks.test_torch_stages import make_tokenizer

Array = np.ndarray[Any, Any]
QUICK: dict[str, Any] = {"kind": "distill", "epochs": 3, "lr": 4e-3, "batch_size": 16}
LENGTHS = [5, 2, 3]
MASK = torch.tensor([[1] * length + [0] * (5 - length) for length in LENGTHS])


def tokens(vectors: Array) -> Array:
    """The real tokens alone, [n, d]."""
    return np.concatenate([part[:length] for part, length in zip(vectors, LENGTHS, strict=True)])


def test_distances_of_hidden_states_equal_numpy_and_padding_does_not_count() -> None:
    student, taught = np.random.default_rng(0).normal(size=(2, 3, 5, 7))
    mine, theirs = tokens(student), tokens(taught)
    unit = [one / np.linalg.norm(one, axis=-1, keepdims=True) for one in (mine, theirs)]
    wanted = {
        "plain": np.square(mine - theirs).mean(),
        "normalised": np.square(unit[0] - unit[1]).sum(-1).mean(),
        "cosine": 1 - (unit[0] * unit[1]).sum(-1).mean(),
    }
    for _ in range(2):
        one, other = torch.tensor(student), torch.tensor(taught)
        found = {
            "plain": states.squared_distance(one, other, MASK, normalised=False),
            "normalised": states.squared_distance(one, other, MASK, normalised=True),
            "cosine": states.cosine_distance(one, other, MASK),
        }
        assert {name: float(value) for name, value in found.items()} == pytest.approx(wanted, rel=1e-9)
        student[1, 2:], taught[2, 3:] = 99.0, -99.0
    assert wanted["normalised"] == pytest.approx(2 * wanted["cosine"])


def test_hidden_states_are_those_of_transformers(made: dict[str, Path]) -> None:
    model, _, _ = models.load(made["teacher"])
    ids, mask = train.pad([[2, 6, 12, 3], [2, 9, 13, 14, 11, 3]])
    with torch.no_grad():
        wanted = model.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        found = states.states(model, ids, mask)
    assert len(found) == len(wanted) == 4
    for mine, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(mine[mask > 0], theirs[mask > 0], atol=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "wanted"),
    [(3, 6, [1, 3, 5]), (4, 12, [2, 5, 8, 11]), (2, 3, [1, 2]), (3, 3, [0, 1, 2]), (4, 2, [0, 0, 1, 1])],
)
def test_without_a_map_the_layers_are_spread_and_the_last_learns_from_the_last(
    student: int, teacher: int, wanted: list[int]
) -> None:
    assert list(hidden.pairs(None, student, teacher).values()) == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({2: 0}, r"layer_map names the student's layer 2 but its last is 1"),
        ({0: 6}, r"layer_map names the teacher's layer 6 but its last is 5"),
        ({}, r"layer_map names no layer"),
    ],
)
def test_a_map_of_layers_that_are_not_there_is_refused(given: dict[int, int], message: str) -> None:
    with pytest.raises(ShrinkError, match=message):
        hidden.pairs(given, 2, 6)


def taught(inputs: dict[str, Path], out: Path, **settings: Any) -> dict[str, Any]:
    """What a method of distill measured."""
    config = EveryStage.validate_python({**QUICK, **settings})
    out.mkdir()
    return function_of(config)({role: inputs[role] for role in config.reads}, config, out, 0)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with 24 features where its teacher has 32, and two layers."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=make_tokenizer().get_vocab_size(),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.2,
        attention_probs_dropout_prob=0.0,
    )
    folder = tmp_path_factory.mktemp("narrow")
    student = models.Classifier(BertModel(config, add_pooling_layer=False), 2)
    models.save(folder, student, make_tokenizer(), models.Head(labels=("a", "b"), max_length=32))
    return folder


METHODS: dict[str, dict[str, Any]] = {
    "hidden": {"method": "hidden"},
    "hidden, wider teacher": {"method": "hidden", "hidden_weight": 0.0, "normalised": True, "layer_map": {1: 2}},
    "triple": {"method": "triple"},
    "triple, masked": {"method": "triple", "masked_weight": 2.0},
    "self": {"method": "self", "keep": 1, "epochs": 6},
}


@pytest.mark.parametrize("case", METHODS)
def test_a_method_teaches_and_goes_on_after_a_kill_with_the_same_result(
    made: dict[str, Path], narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    settings, inputs = METHODS[case], {**made, "student": narrow if "wider" in case else made["student"]}
    measured = taught(inputs, tmp_path / "one", **settings)
    assert measured["loss"][-1] < 0.9 * measured["loss"][0] and measured["validation_accuracy"] > 0.85
    rows = [row["text"] for name in ("train", "transfer") for row in data.read_rows(made["data"], name)]
    whole = len(rows) // 16 * settings.get("epochs", 3)
    kills.goes_on_to_the_same_bytes(
        monkeypatch, tmp_path / "one", measured, lambda out: taught(inputs, out, **settings), at=8, whole=whole
    )


def apart(made: dict[str, Path], student: Path) -> float:
    """How far a student's last hidden states are from its teacher's on validation texts, by their cosine."""
    from tasks.distill import alongside, answers

    inputs = {"student": student, "data": made["data"]}
    lesson = answers.read(inputs, exits.DistillSelfConfig(transfer=False))
    guide = alongside.load(made["teacher"], lesson)
    ids, mask = answers.batch(lesson, list(range(len(lesson.texts))))
    with torch.no_grad():
        found = states.states(lesson.model, ids, mask)[-1]
        wanted = states.states(guide.model, guide.numbers[ids], mask)[-1]
    return float(states.cosine_distance(found, wanted, mask))


def test_hidden_states_come_nearer_than_without_learning_them(made: dict[str, Path], tmp_path: Path) -> None:
    heavy: dict[str, dict[str, Any]] = {"logits": {}, "hidden": {"states_weight": 20}, "triple": {"cosine_weight": 50}}
    for method, weight in heavy.items():
        taught(made, tmp_path / method, method=method, transfer=False, **weight)
    far, *near = (apart(made, tmp_path / method) for method in heavy)
    assert max(near) < 0.8 * far, (far, near)


def test_what_cannot_stand_side_by_side_is_refused(made: dict[str, Path], narrow: Path, tmp_path: Path) -> None:
    inputs = {**made, "student": narrow}
    for method, message in (
        ("triple", r"the student has 24 and the teacher 32: use distill/hidden, which learns a projection"),
        ("hidden", r"hidden_weight needs equal widths"),
    ):
        with pytest.raises(ShrinkError, match=message):
            taught(inputs, tmp_path / method, method=method)
    with pytest.raises(ShrinkError, match=r"layer_map names the student's layer 2 but its last is 1"):
        taught(made, tmp_path / "map", method="hidden", layer_map={2: 2})
    with pytest.raises(ShrinkError, match=r"keep is 3 but the student has only 2 layers"):
        taught(made, tmp_path / "keep", method="self", keep=3)


def test_the_loss_of_exits_equals_its_parts_and_leaves_the_deepest_to_the_labels() -> None:
    rng = np.random.default_rng(0)
    given = [torch.tensor(rng.normal(size=(5, 3)), requires_grad=True) for _ in range(3)]
    pooled = [torch.tensor(rng.normal(size=(5, 8)), requires_grad=True) for _ in range(3)]
    labels = torch.tensor([0, 2, -1, 1, -1])
    config = exits.DistillSelfConfig(temperature=3.0, logits_weight=0.7, hidden_weight=0.2, labels_weight=0.5)
    told, seen = [one.detach() for one in given], [one.detach() for one in pooled]
    hard = [float(losses.label_loss(one, labels)) for one in told]
    soft = [float(losses.kd_loss(one, told[2], 3.0)) for one in told[:2]]
    hints = [float((one - seen[2]).square().mean()) for one in seen[:2]]
    wanted = 0.5 * float(np.mean(hard)) + 0.7 * float(np.mean(soft)) + 0.2 * float(np.mean(hints))
    found = exits.own_loss(given, pooled, labels, config)
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-9)
    found.backward()
    deepest = given[2].detach().requires_grad_()
    (0.5 / 3 * losses.label_loss(deepest, labels)).backward()
    assert given[2].grad is not None and deepest.grad is not None and torch.allclose(given[2].grad, deepest.grad)
    assert pooled[2].grad is None and all(one.grad is not None for one in (*given[:2], *pooled[:2]))


def test_the_kept_exit_is_what_was_measured_in_the_whole_model(made: dict[str, Path], tmp_path: Path) -> None:
    inputs = {**made, "student": made["teacher"]}
    whole = taught(inputs, tmp_path / "whole", method="self")
    short = taught(inputs, tmp_path / "short", method="self", keep=2)
    assert short["exits_accuracy"] == whole["exits_accuracy"] and len(whole["exits_accuracy"]) == 3
    assert short["validation_accuracy"] == short["exits_accuracy"][1]
    (small, _, head), (big, _, _) = models.load(tmp_path / "short"), models.load(tmp_path / "whole")
    assert len(small.layers) == 2 and len(big.layers) == 3 and head.labels == models.load(made["teacher"])[2].labels
    ids, mask = train.pad([[2, 6, 12, 3], [2, 9, 13, 14, 11, 3]])
    with torch.no_grad():
        assert torch.equal(small.features(ids, mask), exits.pooled_states(big, ids, mask)[1])
    assert short["parameters"] < whole["parameters"] == models.count_parameters(big)


def test_weights_that_are_all_zero_are_refused() -> None:
    zero: dict[str, Any] = {"logits_weight": 0, "hidden_weight": 0, "labels_weight": 0}
    with pytest.raises(ValueError, match="are all 0, so nothing is learnt"):
        logits.DistillLogitsConfig(**zero)
    with pytest.raises(ValueError, match="are all 0, so nothing is learnt"):
        triple.DistillTripleConfig(logits_weight=0, labels_weight=0, cosine_weight=0)

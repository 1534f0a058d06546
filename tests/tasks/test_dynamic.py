"""Weights set to zero while the student learns: the schedule, both methods against loops, whole stages, a kill."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import load_file
from torch import Tensor, nn

from flows.recipe import load
from flows.smoke import smoke
from registry.records import digest_directory
from tasks import anatomy, data, finetune, label, models, train
from tasks.export import packed
from tasks.kinds import EveryStage
from tasks.prune import gradual, movement, straight
from tasks.prune.dynamic import DynamicConfig, cubic, wanted
from tests import kills
from tests.tasks.test_sparsity import is_pruned, kept_by_numpy
from tests.tasks.test_torch_stages import make_model, make_texts, make_tokenizer

METHODS: dict[str, Any] = {"gradual": gradual, "movement": movement}
QUICK: dict[str, Any] = {"epochs": 6, "lr": 3e-3, "batch_size": 8, "every": 3}
SHARES = st.tuples(st.integers(0, 98), st.integers(1, 100)).filter(lambda two: two[0] < two[1])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data, a tuned teacher that is the student too, and its labels."""
    at = {name: tmp_path_factory.mktemp(name) for name in ("source", "data", "start", "student", "labels")}
    lines = [f"{number}\t{mean}\t{text}" for number, (text, mean) in enumerate(make_texts(120, 1), start=1)]
    (at["source"] / "rated.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    split = data.DataConfig(file="rated.txt", format="rated", max_length=16)
    data.run({"source": at["source"]}, split, at["data"], 0)
    models.save(at["start"], make_model(), make_tokenizer(), models.Head(labels=("a", "b"), max_length=16))
    tuned = finetune.FinetuneConfig(tuned_layers=2, epochs=3, lr=5e-3, batch_size=8)
    finetune.run({"teacher": at["start"], "data": at["data"]}, tuned, at["student"], 0)
    inputs = {"teacher": at["student"], "data": at["data"], "floor": at["data"]}
    label.run(inputs, label.LabelConfig(transfer=False), at["labels"], 0)
    return at


def pruned(made: dict[str, Path], method: str, out: Path, **fields: Any) -> dict[str, Any]:
    """What a stage measured."""
    stage = {"kind": "prune", "method": method, "transfer": False, **QUICK, **fields}
    out.mkdir()
    measured: dict[str, Any] = METHODS[method].run(made, EveryStage.validate_python(stage), out, 0)
    return measured


@given(SHARES, st.integers(1, 400), st.integers(1, 50), st.floats(0.01, 0.99))
def test_the_sparsity_rises_from_nothing_to_all_of_it_and_stays(
    shares: tuple[int, int], steps: int, every: int, sparsity: float
) -> None:
    config = DynamicConfig(begin=shares[0] / 100, end=shares[1] / 100, every=every, sparsity=sparsity)
    first, last = round(config.begin * steps), round(config.end * steps)
    course = [cubic(done, first, last, sparsity) for done in range(steps + 1)]
    assert all(0 <= early <= late <= sparsity for early, late in itertools.pairwise(course))
    assert course[last] == course[-1] == sparsity and (first == last or course[first] == 0.0)
    chosen = [(done, share) for done in range(steps + 1) if (share := wanted(config, done, steps)) is not None]
    assert chosen[-1] == (last, sparsity) and all(share == course[done] for done, share in chosen)
    assert chosen[0][0] == first and {b[0] - a[0] for a, b in itertools.pairwise(chosen[:-1])} <= {every}


def test_the_cubic_is_that_of_the_paper() -> None:
    final, initial, begin, span, steps = 0.9, 0.0, 100, 10, 40  # n pruning steps, a mask every `span` steps
    for turn in range(steps + 1):
        step = begin + turn * span
        by_paper = final + (initial - final) * (1 - (step - begin) / (steps * span)) ** 3
        assert cubic(step, begin, begin + steps * span, final) == pytest.approx(by_paper, abs=1e-12)
    assert cubic(begin + steps * span // 2, begin, begin + steps * span, final) == pytest.approx(final * 7 / 8)


def test_the_end_lies_behind_the_beginning() -> None:
    with pytest.raises(ValidationError, match=r"end must be above begin, which is 0\.4"):
        gradual.PruneGradualConfig(begin=0.4, end=0.4)


def test_the_gradient_of_a_score_is_how_the_loss_changes_with_the_mask() -> None:
    rng = np.random.default_rng(0)
    weight, inputs, target = rng.normal(size=(3, 5)), rng.normal(size=(4, 5)), rng.normal(size=(4, 3))
    mask = rng.random((3, 5)) < 0.5

    def loss(share: Any) -> float:
        return float(((inputs @ (weight * share).T - target) ** 2).sum())

    linear = nn.Linear(5, 3, bias=False).double()
    linear.load_state_dict({"weight": torch.tensor(weight)})
    scored = straight.attach(linear)
    scored.mask.copy_(torch.tensor(mask))
    value = ((linear(torch.tensor(inputs)) - torch.tensor(target)) ** 2).sum()
    value.backward()
    assert float(value.detach()) == pytest.approx(loss(mask))
    steps = np.eye(15).reshape(15, 3, 5) * 1e-6
    slopes = np.array([(loss(mask + step) - loss(mask - step)) / 2e-6 for step in steps]).reshape(3, 5)
    assert scored.scores.grad is not None and slopes[~mask].any()
    np.testing.assert_allclose(scored.scores.grad.numpy(), slopes, rtol=1e-5, atol=1e-6)
    (own,) = [one.grad for one in linear.parameters()]
    assert own is not None
    np.testing.assert_allclose(own.numpy() * weight, slopes * mask, rtol=1e-5, atol=1e-6)
    straight.detach(linear)
    found = linear.weight.detach().numpy()
    np.testing.assert_array_equal(found, np.where(mask, weight, 0.0))
    assert not np.signbit(found[~mask]).any() and list(linear.state_dict()) == ["weight"]


ROWS = torch.randint(6, 70, (24, 7), generator=torch.Generator().manual_seed(2))
TARGETS = torch.randint(0, 2, (24,), generator=torch.Generator().manual_seed(3))
SCHEDULE = train.Schedule(epochs=4, lr=2e-3, batch_size=8, seed=0)  # 12 steps


def still() -> models.Classifier:
    """A model without dropout, so that two loops see the same losses."""
    model = make_model(2)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def loss_of(model: models.Classifier) -> Callable[[list[int]], Tensor]:
    return lambda rows: nn.functional.cross_entropy(model(ROWS[rows], torch.ones_like(ROWS[rows])), TARGETS[rows])


@pytest.mark.parametrize(("method", "start"), [("gradual", None), ("movement", "zeros"), ("movement", "sizes")])
def test_each_method_is_that_of_a_plain_loop(method: str, start: str | None) -> None:
    """The loop keeps dense weights and masks beside each other in numpy and gives the model their product."""
    fields: dict[str, Any] = {"sparsity": 0.8, "begin": 0.2, "end": 0.7, "every": 2, "lr": SCHEDULE.lr}
    fields |= {"start": start} if start else {}
    module, config = METHODS[method], EveryStage.validate_python({"kind": "prune", "method": method, **fields})
    mine, theirs = still(), still()
    train.fit(mine, [7] * 24, loss_of(mine), SCHEDULE, module.pruner(mine, config))

    linears = [linear for layer in theirs.layers for linear in anatomy.linears(layer).values()]
    dense, kept = [one.weight.detach().clone() for one in linears], [np.ones(one.weight.shape, bool) for one in linears]
    scores, means, squares = ([np.zeros(one.weight.shape) for one in linears] for _ in range(3))
    scores = [np.abs(whole.numpy()) for whole in dense] if start == "sizes" else scores
    optimizer = torch.optim.AdamW(
        [
            {"params": [one for one in theirs.parameters() if one.ndim > 1], "weight_decay": 0.01},
            {"params": [one for one in theirs.parameters() if one.ndim <= 1], "weight_decay": 0.0},
        ]
    )
    rng, step, returned = np.random.default_rng(0), 0, 0
    for _ in range(4):
        for rows in train.shuffled_batches([7] * 24, 8, rng):
            rate = SCHEDULE.lr * train.warm_up_factor(step, 12)
            theirs.zero_grad()
            loss_of(theirs)(rows).backward()
            for number, (one, whole, mask) in enumerate(zip(linears, dense, kept, strict=True)):
                assert one.weight.grad is not None
                slope = one.weight.grad.numpy() * whole.numpy()  # of the masked weight, with the whole one
                means[number] = 0.9 * means[number] + 0.1 * slope
                squares[number] = 0.999 * squares[number] + 0.001 * slope**2
                scale = np.sqrt(squares[number] / (1 - 0.999 ** (step + 1))) + 1e-8
                scores[number] -= 5 * rate * means[number] / (1 - 0.9 ** (step + 1)) / scale
                one.weight.grad *= torch.tensor(mask)
                one.weight.data.copy_(whole)
            nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            step += 1
            for number, (one, score) in enumerate(zip(linears, scores, strict=True)):
                dense[number] = one.weight.detach().clone()
                if step in (2, 4, 6, 8):  # begins at round(2.4), ends at round(8.4)
                    share = 0.8 * (1 - (1 - (step - 2) / 6) ** 3)
                    rank = np.abs(dense[number].numpy()) if method == "gradual" else score
                    before, kept[number] = kept[number], kept_by_numpy(rank.reshape(1, -1), share).reshape(rank.shape)
                    returned += int((kept[number] & ~before).sum())
                if method == "gradual":
                    dense[number] *= torch.tensor(kept[number])
                one.weight.data.copy_(dense[number] * torch.tensor(kept[number]))
    found_by_name, zeros = mine.state_dict(), 0
    for name, reference in theirs.state_dict().items():
        found = found_by_name[name]
        if not name.endswith("key.bias"):  # no answer depends on it, Adam blows up what rounding leaves of its gradient
            np.testing.assert_allclose(found.numpy(), reference.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
        zeros += int((found == 0).sum()) if is_pruned(name) else 0
    assert zeros == sum(round(0.8 * one.weight.numel()) for one in linears)
    assert (returned > 0) == (start == "zeros")  # weights that were masked may come back, in so few steps from 0 alone


class One(nn.Module):
    """A single product, pruned as an encoder's would be."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        linear = nn.Linear(weight.shape[1], len(weight), bias=False)
        linear.load_state_dict({"weight": weight})
        self.layers = nn.ModuleList([linear])


def kept_of(weight: Tensor, wanted_weight: Tensor, noise: float, lr: float, **fields: Any) -> NDArray[np.bool_]:
    """Which weights [r, n] stay, half of them, where 320 steps lead towards other weights, the targets noisy."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(640, weight.shape[1], generator=generator)
    targets = inputs @ wanted_weight.T + noise * torch.randn(640, len(weight), generator=generator)
    model: Any = One(weight)

    def loss_of(rows: list[int]) -> Tensor:
        return nn.functional.mse_loss(model.layers[0](inputs[rows]), targets[rows])

    config: Any = EveryStage.validate_python({"kind": "prune", "sparsity": 0.5, "lr": lr, **fields})
    schedule = train.Schedule(epochs=32, lr=lr, batch_size=64, seed=0)
    train.fit(model, [1] * 640, loss_of, schedule, METHODS[config.method].pruner(model, config))
    return np.asarray(model.layers[0].weight.detach().numpy() != 0)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"method": "movement"}, True),
        ({"method": "movement", "start": "zeros"}, True),
        ({"method": "gradual"}, False),
    ],
)
def test_movement_finds_small_weights_that_are_needed_where_sizes_mislead(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], found: bool
) -> None:
    monkeypatch.setattr(anatomy, "linears", lambda layer: {"one": layer})
    start, wanted_weight = torch.full((4, 40), 0.5), torch.zeros(4, 40)
    start[:, ::2], wanted_weight[:, ::2] = 0.05, 0.5  # needed, but small as yet; the others are large and useless
    kept = kept_of(start, wanted_weight, 0.0, 1e-3, **fields)
    assert kept.sum() == 80
    assert (kept[:, ::2].mean() > 0.95) if found else (kept[:, ::2].mean() < 0.05)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"method": "movement"}, True),
        ({"method": "gradual"}, True),
        ({"method": "movement", "start": "zeros"}, False),
    ],
)
def test_what_was_learnt_before_stays_where_only_noise_moves_it(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], found: bool
) -> None:
    """Scores that begin at 0 take a quarter of what was learnt for useless: noise alone orders them."""
    monkeypatch.setattr(anatomy, "linears", lambda layer: {"one": layer})
    weight = torch.full((4, 40), 0.01)
    weight[:, ::2] = 0.3  # learnt, and right as it is
    kept = kept_of(weight, weight, 1.0, 1e-4, **fields)
    assert kept.sum() == 80 and bool(kept[:, ::2].mean() > 0.95) is found


@pytest.mark.parametrize("method", METHODS)
def test_zeros_stay_through_packing_and_the_student_learns(made: dict[str, Path], tmp_path: Path, method: str) -> None:
    measured = pruned(made, method, tmp_path / "out", sparsity=0.4)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    names = [name for name in weights if is_pruned(name)]
    assert set(weights) == set(load_file(made["student"] / "model.safetensors")) and len(names) == 18
    for name in names:
        gone = weights[name] == 0
        assert int(gone.sum()) == round(0.4 * gone.size) and not np.signbit(weights[name][gone]).any()
    assert measured["sparsity"] == pytest.approx(0.4, abs=1e-3)
    assert measured["zeros"] == round(measured["sparsity"] * measured["weights"])
    assert measured["validation_accuracy"] > 0.9 and measured["loss"][-1] < measured["loss"][0]
    (tmp_path / "packed").mkdir()
    sizes = packed.run({"student": tmp_path / "out"}, packed.PackedConfig(), tmp_path / "packed", 0)
    assert sizes["packed_tensors"] >= 18 and sizes["packed_bytes"] < 0.8 * sizes["dense_bytes"]
    (tmp_path / "restored").mkdir()
    packed.restore(tmp_path / "packed", tmp_path / "restored")
    assert digest_directory(tmp_path / "restored") == digest_directory(tmp_path / "out")


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_gone_on_with_it_ends_with_the_same_bytes(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    fields, at = {"epochs": 2, "every": 5, "sparsity": 0.6}, 14  # between two choices of the masks
    measured = pruned(made, method, tmp_path / "one", **fields)
    whole = 2 * -(-len(data.read_rows(made["data"], "train")) // 8)
    kills.goes_on_to_the_same_bytes(
        monkeypatch, tmp_path / "one", measured, lambda out: pruned(made, method, out, **fields), at=at, whole=whole
    )


def test_a_smoke_walk_makes_one_pass() -> None:
    recipe = load("sentiment")
    stages = tuple(EveryStage.validate_python({"kind": "prune", "method": method, "epochs": 7}) for method in METHODS)
    walked = smoke(recipe.model_copy(update={"stages": (*recipe.stages[:5], *stages[:1], *recipe.stages[5:])}))
    assert [one.epochs for one in walked.stages if isinstance(one, DynamicConfig)] == [1]

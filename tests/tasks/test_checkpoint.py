"""A training that is cut off and goes on ends with the very weights of one that was not; a diverging one stops."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from registry.records import ShrinkError
from tasks import checkpoint, train

ROWS = torch.randn(50, 6, generator=torch.Generator().manual_seed(3))
LENGTHS = [1 + n % 7 for n in range(50)]
SCHEDULE = train.Schedule(epochs=3, lr=1e-2, batch_size=8, seed=5)  # seven steps an epoch


class Cut(Exception):
    """Stands for the kill."""


@pytest.fixture(autouse=True)
def in_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(checkpoint, "place", (tmp_path, "key"))
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    yield


def new_model() -> nn.Module:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 1))
    model[0].bias.requires_grad_(False)
    return model


def loss_of(model: nn.Module, steps: int = 999, factor: float = 1.0) -> Callable[[list[int]], Tensor]:
    count = 0

    def loss(rows: list[int]) -> Tensor:
        nonlocal count
        count += 1
        if count > steps:
            raise Cut
        answer: Tensor = model(ROWS[rows])
        return (answer**2).mean() * (factor if count == steps else 1.0)

    return loss


@pytest.mark.parametrize("steps", [1, 6, 7, 8, 20])
def test_cut_off_and_gone_on_with_is_the_same_as_in_one_go(steps: int, tmp_path: Path) -> None:
    whole, parts = new_model(), new_model()
    curve = train.fit(whole, LENGTHS, loss_of(whole), SCHEDULE)
    checkpoint.clear()
    with pytest.raises(Cut):
        train.fit(parts, LENGTHS, loss_of(parts, steps), SCHEDULE)
    assert (tmp_path / checkpoint.FILE).exists()
    parts = new_model()
    rest = loss_of(parts, 21 - steps + (steps % 7 == 0))  # no checkpoint is due at an epoch's end: that step is redone
    assert train.fit(parts, LENGTHS, rest, SCHEDULE) == curve
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name


def test_a_checkpoint_of_another_stage_or_a_damaged_one_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model()
    with pytest.raises(Cut):
        train.fit(model, LENGTHS, loss_of(model, 4), SCHEDULE)
    kept = (tmp_path / checkpoint.FILE).read_bytes()
    assert checkpoint.read(tmp_path, "key") is not None and checkpoint.read(tmp_path, "other") is None
    (tmp_path / checkpoint.FILE).write_bytes(kept[: len(kept) // 2])
    assert checkpoint.read(tmp_path, "key") is None
    for place in (kept.index(b"losses"), len(kept) - 3):  # one bit of the facts, one of the last tensor
        (tmp_path / checkpoint.FILE).write_bytes(kept[:place] + bytes([kept[place] ^ 1]) + kept[place + 1 :])
        assert checkpoint.read(tmp_path, "key") is None
    checkpoint.clear()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(checkpoint, "place", None)
    with pytest.raises(Cut):
        train.fit(model, LENGTHS, loss_of(model, 4), SCHEDULE)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_the_last_step_makes_infinite_are_never_kept(tmp_path: Path) -> None:
    model = new_model()
    once = train.Schedule(epochs=1, lr=1e38, batch_size=len(LENGTHS), seed=0)
    with pytest.raises(ShrinkError, match=r"weights are no numbers any more behind step 1 with learning rate 1e\+38"):
        train.fit(model, LENGTHS, loss_of(model), once)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_diverging_training_stops_at_the_step_with_the_last_good_weights(factor: float, tmp_path: Path) -> None:
    model, good = new_model(), new_model()
    with pytest.raises(ShrinkError, match=r"diverged: the loss is (nan|inf) .* at step 5 with learning rate 0"):
        train.fit(model, LENGTHS, loss_of(model, 5, factor), SCHEDULE)
    with pytest.raises(Cut):
        train.fit(good, LENGTHS, loss_of(good, 1), SCHEDULE)  # reads the checkpoint of step 4 and makes one step
    found = checkpoint.read(tmp_path, "key")
    assert found is not None and found[0]["done"] == 5
    assert all(bool(torch.isfinite(weight).all()) for weight in model.state_dict().values())

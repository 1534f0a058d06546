"""Run by test_parallel.py in a process that has computed nothing yet: trains one tiny model in one and two processes.

`python -m tests.tasks.sharing FOLDER` forks a process for each place of each training; the weights of every process are
left in FOLDER under the training's name. Forked, because importing torch anew takes seconds a process.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tasks import checkpoint, losses, parallel, train
from tasks.distill import states
from tasks.way import Way

SCHEDULE = train.Schedule(epochs=3, lr=1e-2, batch_size=7, seed=5)
LENGTHS = [1 + n % 5 for n in range(36)]  # the last batch of an epoch has one row, which each process then computes


def main(folder: Path) -> None:
    """alone, shared: without dropout. whole, again: with it. cut, on: killed after its tenth step, and gone on with."""
    for name, count, dropout, last in (
        ("alone", 1, 0.0, 99),
        ("shared", 2, 0.0, 99),
        ("whole", 2, 0.5, 99),
        ("again", 2, 0.5, 99),
        ("cut", 2, 0.5, 10),
        ("on", 2, 0.5, 99),
    ):
        (folder / "cut").mkdir(exist_ok=True)
        checkpoint.place = (folder / "cut", "key") if name in {"cut", "on"} else None
        checkpoint.SECONDS = 0.0
        started = [fork(folder, name, place, count, dropout, last) for place in range(count)]
        print(name, [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started], flush=True)


def fork(folder: Path, name: str, place: int, count: int, dropout: float, last: int) -> int:
    """The id of a process that trains in its place."""
    if pid := os.fork():
        return pid
    if count > 1:  # what torchrun says
        counts = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), f"{count}")
        os.environ |= {"RANK": f"{place}", "LOCAL_RANK": f"{place}", **counts, "GLOO_SOCKET_IFNAME": "lo"}
    status = 1
    try:
        torch.set_num_threads(1)
        parallel.join(Way(processes=count), folder / f"{name}.meeting")
        trained(folder / f"{name}-{place}.safetensors", dropout, last if place == 0 else 99)
        status = 0
    except SystemExit:
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


def trained(file: Path, dropout: float, last: int) -> None:
    """Train and leave the weights behind; kill this process after its `last` step."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(dropout), nn.Linear(16, 3))
    moved = torch.zeros(3)  # goes along: a tensor that is no weight but learns, as the scores of movement pruning do
    moved.requires_grad_()
    companion = train.Companion(lambda done, steps: follow(moved), {"moved": moved})
    try:
        train.fit(model, LENGTHS, loss_of(model, moved, last), SCHEDULE, companion)
    finally:
        save_file({**model.state_dict(), "moved": moved.detach()}, file)


def follow(moved: Tensor) -> None:
    """One step of plain descent."""
    if moved.grad is not None:
        with torch.no_grad():
            moved -= 0.1 * moved.grad
        moved.grad = None


def loss_of(model: nn.Module, moved: Tensor, last: int) -> Callable[[list[int]], Tensor]:
    """A mean over tokens and one over labelled rows by class weights: neither is a mean over rows."""
    drawn = torch.Generator().manual_seed(3)
    texts = torch.randn(len(LENGTHS), max(LENGTHS), 6, generator=drawn)
    labels = torch.randint(-1, 3, (len(LENGTHS),), generator=drawn)
    seen = 0

    def loss(rows: list[int]) -> Tensor:
        nonlocal seen
        seen += 1
        if seen > last:
            os.kill(os.getpid(), signal.SIGKILL)
        mask = torch.zeros(len(rows), max(LENGTHS))
        for number, row in enumerate(rows):
            mask[number, : LENGTHS[row]] = 1
        logits = model(texts[rows]) + moved
        known = losses.label_loss(logits[:, 0], labels[rows], torch.tensor([0.5, 1.0, 3.0]))
        return known + states.over_tokens(logits.square().mean(-1), mask)

    return loss


if __name__ == "__main__":
    main(Path(sys.argv[1]))

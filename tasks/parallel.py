"""A training beyond one process in fp32 on the CPU: its processes, their shares of a batch, bf16, the device.

Several processes are started by torchrun (tasks/worker.py, tasks/rank.py). Each computes the loss of its share of every
batch; one all-reduce a step averages the gradients, before they are clipped, so that all make the same step and hold
the same weights (data parallel training: Goyal et al. 2017, arXiv 1706.02677).

Hugging Face's Accelerate says which process and device this is, casts and reduces. Its wrapped model and its
checkpoints are not used: a wrapped model averages what goes through its own `forward`, while the losses here call parts
of one; the checkpoints are pickles. tasks/train.py alone, and the losses that are means over something else than rows,
call this.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from registry.records import ShrinkError
from tasks.way import ALONE, Way

crew: Any = None  # the Accelerator of this process, from its first use on


def join(way: Way, meeting: Path) -> None:
    """Become what `way` says: one of several processes, which meet at a file; ShrinkError without a GPU for each."""
    from accelerate.utils import get_cpu_distributed_information as environment

    if way.device == "cuda" and torch.cuda.device_count() < way.processes:
        raise ShrinkError(
            f"SHRINK_DEVICE is cuda and SHRINK_PROCESSES {way.processes}, but torch sees {torch.cuda.device_count()} "
            "GPUs: lower it, set SHRINK_DEVICE to cpu, or install torch's CUDA build."
        )
    if way.processes > 1:  # a file, because torch's own server would listen on every address of this machine
        torch.distributed.init_process_group(
            "nccl" if way.device == "cuda" else "gloo",
            init_method=f"file://{meeting}",
            rank=environment().rank,
            world_size=way.processes,
        )
    become(way)


def become(way: Way) -> None:
    """Make this process's Accelerator; what is created from now on lies on its device."""
    global crew
    from accelerate import Accelerator

    crew = Accelerator(cpu=way.device == "cpu", mixed_precision="bf16" if way.precision == "bf16" else "no")
    if way.device == "cuda":
        torch.set_default_device(crew.device)


def processes() -> int:
    """How many processes share this training."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def first() -> bool:
    """Whether this is the process that writes."""
    return processes() == 1 or torch.distributed.get_rank() == 0


def loss(loss_of: Callable[[list[int]], Tensor], rows: list[int], seed: int, step: int) -> Tensor:
    """This process's part of the loss of a batch: the mean over its share, weighed so that the parts' mean is right.

    One process on the CPU draws its random numbers one after the other, as a checkpoint keeps them; elsewhere each
    process and step has numbers of its own, which no checkpoint needs to keep.
    """
    count = processes()
    place = torch.distributed.get_rank() if count > 1 else 0
    own = rows[place::count] if len(rows) >= count else rows  # of fewer rows than processes each takes all
    whole = len(rows) if len(rows) >= count else count * len(rows)
    if crew is None:
        become(ALONE)
    if count > 1 or crew.device.type != "cpu":
        torch.manual_seed(int(np.random.SeedSequence((seed, step, place)).generate_state(1)[0]))
    with casting():
        part = loss_of(own)
    return part if count == 1 else part * (len(own) * count / whole)


@contextlib.contextmanager
def casting() -> Iterator[None]:
    """In bf16 products are cast, and attention on the CPU is made of them: torch's fused one has a slow way back."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with contextlib.ExitStack() as stack:
        if crew.mixed_precision == "bf16":
            stack.enter_context(crew.autocast())
            if crew.device.type == "cpu":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def balanced(mean: Tensor, count: Tensor | float, rows: int) -> Tensor:
    """A mean over `count` things in this process's rows (tokens, rows with a label), to be weighed by rows afterwards.

    Times the density of things here over that in the whole batch: the mean over all processes, each weighed by its
    rows, is then the mean over all things of the batch. In one process it is what it was.
    """
    if processes() == 1:
        return mean
    here = torch.as_tensor([float(count), float(rows)], dtype=torch.float64)
    everywhere = here.clone()
    torch.distributed.all_reduce(everywhere)
    ratio = (here[0] * everywhere[1]) / (here[1] * everywhere[0]).clamp(min=1e-12)
    return mean * ratio.to(mean.dtype)


def full(values: Tensor) -> Tensor:
    """What a model gave, in fp32 at least: losses are taken there. Where it is, nothing happens."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def average(leaves: Sequence[Tensor], value: Tensor) -> float:
    """Give every leaf the mean of its gradients in all processes, and return the mean of their losses."""
    value = value.detach()
    if processes() == 1:
        return float(value)
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    flat = crew.reduce(torch.cat([value.float().reshape(1), *(one.reshape(-1) for one in gradients)]), "mean")
    parts = flat[1:].split([one.numel() for one in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return float(flat[0])


def leave(leaves: Sequence[Tensor]) -> None:
    """The end of a training: all processes must hold the same, then all but the first are done (SystemExit).

    Raises RuntimeError when they do not; the first goes on alone.
    """
    if processes() == 1:
        return
    sums = torch.stack([leaf.detach().double().sum() for leaf in leaves]).cpu()
    if not bool((crew.gather(sums[None].to(crew.device)).cpu() == sums).all()):
        raise RuntimeError("the processes of this training hold different weights; run it with SHRINK_PROCESSES=1")
    mine = first()
    torch.distributed.destroy_process_group()
    if not mine:
        raise SystemExit(0)

"""Training that a kill interrupts goes on at its last checkpoint and ends with the same weights, bit for bit.

A checkpoint is one safetensors file beside the stage's call.json: trainable weights, Adam's moments, torch's random
state, what goes along with the training, and as JSON the rest. tasks/worker.py alone says where it lies; elsewhere
nothing is written.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

SECONDS = 20.0  # of training at most that a kill costs; writing takes a tenth of a second
FILE = "checkpoint.safetensors"
PART = "part-"  # names of files with one finished part of a stage begin so
place: tuple[Path, str] | None = None  # a stage's directory and key
written = 0.0  # time.monotonic() of the last one


def keep_in(directory: Path, key: str) -> None:
    """From now on checkpoints lie there and count for this key alone."""
    global place
    place = (directory, key)


def due() -> bool:
    """Whether it is time to write one."""
    return place is not None and time.monotonic() - written >= SECONDS


def save(optimizer: torch.optim.Optimizer, facts: dict[str, Any], others: dict[str, Tensor]) -> None:
    """Replace the checkpoint in one step; `facts` and `others` are what the training needs besides weights."""
    global written
    assert place is not None
    directory, key = place
    tensors = {"random": torch.get_rng_state()} | {f"other.{name}": value for name, value in others.items()}
    for number, weight in weights(optimizer):
        tensors[f"weight.{number}"] = weight.detach()
        tensors |= {f"{name}.{number}": value for name, value in optimizer.state[weight].items()}
    write(directory / FILE, key, facts, tensors)
    written = time.monotonic()


def write(path: Path, key: str, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write facts and tensors, or replace them, in one step."""
    partial = path.with_name(f".{path.name}")
    told = json.dumps(facts)
    save_file(tensors, partial, {"key": key, "facts": told, "sha256": digest(tensors, told)})
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.rename(path)


def load(optimizer: torch.optim.Optimizer, others: dict[str, Tensor]) -> dict[str, Any] | None:
    """Put weights, moments, random state and `others` back and return the facts; None where no checkpoint fits."""
    global written
    written = time.monotonic()
    if place is None or (found := read(*place)) is None:
        return None
    facts, tensors = found
    state: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, owner = name.partition(".")
        state.setdefault(owner, {})[kind] = tensor
    torch.set_rng_state(tensors["random"])
    with torch.no_grad():
        for name, value in others.items():
            value.copy_(tensors[f"other.{name}"])
        for number, weight in weights(optimizer):
            kept = state[str(number)]
            weight.copy_(kept.pop("weight"))
            optimizer.state[weight] = {name: value.to(weight.device) for name, value in kept.items()}
    return facts


def read(directory: Path, key: str, file: str = FILE) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """A checkpoint's facts and tensors; None when there is none of this key whose bytes are those that were written."""
    try:
        with safe_open(directory / file, "pt") as stored:
            about = stored.metadata() or {}
            if about.get("key") != key:
                return None
            tensors = {name: stored.get_tensor(name) for name in list(stored.keys())}
    except (OSError, SafetensorError):
        return None
    if about.get("sha256") != digest(tensors, about.get("facts", "")):
        return None
    return json.loads(about["facts"]), tensors


def digest(tensors: dict[str, Tensor], facts: str) -> str:
    """SHA-256 of all that a checkpoint holds, as hex: a flipped bit would else become another model."""
    hashed = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        hashed.update(name.encode())
        hashed.update(tensors[name].cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def clear() -> None:
    """Remove the checkpoint, and the finished parts, of a stage that is done."""
    if place is not None:
        for path in (place[0] / FILE, place[0] / f".{FILE}", *place[0].glob(f"{PART}*"), *place[0].glob(f".{PART}*")):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def parts() -> Iterator[tuple[Path, str]]:
    """Where a stage keeps the parts that it has finished, and their key; gone with the stage where none goes on."""
    if place is not None:
        yield place
        return
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory), ""


def keep_part(at: tuple[Path, str], name: str, tensors: dict[str, Tensor]) -> None:
    """Write one finished part of a stage."""
    write(at[0] / f"{PART}{name}.safetensors", at[1], {}, {name: one.contiguous() for name, one in tensors.items()})


def part(at: tuple[Path, str], name: str) -> dict[str, Tensor] | None:
    """One finished part; None where there is none of this key whose bytes are those that were written."""
    found = read(*at, f"{PART}{name}.safetensors")
    return None if found is None else found[1]


def weights(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, nn.Parameter]]:
    """The weights that an optimizer trains, numbered."""
    yield from enumerate(weight for group in optimizer.param_groups for weight in group["params"])

"""A language model whose linear layers multiply integers of 8 bits, as a folder and, in torch, as a reference of it.

The folder is one of tasks/generate/lm.py with the layers' rows as integers, and w8a8.json, which says how inputs are
rounded. Torch multiplies the numbers that the integers stand for: as slow as before, the answers are those of integers.
compressed-tensors, read by transformers, answers the same, but where a layer runs all tokens of a batch together (OPT's
feed-forward): there its torch takes one scale for all of them.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from registry.records import ShrinkError
from tasks.generate import lm, w8a8
from tasks.generate.grids import Grid, Rounded

FACTS = "w8a8.json"


def write_facts(directory: Path, smoothing: float) -> None:
    """Say in a folder that the inputs of its rounded layers are rounded, too, and how its weights were smoothed."""
    told = {"inputs": {"bits": 8, "symmetric": True, "scale": "token"}, "smoothing": smoothing}
    (directory / FACTS).write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def integers(directory: Path) -> tuple[dict[str, Rounded], dict[str, Grid]]:
    """The rounded weights of such a folder and their grids, by name; ShrinkError for another folder."""
    rounded, known = lm.integers(directory)
    if not (directory / FACTS).is_file() or not known or any(grid.name != w8a8.NAME for grid in known.values()):
        raise ShrinkError("the model's layers are no rows of 8 bits: give what a stage quantize/w8a8 has left.")
    return rounded, known


def load(directory: Path) -> Any:
    """The model of such a folder in float32 and eval mode, which rounds what its rounded layers read."""
    known = integers(directory)[1]
    model = lm.load(directory)
    listen(model, set(known))
    return model


def listen(model: Any, names: set[str]) -> None:
    """Let the linears whose weights have these names read their inputs in 8 bits a token, from now on."""

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        with torch.no_grad():
            return (w8a8.by_token(args[0]), *args[1:])

    for name in names:
        model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(before)

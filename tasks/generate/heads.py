"""A decoder's embedding and output head: which weights they are, and what the head reads."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.generate import grids, lm
from tasks.generate.grids import Rounded

BLOCKS, LENGTH = 8, 256  # of calibration text, and of their tokens, whose states the head is rounded by


def tables_of(model: Any) -> list[str]:
    """The names of the embedding's weight and, where it is not the same, the output head's."""
    first, last = name_of(model, model.get_input_embeddings()), head_of(model)
    return [first] if first == last else [first, last]


def head_of(model: Any) -> str:
    """The name of the output head's weight: the embedding's, where both are one."""
    return name_of(model, model.get_output_embeddings())


def name_of(model: Any, module: Any) -> str:
    """The name under which a module's weight is stored."""
    at = module.weight.data_ptr()
    return next(name for name, weight in lm.own_weights(model).items() if weight.data_ptr() == at)


def head_sums(model: Any, ids: Tensor) -> Tensor:
    """The sum of x x^T over what the output head reads [inputs, inputs]."""
    found: list[Tensor] = []

    class Enough(Exception):
        """Ends a forward pass before its logits, which are large."""

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        rows = args[0].flatten(0, -2)
        found[:] = [rows.T @ rows + (found[0] if found else 0)]
        raise Enough

    handle = model.get_output_embeddings().register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            for block in ids[:BLOCKS].split(1):
                with contextlib.suppress(Enough):
                    model(input_ids=block[:, :LENGTH], use_cache=False)
    finally:
        handle.remove()
    return found[0]


def replace(weight: Tensor, rounded: Rounded) -> None:
    """Put what rounded integers stand for in a weight's place, some rows at a time."""
    with torch.no_grad():
        for start in range(0, len(weight), grids.ROWS):
            rows = slice(start, start + grids.ROWS)
            weight[rows] = Rounded(*(part[rows] for part in rounded)).value()


@contextlib.contextmanager
def aside(weight: Tensor) -> Iterator[Callable[[], None]]:
    """While this lasts a float32 weight lies in a file too, from which what is given puts it back, in place."""
    with tempfile.TemporaryFile() as file:
        weight.detach().numpy().tofile(file)

        def put_back() -> None:
            file.seek(0)
            with torch.no_grad():
                for rows in weight.split(grids.ROWS):
                    rows.copy_(torch.from_numpy(np.fromfile(file, np.float32, rows.numel())).view_as(rows))

        try:
            yield put_back
        finally:
            put_back()

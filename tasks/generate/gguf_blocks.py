"""Rounded weights as the bytes of GGUF's blocks of 32 (llama.cpp's ggml-common.h); nothing is rounded here."""

import numpy as np
from numpy.typing import NDArray

from registry.records import ShrinkError
from tasks.generate.grids import GGUF, Rounded

Bytes = NDArray[np.uint8]


def packed(name: str, rounded: Rounded) -> Bytes:
    """A weight [outputs, inputs] as rows of blocks [outputs, bytes]; the grid's name is GGUF's type.

    Raises ShrinkError for a grid that GGUF does not have.
    """
    if name not in GGUF:
        raise ShrinkError(f"GGUF has no blocks of {name}: quantize to one of {', '.join(GGUF)} for this export.")
    grid = GGUF[name]
    rows = rounded.codes.shape[0]
    scale = half(rounded.scale.numpy().reshape(-1, 1))
    shift = half(rounded.shift.numpy().reshape(-1, 1))
    codes = rounded.codes.numpy().reshape(-1, grid.group)
    if name == "q8_0":
        return np.concatenate([scale, codes.view(np.uint8)], axis=1).reshape(rows, -1)
    unsigned = (codes.astype(np.int16) - grid.low).astype(np.uint8)
    parts = [scale] + ([shift] if grid.zero == "free" else [])
    if name.startswith("q5"):
        parts.append(np.packbits(unsigned >> 4, axis=1, bitorder="little"))
    low, high = unsigned[:, :16] & 15, unsigned[:, 16:] & 15
    return np.concatenate([*parts, low | (high << 4)], axis=1).reshape(rows, -1)


def half(values: NDArray[np.float32]) -> Bytes:
    """Numbers [n, 1] as the two bytes of half precision [n, 2]."""
    return values.astype("<f2").view(np.uint8)

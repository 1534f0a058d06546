"""Rounded weights as ONNX Runtime's MatMulNBits and GatherBlockQuantized have them: 2, 4 or 8 bits each, in blocks.

An integer lies there without a sign; from it goes a zero, the middle of the bits unless it is said. Two things differ
from the operators' plain use, as ONNX Runtime 1.32 has fast kernels on CPUs for neither. Its products with numbers that
stay float are fast for 4 bits alone, so that 5 to 8 bits lie in two planes of 4 for it: q = 16 * high + low, two
products of the same bytes. And a zero that is no integer is no operand of them: what a free shift adds is the sum of
each group's inputs times the shift, a product of its own, 32 times smaller.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.generate import choices, grids
from tasks.generate.grids import Grid, Rounded


class Plane(NamedTuple):
    """Integers that one operator multiplies by."""

    bits: int  # 2, 4 or 8
    times: int  # the scale, before the operator has it
    codes: NDArray[np.uint8]  # [outputs, blocks, bytes of a block]
    zeros: NDArray[np.uint8] | None  # [outputs, bytes of all blocks]; none: the middle of the bits


class Stored(NamedTuple):
    """A weight [outputs, inputs] in planes whose products are added up."""

    outputs: int
    inputs: int
    block: int  # weights of a block
    group: int  # weights of a group of the grid, one or more blocks
    planes: tuple[Plane, ...]
    scale: NDArray[np.float16]  # [outputs, blocks]
    shift: NDArray[np.float16] | None  # [outputs, groups], of a free zero
    middle: int  # what must be added to the shift, in scales: integers without a sign were moved by it


def stored(one: Rounded, grid: Grid, split: bool) -> Stored:
    """A rounded weight in blocks; `split`: no plane has more than 4 bits."""
    block = choices.block_of(grid.group)
    assert block is not None
    each = grid.group // block
    middle = (grid.high + 1) // 2 if grid.low == 0 else 0
    zeros = None
    if grid.zero == "integer":
        zeros = (-one.shift / grids.whole(one.scale)).round().numpy().astype(np.int16).repeat(each, axis=1)
    parts = []
    for start in range(0, len(one.codes), grids.ROWS):
        part = slice(start, start + grids.ROWS)
        codes, own = one.codes[part].numpy().astype(np.int16) - middle, None if zeros is None else zeros[part]
        parts.append(planes_of(codes, own, (grid.high - grid.low).bit_length(), block, split))
    return Stored(
        one.codes.shape[0],
        one.codes.shape[1],
        block,
        grid.group,
        tuple(whole(rows) for rows in zip(*parts, strict=True)),
        one.scale.half().numpy().repeat(each, axis=1),
        one.shift.half().numpy() if grid.zero == "free" else None,
        middle,
    )


def whole(parts: Sequence[Plane]) -> Plane:
    """A plane of its rows in parts."""
    zeros = [one.zeros for one in parts if one.zeros is not None]
    codes = np.concatenate([one.codes for one in parts])
    return Plane(parts[0].bits, parts[0].times, codes, np.concatenate(zeros) if zeros else None)


def planes_of(
    codes: NDArray[np.int16], zeros: NDArray[np.int16] | None, bits: int, block: int, split: bool
) -> tuple[Plane, ...]:
    """Signed integers [outputs, inputs] and zeros [outputs, blocks] in as few planes as their bits need."""
    if bits > 4 and split:
        low = plane(codes & 15, (np.zeros_like(codes[:, ::block]) if zeros is None else zeros & 15), 4, 1, block)
        return plane((codes >> 4) + 8, None if zeros is None else (zeros >> 4) + 8, 4, 16, block), low
    held = choices.held_of(bits, split)
    middle = 2 ** (held - 1)
    return (plane(codes + middle, None if zeros is None else zeros + middle, held, 1, block),)


def plane(codes: NDArray[np.int16], zeros: NDArray[np.int16] | None, bits: int, times: int, block: int) -> Plane:
    """Integers without a sign, and their zeros, as bytes."""
    bytes_of = packed(codes, bits).reshape(len(codes), -1, block * bits // 8)
    return Plane(bits, times, bytes_of, None if zeros is None else packed(zeros, bits))


def packed(values: NDArray[np.int16], bits: int) -> NDArray[np.uint8]:
    """Rows [n, m] of integers from 0 to 2^bits - 1 as bytes [n, m * bits / 8 rounded up], the first in the low bits."""
    each = 8 // bits
    padded = np.pad(values, ((0, 0), (0, -values.shape[1] % each))).astype(np.uint8)
    found = np.zeros((len(padded), padded.shape[1] // each), dtype=np.uint8)
    for place in range(each):
        found |= padded[:, place::each] << (bits * place)
    return found

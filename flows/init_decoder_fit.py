"""How a written recipe fits a language model and its text: lengths and numbers of windows, grids, bits a weight."""

import math
from typing import NamedTuple

from flows.forecast import sizes_decoder
from registry.records import ShrinkError
from tasks.generate import choices, families, shapes
from tasks.generate.header import Decoder

WINDOW, LESSON, SHORTEST = 256, 128, 32  # tokens at most of what is read at once, of a lesson's window; at least
BLOCKS, WINDOWS, BATCH, STEPS = 32, 256, 8, 24  # at most: blocks of calibration, windows of lessons; a step's; steps
GRID, TABLE, SMALLER = "q4_1", "q5_0", "q4_0"  # of the layers, of embedding and head, of the layers named here:
BEARING = ("gate_proj", "q_proj")  # which bear the smaller grid best
MOST_BITS = 5.0
VECTOR = 32.0  # bits of a weight in a norm


class Lengths(NamedTuple):
    """How much text each stage takes: tokens of a window, numbers of windows and steps."""

    window: int
    blocks: int
    calibration: int
    windows: int
    length: int
    steps: int


class Grids(NamedTuple):
    """What the layers are rounded to, and the bits a weight that come of it, over all weights."""

    table: str
    exceptions: dict[str, str]
    bits: float

    @property
    def most(self) -> float:
        """Bits a weight that the gate allows."""
        return MOST_BITS if self.bits <= MOST_BITS else math.ceil(10 * self.bits + 0.5) / 10


def lengths(tokens: int, context: int) -> Lengths:
    """Windows of a model's context and of so many tokens of training text: shorter ones where the text is little."""
    calibration, length = min(WINDOW, context), min(LESSON, context)
    while calibration >= 2 * SHORTEST and tokens // calibration < BLOCKS:
        calibration //= 2
    while length >= 2 * SHORTEST and tokens // length < BLOCKS * 2:
        length //= 2
    windows = min(WINDOWS, tokens // length)
    return Lengths(
        window=min(WINDOW, context),
        blocks=min(BLOCKS, tokens // calibration),
        calibration=calibration,
        windows=windows,
        length=length,
        steps=max(1, min(STEPS, windows // BATCH)),
    )


def grids(decoder: Decoder) -> Grids:
    """GGUF's blocks of 32 for a decoder's layers: half precision where they do not divide a row.

    Raises ShrinkError where they divide none.
    """
    inputs, where = rows(decoder), families.ANATOMIES.get(decoder.family)
    odd = {name: choices.KEPT for name, (_, width) in inputs.items() if width % sizes_decoder.BLOCK}
    if inputs and len(odd) == len(inputs):
        raise ShrinkError(
            f"the model's rows of {decoder.width} and {decoder.neurons} inputs are no whole blocks of "
            f"{sizes_decoder.BLOCK}, which is all that a GGUF file has: choose a model of other widths."
        )
    table = choices.KEPT if decoder.width % sizes_decoder.BLOCK else TABLE
    gated = where is not None and set(BEARING) <= {name.rpartition(".")[2] for name in (*where.into, *where.attention)}
    exceptions = {**(dict.fromkeys(BEARING, SMALLER) if gated else {}), **odd}
    body = choices.bits_of(GRID)
    bits = body * (decoder.parameters - decoder.tables) + choices.bits_of(table) * decoder.tables
    for name, grid in exceptions.items():
        count = decoder.layers * inputs[name][0] * inputs[name][1]
        bits += count * (choices.bits_of(grid) - body)
    bits += (2 * decoder.layers + 1) * decoder.width * (VECTOR - body)
    return Grids(table, exceptions, bits / decoder.parameters)


def rows(decoder: Decoder) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of a layer's linears by the last parts of their names, where these tell them apart."""
    found = shapes.linears(decoder)
    short = [name.rpartition(".")[2] for name in found]
    return dict(zip(short if len(set(short)) == len(short) else found, found.values(), strict=True))

"""What a rounding leaves of a decoder: bits a weight and bytes, matrix by matrix, by the grid that each is given."""

import math
from typing import NamedTuple

from flows.forecast import sizes_decoder
from tasks.generate import choices, families
from tasks.generate.header import Decoder
from tasks.kinds import RoundDecoders

VECTOR = 32.0  # bits of a weight of a norm or a bias


class Left(NamedTuple):
    """What a rounding leaves."""

    bits: float  # a weight, as a GGUF file holds all of them
    bytes: float  # of the weights in the folder, which keeps a byte for each integer


def rounded(config: RoundDecoders, decoder: Decoder) -> Left:
    """What a rounding leaves, exceptions included; in a family that is not known these count as the others."""
    counts = matrices(decoder)
    given = dict.fromkeys(counts, config.grid)
    tables = sizes_decoder.tables(decoder)
    given |= {
        name: config.embedding or (sizes_decoder.TABLE if config.grid else None) for name in counts if name in tables
    }
    for pattern, grid in config.exceptions.items():
        given |= dict.fromkeys((name for name in counts if choices.fits(name, pattern)), grid)
    places = decoder.context * decoder.width if decoder.family in families.TIED_HEADS else 0  # learnt positions
    vectors = decoder.parameters - sum(counts.values()) - places
    bits, folder = VECTOR * vectors + choices.bits_of(choices.KEPT) * places, 4.0 * (vectors + places)
    for name, count in counts.items():
        chosen = given[name]
        bits += count * (config.target or 0.0 if chosen is None else choices.bits_of(chosen))
        folder += count * stored(chosen or choices.GGUF_GRIDS[1])
    return Left(config.target or bits / decoder.parameters, folder)


def matrices(decoder: Decoder) -> dict[str, int]:
    """The weights of every linear layer, and of embedding and head, by name; where a family is not known all in one."""
    table = decoder.pieces * decoder.width
    found = dict.fromkeys(list(sizes_decoder.tables(decoder))[: decoder.tables // table], table)
    if (where := families.ANATOMIES.get(decoder.family)) is None:
        return found | {"layers": decoder.parameters - decoder.tables}
    heads, groups = decoder.queries * decoder.head, decoder.groups * decoder.head
    made = dict.fromkeys(where.into, decoder.neurons) | {where.out: decoder.width, where.merge: decoder.width}
    made |= dict(zip(where.attention, (heads, groups, groups), strict=False))
    if len(where.attention) == 1:
        made[where.attention[0]] = heads + 2 * groups
    if decoder.family == "phi3":
        made[where.into[0]] = 2 * decoder.neurons  # gate and what it gates
    for name, inputs in sizes_decoder.inputs(decoder).items():
        found[name] = inputs * next(rows for end, rows in made.items() if name.endswith(f".{end}"))
    return found


def stored(grid: str) -> float:
    """Bytes of a weight in a folder: an integer and its share of scales and shifts, or full precision."""
    if grid == choices.KEPT:
        return 4.0
    said = choices.integers(grid)
    if said is None:
        return 1 + (4 if grid in choices.FREE else 2) / sizes_decoder.BLOCK
    return 1 + (2 if said.symmetric else 6) / said.group


def sized(decoder: Decoder, weights: float) -> Decoder:
    """A decoder of which only so many weights are left: fewer layers."""
    left = (weights - decoder.tables) / max(1, decoder.parameters - decoder.tables)
    layers = max(1, math.floor(0.5 + left * decoder.layers))
    return decoder.model_copy(update={"layers": layers, "parameters": round(weights)})

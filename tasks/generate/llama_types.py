"""The types of llama.cpp's quantizer (`Q4_K_M` and others): which blocks they store what in, and what that takes.

A type is a mixture: most weights in one kind of block, some that suffer most in a larger one. Blocks of 256 that do not
divide a row are replaced by blocks of 32 (`FALLBACK`); embedding and head are kept finer than the rest. Readable
without torch and without llama.cpp, whose src/llama-quant.cpp is what is told here.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from registry.records import ShrinkError
from tasks.generate.header import Decoder

Name = Literal[
    "Q2_K", "Q3_K_M", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_0", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0"
]  # fmt: skip
NAMES: tuple[str, ...] = get_args(Name)


class Kind(NamedTuple):
    """A type: its number in llama.h, the blocks of most weights, and which parts have (in a share of layers) others."""

    number: int
    blocks: str
    finer: Mapping[str, tuple[str, float]] = {}


TYPES: dict[str, Kind] = {
    "Q2_K": Kind(10, "Q2_K", dict.fromkeys(("value", "merge", "down"), ("Q3_K", 1.0))),
    "Q3_K_M": Kind(12, "Q3_K", dict.fromkeys(("value", "merge", "down"), ("Q4_K", 1.0))),
    "IQ4_XS": Kind(30, "IQ4_XS"),
    "IQ4_NL": Kind(25, "IQ4_NL"),
    "Q4_0": Kind(2, "Q4_0"),
    "Q4_K_S": Kind(14, "Q4_K", {"down": ("Q5_K", 0.125)}),
    "Q4_K_M": Kind(15, "Q4_K", dict.fromkeys(("value", "down"), ("Q6_K", 0.5))),
    "Q5_0": Kind(8, "Q5_0"),
    "Q5_K_S": Kind(16, "Q5_K"),
    "Q5_K_M": Kind(17, "Q5_K", dict.fromkeys(("value", "down"), ("Q6_K", 0.5))),
    "Q6_K": Kind(18, "Q6_K"),
    "Q8_0": Kind(7, "Q8_0"),
}
FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}
PLAIN = ("F32", "F16", "BF16")  # numbers that are not rounded


def block(name: str) -> tuple[int, float]:
    """Weights of one of these blocks, and bits that each takes, scales included."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    size, stored = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    return size, 8 * stored / size


def taken(blocks: str, width: int) -> str:
    """The blocks that llama.cpp stores rows of this width in, when it would like to take these."""
    return FALLBACK[blocks] if blocks in FALLBACK and width % block(blocks)[0] else blocks


def widths(decoder: Decoder) -> dict[str, int]:
    """How long the rows are that each part of a decoder reads."""
    wide = decoder.queries * decoder.head
    return {"value": decoder.width, "others": decoder.width, "merge": wide, "down": decoder.neurons}


def check(name: str, decoder: Decoder) -> None:
    """Refuse rows that no block divides, and a type whose own blocks would not be found in the file at all."""
    size = block(TYPES[name].blocks)[0]
    rows = sorted(set(widths(decoder).values()))
    if odd := next((width for width in rows if width % 32), None):
        raise ShrinkError(f"type {name} has blocks of 32 at least, which do not divide {odd} inputs: drop this stage.")
    if all(width % size for width in rows):
        instead = FALLBACK[TYPES[name].blocks]
        raise ShrinkError(
            f"type {name} has blocks of {size}, which divide no row of {', '.join(map(str, rows))} inputs; llama.cpp "
            f"would store {instead} in their place: say Q8_0, Q5_0, Q4_0 or IQ4_NL."
        )


def bits(name: str, decoder: Decoder) -> float:
    """About how many bits a weight takes over all of a decoder's, vectors left out."""
    kind, rows = TYPES[name], widths(decoder)
    sizes = {
        "value": decoder.groups * decoder.head * decoder.width,
        "merge": decoder.queries * decoder.head * decoder.width,
        "down": decoder.neurons * decoder.width,
    }
    inside = decoder.parameters - decoder.tables
    sizes = {part: decoder.layers * size for part, size in sizes.items()}
    sizes["others"] = max(0, inside - sum(sizes.values()))
    total = 0.0
    for part, size in sizes.items():
        finer, share = kind.finer.get(part, (kind.blocks, 0.0))
        common, better = (block(taken(blocks, rows[part]))[1] for blocks in (kind.blocks, finer))
        total += size * (common * (1 - share) + better * share)
    head = block("Q8_0" if name == "Q8_0" else taken("Q6_K", decoder.width))[1]
    apart = decoder.tables > decoder.pieces * decoder.width  # a head of its own: the embedding is as most weights
    table = (head + block(taken(kind.blocks, decoder.width))[1]) / 2 if apart else head
    return (total + table * decoder.tables) / decoder.parameters

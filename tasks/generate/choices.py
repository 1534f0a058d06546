"""What a recipe may say of grids, and the settings that all roundings of a decoder share; readable without torch."""

import re
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from registry.records import STRICT

GGUF_GRIDS = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")  # GGUF's blocks of 32, in the order of their bits
FREE = ("q4_1", "q5_1")  # of them those whose zero is no integer
GGUF_BITS = (4.5, 5.0, 5.5, 6.0, 8.5)  # that a weight takes there, its share of the scales included
INTEGER = re.compile(r"int([2-8])_g([1-9]\d{0,3})(_zero)?")
KEPT = "none"  # in the place of a grid: half precision


class Integers(NamedTuple):
    """A grid of integers as its name says it."""

    bits: int
    group: int  # neighbours in a row that share a scale
    symmetric: bool  # without zero points


def integers(name: str) -> Integers | None:
    """What intB_gN or intB_gN_zero says; None of another name."""
    found = INTEGER.fullmatch(name)
    return Integers(int(found[1]), int(found[2]), found[3] is None) if found else None


def bits_of(name: str) -> float:
    """Bits that a weight takes on a grid of this name, its share of scales and zeros included, or in half precision."""
    said = integers(name)
    if said is not None:
        return said.bits + (16 if said.symmetric else 16 + said.bits) / said.group
    return 16.0 if name == KEPT else dict(zip(GGUF_GRIDS, GGUF_BITS, strict=True))[name]


def block_of(group: int) -> int | None:
    """The block of MatMulNBits (a power of two from 16 to 128) whose multiple a group is; None of another group."""
    return next((size for size in (128, 64, 32, 16) if group % size == 0), None)


def nbits_of(name: str, split: bool) -> float:
    """The same in MatMulNBits' blocks, which hold 4 or 8 bits, or (unless `split`: products of floats) 2."""
    said = integers(name)
    if said is None and name == KEPT:
        return 16.0
    bits, group, symmetric = said or Integers(int(name[1]), 32, True)
    held = held_of(bits, split)
    planes = 2 if split and held == 8 else 1
    zeros = held if not symmetric else 4 if planes == 2 else 0  # of the lower plane they are written out
    return held + (16 + zeros) / (block_of(group) or group) + (16 / group if name in FREE else 0)


def held_of(bits: int, split: bool) -> int:
    """Bits of all planes of integers of so many bits: products of floats have none of 2."""
    return next(size for size in ((4, 8) if split else (2, 4, 8)) if bits <= size)


def known_grid(name: str) -> str:
    """The name of a grid that there is."""
    if name not in GGUF_GRIDS and integers(name) is None:
        raise ValueError(
            f"there are {', '.join(GGUF_GRIDS)}, and integers of 2 to 8 bits in groups, such as int4_g64 or, with zero "
            "points, int4_g64_zero"
        )
    return name


def grid_or_none(name: str) -> str:
    """The name of a grid that there is, or none."""
    return name if name == KEPT else known_grid(name)


def fits(weight: str, pattern: str) -> bool:
    """Whether a pattern of `exceptions` means the weight: by its layer's whole name, or the end of it."""
    name = weight.removesuffix(".weight")
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


GridName = Annotated[str, AfterValidator(known_grid)]
GridOrNone = Annotated[str, AfterValidator(grid_or_none)]


class CalibrationConfig(BaseModel):
    """Which training text goes through the layers while they are changed."""

    model_config = STRICT
    tasks: ClassVar[tuple[str, ...]] = ("generate",)
    reads: ClassVar[dict[str, str]] = {"student": "lm", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("student", "lm")
    calibration_blocks: int = Field(default=32, ge=1, description="Blocks of training text that go through the layers.")
    calibration_length: int = Field(default=256, ge=8, description="Tokens of such a block.")
    batch: int = Field(default=8, ge=1, description="Blocks that go through a layer at once; memory grows with it.")


class RoundingConfig(CalibrationConfig):
    """Which grid each weight is rounded to."""

    kind: Literal["quantize"] = Field("quantize", description="The stage's kind.")
    grid: GridName | None = Field(
        default=None,
        description="Of all linear layers: q4_0, q4_1, q5_0, q5_1 or q8_0 (which go into a GGUF file), or integers "
        "such as int4_g64 (4 bits, 64 share a scale) or int4_g64_zero (with zero points), which do not.",
    )
    target: float | None = Field(
        default=None,
        ge=4.5,
        le=16,
        description="In the place of grid: bits a weight may take over all of the model's weights, spent on GGUF's "
        "grids where rounding was measured to hurt most.",
    )
    embedding: GridOrNone | None = Field(
        default=None,
        description="Of the embedding and the output head: a grid, or none for half precision. Unless it is said, q8_0 "
        "with grid, and what the budget gives it with target.",
    )
    exceptions: dict[str, GridOrNone] = Field(
        default={},
        description="Other grids (or none) of layers by name or pattern: {down_proj: q8_0, 'layers.0.*': none}; the "
        "last that fits counts.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.grid is None and self.target is None:
            raise ValueError("nothing says how much is kept: give grid or target, such as grid: q4_0")
        if self.grid is not None and self.target is not None:
            raise ValueError("grid and target are two ways to say how much is kept: give only one of them")
        return self


def gguf_missing(config: RoundingConfig) -> str | None:
    """The first grid of a rounding that a GGUF file cannot hold, or None: what flows refuses before an export/gguf."""
    named = [config.grid, config.embedding, *config.exceptions.values()]
    return next((name for name in named if name is not None and name not in (*GGUF_GRIDS, KEPT)), None)


def integers_missing(config: RoundingConfig) -> str | None:
    """The first grid of the layers that compressed-tensors cannot hold, or None; a target may buy any of GGUF's."""
    if config.grid is None:
        return f"what its target buys ({FREE[0]} among it)"
    return next((name for name in (config.grid, *config.exceptions.values()) if name in FREE), None)

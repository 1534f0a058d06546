"""Grids against gguf's own quantisers and by their properties."""

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from registry.records import ShrinkError
from tasks.generate import choices, grids

GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(6, 96, generator=GENERATOR) * torch.rand(6, 1, generator=GENERATOR)
WEIGHT[2, 32:64] = 0.0
ALL = [*grids.GGUF.values(), grids.integer(4, 32, True), grids.integer(4, 32, False), grids.integer(8, 48, True)]


@pytest.mark.parametrize("name", grids.GGUF)
def test_what_is_rounded_survives_a_gguf_file_to_the_last_bit(name: str) -> None:
    grid, kind = grids.GGUF[name], GGMLQuantizationType[name.upper()]
    rounded = grids.nearest(WEIGHT, grid).value()
    scale, shift = grids.fit(WEIGHT, grid)
    code = grids.codes(WEIGHT, grids.spread(scale, grid), grids.spread(shift, grid), grid)
    block, size = (int(one) for one in (GGML_QUANT_SIZES[kind]))
    assert grid.group == block and grid.bits == 8 * size / block
    assert code.min() >= grid.low and code.max() <= grid.high
    theirs = quants.dequantize(quants.quantize(WEIGHT.numpy(), kind), kind)
    ours = float((rounded - WEIGHT).square().sum())
    assert ours <= float(np.square(theirs - WEIGHT.numpy()).sum()) * 1.0001  # the fit starts from their scales


@pytest.mark.parametrize("grid", ALL, ids=lambda grid: grid.name)
def test_rounding_is_nearest_on_the_stored_scales_and_weighs_what_is_important(grid: grids.Grid) -> None:
    scale, shift = (grids.spread(one, grid) for one in grids.fit(WEIGHT, grid))
    assert torch.equal(scale, scale.half().float())
    rounded = grids.nearest(WEIGHT, grid).value()
    every = torch.arange(grid.low, grid.high + 1).float()
    possible = every * scale[..., None] + shift[..., None]
    nearest = (possible - WEIGHT[..., None]).abs().amin(-1)
    assert torch.allclose((rounded - WEIGHT).abs(), nearest, atol=1e-6)
    assert torch.equal(grids.nearest(torch.zeros(2, grid.group), grid).value(), torch.zeros(2, grid.group))
    importance = torch.rand(96, generator=GENERATOR) ** 4
    weighed = grids.nearest(WEIGHT, grid, importance).value()
    assert float(((weighed - WEIGHT).square() * importance).sum()) <= float(
        ((rounded - WEIGHT).square() * importance).sum()
    )


def test_a_group_that_does_not_divide_the_row_is_refused() -> None:
    with pytest.raises(ShrinkError, match=r"group is 64, which does not divide the 96 inputs"):
        grids.nearest(WEIGHT, grids.integer(4, 64, False)).value()


@pytest.mark.parametrize("name", [*grids.GGUF, "int4_g64", "int4_g64_zero", "int2_g16_zero", "int8_g128"])
def test_a_name_says_the_bits_of_its_grid(name: str) -> None:
    assert choices.bits_of(name) == grids.named(name).bits

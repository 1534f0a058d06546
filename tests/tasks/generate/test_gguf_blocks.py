"""Blocks as GGUF's own reader sees them."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from registry.records import ShrinkError
from tasks.generate import gguf_blocks, gptq, grids

GENERATOR = torch.Generator().manual_seed(1)
WEIGHT = torch.randn(7, 96, generator=GENERATOR)
INPUTS = torch.randn(200, 96, generator=GENERATOR)


@pytest.mark.parametrize("name", grids.GGUF)
def test_a_block_stands_for_the_same_numbers_to_the_last_bit(name: str) -> None:
    for rounded in (
        grids.nearest(WEIGHT, grids.GGUF[name]),
        gptq.quantize(WEIGHT, INPUTS.T @ INPUTS, grids.GGUF[name]),
    ):
        data = gguf_blocks.packed(name, rounded)
        read = quants.dequantize(data, GGMLQuantizationType[name.upper()])
        assert data.shape[1] * 8 == grids.GGUF[name].bits * WEIGHT.shape[1]
        assert np.array_equal(read, rounded.value().numpy())


def test_another_grid_is_refused() -> None:
    with pytest.raises(ShrinkError, match=r"GGUF has no blocks of int4_g32_zero: quantize to one of q4_0, q4_1"):
        gguf_blocks.packed("int4_g32_zero", grids.nearest(WEIGHT, grids.integer(4, 32, False)))

"""AWQ's search by what it promises."""

import torch

from tasks.generate import awq, gptq, grids

GENERATOR = torch.Generator().manual_seed(2)
SIZES = torch.ones(64)
SIZES[::16] = 25.0  # a few inputs carry most
INPUTS = torch.randn(400, 64, generator=GENERATOR) * SIZES
HESSIAN = INPUTS.T @ INPUTS
WEIGHTS = [torch.randn(count, 64, generator=GENERATOR) for count in (8, 12)]
GRID = grids.integer(4, 32, False)


def test_large_inputs_are_stored_larger_and_outputs_change_less() -> None:
    alpha, factor = awq.search([(one, GRID) for one in WEIGHTS], HESSIAN)
    assert alpha > 0 and factor[::16].min() > 2 * factor[1]
    plain = sum(gptq.output_error(one, grids.nearest(one, GRID).value(), HESSIAN) for one in WEIGHTS)
    assert sum(awq.lost(one, factor, HESSIAN, GRID) for one in WEIGHTS) < 0.5 * plain
    importance = grids.importance(HESSIAN) / factor.square()
    rounded = [grids.nearest(one * factor, GRID, importance, awq.PARTS).value() / factor for one in WEIGHTS]
    direct = [INPUTS @ (new - one).T for new, one in zip(rounded, WEIGHTS, strict=True)]
    wanted = sum(
        float(apart.square().sum() / (INPUTS @ one.T).square().sum())
        for apart, one in zip(direct, WEIGHTS, strict=True)
    )
    assert abs(sum(awq.lost(one, factor, HESSIAN, GRID) for one in WEIGHTS) - wanted) < 1e-4


def test_without_large_inputs_little_is_changed_and_the_products_stay() -> None:
    even = torch.eye(64)
    assert torch.allclose(awq.scales(even, 0.7), torch.ones(64))
    factor = awq.scales(HESSIAN, 0.5)
    assert torch.allclose((WEIGHTS[0] * factor) @ (INPUTS / factor).T, WEIGHTS[0] @ INPUTS.T, rtol=1e-3, atol=1e-2)
    dead = HESSIAN.clone()
    dead[3] = dead[:, 3] = 0
    assert torch.isfinite(awq.scales(dead, 0.9)).all()

"""AWQ's search against the paper's written out in numpy over the inputs themselves, and by what it promises."""

from typing import Any

import numpy as np
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


def rounded(weight: "np.ndarray[Any, Any]", importance: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """A weight on four bits in groups of 32 with integer zeros, of two ranges the one that errs less."""
    found = np.empty_like(weight)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], 32):
            group, weighs = weight[row, start : start + 32], importance[start : start + 32]
            tried = []
            for part in (1.0, 0.9):
                low, high = min(0.0, part * group.min()), max(0.0, part * group.max())
                scale = np.float64(np.float16((high - low) / 15))
                zero = np.clip(np.rint(-8 - low / scale), -8, 7)
                value = (np.clip(np.rint(group / scale + zero), -8, 7) - zero) * scale
                tried.append((float((weighs * (value - group) ** 2).sum()), value))
            found[row, start : start + 32] = min(tried, key=lambda one: one[0])[1]
    return found


def test_the_factors_are_those_of_the_paper() -> None:
    """s = (root of the mean square of an input)^alpha, alpha by the error of the outputs of all texts."""
    inputs = INPUTS.double().numpy()
    size, losses = np.sqrt((inputs**2).mean(0)), []
    for step in range(10):
        factor = size ** (step / 10)
        factor = factor / np.sqrt(factor.max() * factor.min())
        importance = (inputs**2).mean(0) / factor**2
        lost = 0.0
        for one in WEIGHTS:
            weight = one.double().numpy()
            back = rounded(weight * factor, importance) / factor
            lost += float(((inputs @ (back - weight).T) ** 2).sum() / ((inputs @ weight.T) ** 2).sum())
        losses.append((lost, step / 10, factor))
    alpha, found = awq.search([(one, GRID) for one in WEIGHTS], HESSIAN)
    _, wanted, factor = min(losses, key=lambda one: one[0])
    assert alpha == wanted and np.allclose(found.numpy(), factor, rtol=1e-4)
    ours = [sum(awq.lost(one, torch.tensor(row[2]).float(), HESSIAN, GRID) for one in WEIGHTS) for row in losses]
    assert np.allclose(ours, [row[0] for row in losses], rtol=0.02)

"""GPTQ and SparseGPT against the textbook's one-column-at-a-time update, and by what they promise."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from registry.records import ShrinkError
from tasks.generate import gptq, grids

Array = np.ndarray[Any, Any]
GENERATOR = torch.Generator().manual_seed(3)
WEIGHT = torch.randn(5, 64, generator=GENERATOR)
FEW = torch.randn(300, 20, generator=GENERATOR) @ torch.randn(20, 64, generator=GENERATOR)  # inputs go together
INPUTS = FEW + 0.5 * torch.randn(300, 64, generator=GENERATOR)
INPUTS[:, 7] = 0.0
HESSIAN = INPUTS.T @ INPUTS
GRID = grids.integer(4, 32, False)


def damped(hessian: Tensor) -> Array:
    work = hessian.double().numpy().copy()
    diagonal = work.diagonal().copy()
    np.fill_diagonal(work, np.where(diagonal == 0, 1.0, diagonal) + 0.01 * diagonal.mean())
    return work


def surgeon(weight: Tensor, chosen: Callable[[Array, int], Array]) -> Array:
    """Optimal Brain Surgeon in order: each column takes what is chosen, and the rest moves by the inverse of what is
    left of H, inverted anew each time."""
    work, hessian = weight.double().numpy().copy(), damped(HESSIAN)
    for at in range(work.shape[1]):
        inverse, value = np.linalg.inv(hessian[at:, at:]), chosen(work, at)
        work[:, at:] -= np.outer((work[:, at] - value) / inverse[0, 0], inverse[0])
        work[:, at] = value
    return work


def test_columns_move_as_the_surgeon_says() -> None:
    scales: list[tuple[Tensor, Tensor]] = []
    importance = HESSIAN.diagonal() / HESSIAN.diagonal().mean()

    def nearest(work: Array, at: int) -> Array:
        now = torch.as_tensor(work).float()
        if at % 32 == 0:
            scales.append(grids.fit(now[:, at : at + 32], GRID, importance[at : at + 32]))
        scale, shift = (one[:, 0] for one in scales[-1])
        return grids.valued(grids.codes(now[:, at], scale, shift, GRID), scale, shift).double().numpy()

    found, wanted = gptq.quantize(WEIGHT, HESSIAN, GRID).value().double().numpy(), surgeon(WEIGHT, nearest)
    assert np.mean(np.isclose(found, wanted, atol=1e-4)) > 0.99  # a tie may fall to the other side
    sparse = gptq.sparsify(WEIGHT, HESSIAN, 0.5).double().numpy()
    zeroed = surgeon(WEIGHT, lambda work, at: np.where(sparse[:, at] == 0, 0.0, work[:, at]))
    assert np.allclose(zeroed, sparse, atol=2e-3)


def test_outputs_change_less_than_by_rounding_and_by_size() -> None:
    nearest = gptq.output_error(WEIGHT, grids.nearest(WEIGHT, GRID).value(), HESSIAN)
    assert gptq.output_error(WEIGHT, gptq.quantize(WEIGHT, HESSIAN, GRID).value(), HESSIAN) < 0.7 * nearest
    smallest = WEIGHT * (WEIGHT.abs() > WEIGHT.abs().flatten().kthvalue(WEIGHT.numel() // 2).values)
    sparse = gptq.sparsify(WEIGHT, HESSIAN, 0.5)
    assert float((sparse == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert gptq.output_error(WEIGHT, sparse, HESSIAN) < 0.5 * gptq.output_error(WEIGHT, smallest, HESSIAN)
    pairs = gptq.sparsify(WEIGHT, HESSIAN, 0.5, (2, 4)).unflatten(1, (-1, 4))
    assert ((pairs == 0).sum(-1) == 2).all()


@pytest.mark.parametrize("grid", [*grids.GGUF.values(), GRID], ids=lambda grid: grid.name)
def test_every_weight_lies_on_its_grid(grid: grids.Grid) -> None:
    groups = gptq.quantize(WEIGHT, HESSIAN, grid).value().unflatten(1, (-1, 32))
    for group in groups.flatten(0, 1):
        assert len(group.unique()) <= grid.high - grid.low + 1


def test_inputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ShrinkError, match="give more calibration text"):
        gptq.factor(torch.full((4, 4), float("nan")))

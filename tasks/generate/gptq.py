"""GPTQ and SparseGPT: rounding, or zeroing, a weight matrix column by column so that its outputs change least.

Frantar et al. 2022, "GPTQ: Accurate post-training quantization for generative pre-trained transformers", arXiv
2210.17323; Frantar and Alistarh 2023, "SparseGPT: Massive language models can be accurately pruned in one-shot", arXiv
2301.00774; both after the Optimal Brain Surgeon (Hassibi and Stork 1993). With H = X^T X of the layer's inputs, an
error made in one column is spread over the columns behind it by the upper Cholesky factor of H^-1. Pure functions of
tensors: weights are [outputs, inputs], H is [inputs, inputs].
"""

import torch
from torch import Tensor

from registry.records import ShrinkError
from tasks.generate import grids
from tasks.generate.grids import Grid, Rounded

BLOCK = 128  # columns whose errors are spread at once
DAMP = 0.01  # of the mean diagonal, added to it
ROWS = 2048  # of a weight that are rounded at once


def factor(hessian: Tensor) -> Tensor:
    """The upper Cholesky factor of the damped inverse of H; inputs that are always 0 count as 1.

    Raises ShrinkError when no damping up to a hundredfold makes H positive definite.
    """
    diagonal = hessian.diagonal().double()
    dead = diagonal == 0
    for damp in (DAMP, 10 * DAMP, 100 * DAMP):
        found = inverse_factor(hessian, torch.where(dead, 1.0, diagonal) + damp * diagonal.mean())
        if found is not None:
            return found.float()
    raise ShrinkError("the inputs of a layer are not finite or too few to round it by: give more calibration text.")


def inverse_factor(hessian: Tensor, diagonal: Tensor) -> Tensor | None:
    """The upper Cholesky factor, in double, of the inverse of H with another diagonal; None where H is not definite.

    H is the largest matrix of a layer: what is done with is let go before the next one is made.
    """
    work = hessian.double()
    if work is hessian:
        work = work.clone()
    work.diagonal().copy_(diagonal)
    work, failed = torch.linalg.cholesky_ex(work)
    if failed:
        return None
    work = torch.cholesky_inverse(work)
    work, failed = torch.linalg.cholesky_ex(work, upper=True)
    return None if failed else work


def quantize(weight: Tensor, hessian: Tensor, grid: Grid) -> Rounded:
    """The weight on its grid, errors spread forward; a table's rows a part after the other, with one factor."""
    upper, importance = factor(hessian), grids.importance(hessian)
    found = grids.room(weight, grid)
    for start in range(0, len(weight), ROWS):
        part = rounded(weight[start : start + ROWS], upper, importance, grid)
        for whole, values in zip(found, part, strict=True):
            whole[start : start + ROWS] = values
    return found


def rounded(weight: Tensor, upper: Tensor, importance: Tensor, grid: Grid) -> Rounded:
    """Some rows on their grid, by the factor of H; scales are fitted to each group as it is reached."""
    work = weight.float().clone()
    size = grid.group * max(1, BLOCK // grid.group)  # whole groups, so that none waits for a block's errors
    found, scales, shifts = torch.empty(work.shape, dtype=torch.int8), list[Tensor](), list[Tensor]()
    for start in range(0, work.shape[1], size):
        end = min(start + size, work.shape[1])
        block = work[:, start:end].T.contiguous()  # a column is gone through at once: it lies together so
        errors, codes = torch.empty_like(block), torch.empty_like(block)
        for at, column in enumerate(block):
            if at % grid.group == 0:
                group = slice(at, at + grid.group)
                fitted = grids.fit(block[group].T.contiguous(), grid, importance[start:end][group])
                scales.append(fitted[0][:, 0])
                shifts.append(fitted[1][:, 0])
            row = upper[start + at, start + at : end]
            codes[at] = grids.codes(column, scales[-1], shifts[-1], grid)
            errors[at] = (column - grids.valued(codes[at], scales[-1], shifts[-1])) / row[0]
            block[at + 1 :] -= row[1:, None] * errors[at]
        found[:, start:end] = codes.T
        work[:, end:] -= errors.T.contiguous() @ upper[start:end, end:]
    return Rounded(found, torch.stack(scales, 1), torch.stack(shifts, 1))


def sparsify(weight: Tensor, hessian: Tensor, sparsity: float, pattern: tuple[int, int] | None = None) -> Tensor:
    """The weight with zeros, errors spread forward (SparseGPT): a share of each block, or n of every m in a row.

    What goes is chosen by the squared weight over the squared diagonal of the factor, when its block (or its m columns)
    is reached.
    """
    upper, work = factor(hessian), weight.float().clone()
    size = BLOCK if pattern is None else pattern[1] * max(1, BLOCK // pattern[1])  # no pattern across two blocks
    for start in range(0, work.shape[1], size):
        end = min(start + size, work.shape[1])
        errors = torch.zeros(work.shape[0], end - start)
        scores = work[:, start:end].square() / upper.diagonal()[start:end].square()
        gone = scores <= scores.flatten().kthvalue(max(1, round(sparsity * scores.numel()))).values
        for at in range(start, end):
            if pattern is not None and (at - start) % pattern[1] == 0:
                part = slice(at, at + pattern[1])
                lost = (work[:, part].square() / upper.diagonal()[part].square()).topk(pattern[0], 1, largest=False)
                gone[:, at - start : at - start + pattern[1]] = False
                gone.scatter_(1, at - start + lost.indices, True)
            value = torch.where(gone[:, at - start], 0.0, work[:, at])
            errors[:, at - start] = (work[:, at] - value) / upper[at, at]
            work[:, at] = value
            work[:, at + 1 : end] -= errors[:, at - start, None] * upper[at, at + 1 : end]
        work[:, end:] -= errors @ upper[start:end, end:]
    return work


def output_error(weight: Tensor, changed: Tensor, hessian: Tensor) -> float:
    """The squared error of the outputs over their squares: tr(D H D^T) / tr(W H W^T)."""
    apart = (weight - changed).double()
    wide = hessian.double()
    kept = weight.double()
    return float(((apart @ wide) * apart).sum() / ((kept @ wide) * kept).sum().clamp(min=1e-30))

"""Single weights set to zero: which ones stay, in which matrices of an encoder, and what the stages say of it.

Used by prune/magnitude, wanda, gradual and movement. The matrices keep their shape, so nothing runs faster for it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models import Classifier


def keep(scores: "Tensor", sparsity: float) -> "Tensor":
    """A mask of what stays of scores [r, n]: in every row the largest; of equal ones the first.

    round(sparsity * n) of each row go, but never all of it.
    """
    count = scores.shape[1]
    dropped = min(round(sparsity * count), count - 1)
    if dropped <= 0:
        return scores == scores
    limit = scores.kthvalue(dropped, dim=1, keepdim=True).values  # ten times faster than sorting
    larger, equal = scores > limit, scores == limit
    room = count - dropped - larger.sum(1, keepdim=True)
    return larger | (equal & (equal.cumsum(1) <= room))


def zero(linear: Any, kept: "Tensor") -> None:
    """Set the weights of a linear layer that a mask of its shape does not keep to 0 (never to -0)."""
    import torch

    with torch.no_grad():
        linear.weight.masked_fill_(~kept.view_as(linear.weight), 0.0)


def measured(model: "Classifier") -> dict[str, Any]:
    """Weights of the encoder's linear layers, how many are 0, that share, and its least and most in one matrix."""
    from tasks import anatomy

    weights = [linear.weight.detach() for layer in model.layers for linear in anatomy.linears(layer).values()]
    zeros = [int((weight == 0).sum()) for weight in weights]
    shares = [count / weight.numel() for count, weight in zip(zeros, weights, strict=True)]
    total = sum(weight.numel() for weight in weights)
    return {
        "weights": total,
        "zeros": sum(zeros),
        "sparsity": sum(zeros) / total,
        "sparsity_lowest": min(shares),
        "sparsity_highest": max(shares),
    }

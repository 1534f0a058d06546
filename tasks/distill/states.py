"""Hidden states of all tokens and how far two models' are apart: pure functions of models and tensors."""

from torch import Tensor
from torch.nn import functional

from tasks import parallel
from tasks.models import Classifier


def states(model: Classifier, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """Of token ids and mask [b, t] the embeddings' output and then every layer's, each [b, t, d]."""
    found = [model.embed(ids)]
    for layer in range(model.depth):
        found.append(model.encode(found[-1], mask, first=layer, last=layer + 1))
    return found


def squared_distance(student: Tensor, teacher: Tensor, mask: Tensor, normalised: bool) -> Tensor:
    """Mean over the real tokens of the squared distance between hidden states [b, t, d]; a scalar.

    Plain, it is the mean over features too, TinyBERT's MSE (Jiao et al. 2020). Normalised, both vectors
    are first scaled to length 1 and the squares are summed (PKD; Sun et al. 2019), which gives 0 to 4.
    """
    student, teacher = parallel.full(student), parallel.full(teacher)
    if normalised:
        student, teacher = functional.normalize(student, dim=-1), functional.normalize(teacher, dim=-1)
    squares = (student - teacher).square()
    return over_tokens(squares.sum(-1) if normalised else squares.mean(-1), mask)


def cosine_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens of one minus the cosine between hidden states [b, t, d]; a scalar in [0, 2].

    DistilBERT's alignment of the directions of student and teacher (Sanh et al. 2019, section 2).
    """
    student, teacher = parallel.full(student), parallel.full(teacher)
    return over_tokens(1 - functional.cosine_similarity(student, teacher, dim=-1), mask)


def over_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of [b, t] over the tokens of the batch where mask [b, t] is 1, whoever shares the batch."""
    real = mask.to(values.dtype)
    found = (values * real).sum() / real.sum().clamp(min=1)
    return parallel.balanced(found, real.sum(), len(values))

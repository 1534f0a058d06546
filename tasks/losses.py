"""The losses of distillation and fine-tuning: pure functions of tensors, each a mean over the batch."""

import torch
from torch import Tensor
from torch.nn import functional

NEVER = -1e4  # a logit whose probability is 0 in every float format


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened student from the softened teacher, times temperature squared.

    student and teacher are logits [b, C]; the result is a scalar. The factor keeps the gradient's size the same at
    every temperature (Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", section 2).
    """
    log_student = functional.log_softmax(student / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher / temperature, dim=-1)
    return functional.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean") * temperature**2


def pooled_cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine between pooled vectors [b, d] of student and teacher; a scalar in [0, 2].

    DistilBERT's alignment of hidden directions (Sanh et al. 2019, section 3), here on the mean-pooled last layer.
    """
    return (1 - functional.cosine_similarity(student, teacher, dim=-1)).mean()


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [b, C] against labels [b]; rows labelled -1 do not count; 0 when none counts."""
    known = labels >= 0
    if not bool(known.any()):
        return logits.sum() * 0
    return functional.cross_entropy(logits[known], labels[known])


def neighbour_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence of the student's relations among the texts of a batch from the teacher's; a scalar.

    student [b, d] and teacher [b, e] are vectors of length 1, whose widths may differ. A text's relations are the
    softmax of its similarities to the others, divided by the temperature; a text's similarity to itself is left out.
    (Fang et al. 2021, "SEED", equation 5, with the batch as the queue.)
    """
    itself = torch.eye(len(student), dtype=torch.bool)
    log_student, log_teacher = (
        functional.log_softmax((one @ one.T / temperature).masked_fill(itself, NEVER), dim=-1)
        for one in (student, teacher)
    )
    return functional.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")

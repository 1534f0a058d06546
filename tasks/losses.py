"""The losses of distillation and fine-tuning: functions of tensors, each a mean over the batch.

Where several processes share a batch, a mean over rows is weighed by tasks/parallel.py; `label_loss` counts rows with
a label alone, which it has balanced there.
"""

import torch
from torch import Tensor
from torch.nn import functional

from tasks import parallel

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


def binary_kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the student's from the teacher's softened yes and no, times temperature squared.

    student and teacher are logits [b, L] of labels that do not exclude each other; the mean over rows and labels. What
    `kd_loss` is for a softmax, for a sigmoid (one label against its absence: Yang et al. 2023, "Multi-label knowledge
    distillation", section 3).
    """
    mine, taught = student / temperature, teacher / temperature
    there = taught.sigmoid()
    apart = there * (functional.logsigmoid(taught) - functional.logsigmoid(mine))
    apart = apart + (1 - there) * (functional.logsigmoid(-taught) - functional.logsigmoid(-mine))
    return apart.mean() * temperature**2


def label_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Cross-entropy of logits [b, C] against labels [b]; rows labelled -1 do not count; 0 when none counts.

    Labels [b, C] of 0 and 1 (several a row) give the binary cross-entropy. `weights` [C] are those of the classes, or
    those of a label's presence against its absence (`class_weights`).
    """
    known = labels.reshape(len(labels), -1)[:, 0] >= 0
    if not bool(known.any()):
        return parallel.balanced(logits.sum() * 0, 0, len(labels))
    rows, logits, labels = len(labels), logits[known], labels[known]
    count: Tensor | float = len(labels)  # that the mean is over
    if labels.ndim == 2:
        there = labels.to(logits.dtype)
        found = functional.binary_cross_entropy_with_logits(logits, there, pos_weight=weights, reduction=reduction)
    else:
        found = functional.cross_entropy(logits, labels, weights, reduction=reduction)
        count = count if weights is None else weights[labels].sum()
    return parallel.balanced(found, count, rows) if reduction == "mean" else found


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Balanced weights [C] from train labels: [n] gives n / (C * n_c), [n, C] absent over present of each label.

    The first is scikit-learn's `balanced` (after King and Zeng 2001, "Logistic regression in rare events data"), the
    second torch's `pos_weight`. Rows labelled -1 do not count; every class must occur, as tasks/data.py sees to.
    """
    if labels.ndim == 2:
        there = labels[labels[:, 0] >= 0].float()
        return (1 - there).sum(0) / there.sum(0).clamp(min=1)
    counts = labels[labels >= 0].bincount(minlength=classes).float()
    return counts.sum() / (classes * counts.clamp(min=1))


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


def mixture_kd_loss(student: Tensor, teachers: Tensor, shares: Tensor, temperature: float) -> Tensor:
    """Divergence of the softened student from the mixture of softened teachers, times temperature squared; a scalar.

    student is [b, C], teachers [b, K, C], shares [b, K] sum to 1. Its gradient is that of the divergences from each
    teacher weighted by the shares (CA-MKD; Zhang, Chen and Wang 2022, "Confidence-aware multi-teacher knowledge
    distillation", arXiv 2201.00007), from which it differs by what does not depend on the student.
    """
    log_student = functional.log_softmax(student / temperature, dim=-1)
    mixed = (shares[:, :, None] * functional.softmax(teachers / temperature, dim=-1)).sum(1)
    return functional.kl_div(log_student, mixed, reduction="batchmean") * temperature**2


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """How much to believe each of K >= 2 teachers in each row, [n, K] with sum 1, from logits [n, K, C] and labels [n].

    (1 - softmax over the teachers of their cross-entropy with the true label) / (K - 1), the weights of CA-MKD: who is
    right with confidence is believed most. Where the label is unknown (-1) the entropy of the teacher's answer stands
    for the cross-entropy: it is what that teacher itself expects it to be.
    """
    logs = functional.log_softmax(logits, dim=-1)
    entropy = -(logs.exp() * logs).sum(-1)
    places = labels.clamp(min=0)[:, None, None].expand(-1, logits.shape[1], 1)
    doubt = logs.gather(-1, places).squeeze(-1).neg()
    doubt = doubt.where(labels[:, None] >= 0, entropy)
    return (1 - functional.softmax(doubt, dim=-1)) / (logits.shape[1] - 1)

"""Self-distillation inside one model: early layers get an exit each and learn from the deepest; one exit may be kept.

"Be your own teacher" (Zhang et al. 2019, "Improve the performance of convolutional neural networks via self
distillation", arXiv 1905.08094): every exit i learns labels (L1), the deepest exit's softened answers (L2) and its
features (L3); the deepest learns labels alone, and no gradient flows into it from L2 and L3. An exit is what a
classifier of this house is, the mean over tokens and one linear layer (the paper's bottleneck could not stay in a
shallower model), and starts as a copy of the deepest. Texts without labels count for L2 and L3.

`keep: k` leaves the exit after layer k: a shallower model of the same kind. No other teacher's answers are read.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from registry.records import ShrinkError
from tasks.distill import answers
from tasks.distill.answers import AnswersConfig

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models import Classifier


class DistillSelfConfig(AnswersConfig):
    """How long and by which losses early layers learn from the deepest, and how many layers stay."""

    method: Literal["self"] = "self"
    reads: ClassVar[dict[str, str]] = {"student": "torch", "data": "rows"}
    keep: int | None = Field(default=None, ge=1, description="Layers kept, counted from the bottom; none: all.")
    logits_weight: float = Field(
        default=1.0, ge=0, le=1000, description="Weight of the divergence from the deepest logits."
    )
    hidden_weight: float = Field(
        default=1.0, ge=0, le=1000, description="Weight of the distance from its pooled vectors."
    )
    labels_weight: float = Field(
        default=1.0, gt=0, le=1000, description="Weight of the cross-entropy with the true labels."
    )
    transfer: bool = Field(default=True, description="Early layers learn from the deepest on transfer texts too.")


def run(inputs: dict[str, Path], config: DistillSelfConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the model up to the kept exit; measured: losses of the epochs, validation accuracies, parameters.

    validation_accuracy_before is the whole model's before, validation_accuracy the kept exit's, exits_accuracy all's.
    """
    from torch import nn

    from tasks import models, parallel

    lesson = answers.read(inputs, config)
    model, depth = lesson.model, lesson.model.depth
    keep = kept(config.keep, depth)
    heads = nn.ModuleList(nn.Linear(model.head.in_features, model.head.out_features) for _ in range(depth - 1))
    for head in heads:
        head.load_state_dict(model.head.state_dict())
    before = answers.score(lesson, inputs["data"])

    def loss_of(rows: list[int]) -> "Tensor":
        pooled = pooled_states(model, *answers.batch(lesson, rows))
        exits = zip((*heads, model.head), pooled, strict=True)
        logits = [parallel.full(head(model.dropout(one))) for head, one in exits]
        return own_loss(logits, pooled, lesson.labels[rows], config, lesson.weights)

    curve = answers.fit(lesson, config, loss_of, seed, along=(heads,))
    scores: list[float] = []
    for layers, head in reversed(list(enumerate((*heads, model.head), start=1))):
        models.keep_layers(model, list(range(layers)))
        model.head = head
        scores.insert(0, answers.score(lesson, inputs["data"]))
        if layers == keep:
            models.save(out, model, lesson.tokenizer, lesson.head)
            size = models.count_parameters(model)
    found = {"validation_accuracy_before": before, "validation_accuracy": scores[keep - 1], "exits_accuracy": scores}
    return {"loss": curve, **found, "parameters": size}


def kept(wanted: int | None, depth: int) -> int:
    """How many layers stay; ShrinkError when there are fewer."""
    if wanted is not None and wanted > depth:
        raise ShrinkError(f"keep is {wanted} but the student has only {depth} layers: give at most that.")
    return wanted or depth


def pooled_states(model: "Classifier", ids: "Tensor", mask: "Tensor") -> "list[Tensor]":
    """Of token ids and mask [b, t] the mean over the real tokens behind every layer, each [b, d]."""
    from tasks import models
    from tasks.distill import states

    return [models.mean_pool(hidden, mask) for hidden in states.states(model, ids, mask)[1:]]


def own_loss(
    logits: "list[Tensor]",
    pooled: "list[Tensor]",
    labels: "Tensor",
    config: DistillSelfConfig,
    weights: "Tensor | None" = None,
) -> "Tensor":
    """The weighted L1, L2, L3 of all exits, bottom first: logits [b, C], features [b, d]; labels as for `label_loss`.

    L1 is the mean over all exits, L2 (with temperature squared) and L3 (mean squared error) over all but the deepest.
    """
    import torch
    from torch.nn import functional

    from tasks import losses

    apart = losses.binary_kd_loss if labels.ndim == 2 else losses.kd_loss  # of several labels a row, or of one
    deepest, features, early = logits[-1].detach(), pooled[-1].detach(), len(logits) - 1
    total = config.labels_weight * torch.stack([losses.label_loss(one, labels, weights) for one in logits]).mean()
    for one, vector in zip(logits[:-1], pooled[:-1], strict=True):
        total = total + config.logits_weight / early * apart(one, deepest, config.temperature)
        total = total + config.hidden_weight / early * functional.mse_loss(vector, features)
    return total

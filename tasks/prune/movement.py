"""Sets weights to zero that move towards it while the student learns from its teacher's cached answers.

Sanh, Wolf and Rush 2020 ("Movement pruning: adaptive sparsity by fine-tuning", arXiv 2005.07683), the hard variant:
each weight W has a score S that goes down its gradient dL/dS = dL/dW' * W, where W' is W with all but the highest
scores of its matrix set to zero. A weight that grows gains, one that shrinks loses; and one that was masked goes on
gaining or losing, so that it may return. How many are masked follows the cubic of tasks/prune/dynamic.py.

As in the authors' own training, Adam moves the scores, without decay, and the mask is chosen anew at every step: a
weight whose loss hurts must be able to return at once. Theirs begin at 0, for a model that was not yet trained on its
task and learns for many passes. A student that knows its task moves little, so that scores from 0 order its weights by
noise; `start: sizes` lets them begin at the weights' sizes, which are what they moved before (a score and a weight's
size have the same slope, dL/dW * sign W, up to a positive factor, which Adam divides out). They learn PACE times as
fast as the weights (the authors': 300 times), so that what moves now counts for more than what moved then.
The matrices keep their shape: speed and the bytes of an ONNX model stay what they are, only export/packed gets smaller.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tasks.distill import answers
from tasks.prune.dynamic import DynamicConfig, wanted

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models import Classifier
    from tasks.train import Companion


PACE = 5.0  # learning rate of the scores over the weights'


class PruneMovementConfig(DynamicConfig):
    """How many of the weights that move towards zero become zero, and how the student learns meanwhile."""

    method: Literal["movement"] = "movement"
    every: int = Field(default=1, ge=1, description="Steps between two choices of the weights that are zero.")
    start: Literal["sizes", "zeros"] = Field(
        default="sizes",
        description="Where scores begin: at the weights' sizes, or at 0 as in the paper (long trainings).",
    )


def run(inputs: dict[str, Path], config: PruneMovementConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the taught student with zeros in it; measured: as distill/logits, and its zeros as prune/magnitude."""
    from tasks.prune import masks

    lesson = answers.read(inputs, config)

    def loss_of(rows: list[int]) -> "Tensor":
        return answers.loss(lesson, config, rows, lesson.model.features(*answers.batch(lesson, rows)))

    measured = answers.teach(lesson, config, loss_of, inputs, out, seed, pruner(lesson.model, config))
    return measured | masks.measured(lesson.model)


def pruner(model: "Classifier", config: PruneMovementConfig) -> "Companion":
    """Puts scores on all matrices, moves them after every step, masks by them when it is time; ends with plain ones."""
    import torch

    from tasks import anatomy, train
    from tasks.prune import masks, straight

    linears = [linear for layer in model.layers for linear in anatomy.linears(layer).values()]
    scored = [straight.attach(linear, linear.weight.abs() if config.start == "sizes" else None) for linear in linears]
    adam = torch.optim.Adam([one.scores for one in scored], fused=True)
    for one in scored:  # made now and not with the first step, so that a checkpoint can fill it
        empty = {name: torch.zeros_like(one.scores) for name in ("exp_avg", "exp_avg_sq")}
        adam.state[one.scores] = {"step": torch.zeros(()), **empty}

    def after(done: int, steps: int) -> None:
        share = wanted(config, done, steps)
        adam.param_groups[0]["lr"] = PACE * config.lr * train.warm_up_factor(done - 1, steps)
        adam.step()  # nothing moves before the first gradient
        adam.zero_grad()
        if share is not None:
            for one in scored:
                one.mask.copy_(masks.keep(one.scores.detach().reshape(1, -1), share).view_as(one.mask))
        if done == steps:
            for linear in linears:
                straight.detach(linear)

    held = [dict(one.named_buffers()) | adam.state[one.scores] for one in scored]
    tensors = {f"{name}.{number}": value for number, one in enumerate(held) for name, value in one.items()}
    return train.Companion(after, tensors)

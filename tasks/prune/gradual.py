"""Sets the smallest weights to zero bit by bit while the student learns from its teacher's cached answers.

Zhu and Gupta 2017 ("To prune, or not to prune", arXiv 1710.01878): every few steps the smallest weights of each matrix
become zero, as many as the cubic of tasks/prune/dynamic.py says, and take no part in the training any more, so that
those that stay make up for them. The matrices keep their shape: speed and the bytes of an ONNX model stay what they
are, only export/packed gets smaller.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks.distill import answers
from tasks.prune.dynamic import DynamicConfig, wanted

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models import Classifier
    from tasks.train import Companion


class PruneGradualConfig(DynamicConfig):
    """How many of the smallest weights become zero, and how the student learns meanwhile."""

    method: Literal["gradual"] = "gradual"


def run(inputs: dict[str, Path], config: PruneGradualConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the taught student with zeros in it; measured: as distill/logits, and its zeros as prune/magnitude."""
    from tasks.prune import masks

    lesson = answers.read(inputs, config)

    def loss_of(rows: list[int]) -> "Tensor":
        return answers.loss(lesson, config, rows, lesson.model.features(*answers.batch(lesson, rows)))

    measured = answers.teach(lesson, config, loss_of, inputs, out, seed, pruner(lesson.model, config))
    return measured | masks.measured(lesson.model)


def pruner(model: "Classifier", config: PruneGradualConfig) -> "Companion":
    """Holds the masks of all matrices, chooses them anew when it is time, and keeps masked weights at zero."""
    import torch

    from tasks import anatomy
    from tasks.prune import masks
    from tasks.train import Companion

    linears = [linear for layer in model.layers for linear in anatomy.linears(layer).values()]
    kept = [torch.ones_like(linear.weight, dtype=torch.bool) for linear in linears]
    hooks = [  # a masked weight's gradient shall neither count in the clipped norm nor move Adam's moments
        linear.weight.register_hook(lambda gradient, mask=mask: gradient * mask)
        for linear, mask in zip(linears, kept, strict=True)
    ]

    def after(done: int, steps: int) -> None:
        share = wanted(config, done, steps)
        for linear, mask in zip(linears, kept, strict=True):
            if share is not None:
                sizes = linear.weight.detach().abs().reshape(1, -1)
                mask &= masks.keep(sizes, share).view_as(mask)
            masks.zero(linear, mask)  # moments of before it was masked still move a weight
        if done == steps:
            for hook in hooks:
                hook.remove()

    return Companion(after, {f"mask.{number}": mask for number, mask in enumerate(kept)})

"""Sets the smallest weights of the encoder's linear layers to zero (Han et al. 2015, "Learning both weights and
connections for efficient neural networks"), without the retraining that follows there.

The matrices keep their shape: speed and the bytes of an ONNX model stay what they are, only export/packed gets smaller.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT
from tasks import architectures


class PruneMagnitudeConfig(BaseModel):
    """Which part of the weights becomes zero, by their size alone."""

    model_config = STRICT
    kind: Literal["prune"] = "prune"
    method: Literal["magnitude"] = "magnitude"
    reads: ClassVar[dict[str, str]] = {"student": "torch"}
    writes: ClassVar[tuple[str, str]] = ("student", "torch")
    sparsity: float = Field(default=0.5, gt=0, lt=1, description="Part of the encoder's linear weights that go.")
    scope: Literal["layer", "global"] = Field(
        default="layer", description="Compare weights of one matrix, or of all matrices together."
    )


def run(inputs: dict[str, Path], config: PruneMagnitudeConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the student with zeros in it; measured: weights, zeros, their share in all and in single matrices."""
    import torch

    from tasks import anatomy, models
    from tasks.prune import masks

    model, tokenizer, head = models.load(inputs["student"])
    architectures.check_use(model.config.model_type, "linears", "prune/magnitude")
    linears = [linear for layer in model.layers for linear in anatomy.linears(layer).values()]
    sizes = [linear.weight.detach().abs().reshape(1, -1) for linear in linears]
    if config.scope == "global":
        whole = masks.keep(torch.cat(sizes, dim=1), config.sparsity)
        kept = list(whole.split([size.shape[1] for size in sizes], dim=1))
    else:
        kept = [masks.keep(size, config.sparsity) for size in sizes]
    for linear, mask in zip(linears, kept, strict=True):
        masks.zero(linear, mask)
    models.save(out, model, tokenizer, head)
    return masks.measured(model)

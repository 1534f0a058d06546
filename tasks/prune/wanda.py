"""Sets weights of the encoder's linear layers to zero by size times input (Sun et al. 2023, "A simple and effective
pruning approach for large language models").

The score of w[i, j] is |w[i, j]| * ||x[j]||, the norm taken over all real tokens of calibration texts; weights are
compared within their row, that is for one output. Layers go from the bottom up, each on what the pruned ones below give
it. The matrices keep their shape: speed and the bytes of an ONNX model stay, only export/packed gets smaller.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError
from tasks import architectures

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models import Classifier


class PruneWandaConfig(BaseModel):
    """Which part of the weights becomes zero, by their size and by what comes in."""

    model_config = STRICT
    kind: Literal["prune"] = "prune"
    method: Literal["wanda"] = "wanda"
    reads: ClassVar[dict[str, str]] = {"student": "torch", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("student", "torch")
    sparsity: float = Field(default=0.5, gt=0, lt=1, description="Part of the encoder's linear weights that go.")
    calibration_rows: int = Field(default=128, ge=1, description="Training texts that the inputs' norms come from.")


def run(inputs: dict[str, Path], config: PruneWandaConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the student with zeros in it; measured: weights, zeros, their share in all and in single matrices.

    Raises ShrinkError when there are fewer training texts than calibration_rows.
    """
    import numpy as np

    from tasks import data, models, train
    from tasks.prune import masks

    rows = data.read_rows(inputs["data"], "train")
    if len(rows) < config.calibration_rows:
        raise ShrinkError(
            f"calibration_rows of prune/wanda is {config.calibration_rows} but the data has {len(rows)} training "
            "texts; lower it."
        )
    model, tokenizer, head = models.load(inputs["student"])
    architectures.check_use(model.config.model_type, "linears", "prune/wanda")
    chosen = np.random.default_rng(seed).permutation(len(rows))[: config.calibration_rows]
    prune(model, train.tokenize(tokenizer, [rows[index]["text"] for index in chosen]), config.sparsity)
    models.save(out, model, tokenizer, head)
    return masks.measured(model)


def prune(model: "Classifier", sequences: list[list[int]], sparsity: float, size: int = 32) -> None:
    """Set weights of the model to zero in place, layer by layer, by the inputs that token sequences give them."""
    import torch

    from tasks import anatomy, progress, train
    from tasks.prune import masks

    model.eval()
    order = train.sorted_batches([len(sequence) for sequence in sequences], size)
    batches = [train.pad([sequences[row] for row in rows], train.pad_of(model)) for rows in order]
    attention = [mask for _, mask in batches]
    with torch.no_grad():
        hidden = [model.embed(ids) for ids, _ in batches]
        for index, layer in enumerate(model.layers):
            norms = input_norms(model, index, hidden, attention)
            for name, linear in anatomy.linears(layer).items():
                masks.zero(linear, masks.keep(linear.weight.abs() * norms[name], sparsity))
            first, last = anatomy.span(model.encoder, index)
            hidden = [model.encode(one, mask, first, last) for one, mask in zip(hidden, attention, strict=True)]
            progress.report(index + 1, len(model.layers), "layers")


def input_norms(
    model: "Classifier", index: int, hidden: "list[Tensor]", attention: "list[Tensor]"
) -> "dict[str, Tensor]":
    """By linear layer of one encoder layer, the norm of each of its inputs over all real tokens; padding is none."""
    import torch

    from tasks import anatomy

    linears = anatomy.linears(model.layers[index])
    first, last = anatomy.span(model.encoder, index)
    real: list[Tensor] = []
    sums = {name: torch.zeros(linear.in_features, dtype=torch.float64) for name, linear in linears.items()}

    def look(name: str) -> Any:
        def hook(module: Any, args: tuple[Any, ...]) -> None:
            if args[0].shape[:2] == real[0].shape:  # DeBERTa's projections see its table of distances too
                sums[name] += args[0][real[0]].double().square().sum(0)

        return hook

    handles = [linear.register_forward_pre_hook(look(name)) for name, linear in linears.items()]
    for one, mask in zip(hidden, attention, strict=True):
        real[:] = [mask.bool()]
        model.encode(one, mask, first, last)
    for handle in handles:
        handle.remove()
    return {name: total.sqrt().float() for name, total in sums.items()}

"""Factorises the trained word embedding: a narrow table and one product that widens its rows again.

ALBERT (Lan et al. 2020, "ALBERT: A lite BERT for self-supervised learning of language representations", section 3.1)
trains such factors afresh; here they are the best ones for the table that is there: with f[i] the number of times that
piece i occurs in the training texts (plus one), they minimise sum over i of f[i] * |row i - its approximation|^2, by
the singular value decomposition of diag(sqrt(f)) @ table (Eckart and Young 1936). Frequent rows so fit better than rare
ones. A distil stage behind heals what is lost; export and quantize treat both factors as any table and any product.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError

if TYPE_CHECKING:
    from torch import Tensor


class PruneLowRankConfig(BaseModel):
    """How narrow the word embedding's table becomes."""

    model_config = STRICT
    kind: Literal["prune"] = "prune"
    method: Literal["low_rank"] = "low_rank"
    reads: ClassVar[dict[str, str]] = {"student": "torch", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("student", "torch")
    rank: int = Field(ge=1, description="Columns of the narrow table; below the model's width.")
    weighted: bool = Field(default=True, description="Fit frequent pieces better than rare ones; false: all alike.")


def run(inputs: dict[str, Path], config: PruneLowRankConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the student with a factorised embedding; measured: parameters, the share of the weighted squares kept."""
    import torch

    from tasks import data, models, train

    model, tokenizer, head = models.load(inputs["student"])
    before, width = models.count_parameters(model), model.table.embedding_dim
    if getattr(model.config, "embedding_rank", None):
        raise ShrinkError("prune/low_rank: the embedding is factorised already: drop this stage.")
    if config.rank >= width:
        raise ShrinkError(f"rank of prune/low_rank is {config.rank} but the table is {width} wide: give less.")
    table = model.table.weight.detach()
    counts = torch.ones(len(table))
    if config.weighted:
        texts = [row["text"] for row in data.read_rows(inputs["data"], "train")]
        seen = Counter(piece for sequence in train.tokenize(tokenizer, texts) for piece in sequence)
        counts += torch.tensor([float(seen[piece]) for piece in range(len(table))])
    rows, directions = factors(table, counts, config.rank)
    model.encoder.set_input_embeddings(models.factored(rows, directions, model.table.padding_idx))
    model.config.embedding_rank = config.rank
    models.save(out, model, tokenizer, head)
    lost = (counts[:, None] * (table - rows @ directions) ** 2).sum() / (counts[:, None] * table**2).sum()
    sizes = {"parameters_before": before, "parameters": models.count_parameters(model)}
    return {**sizes, "kept": 1 - float(lost)}


def factors(table: "Tensor", counts: "Tensor", rank: int) -> "tuple[Tensor, Tensor]":
    """Rows [n, rank] and orthonormal directions [rank, d] with the least weighted squared error of a table [n, d].

    For given directions the best rows are projections, whatever their weights; the directions are the eigenvectors of
    the weighted second moments [d, d] with the largest eigenvalues, in falling order and of a fixed sign.
    """
    import torch

    wide = table.double()
    moments = wide.T @ (counts.double()[:, None] * wide)
    directions = torch.linalg.eigh(moments).eigenvectors.flip(1)[:, :rank]
    largest = directions.abs().argmax(0)
    directions = directions * directions[largest, torch.arange(rank)].sign()
    return (wide @ directions).float(), directions.T.float()

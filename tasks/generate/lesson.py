"""What every training of a decoder shares: windows of running training text, its steps, its losses, its score.

A training is one epoch of tasks/train.py over `steps` batches of windows, so that its checkpoints are those of any
other. The configuration is readable without torch.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

SCORED = 16  # validation documents on which a training says what it did


class LessonConfig(BaseModel):
    """How long and how fast a decoder learns."""

    model_config = STRICT
    tasks: ClassVar[tuple[Task, ...]] = ("generate",)
    steps: int = Field(default=32, ge=1, description="Steps of the training; text that runs out is read again.")
    lr: float = Field(
        default=1e-4, gt=0, description="Highest learning rate; it rises for 6 % of the steps, then falls."
    )
    batch: int = Field(default=8, ge=1, description="Windows of text in a step.")
    seed: int | None = Field(default=None, ge=0, description="Seed of this stage; none: the run's seed.")


class CutConfig(BaseModel):
    """What a stage that cuts a decoder reads and leaves, and the text on which it sees what matters."""

    model_config = STRICT
    tasks: ClassVar[tuple[Task, ...]] = ("generate",)
    reads: ClassVar[dict[str, str]] = {"student": "lm", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("student", "lm")
    kind: Literal["prune"] = Field("prune", description="The stage's kind.")
    windows: int = Field(default=32, ge=1, description="Windows of training text on which is seen what matters.")
    length: int = Field(default=128, ge=2, description="Tokens of a window.")
    batch: int = Field(default=4, ge=1, description="Windows that are read at once; memory grows with it.")


def sample(inputs: dict[str, Path], config: CutConfig, seed: int) -> "Tensor":
    """Windows of training text [n, t] on which a cut is decided, as the student reads them."""
    from tasks.generate import lm

    tokenizer = lm.load_tokenizer(inputs["student"])
    return windows(tokenizer, texts(inputs["data"], "train"), config.length, config.windows, seed)


def check_whole(directory: Path, stage: str) -> None:
    """ShrinkError when a student's weights are rounded, which this stage would undo."""
    if (directory / "grids.json").is_file():
        raise ShrinkError(
            f"{stage} would undo the rounding of the student's weights: put it before the quantize stage."
        )


def texts(directory: Path, name: str) -> list[str]:
    """The documents of one split of a data artifact."""
    from tasks import data

    return [str(row["text"]) for row in data.read_rows(directory, name)]


def windows(tokenizer: Any, documents: list[str], length: int, most: int, seed: int) -> "Tensor":
    """At most `most` windows [n, length] of running text, spread over all documents; ShrinkError when there is none."""
    from tasks.generate import text

    have = text.running(tokenizer, documents, length)
    if not len(have):
        raise ShrinkError(f"length is {length} tokens but the training text has fewer: lower it or give more text.")
    return text.drawn(have, min(most, len(have)), seed)


def digest(ids: "Tensor") -> str:
    """SHA-256 of windows of token ids, as hex."""
    return hashlib.sha256(ids.long().contiguous().numpy().tobytes()).hexdigest()


def check_length(model: Any, length: int, field: str = "length") -> None:
    """ShrinkError when a window is longer than the model can read."""
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and length > most:
        raise ShrinkError(f"{field} is {length} tokens but the model reads at most {most}: lower it.")


def fit(
    trained: "nn.Module", loss_of: "Callable[[list[int]], Tensor]", count: int, config: LessonConfig, seed: int
) -> float:
    """Train on `count` windows for the config's steps; the mean loss. `loss_of` gets numbers of windows."""
    import numpy as np

    from tasks import train
    from tasks.generate import walk

    rows, drawn = config.steps * config.batch, seed if config.seed is None else config.seed
    order = np.random.default_rng(drawn).permutation(count)
    schedule = train.Schedule(epochs=1, lr=config.lr, batch_size=config.batch, seed=drawn)

    def loss(some: list[int]) -> "Tensor":
        """Of some windows. The last step's gradients go before the way there, the holes in memory before the way back:
        either would else lie beside what is largest.
        """
        trained.zero_grad(set_to_none=True)
        found = loss_of([int(order[row % count]) for row in some])
        walk.trim()
        return found

    return train.fit(trained, [1] * rows, loss, schedule)[0]


def text_loss(logits: "Tensor", ids: "Tensor") -> "Tensor":
    """Mean negative log-likelihood in nats of windows [b, t] but their first tokens, of logits [b, t, pieces]."""
    from torch.nn import functional

    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def score(model: Any, tokenizer: Any, data: Path, length: int) -> float:
    """Perplexity per byte of some validation documents (training documents where there is none), in windows."""
    import torch

    from tasks.generate import measures, text

    held = (texts(data, "validation") or texts(data, "train"))[:SCORED]
    documents = text.documents(tokenizer, held, length)
    nats = []
    with torch.inference_mode():
        for document in documents:
            logits = model(input_ids=document.windows.clamp(min=0), use_cache=False).logits
            nats.append(measures.read(logits, document.windows).nats)
    sizes = torch.tensor([float(document.size) for document in documents], dtype=torch.float64)
    return measures.perplexity(torch.tensor(nats, dtype=torch.float64), sizes)

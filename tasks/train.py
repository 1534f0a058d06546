"""Length-bucketed batches, AdamW with a linear warm-up schedule, the training loop and batched prediction."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer
from torch import Tensor, nn

from registry.records import STRICT, ShrinkError
from tasks import checkpoint, parallel, progress
from tasks.models import Classifier
from tasks.pairs import Text

WARM_UP = 0.06  # part of the steps in which the learning rate rises
CLIP = 1.0  # largest gradient norm
CHUNK = 50  # batches that are sorted by length together


class Schedule(BaseModel):
    """How long and how fast to train."""

    model_config = STRICT
    epochs: int
    lr: float
    batch_size: int
    seed: int


class Log(BaseModel):
    """What a training loop must remember to go on as if nothing had happened."""

    model_config = ConfigDict(extra="forbid")
    random: dict[str, Any]  # the row shuffler's state when the epoch began
    done: int = 0
    losses: list[float] = []  # of this epoch's steps
    curve: list[float] = []
    points: list[tuple[str, float, int]] = []  # that were sent to the curves

    def note(self, name: str, value: float, step: int) -> None:
        """Send one point of a curve and remember it."""
        progress.metric(name, value, step)
        self.points.append((name, value, step))


class Companion(NamedTuple):
    """What goes along with a training: a function called once before the first step and after each with (steps done,
    steps in all), and its tensors, which checkpoints keep and put back in place before that first call."""

    after: Callable[[int, int], None]
    tensors: dict[str, Tensor]


ALONE = Companion(lambda done, steps: None, {})


def tokenize(tokenizer: Tokenizer, texts: Sequence[Text]) -> list[list[int]]:
    """Token ids of every text (or pair), truncated as the tokenizer says; [0] for one of which nothing is left."""
    return [encoding.ids or [0] for encoding in tokenizer.encode_batch(list(texts))]


def pad(sequences: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and attention mask [b, longest], both int64."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), longest), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.as_tensor(sequence)
        mask[row, : len(sequence)] = 1
    return ids, mask


def sorted_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Row numbers in batches of rising length, for prediction."""
    order = np.argsort(np.asarray(lengths), kind="stable").tolist()
    return [order[start : start + size] for start in range(0, len(order), size)]


def shuffled_batches(lengths: Sequence[int], size: int, rng: np.random.Generator) -> list[list[int]]:
    """Row numbers in random batches of nearly equal length: sorted inside shuffled chunks, then shuffled."""
    order = rng.permutation(len(lengths))
    batches: list[list[int]] = []
    for start in range(0, len(order), size * CHUNK):
        chunk = order[start : start + size * CHUNK]
        chunk = chunk[np.argsort(np.asarray(lengths)[chunk], kind="stable")]
        batches += [chunk[begin : begin + size].tolist() for begin in range(0, len(chunk), size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def adamw(model: nn.Module, lr: float, weight_decay: float = 0.01) -> torch.optim.AdamW:
    """AdamW over the trainable weights; biases and norms without decay (Loshchilov and Hutter 2019)."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def warm_up_factor(step: int, steps: int) -> float:
    """Learning-rate factor at a step: up to 1 over the first 6 % of the steps, then linearly down to 0."""
    rising = (step + 1) / max(1.0, steps * WARM_UP)
    falling = (steps - step) / max(1.0, steps * (1 - WARM_UP))
    return min(1.0, rising, max(0.0, falling))


def fit(
    model: nn.Module,
    lengths: Sequence[int],
    loss_of: Callable[[list[int]], Tensor],
    schedule: Schedule,
    companion: Companion = ALONE,
) -> list[float]:
    """Minimise loss_of(row numbers) over all rows; the mean loss of every epoch. The model ends in eval mode.

    Goes on at the checkpoint of an interrupted go. Several processes share each batch, and all but the first end here
    (tasks/parallel.py). Raises ShrinkError when the loss is no number any more.
    """
    torch.manual_seed(schedule.seed)
    rng = np.random.default_rng(schedule.seed)
    in_epoch = math.ceil(len(lengths) / schedule.batch_size)
    steps = in_epoch * schedule.epochs
    optimizer = adamw(model, schedule.lr)
    model.train()
    log = Log.model_validate(checkpoint.load(optimizer, companion.tensors) or {"random": rng.bit_generator.state})
    rng.bit_generator.state = log.random
    for name, value, step in log.points:
        progress.metric(name, value, step)
    companion.after(log.done, steps)
    while log.done < steps:
        log.random = rng.bit_generator.state
        batches = shuffled_batches(lengths, schedule.batch_size, rng)
        for rows in batches[log.done % in_epoch :]:
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr * warm_up_factor(log.done, steps)
            loss = parallel.loss(loss_of, rows, schedule.seed, log.done)
            log.losses.append(step_once(model, optimizer, loss, log.done + 1, companion))
            log.done += 1
            companion.after(log.done, steps)
            if log.done % 20 == 0 or log.done == steps:
                recent = float(np.mean(log.losses[-20:]))
                progress.report(log.done, steps, f"loss {recent:.4f}")
                log.note("loss", recent, log.done)
            if parallel.first() and checkpoint.due() and log.done % in_epoch:
                check_weights(model, optimizer, log.done)
                checkpoint.save(optimizer, log.model_dump(), companion.tensors)
        log.curve.append(float(np.mean(log.losses)))
        log.losses.clear()
        log.note("epoch_loss", log.curve[-1], len(log.curve))
    check_weights(model, optimizer, log.done)
    model.eval()
    parallel.leave(leaves(model, companion))
    return log.curve


def check_weights(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """ShrinkError when the last step, whose loss was still a number, has left weights that are none."""
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        rate = optimizer.param_groups[0]["lr"]
        raise ShrinkError(
            f"training diverged: weights are no numbers any more behind step {step} with learning rate {rate:.3g}; "
            "lower `lr` of this stage."
        )


def leaves(model: nn.Module, companion: Companion) -> list[Tensor]:
    """What has gradients: the trained weights, and what goes along with them."""
    return [leaf for leaf in (*model.parameters(), *companion.tensors.values()) if leaf.requires_grad]


def step_once(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, step: int, companion: Companion = ALONE
) -> float:
    """One step down the loss, whose value it returns; raises ShrinkError, the weights untouched, at NaN or infinity."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    value = parallel.average(leaves(model, companion), loss)
    norm = nn.utils.clip_grad_norm_([weight for weight in model.parameters() if weight.requires_grad], CLIP)
    if not (math.isfinite(value) and math.isfinite(float(norm))):
        rate = optimizer.param_groups[0]["lr"]
        remedy = "lower `lr` of this stage" if step > 1 else "before any weight moved: look at its losses' settings"
        raise ShrinkError(
            f"training diverged: the loss is {value:g} and its gradient {float(norm):g} at step {step} with learning "
            f"rate {rate:.3g}; {remedy}."
        )
    optimizer.step()
    return value


@torch.inference_mode()
def predict(model: Classifier, sequences: Sequence[Sequence[int]], size: int = 64) -> tuple[Tensor, Tensor]:
    """Logits [n, C] and pooled vectors [n, d] of tokenised texts, in their order."""
    model.eval()
    logits = torch.zeros(len(sequences), model.head.out_features)
    pooled = torch.zeros(len(sequences), model.head.in_features)
    batches = sorted_batches([len(sequence) for sequence in sequences], size)
    for number, rows in enumerate(batches):
        vectors = model.features(*pad([sequences[row] for row in rows], pad_of(model)))
        pooled[rows], logits[rows] = vectors, model.classify(vectors)
        if number % 20 == 0:
            progress.report(number, len(batches), "predicting")
    return logits, pooled


def pad_of(model: Classifier) -> int:
    """The padding token's id of a model (0 when its configuration names none)."""
    return int(model.config.pad_token_id or 0)


def accuracy(logits: Tensor, labels: Sequence[int] | Sequence[Sequence[int]]) -> float:
    """Part of the rows whose largest logit stands at the label, or whose positive logits are just the row's labels.

    Raises ShrinkError when logits are no numbers.
    """
    if not torch.isfinite(logits).all():
        raise ShrinkError("the model's answers are no numbers: its training diverged; lower `lr` of that stage.")
    wanted = torch.as_tensor(labels)
    right = ((logits > 0) == wanted).all(-1) if wanted.ndim == 2 else logits.argmax(-1) == wanted
    return float(right.double().mean())

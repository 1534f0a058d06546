"""Quantization-aware distillation of a decoder: what its integers stand for is learnt, and perhaps the integers too.

The student comes as quantize stages leave it, integers with scales. In every step its weights are what these integers
stand for, so that what is trained is what is exported, to the last bit. Learnt from the teacher's cached answers are
the groups' scales and shifts, and the norms and biases (Chen et al. 2024, "EfficientQAT", arXiv 2407.11062, second
phase); with `learn: integers` the integers too, each of which has a position between its neighbours that gradients move
straight through the rounding (Bengio, Leonard and Courville 2013; Esser et al. 2020, "Learned step size quantization",
arXiv 1902.08153; Liu et al. 2023, "LLM-QAT", arXiv 2305.17888).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from registry.records import ShrinkError
from tasks.generate.answers import AnsweredConfig

if TYPE_CHECKING:
    from torch import Tensor


class DistillRoundedConfig(AnsweredConfig):
    """How long and by which losses a rounded decoder learns, and what of it."""

    method: Literal["rounded"] = Field("rounded", description="While its weights are the rounded ones.")
    lr: float = Field(default=1e-3, gt=0, description="Highest learning rate, relative to each group's scale.")
    learn: Literal["scales", "integers"] = Field(
        default="scales",
        description="scales: what the integers stand for, and norms; integers: those of up to 6 bits as well, in three "
        "times the memory.",
    )


def run(inputs: dict[str, Path], config: DistillRoundedConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the taught student on the same grids; measured: mean loss, validation perplexity per byte before and after,
    and the share of integers that are others now.
    """
    from tasks.generate import answers, lesson, lm, straight

    model, tokenizer = lm.load(inputs["student"]), lm.load_tokenizer(inputs["student"])
    rounded, grids = lm.integers(inputs["student"])
    if not rounded:
        raise ShrinkError(
            "distill/rounded needs a student with rounded weights, but this one has none: put a quantize stage, such "
            "as quantize/gptq, before it."
        )
    found = answers.read(inputs["labels"], inputs["data"], tokenizer)
    length = found.ids.shape[1]
    lesson.check_length(model, length)
    before = lesson.score(model, tokenizer, inputs["data"], length)
    learnt = straight.Learnt(model, rounded, grids, config.learn == "integers")

    def loss_of(rows: list[int]) -> "Tensor":
        some = answers.rows(found, rows)
        return answers.loss(learnt(some.ids), some, config)

    loss = lesson.fit(learnt, loss_of, len(found.ids), config, seed)
    taught = learnt.rounded()
    straight.put(model, taught)
    lm.save(out, model, inputs["student"], taught, grids)
    after = lesson.score(model, tokenizer, inputs["data"], length)
    changed = sum(int((taught[name].codes != one.codes).sum()) for name, one in rounded.items())
    share = changed / sum(one.codes.numel() for one in rounded.values())
    return {"loss": [loss], "perplexity_before": before, "perplexity": after, "changed": share}

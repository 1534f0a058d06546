"""A decoder learns from its teacher's cached answers and from the text: what it lost in a cut comes back.

Knowledge distillation token by token (Hinton, Vinyals and Dean 2015, arXiv 1503.02531), which
heals pruned decoders better than the text alone (Muralidharan et al. 2024, "Compact language models via pruning and
knowledge distillation", arXiv 2407.14679, best practices 5 to 8). The answers are those of label/top_k.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tasks.generate.answers import AnsweredConfig

if TYPE_CHECKING:
    from torch import Tensor


class DistillTokensConfig(AnsweredConfig):
    """How long and by which losses a decoder learns."""

    method: Literal["tokens"] = Field("tokens", description="From the teacher's likeliest pieces behind every token.")


def run(inputs: dict[str, Path], config: DistillTokensConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the taught student; measured: mean loss, validation perplexity per byte before and after, parameters."""
    from tasks.generate import answers, lesson, lm

    lesson.check_whole(inputs["student"], "distill/tokens")
    model, tokenizer = lm.load(inputs["student"]), lm.load_tokenizer(inputs["student"])
    found = answers.read(inputs["labels"], inputs["data"], tokenizer)
    length = found.ids.shape[1]
    lesson.check_length(model, length)
    before = lesson.score(model, tokenizer, inputs["data"], length)

    def loss_of(rows: list[int]) -> "Tensor":
        some = answers.rows(found, rows)
        return answers.loss(model(input_ids=some.ids, use_cache=False).logits, some, config)

    loss = lesson.fit(model, loss_of, len(found.ids), config, seed)
    lm.save(out, model, inputs["student"], {}, {})
    after = lesson.score(model, tokenizer, inputs["data"], length)
    told = {"loss": [loss], "perplexity_before": before, "perplexity": after}
    return told | {"parameters": sum(one.numel() for one in model.parameters())}

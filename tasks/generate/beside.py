"""What the gate asks of a student that writes beyond the whole: paired differences, slices, behaviour, leakage.

Differences are of perplexity a token of the teacher's, as the logarithm of the other's over the student's: documents
are resampled whole. The slices are thirds by the documents' length.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from registry.records import Behaviour, Difference, Slice
from tasks import behaviour, champion, checklist, data, leakage, paired, slices
from tasks.embed.measures import resamples
from tasks.generate.judging import Seen, documents
from tasks.generate.runtime import Opened

if TYPE_CHECKING:
    from tasks.generate.evaluate import GenerateEvaluateConfig


def found(inputs: dict[str, Path], seen: Seen, config: "GenerateEvaluateConfig", seed: int) -> dict[str, Any]:
    """The fields of an Evaluation, from the nats of every document."""
    texts = documents(inputs["data"], config.split, config.text_bytes)
    tokens, drawn = seen.values["tokens"], resamples(len(texts), config.bootstrap, seed)
    gained = {role: -seen.values[f"nats.{role}"] for role in ("teacher", "student")}

    def against(role: str) -> Difference:
        return paired.of_sums(-seen.values[f"nats.{role}"], gained["student"], tokens, drawn)

    whole = [row["text"] for row in data.read_rows(inputs["data"], config.split)]
    parts = slices.by_length(texts)
    cut = slices.of_sums(parts, gained["teacher"], gained["student"], tokens, config.bootstrap, seed)
    return {
        "against_teacher": against("teacher"),
        "champion": champion.rival(inputs, lambda: against("champion")),
        "slices": tuple(map(as_perplexity, cut)),
        "leakage": leakage.of_split(inputs["data"], whole),
    }


def as_perplexity(one: Slice) -> Slice:
    """A slice whose scores are mean log-likelihoods, told as perplexities."""
    return one.model_copy(update={"teacher": float(np.exp(-one.teacher)), "student": float(np.exp(-one.student))})


def behaved(inputs: dict[str, Path], teacher: Opened, student: Opened) -> tuple[Behaviour, ...]:
    """What both write to the user's prompts, greedily, checked; none where there are none."""
    if "behaviour" not in inputs:
        return ()

    def asker(model: Opened) -> Any:
        return lambda prompt: model.text(list(model.stream(model.ids(prompt), behaviour.TOKENS)))

    return behaviour.of_writers(checklist.read(inputs["behaviour"]), asker(teacher), asker(student))

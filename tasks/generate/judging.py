"""The quality of models that write, teacher, student and floor together: documents read, prompts answered, questions.

A measure that cannot be taken is left out with the reason, so that a gate that asks for it can say so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from registry.records import WRITING, Measure, MeasureName, ShrinkError
from tasks import data, progress
from tasks.embed.measures import resamples
from tasks.evaluate import ROLES
from tasks.generate import chatting, evaluation, multiple_choice, reading
from tasks.generate.evaluation import Questions
from tasks.generate.reading import Model

if TYPE_CHECKING:
    from tasks.generate.evaluate import GenerateEvaluateConfig

Floats = NDArray[np.float64]
STEPS = 7  # of an evaluation's progress: four here, three of speed and memory


class Seen(NamedTuple):
    """What quality was found, and every value behind it."""

    measures: dict[MeasureName, Measure]
    left_out: dict[MeasureName, str]
    kl: dict[str, dict[str, Any]]  # by role, as fields of its ModelScore
    values: dict[str, Floats]
    examples: int


def judged(models: Mapping[str, Model], rows: Path, config: "GenerateEvaluateConfig", seed: int) -> Seen:
    """All measures of quality of the opened models."""
    texts = documents(rows, config.split, config.text_bytes)
    if not texts:
        raise ShrinkError(f"split: the data has no {config.split} documents; add them or choose another split")
    length = int(data.read_facts(rows)["max_length"])
    second = documents(rows, "second", config.text_bytes)
    found = Seen({}, {}, {role: {} for role in ROLES}, {}, len(texts))
    read_texts(found, models, texts, length, config, seed, "")
    if second:
        read_texts(found, models, second, length, config, seed, "_second")
    chat(found, models, config, seed)
    choose(found, models, config, seed)
    for name in WRITING:
        if name not in found.measures and name.endswith("_second"):
            found.left_out[name] = "the data has no second domain"
    return found


def documents(rows: Path, name: str, most: int) -> list[str]:
    """The texts of a split to read."""
    texts = [str(row["text"]) for row in data.read_rows(rows, name)]
    return reading.chosen(texts, most) if texts else []


def read_texts(
    found: Seen,
    models: Mapping[str, Model],
    texts: Sequence[str],
    length: int,
    config: "GenerateEvaluateConfig",
    seed: int,
    domain: Literal["", "_second"],
) -> None:
    """Add what reading a domain's documents gives: perplexities, KL, and of the first domain top-1 agreement."""
    from tasks.generate import measures

    step, what = (1, "second domain") if domain else (0, "held-out documents")
    models = models if not domain else {role: models[role] for role in ROLES}
    read = reading.read(models, texts, length, lambda at: progress.report(step, STEPS, f"{what}: {at}/{len(texts)}"))
    drawn = resamples(len(texts), config.bootstrap, seed)
    token: MeasureName = "perplexity_second" if domain else "perplexity"
    byte: MeasureName = "byte_perplexity_second" if domain else "byte_perplexity"
    found.measures[token] = measures.compared(token, read.nats, read.tokens, drawn)
    found.measures[byte] = measures.compared(byte, read.nats, read.sizes, drawn)
    for role in ROLES[1:]:
        if read.alike[role]:
            found.kl[role][f"kl{domain}"] = measures.mean(read.kl[role], read.tokens, drawn)
    alike = {role: read.alike[role] for role in ROLES}
    if not domain and all(alike.values()):
        found.measures["top1_agreement"] = measures.compared("top1_agreement", read.same, read.tokens, drawn)
    elif not domain:
        other = ", ".join(role for role, same in alike.items() if not same)
        found.left_out["top1_agreement"] = f"{other} cuts text into other tokens than the teacher"
    for role in ROLES:
        found.values.update({f"nats{domain}.{role}": read.nats[role], f"kl{domain}.{role}": read.kl[role]})
        found.values[f"same{domain}.{role}"] = read.same[role]
    found.values.update({f"nats.{role}": read.nats[role] for role in models if role not in ROLES})
    found.values.update({f"tokens{domain}": read.tokens, f"bytes{domain}": read.sizes})


def chat(found: Seen, models: Mapping[str, Model], config: "GenerateEvaluateConfig", seed: int) -> None:
    """Add how far the answers to the chat prompts are the teacher's."""
    from tasks.generate import measures

    asked = evaluation.prompts()[: config.prompts]
    if not asked:
        found.left_out["chat_agreement"] = "prompts is 0"
        return
    teacher, alike = models["teacher"].opened, "top1_agreement" in found.measures
    shares = []
    try:
        for place, prompt in enumerate(asked):
            progress.report(2, STEPS, f"chat prompts: {place}/{len(asked)}")
            given = chatting.answer(teacher, prompt, config.answer)
            shares.append([chatting.kept(models[role].opened, teacher, prompt, given, alike) for role in ROLES[1:]])
    except ShrinkError as error:  # no chat template, or a context that is too short
        found.left_out["chat_agreement"] = str(error)
        return
    kept = {"teacher": np.ones(len(asked))} | dict(zip(ROLES[1:], np.array(shares).T, strict=True))
    drawn = resamples(len(asked), config.bootstrap, seed)
    found.measures["chat_agreement"] = measures.compared("chat_agreement", kept, np.ones(len(asked)), drawn)
    found.values.update({f"chat.{role}": np.ascontiguousarray(one) for role, one in kept.items()})


def choose(found: Seen, models: Mapping[str, Model], config: "GenerateEvaluateConfig", seed: int) -> None:
    """Add how many of the questions each model answers right."""
    from tasks.generate import measures

    names: tuple[Questions, ...] = ("facts", "endings")
    for name in names:
        if name not in config.questions:
            found.left_out[name] = "not among the questions asked"
            continue
        progress.report(3, STEPS, f"questions: {name}")
        asked = evaluation.questions(name)
        right = {role: multiple_choice.right(models[role].opened, asked, name == "endings") for role in ROLES}
        found.measures[name] = measures.answered(name, right, resamples(len(asked), config.bootstrap, seed))
        found.values.update({f"{name}.{role}": one for role, one in right.items()})

"""The scores of a delivered model, computed again on the rows that its evaluation was made on, and set beside it."""

from pathlib import Path
from typing import Any

import numpy as np

from registry.records import PERPLEXITIES, Check, Evaluation
from tasks import floor, metrics, multilabel, runtime, sound
from tasks.embed.evaluate import EmbedEvaluateConfig
from tasks.evaluate import EvaluateConfig
from tasks.generate.evaluate import GenerateEvaluateConfig

AnyEvaluateConfig = EvaluateConfig | EmbedEvaluateConfig | GenerateEvaluateConfig


NOT = "not recomputed"  # begins the reason of a score that nothing was known of


def lacking(inputs: dict[str, Path], config: AnyEvaluateConfig) -> str | None:
    """What the scores would have to be computed from and is not here; None where all of it is."""
    if "data" not in inputs:
        return "rows"
    return "teacher" if isinstance(config, EmbedEvaluateConfig) and "teacher" not in inputs else None


def check(inputs: dict[str, Path], config: AnyEvaluateConfig, evaluation: Evaluation, tolerance: float) -> Check:
    """Every score that can be had without the other models; a perplexity's difference is relative."""
    found, told = scores(inputs, config), declared(evaluation)
    both = [name for name in found if told.get(name) is not None]
    if not both:
        return sound.check("score", True, "the evaluation has no score that the student's answers alone give")
    apart = {name: difference(name, found[name], told[name]) for name in both}
    name = max(both, key=lambda one: apart[one] if np.isfinite(apart[one]) else np.inf)
    said = (
        f"{name} is {found[name]:.4f}, the evaluation says {told[name]:.4f}; a difference of {tolerance:g} is allowed"
    )
    return sound.check("score", bool(apart[name] <= tolerance), said, found[name], told[name])


def difference(name: str, found: float, told: float) -> float:
    """How far a score is from the declared one."""
    return abs(found - told) / (abs(told) if name in PERPLEXITIES else 1.0)


def declared(evaluation: Evaluation) -> dict[str, Any]:
    """The student's scores by name, as an evaluation says them."""
    student = evaluation.student
    own = {name: getattr(student, name) for name in ("accuracy", "macro_f1", "mcc", "micro_f1")}
    return own | {name: one.student for name, one in evaluation.measures.items()}


def scores(inputs: dict[str, Path], config: AnyEvaluateConfig) -> dict[str, float]:
    """The scores by name, from inputs["model"] and ["data"]; of embeddings ["teacher"] as well."""
    match config:
        case EvaluateConfig():
            return of_labels(inputs, config)
        case EmbedEvaluateConfig():
            return of_vectors(inputs, config)
        case GenerateEvaluateConfig():
            return of_text(inputs, config)


def of_labels(inputs: dict[str, Path], config: EvaluateConfig) -> dict[str, float]:
    """A classifier's."""
    rows = floor.read_rows(inputs["data"] / f"{config.split}.jsonl")
    labels = np.array([row["label"] for row in rows], dtype=np.int64)
    logits = runtime.predict(inputs["model"], [row["text"] for row in rows], config.batch)
    if not np.isfinite(logits).all():
        return {"accuracy": float("nan")}
    guesses = (multilabel.decided if labels.ndim == 2 else metrics.classes)(logits)
    more = "micro_f1" if labels.ndim == 2 else "mcc"
    return {
        "accuracy": metrics.accuracy(guesses, labels),
        "macro_f1": metrics.macro_f1(guesses, labels),
        more: metrics.measure("micro_f1" if labels.ndim == 2 else "mcc", guesses, labels),
    }


def of_vectors(inputs: dict[str, Path], config: EmbedEvaluateConfig) -> dict[str, float]:
    """How like the teacher's an embedding model's vectors are."""
    from tasks.embed import measures

    rows = floor.read_rows(inputs["data"] / f"{config.split}.jsonl")
    texts = [str(row["text"]) for row in rows[:: max(1, -(-len(rows) // config.texts))]]
    vectors = [runtime.predict(inputs[role], texts, config.batch) for role in ("teacher", "model")]
    teacher, student = (one @ one.T for one in vectors)
    return {
        "overlap_at_10": float(measures.overlap(teacher, student, measures.NEAREST).mean()),
        "spearman": float(measures.rank_correlation(teacher, student).mean()),
    }


def of_text(inputs: dict[str, Path], config: GenerateEvaluateConfig) -> dict[str, float]:
    """What a model that writes makes of the held-out documents: perplexity a byte, which needs no other model."""
    from tasks import data
    from tasks.generate import judging, measures, reading
    from tasks.generate import runtime as writers

    texts = judging.documents(inputs["data"], config.split, config.text_bytes)
    length = int(data.read_facts(inputs["data"])["max_length"])
    opened = writers.open_model(inputs["model"], config.runtime)
    models = {reading.TEACHER: reading.Model(opened, reading.first_token(inputs["model"]))}
    read = reading.read(models, texts, length, lambda at: None)
    nats, sizes = read.nats[reading.TEACHER].sum(), read.sizes.sum()
    return {"byte_perplexity": float(measures.score("byte_perplexity", np.asarray(nats), np.asarray(sizes)))}

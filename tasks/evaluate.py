"""Judge the student beside its teacher and the honest floor on the same held-out rows, from exported files alone."""

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from registry.records import STRICT, Difference, Evaluation, Metric, ModelScore, ShrinkError, directory_bytes
from tasks import (
    behaviour,
    bench,
    champion,
    checklist,
    floor,
    leakage,
    metrics,
    multilabel,
    paired,
    pairs,
    progress,
    runtime,
    slices,
    windows,
)

SPEED = ("p50_ms", "p95_ms", "throughput", "peak_rss_mb", "speeds")
ROLES = ("teacher", "student", "floor")
LONG = " ".join(f"Chapter {number}: the road goes on, and nobody asks where it ends." for number in range(1, 61))
GOLDEN = (  # shipped and about nothing of the user's; from a word to more than any model here reads, in several scripts
    "A warm and funny film that never loses its way.",
    "Two hours of noise without a single idea.",
    "The lead is superb, the script is not.",
    "I would not watch this again if you paid me.",
    "Quietly devastating, beautifully shot.",
    "The jokes are old and the ending is worse.",
    "It starts slowly but earns every tear.",
    "A dull copy of a better story.",
    "Not bad at all.",
    "Not good at all.",
    "Good",
    "Terrible!",
    "The battery lasts a day and the screen is bright.",
    "It broke after a week, and nobody answered my mails.",
    "Neither fish nor fowl, yet oddly charming in its own clumsy, overlong, well-meaning way.",
    "1234 ... ??? ---",
    "Ça va? Größe, naïveté, żółw, e\u0301te\u0301 und 5\u00a0€.",
    "Фильм длинный, но хороший.",
    "映画は長いが、とても良い。",
    "الفيلم طويل لكنه جميل",
    "Five of five \u2605\u2605\u2605\u2605\u2605 \U0001f44d\U0001f3fd",
    LONG,
)


class EvaluateConfig(BaseModel):
    """Settings of the evaluation."""

    model_config = STRICT
    reads: ClassVar[dict[str, str]] = {"teacher": "onnx", "student": "onnx", "floor": "floor", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("evaluation", "evaluation")
    kind: Literal["evaluate"] = Field("evaluate", description="The stage's kind.")
    task: Literal["classify"] = Field("classify", description="What the recipe's models are for.")
    split: Literal["test", "validation"] = Field("test", description="Rows to judge on; test is for the last word.")
    metric: Metric = Field(
        "accuracy",
        description="What retention and the gate go by: macro_f1 or mcc where one is rare, micro_f1 with multi_label.",
    )
    bootstrap: int = Field(2000, ge=100, le=1_000_000, description="Paired resamples behind every interval.")
    batch: int = Field(
        1, ge=1, le=65_536, description="Texts a batch when predicting; dynamic int8 answers depend on it a little."
    )
    rounds: int = Field(200, ge=1, le=1_000_000, description="Timed texts a model for the latency percentiles.")
    slices: tuple[str, ...] = Field(
        (),
        max_length=8,
        description="Columns of the data whose values part the rows that are judged apart, too.",
    )


def run(inputs: dict[str, Path], config: EvaluateConfig, out: Path, seed: int) -> dict[str, Any]:
    """Predict with all three models, compare them, time them, and write the evaluation artifact."""
    from safetensors.numpy import save_file

    rows = floor.read_rows(inputs["data"] / f"{config.split}.jsonl")
    if not rows:
        raise ShrinkError(f"split: the data has no {config.split} rows; add them or choose another split")
    texts = [row["text"] for row in rows]
    labels = np.array([row["label"] for row in rows], dtype=np.int64)
    logits = predictions(inputs, texts, config.batch)
    progress.report(2, 3, "timing")
    speed = bench.measure({role: inputs[role] for role in ROLES}, texts, config.rounds)
    progress.report(2, 3, "energy of serving")
    serving = windows.of_encoders({role: inputs[role] for role in windows.ROLES}, texts, config.rounds)
    result = evaluation(inputs, logits, labels, speed, config, seed).model_copy(update={"serving": serving})
    guesses = {role: decide(logits[role], labels.ndim == 2) for role in logits}
    result = result.model_copy(update=beside(inputs, guesses, rows, labels, config, seed))
    write_json(out / "evaluation.json", quality(result))
    save_file({"labels": labels, **{role: logits[role] for role in ROLES}}, out / "predictions.safetensors")
    write_golden(inputs["student"], out / "golden.json")
    progress.report(3, 3, f"retention {result.retention.point:.4f}")
    return result.model_dump(mode="json")


def predictions(inputs: dict[str, Path], texts: list[pairs.Text], batch: int) -> dict[str, NDArray[Any]]:
    """Logits of teacher, student and, where there is one like them, the champion; decision values of the floor."""
    if runtime.settings(inputs["teacher"])["labels"] != runtime.settings(inputs["student"])["labels"]:
        raise ShrinkError("student: its labels differ from the teacher's; export both from the same data")
    answers: dict[str, NDArray[Any]] = {"floor": floor.scores(inputs["floor"], texts)}
    asked = ["teacher", "student"]
    if champion.comparable(inputs):
        asked.append("champion")
    for done, role in enumerate(asked):
        progress.report(min(done, 2), 3, f"predicting with the {role}")
        answers[role] = runtime.predict(inputs[role], texts, batch)
        if not np.isfinite(answers[role]).all():
            raise RuntimeError(f"the {role} gave logits that are not finite")
    return answers


def evaluation(
    inputs: dict[str, Path],
    logits: dict[str, NDArray[Any]],
    labels: NDArray[np.int64],
    speed: dict[str, dict[str, Any]],
    config: EvaluateConfig,
    seed: int,
) -> Evaluation:
    """Put scores and paired comparisons together."""
    several = labels.ndim == 2
    guesses = {role: decide(logits[role], several) for role in ROLES}
    models = {
        role: ModelScore(
            accuracy=metrics.accuracy(guesses[role], labels),
            macro_f1=metrics.macro_f1(guesses[role], labels),
            mcc=None if several else metrics.measure("mcc", guesses[role], labels),
            micro_f1=metrics.measure("micro_f1", guesses[role], labels) if several else None,
            bytes=model_bytes(inputs[role]),
            **speed[role],
        )
        for role in ROLES
    }
    three = (guesses["teacher"], guesses["student"], guesses["floor"])
    paired = metrics.comparison(*three, labels, config.bootstrap, seed, config.metric)
    return Evaluation(examples=len(labels), metric=config.metric, **models, **paired)


def decide(logits: NDArray[Any], several: bool) -> NDArray[np.int64]:
    """Each row's class, or its set of labels."""
    return multilabel.decided(logits) if several else metrics.classes(logits)


def beside(
    inputs: dict[str, Path],
    guesses: dict[str, NDArray[np.int64]],
    rows: list[pairs.Row],
    labels: NDArray[np.int64],
    config: EvaluateConfig,
    seed: int,
) -> dict[str, Any]:
    """What the gate asks beyond the whole: paired differences, slices, behaviour, leakage."""

    def against(other: str) -> Difference:
        return paired.of_guesses(config.metric, guesses[other], guesses["student"], labels, config.bootstrap, seed)

    right = {role: metrics.equal(guesses[role], labels) for role in ("teacher", "student")}
    parts = slices.parts_of(rows, runtime.settings(inputs["student"])["labels"], config.slices)
    checks = checklist.read(inputs["behaviour"]) if "behaviour" in inputs else {}
    return {
        "against_teacher": against("teacher"),
        "champion": champion.rival(inputs, lambda: against("champion")),
        "slices": slices.of_answers(parts, right["teacher"], right["student"]),
        "behaviour": behaviour.of_classifiers(checks, inputs["teacher"], inputs["student"]) if checks else (),
        "leakage": leakage.of_split(inputs["data"], [row["text"] for row in rows]),
    }


def model_bytes(directory: Path) -> int:
    """Bytes needed to serve the model; the floor's values for the training rows are no part of it."""
    extra = directory / "logits.safetensors"
    return directory_bytes(directory) - (extra.stat().st_size if extra.is_file() else 0)


def quality(result: Evaluation) -> dict[str, Any]:
    """The part of an evaluation that does not change from run to run: all but speed and memory."""
    values = result.model_dump(mode="json", exclude={"reference", "serving"})
    for role in ROLES:
        values[role] = {name: value for name, value in values[role].items() if name not in SPEED}
    return values


def write_golden(student: Path, path: Path) -> None:
    """Made-up texts (or pairs of them) with the student's logits or embeddings, one a batch, for later checks."""
    texts: list[pairs.Text] = list(GOLDEN)
    if runtime.settings(student).get("pairs"):
        texts = list(zip(GOLDEN, (*GOLDEN[1:], GOLDEN[0]), strict=True))
    answers = runtime.predict(student, texts, batch=1)
    name = runtime.OUTPUTS[runtime.task(student)]
    write_json(path, {"texts": texts, name: [[float(value) for value in row] for row in answers]})


def write_json(path: Path, value: Any) -> None:
    """Sorted, indented JSON."""
    path.write_text(json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

"""Judge an embedding student beside its teacher and the floor on held-out texts, from exported files alone.

How much of the teacher's similarities is kept (neighbours, ranks) needs no labels; where the data has some, a linear
probe on the frozen vectors says what they are worth for a task that nobody trained them for.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from registry.records import STRICT, Evaluation, MeasureName, ModelScore, ShrinkError
from tasks import bench, floor, metrics, progress, runtime, windows
from tasks.embed import beside, measures
from tasks.embed import floor as embed_floor
from tasks.evaluate import ROLES, model_bytes, quality, write_golden, write_json


class EmbedEvaluateConfig(BaseModel):
    """Settings of the evaluation of embeddings."""

    model_config = STRICT
    reads: ClassVar[dict[str, str]] = {"teacher": "onnx", "student": "onnx", "floor": "floor", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("evaluation", "evaluation")
    kind: Literal["evaluate"] = Field("evaluate", description="The stage's kind.")
    task: Literal["embed"] = Field("embed", description="What the recipe's models are for.")
    split: Literal["test", "validation"] = Field("test", description="Texts to judge on; test is for the last word.")
    texts: int = Field(4000, ge=20, description="Held-out texts at most, each compared with all others.")
    bootstrap: int = Field(
        2000, ge=100, le=1_000_000, description="Paired resamples of the texts behind every interval."
    )
    batch: int = Field(
        1,
        ge=1,
        le=65_536,
        description="Held-out texts a batch; dynamic int8 vectors depend on it a little. Others go by 32.",
    )
    rounds: int = Field(200, ge=1, le=1_000_000, description="Timed texts a model for the latency percentiles.")
    slices: tuple[str, ...] = Field(
        (), max_length=8, description="Columns of the data whose values part the rows that are judged apart, too."
    )


def run(inputs: dict[str, Path], config: EmbedEvaluateConfig, out: Path, seed: int) -> dict[str, Any]:
    """Embed with all three models, compare them, time them, and write the evaluation artifact.

    It holds every text's values, never a vector: a text can be guessed from its vector.
    """
    from safetensors.numpy import save_file

    rows = floor.read_rows(inputs["data"] / f"{config.split}.jsonl")
    rows = rows[:: max(1, -(-len(rows) // config.texts))]
    if len(rows) <= measures.NEAREST:
        raise ShrinkError(
            f"split: the data has {len(rows)} {config.split} rows; more than {measures.NEAREST} are compared"
        )
    texts = [str(row["text"]) for row in rows]
    held = vectors(inputs, texts, config.batch, "held-out texts")
    values: dict[MeasureName, dict[str, NDArray[np.float64]]] = measures.alike(held)
    labels = np.array([int(row["label"]) for row in rows], dtype=np.int64)
    guesses = probed(inputs, held)
    if guesses:
        values["probe_accuracy"] = {role: (guesses[role] == labels).astype(np.float64) for role in ROLES}
    progress.report(4, 5, "timing")
    speed = bench.measure({role: inputs[role] for role in ROLES}, texts, config.rounds)
    progress.report(4, 5, "energy of serving")
    serving = windows.of_encoders({role: inputs[role] for role in windows.ROLES}, texts, config.rounds)
    result = evaluation(inputs, values, guesses, speed, config, seed).model_copy(update={"serving": serving})
    result = result.model_copy(update=beside.found(inputs, rows, held, values, result, config, seed))
    write_json(out / "evaluation.json", quality(result))
    save_file(
        {f"{name}.{role}": one for name, by in values.items() for role, one in by.items()}, out / "values.safetensors"
    )
    write_golden(inputs["student"], out / "golden.json")
    progress.report(5, 5, f"retention {result.retention.point:.4f}")
    return result.model_dump(mode="json")


def vectors(inputs: dict[str, Path], texts: list[str], batch: int, what: str) -> dict[str, Any]:
    """Each role's vectors of the texts: [texts, width], sparse those of TF-IDF."""
    found = {"floor": embed_floor.caller(inputs["floor"])(texts)}
    for role in ("teacher", "student"):
        progress.report(len(found), 5, f"{what}: {role}")
        found[role] = runtime.predict(inputs[role], texts, batch)
        if not np.isfinite(found[role]).all():
            raise RuntimeError(f"the {role} gave embeddings that are not finite")
    return found


def probed(inputs: dict[str, Path], held: dict[str, Any]) -> dict[str, NDArray[np.int64]]:
    """Each role's classes of the held-out texts by a probe on the training rows; none where these have no labels."""
    rows = floor.read_rows(inputs["data"] / "train.jsonl")
    labels = np.array([int(row["label"]) for row in rows], dtype=np.int64)
    if not len(labels) or labels.min() < 0:
        return {}
    seen = vectors(inputs, [str(row["text"]) for row in rows], 32, "probe")
    return {role: measures.probe(seen[role], labels, held[role]) for role in ROLES}


def evaluation(
    inputs: dict[str, Path],
    values: "dict[MeasureName, dict[str, NDArray[np.float64]]]",
    guesses: dict[str, NDArray[np.int64]],
    speed: dict[str, dict[str, Any]],
    config: EmbedEvaluateConfig,
    seed: int,
) -> Evaluation:
    """Put measures, sizes and times together; what kept least of the teacher's score stands for the whole."""
    examples = len(values["spearman"]["teacher"])
    drawn = measures.resamples(examples, config.bootstrap, seed)
    found = {name: measures.compared(one, drawn) for name, one in values.items()}
    least = min(found, key=lambda name: found[name].retention.point)
    models = {role: ModelScore(bytes=model_bytes(inputs[role]), **speed[role]) for role in ROLES}
    flips: dict[str, Any] = {"flips_to_wrong": None, "flips_to_right": None, "agreement": None}
    if guesses:
        right = {role: one > 0 for role, one in values["probe_accuracy"].items()}
        flips["flips_to_wrong"] = int(np.sum(right["teacher"] & ~right["student"]))
        flips["flips_to_right"] = int(np.sum(right["student"] & ~right["teacher"]))
        flips["agreement"] = metrics.accuracy(guesses["student"], guesses["teacher"])
    whole = found[least].model_dump(include={"retention", "lift_retained", "win_over_floor"})
    return Evaluation(examples=examples, task="embed", metric=least, measures=found, **models, **whole, **flips)

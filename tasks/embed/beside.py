"""What the gate asks of an embedding student beyond the whole: paired differences, slices, behaviour, leakage.

All by the measure that kept least. A champion's vectors may have another width: similarities are compared.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from registry.records import Behaviour, Difference, Evaluation, MeasureName
from tasks import behaviour, champion, checklist, floor, leakage, paired, runtime, slices
from tasks.embed import measures

if TYPE_CHECKING:
    from tasks.embed.evaluate import EmbedEvaluateConfig

Floats = NDArray[np.float64]


def found(
    inputs: dict[str, Path],
    rows: list[dict[str, Any]],
    held: dict[str, Any],
    values: dict[MeasureName, dict[str, Floats]],
    result: Evaluation,
    config: "EmbedEvaluateConfig",
    seed: int,
) -> dict[str, Any]:
    """The fields of an Evaluation; `held` are the vectors by role, `values` every text's measures."""
    (own,) = (one for name, one in values.items() if name == result.metric)
    ones = np.ones(len(rows))
    drawn = measures.resamples(len(rows), config.bootstrap, seed)

    def against_champion() -> Difference:
        theirs = of_champion(inputs, rows, held["teacher"], result.metric, config.batch)
        return paired.of_sums(theirs, own["student"], ones, drawn)

    parts = slices.parts_of(rows, (), config.slices)
    return {
        "against_teacher": paired.of_sums(own["teacher"], own["student"], ones, drawn),
        "champion": champion.rival(inputs, against_champion),
        "slices": slices.of_sums(parts, own["teacher"], own["student"], ones, config.bootstrap, seed),
        "behaviour": behaved(inputs),
        "leakage": leakage.of_split(inputs["data"], [row["text"] for row in rows]),
    }


def behaved(inputs: dict[str, Path]) -> tuple[Behaviour, ...]:
    """The user's checks of both models' vectors; none where there are none."""
    if "behaviour" not in inputs:
        return ()
    return behaviour.of_vectors(checklist.read(inputs["behaviour"]), inputs["teacher"], inputs["student"])


def of_champion(inputs: dict[str, Path], rows: list[dict[str, Any]], teacher: Any, metric: str, batch: int) -> Floats:
    """The champion's value of a measure for every text."""
    vectors = runtime.predict(inputs["champion"], [str(row["text"]) for row in rows], batch)
    if metric != "probe_accuracy":
        by_name = measures.alike({"teacher": teacher, "champion": vectors})
        return next(one["champion"] for name, one in by_name.items() if name == metric)
    train = floor.read_rows(inputs["data"] / "train.jsonl")
    learnt = runtime.predict(inputs["champion"], [str(row["text"]) for row in train], 32)
    labels = np.array([int(row["label"]) for row in train], dtype=np.int64)
    wanted = np.array([int(row["label"]) for row in rows], dtype=np.int64)
    return np.asarray(measures.probe(learnt, labels, vectors) == wanted, dtype=np.float64)

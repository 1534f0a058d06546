"""Cross-fitting: every sentence is judged by a teacher, student and floor that never saw it.

Run: python -m benchmarks.crossfit [RECIPE] --folds 5 --threads 2 --work .shrink/crossfit
Interrupted, it goes on where it stopped. Prints one JSON object: pooled scores with paired intervals, and each fold.
With --variant NAME (of benchmarks/ablations.py) it trains a second student a fold and says what the part is worth.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks import chain
from benchmarks.ablations import VARIANTS, changed
from flows import sources
from flows.recipe import Recipe, load
from tasks import metrics
from tasks.data import labelled_rows
from tasks.splits import normalise

RESAMPLES = 10_000
VALIDATION = 12  # percent of the rows outside the fold: only looked at, as in the recipe's own split


def parts(clusters: set[str], fold: int, folds: int) -> dict[str, str]:
    """Cluster to split: the fold's fifth is the test, of the rest a small part is validation."""
    found = {}
    for cluster in clusters:
        number = int(hashlib.md5(f"fold:{cluster}".encode(), usedforsecurity=False).hexdigest(), 16)
        rest = "validation" if number // folds % 100 < VALIDATION else "train"
        found[cluster] = "test" if number % folds == fold else rest
    return found


def main() -> None:
    """Run all folds and pool them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="sentiment")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path(".shrink/crossfit"))
    parser.add_argument("--variant", choices=list(VARIANTS), help="train this one too, and compare")
    asked = parser.parse_args()
    recipe = load(asked.recipe)
    work = asked.work.absolute()
    source = sources.resolve(recipe.data_source, work)
    clusters = {normalise(row["text"]) for row in labelled_rows(source, recipe.rows)[0]}
    pooled: dict[str, list[Any]] = {"labels": [], "teacher": [], "student": [], "floor": [], "variant": []}
    folds = []
    for fold in range(asked.folds):
        data = work / f"data-{fold}"
        chain.write_data(data, recipe.rows, source, parts(clusters, fold, asked.folds))
        seen, facts = judged(recipe, data, work, asked.threads)
        if asked.variant:
            variant = changed(recipe, VARIANTS[asked.variant], recipe.seed)
            seen["variant"] = judged(variant, data, work, asked.threads)[0]["student"]
        for name, guesses in seen.items():
            pooled[name].append(guesses)
        folds.append(facts)
        print(json.dumps({"fold": fold, **facts}), flush=True)
    whole = {name: np.concatenate(values) for name, values in pooled.items() if values}
    print(json.dumps({**over_all(whole, recipe.seed), "folds": folds}, indent=1))


def judged(recipe: Recipe, data: Path, work: Path, threads: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What teacher, student and floor guess for the fold's sentences, with their labels; and the fold's figures."""
    held = chain.walk(recipe, data, work, threads)
    directory = chain.evaluated(recipe, held, work, threads)
    seen = load_file(directory / "out" / "predictions.safetensors")
    guesses = {name: metrics.classes(seen[name]) for name in ("teacher", "student", "floor")}
    return {"labels": seen["labels"], **guesses}, summary(chain.result(directory))


def over_all(whole: dict[str, Any], seed: int) -> dict[str, Any]:
    """Pooled scores, intervals and, with a variant, how much better the recipe's student is than it, paired."""
    labels = whole["labels"]
    models = {name: guesses for name, guesses in whole.items() if name != "labels"}
    compared = metrics.comparison(whole["teacher"], whole["student"], whole["floor"], labels, RESAMPLES, seed)
    facts = {name: value.model_dump() if hasattr(value, "model_dump") else value for name, value in compared.items()}
    scores = {name: metrics.accuracy(guesses, labels) for name, guesses in models.items()}
    found = {"examples": len(labels), "accuracy": scores, **facts}
    if "variant" in whole:
        right = (whole["student"] == labels, whole["variant"] == labels)
        draws = metrics.resample(right, RESAMPLES, seed) @ np.array([1.0, -1.0])
        found["student_minus_variant"] = metrics.interval(scores["student"] - scores["variant"], draws).model_dump()
    return found


def summary(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The figures of one fold."""
    teacher, student = evaluation["teacher"], evaluation["student"]
    return {
        "accuracy": {name: evaluation[name]["accuracy"] for name in ("teacher", "student", "floor")},
        "retention": evaluation["retention"]["point"],
        "bytes": [teacher["bytes"], student["bytes"]],
        "bytes_ratio": teacher["bytes"] / student["bytes"],
        "p50_ms": [teacher["p50_ms"], student["p50_ms"]],
        "speed_ratio": teacher["p50_ms"] / student["p50_ms"],
    }


if __name__ == "__main__":
    main()

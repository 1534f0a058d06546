"""Cross-fitting: every sentence is judged by a teacher, student and floor that never saw it.

Run: python -m benchmarks.crossfit [RECIPE] --folds 5 --threads 2 --work .shrink/crossfit
Interrupted, it goes on where it stopped. Prints one JSON object: pooled scores with paired intervals, and each fold.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks import chain
from flows import sources
from flows.recipe import load
from tasks import metrics
from tasks.data import labelled_rows, normalise

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
    asked = parser.parse_args()
    recipe = load(asked.recipe)
    work = asked.work.absolute()
    source = sources.resolve(recipe.data_source, work)
    clusters = {normalise(row["text"]) for row in labelled_rows(source, recipe.data)[0]}
    pooled: dict[str, list[Any]] = {"labels": [], "teacher": [], "student": [], "floor": []}
    folds = []
    for fold in range(asked.folds):
        data = work / f"data-{fold}"
        chain.write_data(data, recipe.data, source, parts(clusters, fold, asked.folds))
        held = chain.walk(recipe, data, work, asked.threads)
        directory = chain.evaluated(recipe, held, work, asked.threads)
        seen = load_file(directory / "out" / "predictions.safetensors")
        for name, collected in pooled.items():
            collected.append(seen[name] if name == "labels" else metrics.classes(seen[name]))
        folds.append(summary(chain.result(directory)))
        print(json.dumps({"fold": fold, **folds[-1]}), flush=True)
    whole = {name: np.concatenate(values) for name, values in pooled.items()}
    labels = whole.pop("labels")
    compared = metrics.comparison(whole["teacher"], whole["student"], whole["floor"], labels, 10_000, recipe.seed)
    scores = {name: metrics.accuracy(guesses, labels) for name, guesses in whole.items()}
    facts = {name: value.model_dump() if hasattr(value, "model_dump") else value for name, value in compared.items()}
    print(json.dumps({"examples": len(labels), "accuracy": scores, **facts, "folds": folds}, indent=1))


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

"""What the choice of the neurons that stay is worth: a finished run's student cut by four measures of importance.

Run: python -m benchmarks.cuts RUN [--work .shrink/cuts]   (RUN: a finished run of `sentiment` in .shrink/runs)
From the artifact before prune/structured, half of the recipe's neurons stay (384), without training and with one pass
of distillation; exported and quantised as in the run. Lines as in benchmarks/sparsity.py, each compared with the first,
which is the recipe's own student.
"""

import argparse
from pathlib import Path

from benchmarks.sparsity import line, stages_of
from tasks.distill.logits import DistillLogitsConfig
from tasks.kinds import AnyStageConfig
from tasks.prune.structured import PruneStructuredConfig

MEASURES = ("fisher", "taylor", "activation", "magnitude")


def main() -> None:
    """Every cut."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".shrink/cuts"))
    asked = parser.parse_args()
    made = stages_of(asked.run)
    inputs = {"student": made["prune/vocabulary"][1], "data": made["data"][1], "labels": made["label"][1]}
    taught = {**inputs, "student": made["distill/logits"][1]}
    cut = PruneStructuredConfig.model_validate(made["prune/structured"][0].config)
    lessons = DistillLogitsConfig.model_validate(made["distill/logits"][0].config)
    line("recipe", [], taught, made, asked.work, "recipe")
    for epochs in (0, 1):
        for measure in MEASURES:
            stages: list[AnyStageConfig] = [cut.model_copy(update={"ffn": 384, "importance": measure})]
            stages += [lessons.model_copy(update={"epochs": 1})] if epochs else []
            line(f"{measure}-{epochs}", stages, inputs, made, asked.work, "recipe")


if __name__ == "__main__":
    main()

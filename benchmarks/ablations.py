"""What each part of a recipe is worth: the same teacher, students without one part of it, by seeds.

Run: python -m benchmarks.ablations [RECIPE] --seeds 3 --threads 2 --work .shrink/crossfit
The recipe's own split; accuracy on validation and test together, of the deployed (quantised) student. A line a student.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import chain
from flows import order, sources
from flows.recipe import Recipe, load
from tasks import metrics, runtime
from tasks.data import read_rows
from tasks.distill.logits import DistillLogitsConfig
from tasks.distill.quantized import DistillQuantizedConfig
from tasks.finetune import FinetuneConfig
from tasks.floor import scores
from tasks.kinds import AnyChainConfig, EveryStage
from tasks.label import LabelConfig
from tasks.prune.low_rank import PruneLowRankConfig
from tasks.prune.structured import PruneStructuredConfig
from tasks.prune.vocabulary import PruneVocabularyConfig

ALONE = {"logits_weight": 0.0, "hidden_weight": 0.0, "labels_weight": 1.0, "transfer": False}
LAST: dict[str, Any] = {}  # as a target: what the recipe's last stage says
Changes = dict[type, dict[str, Any] | list[dict[str, Any]]]
BY_STUDENT = {"kind": "label", "teachers": {"student": 1.0}, "second_teacher": 0.5}
SMALL: Changes = {FinetuneConfig: [{}, {"teacher": "small", "keep_layers": 3}]}  # a second teacher of half the layers
TWO = {"teachers": {"teacher": 1.0, "small": 0.5}}
VARIANTS: dict[str, Changes] = {
    "recipe": {},
    "no distillation": {DistillLogitsConfig: ALONE},
    "no transfer text": {DistillLogitsConfig: {"transfer": False}},
    "no second teacher": {LabelConfig: {"second_teacher": 0.0}},
    "no hidden states": {DistillLogitsConfig: {"hidden_weight": 0.0}},
    "attention relations": {DistillLogitsConfig: {"method": "relations"}},
    "hidden width 256": {PruneStructuredConfig: {"hidden": 256}, DistillLogitsConfig: {"hidden_weight": 0.0}},
    "gradual zeros": {DistillLogitsConfig: {"kind": "prune", "method": "gradual", "epochs": 3, "seed": 0}},
    "movement zeros": {DistillLogitsConfig: {"kind": "prune", "method": "movement", "epochs": 3, "seed": 0}},
    "by Taylor": {PruneStructuredConfig: {"importance": "taylor"}},
    "by activation": {PruneStructuredConfig: {"importance": "activation"}},
    "by magnitude": {PruneStructuredConfig: {"importance": "magnitude"}},
    "all hidden states": {DistillLogitsConfig: {"method": "hidden"}},
    "triple loss": {DistillLogitsConfig: {"method": "triple"}},
    "two teachers": {**SMALL, LabelConfig: TWO},
    "two teachers by confidence": {**SMALL, LabelConfig: {**TWO, "confidence": True}},
    "born again": {DistillLogitsConfig: [{}, BY_STUDENT, {"afresh": True}]},
    "own early layers": {PruneStructuredConfig: {"layers": None}, DistillLogitsConfig: {"method": "self", "keep": 3}},
    "no true labels": {DistillLogitsConfig: {"labels_weight": 0.0}},
    "learnt rounding": {DistillLogitsConfig: {"method": "quantized", "target": LAST}},
    "no learnt rounding": {DistillQuantizedConfig: [{"kind": "distill", "epochs": 3}]},
    "whole embedding": {PruneLowRankConfig: []},
    "narrower": {
        PruneVocabularyConfig: {"min_count": 4},
        PruneStructuredConfig: {"ffn": 512},
        PruneLowRankConfig: {"rank": 64},
    },
    "two layers": {PruneVocabularyConfig: {"min_count": 4}, PruneStructuredConfig: {"layers": (0, 5), "ffn": 512}},
}


def changed(recipe: Recipe, changes: Changes, seed: int) -> Recipe:
    """The recipe with fields of some stages replaced, its student of another seed.

    `method` makes another stage, with those of the old fields that it knows. A list stands for the stages in place of
    one, each new where it names its kind.
    """
    stages = []
    for stage in recipe.stages:
        update = changes.get(type(stage), {})
        for one in update if isinstance(update, list) else [update]:
            fields = one if "kind" in one else known(stage, one) | one
            if fields.get("target") is LAST:
                fields = fields | {"target": recipe.stages[-1].model_dump()}
            if fields["kind"] == "distill" or "seed" in fields:
                fields = fields | {"seed": seed}
            stages.append(EveryStage.validate_python(fields))
    found = recipe.model_copy(update={"stages": tuple(stages)})
    order.check(found)
    return found


def applies(recipe: Recipe, name: str) -> bool:
    """Whether a recipe has a stage that the variant changes."""
    return not VARIANTS[name] or any(type(stage) in VARIANTS[name] for stage in recipe.stages)


def known(stage: AnyChainConfig, update: dict[str, Any]) -> dict[str, Any]:
    """What a stage's recipe says of it, as far as it has these fields under an update's method, too."""
    if "method" not in update:
        return stage.model_dump()
    other = type(EveryStage.validate_python({"kind": stage.kind, **update}))
    return {
        name: value for name, value in stage.model_dump(exclude_unset=True).items() if name in other.model_fields
    } | {"kind": stage.kind}


def judged(held: dict[str, Path]) -> dict[str, Any]:
    """Accuracy of teacher, student and floor on validation and test together, and the student's retention."""
    rows = read_rows(held["data"], "validation") + read_rows(held["data"], "test")
    texts, labels = [row["text"] for row in rows], np.array([row["label"] for row in rows])
    kept = held["student"].parent / "judged.npy"
    if not kept.exists():
        np.save(kept, metrics.classes(runtime.predict(held["student"], texts, 1)))
    teacher = held["deployable"].parent / "judged.npy"
    if not teacher.exists():
        np.save(teacher, metrics.classes(runtime.predict(held["deployable"], texts, 1)))
    floor = metrics.classes(scores(held["floor"], texts))
    guesses = {"teacher": np.load(teacher), "student": np.load(kept), "floor": floor}
    compared = metrics.comparison(guesses["teacher"], guesses["student"], floor, labels, 10_000)
    found = {name: metrics.accuracy(guess, labels) for name, guess in guesses.items()}
    return {**found, "retention": compared["retention"].model_dump(), "bytes": size(held["student"])}


def size(directory: Path) -> int:
    """Bytes of a deployable."""
    return sum(path.stat().st_size for path in directory.iterdir())


def main() -> None:
    """Every variant with every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="sentiment")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path(".shrink/ablations"))
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), help="these variants alone")
    asked = parser.parse_args()
    recipe = load(asked.recipe)
    work = asked.work.absolute()
    source = sources.resolve(recipe.data_source, work)
    data = chain.done(work, recipe.rows, {"source": source}, recipe.seed, asked.threads) / "out"
    for seed in range(asked.seeds):
        for name in asked.only or [name for name in VARIANTS if applies(recipe, name)]:
            variant = changed(recipe, VARIANTS[name], seed)
            held = chain.walk(variant, data, work, asked.threads)
            print(json.dumps({"variant": name, "seed": seed, **judged(held)}), flush=True)


if __name__ == "__main__":
    main()

"""The shipped questions asked of a model by lm-evaluation-harness and by us: the same questions must be right.

`python -m benchmarks.questions FOLDER` (an `lm` folder), in an environment that has lm-eval as well:
`pip install 'shrinking-frontier[lm-eval]'`. lm-eval sees the question files as two local tasks, offline.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tasks.generate import evaluation, multiple_choice
from tasks.generate.runtime import open_model

KEYS: dict[evaluation.Questions, tuple[str, str, str]] = {
    "facts": ("question", "choices", "acc"),
    "endings": ("context", "endings", "acc_norm"),
}


def described(name: evaluation.Questions) -> str:
    """A question file as a task of lm-eval."""
    context, choices, _ = KEYS[name]
    metrics = [{"metric": one, "aggregation": "mean", "higher_is_better": True} for one in ("acc", "acc_norm")]
    task = {
        "task": f"shrink_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(evaluation.FOLDER / f"{name}.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": f"{{{{{context}}}}}",
        "doc_to_choice": f"{{{{{choices}}}}}",
        "doc_to_target": "{{answer}}",
        "metric_list": metrics,
    }
    return json.dumps(task)  # JSON is YAML


def harness(folder: Path) -> dict[str, list[float]]:
    """Of each question whether lm-eval has the model right: 1 or 0."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from tasks.generate import lm

    with tempfile.TemporaryDirectory() as scratch:
        for name in KEYS:
            (Path(scratch) / f"{name}.yaml").write_text(described(name), encoding="utf-8")
        asked: Any = [f"shrink_{name}" for name in KEYS]
        found = simple_evaluate(
            model=HFLM(pretrained=lm.load(folder), tokenizer=lm.load_tokenizer(folder), batch_size=1),
            tasks=asked,
            task_manager=TaskManager(include_path=scratch, include_defaults=False),
        )
    assert found is not None
    told: dict[str, list[float]] = {}
    for name, (_, _, metric) in KEYS.items():
        samples = sorted(found["samples"][f"shrink_{name}"], key=lambda one: int(one["doc_id"]))
        told[name] = [float(one[metric]) for one in samples]
    return told


def main() -> None:
    """Ask both ways and print the accuracies and the questions on which they differ."""
    folder = Path(sys.argv[1])
    theirs, model = harness(folder), open_model(folder, "transformers")
    for name, (_, _, metric) in KEYS.items():
        ours = multiple_choice.right(model, evaluation.questions(name), metric == "acc_norm").tolist()
        other = [place for place, pair in enumerate(zip(ours, theirs[name], strict=True)) if pair[0] != pair[1]]
        means = (sum(ours) / len(ours), sum(theirs[name]) / len(ours))
        print(f"{name} ({metric}): ours {means[0]:.4f}, lm-eval {means[1]:.4f}, {len(ours)} questions, differ: {other}")


if __name__ == "__main__":
    main()

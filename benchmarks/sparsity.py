"""What zeros among the weights cost and save: a finished run's student, pruned by size and by size times input.

Run: python -m benchmarks.sparsity RUN [--work .shrink/sparsity]   (RUN: a finished run, a folder in .shrink/runs)
Exported and quantised as in its run. A line a student: accuracy on validation and test together, quantised; the share
that is kept of the dense student's with its paired 95 % interval; bytes. Last the processor's time for one text.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from registry.records import StageRecord
from tasks import bench, metrics, runtime
from tasks.data import read_rows
from tasks.export.onnx import OnnxConfig
from tasks.export.packed import PackedConfig
from tasks.kinds import AnyStageConfig, EveryStage, function_of
from tasks.prune.magnitude import PruneMagnitudeConfig
from tasks.prune.wanda import PruneWandaConfig

STUDENTS: dict[str, AnyStageConfig | None] = {"dense": None}
STUDENTS |= {f"magnitude-{share}": PruneMagnitudeConfig(sparsity=share) for share in (0.3, 0.5, 0.7)}
STUDENTS |= {f"wanda-{share}": PruneWandaConfig(sparsity=share) for share in (0.3, 0.5, 0.7)}


def done(config: AnyStageConfig, inputs: dict[str, Path], out: Path) -> tuple[Path, dict[str, Any]]:
    """A stage's artifact and what it measured, run in this process."""
    out.mkdir(parents=True)
    return out, function_of(config)(inputs, config, out, 0)


def processor_ms(models: dict[str, Path], texts: list[str], rounds: int = 300) -> dict[str, float]:
    """Median milliseconds of this thread's processor time for a text; waiting for a busy machine does not count."""
    calls = {name: bench.caller(path) for name, path in models.items()}
    taken: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(-10, rounds):
        for name, call in calls.items():
            start = time.thread_time()
            call([texts[turn % len(texts)]])
            taken[name] += [(time.thread_time() - start) * 1e3] if turn >= 0 else []
    return {name: float(np.median(spent)) for name, spent in taken.items()}


def main() -> None:
    """Every student, then the time of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".shrink/sparsity"))
    asked, read = parser.parse_args(), StageRecord.model_validate_json
    made = [(read(at.read_text()), at.parent / "out") for at in sorted(asked.run.glob("*/record.json"))]
    stages = {record.kind: (record, out) for record, out in made}
    data, taught, quantised = stages["data"][1], stages["distill"][1], stages["quantize"][0].config
    rows = read_rows(data, "validation") + read_rows(data, "test")
    texts, labels = [row["text"] for row in rows], np.array([row["label"] for row in rows])
    models: dict[str, Path] = {}
    dense = None
    for name, config in STUDENTS.items():
        folder, student, seen = asked.work / name, taught, {"sparsity": 0.0}
        if config is not None:
            student, seen = done(config, {"student": taught, "data": data}, folder / "sparse")
        sizes = done(PackedConfig(), {"student": student}, folder / "packed")[1]
        full = done(OnnxConfig(), {"model": student}, folder / "full")[0]
        small = done(EveryStage.validate_python(quantised), {"student": full, "data": data}, folder / "small")[0]
        models |= {f"{name} full": full, f"{name} quantised": small}
        right = metrics.classes(runtime.predict(small, texts, 1)) == labels
        dense = right if dense is None else dense
        draws = metrics.resample((dense, right), 10_000, 0)
        kept = metrics.interval(right.mean() / dense.mean(), metrics.ratio(draws[:, 1], draws[:, 0]))
        line = {"student": name, "sparsity": seen["sparsity"], "accuracy": right.mean(), "kept": kept.model_dump()}
        line |= {f"{part}_onnx": (folder / part / "model.onnx").stat().st_size for part in ("full", "small")}
        print(json.dumps(line | sizes), flush=True)
    print(json.dumps({"p50_cpu_ms": processor_ms(models, texts)}))


if __name__ == "__main__":
    main()

"""What zeros among the weights cost and save: a finished run's student, pruned in four ways to several shares of zeros.

Run: python -m benchmarks.sparsity RUN [--work .shrink/sparsity]   (RUN: a finished run, a folder in .shrink/runs)
Exported and quantised as in its run. A line a student: accuracy on validation and test together, quantised; the share
that is kept of the dense student's with its paired 95 % interval; bytes; the processor's seconds that making it took.
Last the processor's time for one text. Interrupted, it goes on behind the last line.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from registry.records import StageRecord
from tasks import bench, metrics, runtime
from tasks.data import read_rows
from tasks.distill.logits import DistillLogitsConfig
from tasks.export.onnx import OnnxConfig
from tasks.export.packed import PackedConfig
from tasks.kinds import AnyStageConfig, EveryStage, function_of
from tasks.prune.gradual import PruneGradualConfig
from tasks.prune.magnitude import PruneMagnitudeConfig
from tasks.prune.movement import PruneMovementConfig
from tasks.prune.wanda import PruneWandaConfig

Made = dict[str, tuple[StageRecord, Path]]
SHARES = (0.3, 0.5, 0.7, 0.9)
STUDENTS: dict[str, AnyStageConfig | None] = {"dense": None}
STUDENTS |= {f"magnitude-{share}": PruneMagnitudeConfig(sparsity=share) for share in SHARES}
STUDENTS |= {f"wanda-{share}": PruneWandaConfig(sparsity=share) for share in SHARES}
STUDENTS |= {"dense, taught on": DistillLogitsConfig(epochs=1)}  # what the next ones owe to their further pass
STUDENTS |= {f"gradual-{share}": PruneGradualConfig(sparsity=share, epochs=1) for share in SHARES[1:]}
STUDENTS |= {f"movement-{share}": PruneMovementConfig(sparsity=share, epochs=1) for share in SHARES[1:]}
STUDENTS |= {"movement-0.7, from 0": PruneMovementConfig(sparsity=0.7, epochs=1, start="zeros")}


def stages_of(run: Path) -> Made:
    """{KIND or KIND/METHOD: record and artifact} of a finished run's stages; of equal ones the last."""
    read = StageRecord.model_validate_json
    found = [(read(at.read_text()), at.parent / "out") for at in sorted(run.glob("*/record.json"))]
    return {"/".join(part for part in (record.kind, record.method) if part): (record, out) for record, out in found}


def done(config: AnyStageConfig, inputs: dict[str, Path], out: Path) -> tuple[Path, dict[str, Any]]:
    """A stage's artifact and what it measured, run in this process."""
    out.mkdir(parents=True)
    return out, function_of(config)(inputs, config, out, 0)


def judged(student: Path, made: Made, folder: Path) -> dict[str, Any]:
    """A student exported and quantised as in its run: its bytes; which rows it gets right is kept in right.npy."""
    data = made["data"][1]
    quantised = next(record.config for name, (record, _) in made.items() if name.startswith("quantize/"))
    rows = read_rows(data, "validation") + read_rows(data, "test")
    sizes = done(PackedConfig(), {"student": student}, folder / "packed")[1]
    full = done(OnnxConfig(), {"model": student}, folder / "full")[0]
    small = done(EveryStage.validate_python(quantised), {"student": full, "data": data}, folder / "small")[0]
    right = metrics.classes(runtime.predict(small, [row["text"] for row in rows], 1))
    np.save(folder / "right.npy", right == np.array([row["label"] for row in rows]))
    return sizes | {f"{part}_onnx": (folder / part / "model.onnx").stat().st_size for part in ("full", "small")}


def compared(folder: Path, whole: Path) -> dict[str, Any]:
    """Accuracy of a judged student, and what it keeps of another's on the same rows."""
    right, dense = (np.load(at / "right.npy") for at in (folder, whole))
    draws = metrics.resample((dense, right), 10_000, 0)
    kept = metrics.interval(right.mean() / dense.mean(), metrics.ratio(draws[:, 1], draws[:, 0]))
    return {"accuracy": float(right.mean()), "kept": kept.model_dump()}


def line(name: str, configs: list[AnyStageConfig], inputs: dict[str, Path], made: Made, work: Path, whole: str) -> None:
    """Print one student, made by some stages one after the other; taken from its file where that was done before."""
    folder = work / name
    if not (folder / "line.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        held, seen, began = dict(inputs), dict[str, Any](), time.process_time()
        for number, config in enumerate(configs):
            held["student"], measured = done(config, held, folder / f"{number}-{config.kind}")
            seen |= measured
        spent = time.process_time() - began
        facts = {"student": name, "sparsity": seen.get("sparsity", 0.0), "parameters": seen.get("parameters")}
        facts |= judged(held["student"], made, folder)
        facts |= compared(folder, work / whole) | {"cpu_seconds": spent}
        (folder / "line.json").write_text(json.dumps(facts))
    print((folder / "line.json").read_text(), flush=True)


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
    asked = parser.parse_args()
    made = stages_of(asked.run)
    inputs = {"student": made["distill/logits"][1], "data": made["data"][1], "labels": made["label"][1]}
    for name, config in STUDENTS.items():
        line(name, [] if config is None else [config], inputs, made, asked.work, "dense")
    texts = [row["text"] for row in read_rows(inputs["data"], "test")]
    models = {f"{name} {part}": asked.work / name / part for name in STUDENTS for part in ("full", "small")}
    print(json.dumps({"p50_cpu_ms": processor_ms(models, texts)}))


if __name__ == "__main__":
    main()

"""How near its own neighbours a finished embedding run's teacher stays when it is only rounded or only cut; floors.

Run: python -m benchmarks.embeddings RUN [--work .shrink/embeddings] [--only NAME …]   (RUN: a folder in .shrink/runs)
Nothing is trained: what is lost here no student of that shape or precision begins with. A line each: MB, overlap@10 and
rank correlation with the teacher's own vectors on the validation texts, and the median processor time of one text.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from registry.records import StageRecord
from tasks import bench, runtime
from tasks.data import read_rows
from tasks.embed import floor, measures
from tasks.export.onnx import OnnxConfig
from tasks.kinds import AnyStageConfig, EveryStage, function_of

INT8: dict[str, Any] = {"kind": "quantize", "method": "int8_dynamic"}
INT4: dict[str, Any] = {"kind": "quantize", "method": "int4_weight_only"}
PIECES: dict[str, Any] = {"kind": "prune", "method": "vocabulary", "transfer": True}
RANK: dict[str, Any] = {"kind": "prune", "method": "low_rank"}
CUT: dict[str, Any] = {"kind": "prune", "method": "structured"}


def smoothed(alpha: float) -> list[dict[str, Any]]:
    """SmoothQuant, then int8."""
    return [{"kind": "quantize", "method": "smooth", "alpha": alpha}, INT8]


ROUNDED: dict[str, list[dict[str, Any]]] = {  # of the teacher's ONNX export
    "as it is": [],
    "int8": [INT8],
    "int8, full range": [INT8 | {"reduce_range": False}],
    "int8, embedding int4": [INT8 | {"embedding": "int4"}],
    "4-bit, embedding int4": [INT4 | {"embedding": "int4"}],
    **{f"smooth {alpha}, int8": smoothed(alpha) for alpha in (0.3, 0.5, 0.7, 0.8, 0.9)},
}
CUTS: dict[str, list[dict[str, Any]]] = {  # of the teacher in torch
    "pieces that occur": [PIECES],
    "pieces that occur twice": [PIECES | {"min_count": 2}],
    "rank 128": [RANK | {"rank": 128}],
    "pieces that occur, rank 192": [PIECES, RANK | {"rank": 192}],
    "pieces that occur twice, rank 256": [PIECES | {"min_count": 2}, RANK | {"rank": 256}],
    "feed-forward 640": [CUT | {"ffn": 640}],
    "10 heads, feed-forward 768": [CUT | {"heads": 10, "ffn": 768}],
    "5 layers, feed-forward 896": [CUT | {"layers": [0, 1, 2, 4, 5], "ffn": 896}],
    "4 layers, feed-forward 768": [CUT | {"layers": [0, 1, 3, 5], "ffn": 768}],
}


def done(config: AnyStageConfig, inputs: dict[str, Path], out: Path) -> Path:
    """A stage's artifact, made in this process unless it is there."""
    if not out.is_dir():
        partial = out.with_suffix(".partial")
        partial.mkdir(parents=True)
        function_of(config)(inputs, config, partial, 0)
        partial.rename(out)
    return out


def made(start: Path, stages: list[dict[str, Any]], data: Path, work: Path) -> Path:
    """What stages make of a start, one after the other."""
    for number, stage in enumerate(stages):
        start = done(EveryStage.validate_python(stage), {"student": start, "data": data}, work / f"{number}")
    return start


def vectors(call: Any, texts: list[str]) -> tuple[Any, float]:
    """Vectors of the texts, one at a time, and the median milliseconds of this thread's processor time for one."""
    found, taken = [], []
    for text in texts:
        start = time.thread_time()
        found.append(call([text])[0])
        taken.append(time.thread_time() - start)
    return np.array(found), 1e3 * float(np.median(taken))


def main() -> None:
    """Every variant of the teacher, then the floors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".shrink/embeddings"))
    parser.add_argument("--only", nargs="*", default=[])
    asked, read = parser.parse_args(), StageRecord.model_validate_json
    records = [(read(at.read_text()), at.parent / "out") for at in sorted(asked.run.glob("*/record.json"))]
    stages = {(record.kind, record.role): out for record, out in records}
    data, adopted = stages["data", "data"], stages["adopt", "teacher"]
    whole = done(OnnxConfig(), {"model": adopted}, asked.work / "whole")
    texts = [str(row["text"]) for row in read_rows(data, "validation")]
    taught = runtime.predict(whole, texts, 32)

    def tell(name: str, folder: Path, call: Any) -> None:
        found, spent = vectors(call, texts)
        seen = {"model": name, "MB": sum(file.stat().st_size for file in folder.iterdir()) / 1e6, "cpu_ms": spent}
        near = measures.overlap(taught @ taught.T, found @ found.T).mean()
        ranks = measures.rank_correlation(taught @ taught.T, found @ found.T).mean()
        print(json.dumps(seen | {"overlap_at_10": near, "spearman": ranks}), flush=True)

    for name, steps in {**ROUNDED, **CUTS}.items():
        if asked.only and name not in asked.only:
            continue
        work = asked.work / name.replace(" ", "-").replace(",", "")
        folder = made(adopted if name in CUTS else whole, steps, data, work)
        if name in CUTS:
            folder = done(OnnxConfig(), {"model": folder}, work / "onnx")
        tell(name, folder, bench.caller(folder))
    if not asked.only or "model2vec" in asked.only:
        static = floor.EmbedFloorConfig(vectors="model2vec")
        folder = done(static, {"teacher": adopted}, asked.work / "model2vec")
        tell("model2vec", folder, floor.caller(folder))


if __name__ == "__main__":
    main()

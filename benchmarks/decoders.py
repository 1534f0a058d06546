"""What rounding a decoder's weights costs: perplexity, bits, processor time and memory of each way, on the same text.

Run: python -m benchmarks.decoders TEACHER DATA [WAY …] [--windows 24] [--threads 1] [--work .shrink/decoders]
(TEACHER, DATA: a finished run's folders of the teacher, a language model, and of its rows.) Each way is a stage run in
a process of its own; the memory is what it held at most above what its imports take. Perplexity is that of test
documents, cut in windows of 256 tokens, per byte and (as papers tell it) per token; both over the teacher's.
Interrupted, it goes on behind the last line.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tasks.data import read_rows
from tasks.generate import measures, runtime, text
from tasks.kinds import EveryStage, function_of

ROUND = {"kind": "quantize"}
WAYS: dict[str, dict[str, Any]] = {
    f"{method} {grid}": {**ROUND, "method": method, "grid": grid}
    for grid in ("q8_0", "q4_1", "q4_0", "int4_g64_zero")
    for method in ("rtn", "gptq", "awq")
}
WAYS |= {
    f"{method} {target}": {**ROUND, "method": method, "target": target}
    for target in (5.5, 5.41, 5.0)
    for method in ("rtn", "gptq", "awq")
}
WAYS |= {
    f"{importance} {pattern or 'half'}": {
        "kind": "prune",
        "method": "sparse",
        "importance": importance,
        "pattern": pattern,
    }
    for pattern in (None, "2:4")
    for importance in ("magnitude", "wanda", "sparsegpt")
}
FIVE = {"grid": "q5_0", "embedding": "q5_1", "exceptions": {"gate_proj": "q4_1", "up_proj": "q4_1"}}
WAYS |= {f"{method} as the recipe": {**ROUND, "method": method, **FIVE} for method in ("rtn", "gptq", "awq")}
WAYS |= {f"w8a8 smoothing {part:g}": {**ROUND, "method": "w8a8", "smoothing": part} for part in (0, 0.5, 0.8)}
WAYS["gptq int4_g64, layers alone"] = {**ROUND, "method": "gptq", "grid": "int4_g64", "embedding": "none"}
LENGTH = 256


def held(what: str = "VmRSS") -> float:
    """MB that this process holds now, or (VmHWM) held at most; getrusage would count its parent's before it, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024 / 1e6


def judged(folder: Path, data: Path, windows: int) -> list[float]:
    """Perplexity per byte and per token of the first test documents that make so many windows."""
    model, tokenizer = runtime.loaded(folder)
    texts = [row["text"] for row in read_rows(data, "test")]
    nats, sizes, tokens, seen = [], [], 0, 0
    for document in text.documents(tokenizer, texts, LENGTH):
        if seen >= windows:
            break
        with torch.no_grad():
            read = [
                measures.read(model(input_ids=one.clamp(min=0), use_cache=False).logits, one)
                for one in torch.split(document.windows, 1)
            ]
        nats.append(sum(one.nats for one in read))
        sizes.append(document.size)
        tokens += sum(one.tokens for one in read)
        seen += len(document.windows)
    whole = torch.tensor(nats, dtype=torch.float64)
    return [measures.perplexity(whole, torch.tensor(sizes)), float(torch.exp(whole.sum() / tokens))]


def one(way: str, at: dict[str, Path], threads: int) -> dict[str, Any]:
    """Run one way's stage in this process: what it measured, its processor seconds and its memory."""
    import transformers.models.llama.modeling_llama  # noqa: F401, before the memory is read

    torch.set_num_threads(threads)
    before, start = held(), time.process_time()
    config = EveryStage.validate_python(WAYS[way])
    measured = function_of(config)({"student": at["teacher"], "data": at["data"]}, config, at["out"], 0)
    used = time.process_time() - start
    return {"seconds": used, "memory_mb": held("VmHWM") - before, "measured": measured}


def line(way: str, at: dict[str, Path], threads: int, windows: int) -> dict[str, Any]:
    """One row of the table: the stage in a process of its own, its result judged here."""
    shutil.rmtree(at["out"], ignore_errors=True)
    given = [str(at["teacher"]), str(at["data"]), way, "--threads", str(threads), "--out", str(at["out"])]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.decoders", *given], check=True, stdout=subprocess.PIPE, text=True
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    told["perplexity"] = judged(at["out"], at["data"], windows)
    shutil.rmtree(at["out"])
    return told


def main() -> None:
    """Make every way that is named (all, unless some are) and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of: {', '.join(WAYS)}")
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(".shrink/decoders"))
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # the stage alone, in this process
    said = parser.parse_args()
    at = {"teacher": said.teacher, "data": said.data}
    if said.out is not None:
        print(json.dumps(one(said.ways[0], at | {"out": said.out}, said.threads)))
        return
    torch.set_num_threads(said.threads)
    said.work.mkdir(parents=True, exist_ok=True)
    kept = said.work / "lines.json"
    lines = json.loads(kept.read_text()) if kept.exists() else {}
    if "teacher" not in lines:
        lines["teacher"] = {"perplexity": judged(said.teacher, said.data, said.windows)}
    whole = lines["teacher"]["perplexity"]
    print("| way | bits a weight | perplexity a byte | over the teacher's | a token | processor s | MB above imports |")
    print("|---|---|---|---|---|---|---|")
    print(f"| teacher | 32 | {whole[0]:.4f} | | {whole[1]:.2f} | | |", flush=True)
    for way in said.ways or WAYS:
        if way not in lines:
            lines[way] = line(way, at | {"out": said.work / "out"}, said.threads, said.windows)
            kept.write_text(json.dumps(lines, indent=1) + "\n")
        found = lines[way]
        byte, token = (100 * (new / old - 1) for new, old in zip(found["perplexity"], whole, strict=True))
        bits = found["measured"].get("bits_per_weight", 32)
        print(
            f"| {way} | {bits:.3f} | {found['perplexity'][0]:.4f} | {byte:+.2f} % "
            f"| {token:+.2f} % | {found['seconds']:.0f} | {found['memory_mb']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""What teaching gives back of what pruning or rounding took from a decoder: perplexity before and after, and its cost.

Run: python -m benchmarks.lessons TEACHER DATA [WAY …] [--steps 24] [--windows 46] [--threads 1] [--work FOLDER]
(TEACHER, DATA: a finished run's folders of the teacher, a language model, and of its rows.) Each way is a chain of
stages, one after the other on the student, which starts as the teacher; behind each its perplexity a token on test
documents in windows of 256 tokens is told, over the teacher's. Interrupted, it goes on behind the last finished stage.
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.writers import by_torch, perplexity, windows
from tasks.generate import lm
from tasks.kinds import EveryStage, function_of

LABEL = {"kind": "label", "method": "top_k", "windows": 256}
TAUGHT = {"kind": "distill", "method": "tokens", "lr": 2e-4}
FOUR = {"kind": "quantize", "grid": "q4_0", "embedding": "q5_1"}
RECIPE: dict[str, Any] = {"kind": "quantize", "grid": "q4_1", "embedding": "q5_0"}
RECIPE |= {"exceptions": {"gate_proj": "q4_0", "q_proj": "q4_0"}}
ROUNDED = {"kind": "distill", "method": "rounded", "lr": 1e-3}
WAYS: dict[str, list[dict[str, Any]]] = {
    "27 of 30 layers": [{"kind": "prune", "method": "depth", "keep": 27}, TAUGHT],
    "24 of 30 layers": [{"kind": "prune", "method": "depth", "keep": 24}, TAUGHT],
    "feed-forward 1280 of 1536": [{"kind": "prune", "method": "width", "ffn": 1280}, TAUGHT],
    "4 bits by AWQ": [FOUR | {"method": "awq"}, ROUNDED],
    "4 bits by GPTQ": [FOUR | {"method": "gptq"}, ROUNDED],
    "recipe by AWQ": [RECIPE | {"method": "awq"}, ROUNDED],
    "recipe by GPTQ": [RECIPE | {"method": "gptq"}, ROUNDED],
    "5.0 bits by AWQ": [{"kind": "quantize", "method": "awq", "target": 5.0}, ROUNDED],
    "5.0 bits by GPTQ": [{"kind": "quantize", "method": "gptq", "target": 5.0}, ROUNDED],
}


def made(stage: dict[str, Any], inputs: dict[str, Path], out: Path) -> float:
    """Run a stage into a folder unless it is there whole; its processor seconds, 0 where it was."""
    if out.exists():
        return 0.0
    config, start = EveryStage.validate_python(stage), time.process_time()
    part = out.with_name(f"{out.name}.part")  # no suffix in its place: names have dots
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    function_of(config)({role: inputs[role] for role in config.reads}, config, part, 0)
    part.rename(out)
    return time.process_time() - start


def main() -> None:
    """Walk every way that is named (all, unless some are) and print a line behind each of its stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of: {', '.join(WAYS)}")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--windows", type=int, default=46)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(".shrink/lessons"))
    said = parser.parse_args()
    torch.set_num_threads(said.threads)
    read = windows(said.teacher, said.data, said.windows)
    labels = said.work / "labels"
    made(LABEL, {"teacher": said.teacher, "data": said.data}, labels)
    whole = perplexity(by_torch(lm.load(said.teacher)), read)
    print("| way | stage | bits a weight | weights | perplexity a token | over the teacher's | processor s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for way in said.ways or WAYS:
        student = said.teacher
        for number, stage in enumerate(WAYS[way]):
            held = stage | ({"steps": said.steps} if stage["kind"] == "distill" else {})
            out = said.work / f"{way.replace(' ', '-')}-{number}-{said.steps}"
            inputs = {"teacher": said.teacher, "data": said.data, "labels": labels, "student": student}
            spent = made(held, inputs, out)
            model, (_, grids) = lm.load(out), lm.integers(out)
            seen, weights = perplexity(by_torch(model), read), sum(map(torch.numel, lm.own_weights(model).values()))
            bits = lm.bits_per_weight(model, grids)
            print(
                f"| {way} | {stage['kind']}/{stage['method']} | {bits:.2f} | {weights / 1e6:.1f} M | {seen:.2f} "
                f"| {100 * (seen / whole - 1):+.1f} % | {spent:.0f} |",
                flush=True,
            )
            student = out


if __name__ == "__main__":
    main()

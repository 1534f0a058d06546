"""What bf16 (tasks/way.py) costs on this processor: steps of a finished run's distillation, seconds of the processor.

Run: python -m benchmarks.ways RUN [--rounds 3]
RUN is the directory of a finished run that distils by `logits`. The same 24 batches take turns, on one thread: in fp32,
in bf16 as a training does it (tasks/parallel.py), and in bf16 with torch's fused attention.
"""

import argparse
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks import train
from tasks.distill import answers
from tasks.distill.logits import DistillLogitsConfig

BATCHES = 24
KINDS = ("fp32", "bf16", "bf16, fused attention")


def main() -> None:
    """Print a line a round: seconds a step, each kind beside the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    call = json.loads(next(asked.run.glob("*-distill-logits/call.json")).read_text())
    config = DistillLogitsConfig.model_validate(call["config"])
    torch.set_num_threads(1)
    lesson = answers.read({role: Path(path) for role, path in call["inputs"].items()}, config)
    lengths = [len(sequence) for sequence in lesson.sequences]
    batches = train.shuffled_batches(lengths, config.batch_size, np.random.default_rng(0))[:BATCHES]
    optimizer = train.adamw(lesson.model, config.lr)
    lesson.model.train()
    for number in range(asked.rounds + 1):
        taken = [round(seconds(kind, lesson, config, batches, optimizer), 4) for kind in KINDS]
        if number:  # the first round warms up
            print(dict(zip(KINDS, taken, strict=True)), flush=True)


def seconds(kind: str, lesson: answers.Lesson, config: Any, batches: list[list[int]], optimizer: Any) -> float:
    """Seconds of the processor a step."""
    began = time.process_time()
    for number, rows in enumerate(batches):
        with casting(kind):
            pooled = lesson.model.features(*answers.batch(lesson, rows))
            loss = answers.loss(lesson, config, rows, pooled)
        train.step_once(lesson.model, optimizer, loss, number + 1)
    return (time.process_time() - began) / len(batches)


@contextlib.contextmanager
def casting(kind: str) -> Any:
    """As tasks/parallel.py does for a training."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with contextlib.ExitStack() as stack:
        if kind.startswith("bf16"):
            stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
        if kind == "bf16":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


if __name__ == "__main__":
    main()

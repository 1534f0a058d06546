"""Speed and memory of models that write: prompt tokens a second, written tokens a second, time to the first token.

As with llama.cpp's own bench a prompt is read whole and written behind token by token, greedily. Models take turns in
every round, so that whatever else loads the machine hits all of them alike, and every round has other prompts: a
runtime that keeps what it has read of one would answer it again for nothing. Peak memory is that of a clean process.
"""

import gc
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, cast, get_args

import numpy as np

from registry.records import Speed
from tasks.bench import own_peak_mb
from tasks.generate.runtime import AnyRuntime, Opened, open_model

PROMPT, QUESTION, WRITTEN = 256, 32, 32  # tokens of a long prompt, of a short one, and of what is written behind it


class Subject(NamedTuple):
    """A model's folder and what runs it."""

    directory: Path
    runtime: AnyRuntime


class Timed(NamedTuple):
    """What one model took with so many threads."""

    speed: Speed
    token_ms: tuple[float, float]  # p50 and p95 of one written token


class Spent(NamedTuple):
    """Milliseconds of every round: reading a long prompt, reading a short one, and each token that was written."""

    long: list[float]
    short: list[float]
    tokens: list[float]


def measure(subjects: Mapping[str, Subject], text: str, threads: int, rounds: int) -> dict[str, Timed]:
    """Time all models with so many threads on prompts cut from a text; the first round is not counted."""
    models = {name: open_model(one.directory, one.runtime, threads) for name, one in subjects.items()}
    ids = {name: model.ids(text) for name, model in models.items()}
    spent = {name: Spent([], [], []) for name in models}
    names = list(models)
    gc.collect()
    for turn in range(-1, rounds):
        for step in range(len(names)):
            name = names[(turn + step) % len(names)]
            took = one_round(models[name], ids[name], turn + 1)
            if turn >= 0:
                for kept, new in zip(spent[name], took, strict=True):
                    kept.extend(new)
    return {name: timed(models[name], spent[name], threads) for name in names}


def one_round(model: Opened, ids: Sequence[int], turn: int) -> Spent:
    """One model's turn."""
    long, written = sizes(model)
    first = list(clocked(model, part(ids, 2 * turn, long), 1))
    second = list(clocked(model, part(ids, 2 * turn + 1, min(QUESTION, long)), written))
    return Spent(first[:1], second[:1], second[1:])


def sizes(model: Opened) -> tuple[int, int]:
    """Tokens of a long prompt and of what is written: less where the model's context is short."""
    long = max(1, min(PROMPT, model.context - 2))
    return long, max(2, min(WRITTEN, model.context - min(QUESTION, long)))


def part(ids: Sequence[int], place: int, size: int) -> list[int]:
    """So many tokens from another place of a text for every `place`, from the beginning again behind its end."""
    begin = place * (PROMPT + 1)
    return [ids[(begin + at) % len(ids)] for at in range(size)]


def clocked(model: Opened, prompt: list[int], count: int) -> list[float]:
    """Milliseconds until the first token, and from each to the next, as many as the model writes."""
    ticks = [time.perf_counter()]
    for _ in model.stream(prompt, count):
        ticks.append(time.perf_counter())
    return [1e3 * (after - before) for before, after in pairwise(ticks)]


def timed(model: Opened, spent: Spent, threads: int) -> Timed:
    """Medians of what was spent. RuntimeError where a model never wrote two tokens on."""
    if not (spent.long and spent.short and spent.tokens):
        raise RuntimeError("a model ends every text at once: its speed cannot be measured")
    half, most = np.percentile(spent.tokens, [50, 95])
    speed = Speed(
        threads=threads,
        prefill_tokens_per_s=1e3 * sizes(model)[0] / float(np.median(spent.long)),
        decode_tokens_per_s=1e3 / float(half),
        first_token_ms=float(np.median(spent.short)),
    )
    return Timed(speed, (float(half), float(most)))


def peak_rss_mb(subject: Subject) -> float | None:
    """Peak resident memory in MB of a clean process that loads the model, reads and writes; None when it failed."""
    root = str(Path(__file__).resolve().parents[2])
    code = "import sys; sys.path.insert(0, sys.argv[3]); from tasks.generate.speed import main; main()"
    command = [sys.executable, "-c", code, str(subject.directory), subject.runtime, root]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        return None
    return float(json.loads(done.stdout.strip().splitlines()[-1])["peak_rss_mb"])


def main() -> None:
    """Load the model of the arguments (folder, runtime), read a long prompt, write behind it, print the peak memory."""
    known: tuple[AnyRuntime, ...] = get_args(AnyRuntime)
    model = open_model(Path(sys.argv[1]), known[known.index(cast(AnyRuntime, sys.argv[2]))])
    ids = model.ids("The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 40)
    long, _ = sizes(model)
    for _ in model.stream(part(ids, 0, long - 1), min(WRITTEN, model.context - long)):
        pass
    sys.stdout.write(json.dumps({"peak_rss_mb": own_peak_mb()}) + "\n")

"""Every way to make one teacher smaller, ours and what a user would pick instead, side by side in one run.

Run: python -m benchmarks.frontier RUN … [--threads 1] [--work .shrink/frontier] [--only NAME …] [--make-only]
RUN is a finished run of the recipe, a folder in .shrink/runs; a second one may be of sentiment-tiny. Their data,
teacher, labels and students are taken up where a variant (benchmarks/variants.py) begins the same way. What is computed
besides lies in --work and is taken up by the next go: empty it after the code of a stage has changed. A line a variant,
then the table, and a picture of bytes and latency beside retention.

Every model answers the same sentences (validation and test together), text in and logits out, with one thread; the
teacher in full precision is what all are compared with. Latency is the processor's time for one text, all models taking
turns on the same texts, so that a busy machine does not count. Watt-hours are processor seconds times what the meter
gave for one on the idle machine: on a busy one it counts others' work.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from benchmarks import rivals
from benchmarks.frontier_shown import below, picture, table
from benchmarks.variants import VARIANTS, Variant
from flows import roles, sources
from flows.recipe import Recipe, load
from flows.settings import worker_environment
from registry.records import StageRecord, digest_directory, directory_bytes, sha256_json
from tasks import bench, metrics
from tasks.data import read_rows
from tasks.kinds import AnyChainConfig, AnyStageConfig, ChainStage, EveryStage
from tasks.stage import StageCall, run_stage

WH_A_SECOND = 0.0037  # of the processor: what the meter gave for finetune, label and distil on the idle machine
ROUNDS = 400  # timed texts a model
Chain: TypeAdapter[AnyChainConfig] = TypeAdapter(ChainStage)


class Kept(NamedTuple):
    """A stage's artifact and the processor seconds that it took when it was made."""

    path: Path
    seconds: float


class Shop(NamedTuple):
    """Where stages come from: a finished run's records first, then the working folder."""

    records: list[tuple[StageRecord, Path]]
    recipe: Recipe
    home: Path
    work: Path
    threads: int


def opened(runs: list[Path], work: Path, threads: int) -> Shop:
    """Finished runs as a store of stages; the first says what the recipe is."""
    run = runs[0]
    found = [
        (StageRecord.model_validate_json(path.read_text(encoding="utf-8")), path.parent / "out")
        for one in runs
        for path in sorted(one.glob("*/record.json"))
    ]
    return Shop(found, load(str(run / "recipe.json")), run.absolute().parent.parent, work.absolute(), threads)


def made(shop: Shop, config: AnyStageConfig, inputs: dict[str, Path]) -> Kept:
    """A stage's artifact: the run's, that of an earlier go, or computed now in its own process."""
    content = config.model_dump(mode="json")
    digests = {role: digest_directory(path) for role, path in sorted(inputs.items())}
    for record, out in shop.records:
        if as_read_now(record.config) == content and {role: record.inputs.get(role) for role in digests} == digests:
            return Kept(out.resolve(), record.cpu_seconds)
    key = sha256_json([content, digests, shop.recipe.seed, shop.threads])[:16]
    directory = shop.work / f"{config.kind}-{key}"
    if not (directory / "out").is_dir():
        call = StageCall(
            name=directory.name,
            config=content,
            inputs={role: str(path) for role, path in inputs.items()},
            directory=str(directory),
            seed=shop.recipe.seed,
            threads=shop.threads,
            environment=worker_environment(shop.threads),
            key=key,
        )
        run_stage.fn(call)
    seconds = float(json.loads((directory / "result.json").read_text(encoding="utf-8"))["cpu_seconds"])
    return Kept(directory / "out", seconds)


def as_read_now(content: dict[str, Any]) -> dict[str, Any]:
    """A record's config with the defaults of fields that came since."""
    return EveryStage.validate_python(content).model_dump(mode="json")


def walk(shop: Shop, variant: Variant) -> Kept:
    """A variant's deployable, and what making it took beyond the fine-tuned teacher (labels, where it learns)."""
    source = sources.resolve(shop.recipe.teacher, shop.home)
    given = {record.kind: out.resolve() for record, out in reversed(shop.records) if record.kind in {"data", "floor"}}
    stages = [Chain.validate_python(raw) for raw in (*begun(shop, variant), *variant.stages)]
    held = roles.first({"teacher": source, **given}, stages)
    spent = 0.0
    for stage in stages:
        kept = made(shop, stage, roles.read(held, stage))
        roles.write(held, stage, kept.path)
        spent += kept.seconds if roles.role_of(stage) != "teacher" else 0.0
    return Kept(held["student"], spent) if not variant.rival else by_rival(shop, variant.rival, held, spent)


def begun(shop: Shop, variant: Variant) -> list[dict[str, Any]]:
    """The run's own first stages: its teacher, and its labels where a variant learns and makes none itself."""
    kinds = [stage["kind"] for stage in variant.stages]
    learns = any("epochs" in stage and stage["kind"] != "finetune" for stage in variant.stages)
    wanted = {"finetune", "label"} if learns and "label" not in kinds[:2] else {"finetune"}
    return [stage.model_dump() for stage in shop.recipe.stages if stage.kind in wanted]


def by_rival(shop: Shop, name: str, held: dict[str, Path], spent: float) -> Kept:
    """What another library's quantiser makes of the ONNX model so far."""
    out = shop.work / f"{name}-{digest_directory(held['student'])[:16]}"
    if not out.is_dir():
        partial = out.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        began = time.process_time()
        texts = [row["text"] for row in read_rows(held["data"], "train")[:300]]
        getattr(rivals, name)(held["student"], partial, texts)
        (partial.with_suffix(".seconds")).write_text(str(time.process_time() - began))
        partial.rename(out)
    return Kept(out, spent + float(out.with_suffix(".seconds").read_text()))


def answered(work: Path, kept: Path, texts: list[str]) -> NDArray[np.int64]:
    """The classes that a model gives, computed once: one text a call, as it is served."""
    path = work / f"answers-{sha256_json([digest_directory(kept), texts])[:16]}.npy"
    if not path.exists():
        call = caller(kept)
        np.save(path, metrics.classes(np.concatenate([np.asarray(call([text])) for text in texts])))
    return np.asarray(np.load(path), dtype=np.int64)


def caller(directory: Path) -> Callable[[Any], Any]:
    """A function from texts to logits in the model's own runtime, one thread."""
    return rivals.openvino_caller(directory) if (directory / "model.xml").is_file() else bench.caller(directory)


def processor_ms(calls: dict[str, Callable[[Any], Any]], texts: list[str]) -> dict[str, float]:
    """Median milliseconds of the processor for a text, models taking turns; waiting does not count."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-10, ROUNDS):
        for name, call in calls.items():
            start = time.process_time()
            call([texts[turn % len(texts)]])
            taken[name] += [(time.process_time() - start) * 1e3] if turn >= 0 else []
    return {name: float(np.median(spent)) for name, spent in taken.items()}


def judged(shop: Shop, chosen: list[Variant]) -> list[dict[str, Any]]:
    """All variants on the same rows: bytes, retention with its paired interval, latency, what making them took."""
    data = next(out for record, out in shop.records if record.kind == "data")
    rows = read_rows(data, "validation") + read_rows(data, "test")
    texts, labels = [row["text"] for row in rows], np.array([row["label"] for row in rows])
    kept = {variant.name: walk(shop, variant) for variant in chosen}
    guesses = {variant.name: answered(shop.work, kept[variant.name].path, texts) for variant in chosen}
    right = {name: guess == labels for name, guess in guesses.items()}
    spread = texts[:: max(1, len(texts) // ROUNDS)]  # the file is ordered by label
    times = processor_ms({name: caller(one.path) for name, one in kept.items()}, spread)
    found = []
    for variant in chosen:
        draws = metrics.resample((right["teacher"], right[variant.name]), 10_000, 0)
        share = float(right[variant.name].mean() / right["teacher"].mean())
        retention = metrics.interval(share, metrics.ratio(draws[:, 1], draws[:, 0]))
        seconds = kept[variant.name].seconds
        found.append(
            {
                "name": variant.name,
                "ours": variant.ours,
                "bytes": directory_bytes(kept[variant.name].path),
                "accuracy": float(right[variant.name].mean()),
                "retention": retention.model_dump(),
                "processor_ms": times[variant.name],
                "cpu_seconds": seconds,
                "wh": seconds * WH_A_SECOND,
            }
        )
    return found


def main() -> None:
    """Compute what is missing, judge all together, print the table and draw the frontier."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(".shrink/frontier"))
    parser.add_argument(
        "--only", nargs="*", choices=[variant.name for variant in VARIANTS], help="the teacher and these"
    )
    parser.add_argument("--make-only", action="store_true", help="make the models, judge nothing")
    asked = parser.parse_args()
    shop = opened(asked.runs, asked.work, asked.threads)
    chosen = [one for one in VARIANTS if not asked.only or one.name in asked.only or one.name == "teacher"]
    if asked.make_only:
        for variant in chosen:
            print(json.dumps({"name": variant.name, "cpu_seconds": walk(shop, variant).seconds}), flush=True)
        return
    found = judged(shop, chosen)
    (shop.work / "frontier.json").write_text(json.dumps(found, indent=1))
    print(table(found))
    for axis in ("bytes", "processor_ms"):
        for line in below(found, axis):
            print(line)
    picture(found, shop.work / "frontier.png")


if __name__ == "__main__":
    main()

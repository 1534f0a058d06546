"""One stage's artifact: from the index where it was computed before (verified by re-hashing), else computed now."""

import contextlib
import datetime
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from flows import cache, ways
from flows.settings import Settings, worker_environment
from flows.steps import name_of
from registry import admission, index, store
from registry.records import (
    Attempt,
    Footprint,
    ServingEnergy,
    ShrinkError,
    StageRecord,
    digest_directory,
    directory_bytes,
)
from tasks import carbon, windows
from tasks.kinds import AnyStageConfig
from tasks.meter import samples
from tasks.stage import StageCall, run_stage

log = logging.getLogger("flows.obtain")
progress_log = logging.getLogger("progress")
ROOM_BYTES = 100_000_000  # what a stage needs beyond copies of its input: logs, databases, temporary files
LOCAL_ONLY = {"data", "floor", "label"}  # hold the user's text, its words, or what it can be guessed from: not sent
Curves = tuple[tuple[str, float, int], ...]


def anything(name: str) -> None:
    """Let every stage be computed: a run without a budget."""


@dataclass
class Workshop:
    """What the stages of one run share: where, with which servers, and how they are metered."""

    settings: Settings
    s3: Any
    bucket: str
    directory: Path
    seed: int
    meter: Future[carbon.Meter]
    digests: dict[Path, str] = field(default_factory=dict)
    records: list[StageRecord] = field(default_factory=list)
    curves: dict[str, Curves] = field(default_factory=dict)
    allow: Callable[[str], None] = anything  # asked before a stage is computed; raises where that is over a budget


def obtain(shop: Workshop, config: AnyStageConfig, role: str, inputs: dict[str, Path]) -> Path:
    """The directory of a stage's artifact; records it in the run and in the index."""
    digests = {name: digest_of(shop, path) for name, path in inputs.items()}
    key = cache.key_of(config, digests, shop.seed, shop.settings.threads, ways.of(config, shop.settings))
    locks = shop.settings.home / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{key}.lock"):
        record = reuse(shop, key)
        if record is None:
            record = compute(shop, config, role, inputs, digests, key)
    shop.records.append(record)
    progress_log.info("%s done", record.kind, extra={"stage": record.model_dump(mode="json")})
    log.info("%s %s %s", record.kind, record.digest[:12], "re-used" if record.cached else "made")
    return cache.path_of(shop.settings.home, record.digest)


def digest_of(shop: Workshop, path: Path) -> str:
    """The digest of a directory, hashed once a run."""
    if path not in shop.digests:
        shop.digests[path] = digest_directory(path)
    return shop.digests[path]


def reuse(shop: Workshop, key: str) -> StageRecord | None:
    """The record of a stage computed before whose artifact is there and re-hashes to its digest, or None."""
    record, sent = cache.recall(shop.settings.home, key)
    if found_elsewhere := record is None:
        record, sent = index.lookup(shop.s3, shop.bucket, key), True
    if record is None or not (intact(shop, record) or fetched(shop, record)):
        return None
    if not all(check["passed"] for check in record.measured.get("checks", ())):
        return None  # a reload that failed is tried again: the machine may have been busy
    if record.kind == "evaluate" and admission.stale(record.started):
        return None  # no promotion would go by it
    if not sent:
        publish(shop, record)
    elif found_elsewhere:
        cache.note(shop.settings.home, record, sent=True)
    return record.model_copy(update={"cached": True})


def intact(shop: Workshop, record: StageRecord) -> bool:
    """Whether the artifact is in the local cache with the bytes of its digest; a damaged one is removed."""
    path = cache.path_of(shop.settings.home, record.digest)
    if not path.exists():
        return False
    if digest_of(shop, path) == record.digest:
        return True
    log.warning("cached %s %s does not match its digest; taking it from S3 or computing again", record.kind, path)
    del shop.digests[path]
    shutil.rmtree(path)
    return False


def fetched(shop: Workshop, record: StageRecord) -> bool:
    """Whether S3 gave the artifact, verified, into the local cache."""
    if record.kind in LOCAL_ONLY:
        return False
    try:
        store.get(shop.s3, shop.bucket, record.digest, cache.path_of(shop.settings.home, record.digest))
    except (store.CorruptArtifact, FileNotFoundError) as error:
        log.warning("stored %s is unusable (%s); computing again", record.kind, error)
        return False
    return True


def publish(shop: Workshop, record: StageRecord) -> None:
    """Put an artifact and then its record on S3; the local record says so at last."""
    if record.kind not in LOCAL_ONLY:
        store.put(shop.s3, shop.bucket, cache.path_of(shop.settings.home, record.digest))
    index.remember(shop.s3, shop.bucket, record)
    cache.note(shop.settings.home, record, sent=True)


def compute(
    shop: Workshop, config: AnyStageConfig, role: str, inputs: dict[str, Path], digests: dict[str, str], key: str
) -> StageRecord:
    """Run a stage, meter it, keep its artifact and remember it."""
    method = getattr(config, "method", None)
    name = name_of(len(shop.records), config)
    directory = shop.directory / name
    shop.allow(name)
    check_room(shop.settings.home, name, inputs)
    call = StageCall(
        name=name,
        config=config.model_dump(mode="json"),
        inputs={r: str(path) for r, path in inputs.items()},
        directory=str(directory),
        seed=shop.seed,
        threads=shop.settings.threads,
        way=ways.of(config, shop.settings),
        environment=worker_environment(shop.settings.threads),
        key=key,
        time_limit=shop.settings.time_limit,
        memory_limit_mb=shop.settings.memory_mb or psutil.virtual_memory().total * 0.9 / 1e6,
    )
    started = datetime.datetime.now(datetime.UTC).isoformat()
    with alone(shop, name):
        result, footprint = metered(shop, call)
    out = Path(result.out)
    digest = digest_directory(out)
    size = directory_bytes(out)
    cache.keep(shop.settings.home, out, digest)
    record = StageRecord(
        key=key,
        kind=config.kind,
        method=method,
        role=role,
        digest=digest,
        bytes=size,
        inputs=digests,
        config=call.config,
        footprint=footprint,
        cpu_seconds=result.cpu_seconds,
        peak_rss_mb=result.peak_rss_mb,
        started=started,
        measured=result.measured,
    )
    (directory / "record.json").write_text(record.model_dump_json(indent=1))
    (directory / "curves.json").write_text(json.dumps(result.curves))
    cache.note(shop.settings.home, record, sent=False)
    shop.curves[key] = result.curves
    publish(shop, record)
    return record


@contextlib.contextmanager
def alone(shop: Workshop, name: str) -> Iterator[None]:
    """Hold the machine's meter: one stage at a time is metered. Whoever waits for another run is told so."""
    lock = FileLock(shop.settings.home / "locks" / "meter.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        progress_log.info(
            "waiting", extra={"waiting": f"{name} waits for a stage of another run; `shrink runs` lists it"}
        )
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def attempts(shop: Workshop) -> list[Attempt]:
    """The goes at stages of this run that left no record, killed or failed: what they spent counts, too."""
    return samples.lost(shop.directory / "samples.jsonl", {record.footprint.samples for record in shop.records})


def check_room(home: Path, name: str, inputs: dict[str, Path]) -> None:
    """Refuse to begin a stage that the disk has no room for: its result and the copy on a local S3."""
    need = (2 * max(directory_bytes(path) for path in inputs.values()) + ROOM_BYTES) / 1e6
    free = shutil.disk_usage(home).free / 1e6
    if free < need:
        raise ShrinkError(
            f"stage {name} needs about {need:.0f} MB in '{home}' and {free:.0f} MB are free; make room there, "
            "then `shrink resume`."
        )


def metered(shop: Workshop, call: StageCall) -> tuple[Any, Footprint]:
    """Run the stage under the meter; one metered stage at a time on a machine, so that nothing is counted twice."""
    with carbon.measure(shop.meter.result(), call.name) as gauge:
        result = run_stage(call, gauge.cut)
    serving = result.measured.get("serving")
    if serving:
        whole = windows.filled(ServingEnergy.model_validate(serving), gauge.window, gauge.meter.tiers, gauge.shared())
        result = result.model_copy(update={"measured": {**result.measured, "serving": whole.model_dump(mode="json")}})
    return result, gauge.footprint()

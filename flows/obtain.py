"""One stage's artifact: from the index where it was computed before (verified by re-hashing), else computed now.

The key covers the config, every input's digest, the code the stage reaches, seed, libraries, threads and, for what
measures speed, the processor.
"""

import datetime
import importlib.metadata
import json
import logging
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from flows.settings import Settings, worker_environment
from registry import index, store
from registry.records import Footprint, StageRecord, digest_directory, directory_bytes, sha256_json
from tasks import carbon
from tasks.kinds import AnyStageConfig, code_digest
from tasks.stage import StageCall, run_stage

log = logging.getLogger("flows.obtain")
progress_log = logging.getLogger("progress")
LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript", "scikit-learn", "numpy", "tokenizers")
LOCAL_ONLY = {"data", "floor"}  # hold the user's text or fragments of it: never sent to S3
Curves = tuple[tuple[str, float, int], ...]


@dataclass
class Workshop:
    """What the stages of one run share: where, with which servers, and how they are metered."""

    settings: Settings
    s3: Any
    bucket: str
    directory: Path
    meter: Any
    seed: int
    records: list[StageRecord] = field(default_factory=list)
    curves: dict[str, Curves] = field(default_factory=dict)


def obtain(shop: Workshop, config: AnyStageConfig, role: str, inputs: dict[str, Path]) -> Path:
    """The directory of a stage's artifact; records it in the run and in the index."""
    digests = {name: digest_directory(path) for name, path in inputs.items()}
    key = key_of(shop, config, digests)
    locks = shop.settings.home / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{key}.lock"):
        record = reuse(shop, key)
        if record is None:
            record = compute(shop, config, role, inputs, digests, key)
    shop.records.append(record)
    progress_log.info("%s done", record.kind, extra={"stage": record.model_dump(mode="json")})
    log.info("%s %s %s", record.kind, record.digest[:12], "re-used" if record.cached else "made")
    return cache_path(shop, record.digest)


def key_of(shop: Workshop, config: AnyStageConfig, digests: dict[str, str]) -> str:
    """The index key of a stage."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    environment: dict[str, Any] = {"threads": shop.settings.threads, "libraries": libraries, "device": "cpu"}
    if config.kind == "evaluate":
        environment["processor"] = processor()
    method = getattr(config, "method", None)
    content = config.model_dump(mode="json")
    return index.key_of(config.kind, method, content, digests, code_digest(config), shop.seed, sha256_json(environment))


def processor() -> str:
    """The processor's name: measured latencies are only re-used on the same one."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def cache_path(shop: Workshop, digest: str) -> Path:
    """Where an artifact lies locally."""
    return shop.settings.home / "cache" / digest


def reuse(shop: Workshop, key: str) -> StageRecord | None:
    """The record of a stage computed before whose artifact is there and re-hashes to its digest, or None."""
    record = index.lookup(shop.s3, shop.bucket, key)
    if record is None:
        return None
    path = cache_path(shop, record.digest)
    if path.exists() and digest_directory(path) == record.digest:
        return record.model_copy(update={"cached": True})
    if path.exists():
        log.warning("cached %s %s does not match its digest; taking it from S3 or computing again", record.kind, path)
        shutil.rmtree(path)
    if record.kind in LOCAL_ONLY:
        return None
    try:
        store.get(shop.s3, shop.bucket, record.digest, path)
    except (store.CorruptArtifact, FileNotFoundError) as error:
        log.warning("stored %s is unusable (%s); computing again", record.kind, error)
        return None
    return record.model_copy(update={"cached": True})


def compute(
    shop: Workshop, config: AnyStageConfig, role: str, inputs: dict[str, Path], digests: dict[str, str], key: str
) -> StageRecord:
    """Run a stage, meter it, keep its artifact and remember it."""
    method = getattr(config, "method", None)
    name = "-".join(part for part in (f"{len(shop.records):02d}", config.kind, method) if part)
    directory = shop.directory / name
    call = StageCall(
        name=name,
        config=config.model_dump(mode="json"),
        inputs={r: str(path) for r, path in inputs.items()},
        directory=str(directory),
        seed=shop.seed,
        threads=shop.settings.threads,
        environment=worker_environment(shop.settings.threads),
    )
    started = datetime.datetime.now(datetime.UTC).isoformat()
    with FileLock(shop.settings.home / "locks" / "meter.lock"):
        result, footprint = metered(shop, call)
    out = Path(result.out)
    digest = digest_directory(out)
    size = directory_bytes(out)
    keep(shop, out, digest)
    if config.kind not in LOCAL_ONLY:
        store.put(shop.s3, shop.bucket, cache_path(shop, digest))
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
    index.remember(shop.s3, shop.bucket, record)
    shop.curves[key] = result.curves
    return record


def metered(shop: Workshop, call: StageCall) -> tuple[Any, Footprint]:
    """Run the stage under the meter; one metered stage at a time on a machine, so that nothing is counted twice."""
    with carbon.measure(shop.meter, call.name) as reading:
        result = run_stage(call)
    return result, reading()


def keep(shop: Workshop, out: Path, digest: str) -> None:
    """Move a finished artifact into the local cache; the stage's directory keeps a link to it."""
    target = cache_path(shop, digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and digest_directory(target) == digest:
        shutil.rmtree(out)
    else:
        shutil.rmtree(target, ignore_errors=True)
        out.rename(target)
    out.symlink_to(Path("../../..") / "cache" / digest)

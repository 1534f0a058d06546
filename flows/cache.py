"""The local half of what was computed: artifacts by digest in home/cache, one record a key in home/index.

A record is written here before anything goes to S3, so that finished work outlives an S3 that is away; while it is
not on S3 yet it stands in home/index/unsent. Records are hints: whoever takes an artifact hashes it again.
The key covers the config, every input's digest, the code the stage reaches, seed, libraries, threads, for what
trains how it is carried out (tasks/way.py) and, for what measures speed, the processor.
"""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from registry import index
from registry.records import StageRecord, digest_directory, sha256_json
from tasks.kinds import AnyStageConfig, code_digest
from tasks.way import ALONE, Way

LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript", "scikit-learn", "numpy", "tokenizers")
DISTRIBUTIONS = {"llama_cpp": "llama-cpp-python"}  # what a module is installed as, where that is another name


def key_of(config: AnyStageConfig, digests: dict[str, str], seed: int, threads: int, way: Way = ALONE) -> str:
    """The index key of a stage whose inputs have these digests by role."""
    needed = (*LIBRARIES, *getattr(config, "needs", ()), *(("accelerate",) if way != ALONE else ()))
    libraries = {name: importlib.metadata.version(DISTRIBUTIONS.get(name, name)) for name in needed}
    environment: dict[str, Any] = {"threads": threads, "libraries": libraries, "device": "cpu"}
    if way != ALONE:
        environment |= way.model_dump()
    if config.kind == "evaluate":
        environment["processor"] = processor()
    method = getattr(config, "method", None)
    content = config.model_dump(mode="json")
    return index.key_of(config.kind, method, content, digests, code_digest(config), seed, sha256_json(environment))


def processor() -> str:
    """The processor's name: measured latencies are only re-used on the same one."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def path_of(home: Path, digest: str) -> Path:
    """Where an artifact lies locally."""
    return home / "cache" / digest


def keep(home: Path, out: Path, digest: str) -> None:
    """Move a finished artifact into the cache; the stage's directory keeps a link to it."""
    target = path_of(home, digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and digest_directory(target) == digest:
        shutil.rmtree(out)
    else:
        shutil.rmtree(target, ignore_errors=True)
        out.rename(target)
    out.symlink_to(Path("../../..") / "cache" / digest)


def note(home: Path, record: StageRecord, *, sent: bool) -> None:
    """Remember a record in one step; `sent` says that its artifact and itself are on S3."""
    unsent = home / "index" / "unsent" / f"{record.key}.json"
    unsent.parent.mkdir(parents=True, exist_ok=True)
    target = home / "index" / unsent.name if sent else unsent
    partial = target.with_suffix(f".{os.getpid()}.part")
    with partial.open("wb") as stream:
        stream.write(index.encode(record))
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(target)
    if sent:
        unsent.unlink(missing_ok=True)


def recall(home: Path, key: str) -> tuple[StageRecord | None, bool]:
    """The record under a key, or None when there is none that can be read; and whether it is on S3."""
    for folder, sent in ((home / "index", True), (home / "index" / "unsent", False)):
        path = folder / f"{key}.json"
        if path.exists() and (record := index.decode(path.read_bytes(), key)) is not None:
            return record, sent
    return None, False

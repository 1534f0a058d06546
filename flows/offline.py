"""`shrink bundle MODEL --offline DIR`: a folder in which a registered version answers without a network.

Inside: the version as it was fetched and verified (model, evidence with the card, signature), the public key that it
is signed with, a runner (flows/templates/offline.py as run.py), the packages that it needs with their versions, and the
SHA-256 of every file. The folder appears complete or not at all.
"""

import importlib.metadata
import json
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flows.bundle import TEMPLATES, free
from registry import signing
from registry.download import STORED
from registry.records import ShrinkError, directory_bytes, manifest_of
from registry.signing import Trust
from tasks import runtime

RUNNER, LISTED = "run.py", "files.json"
NEEDS = {"classify": ("numpy", "onnxruntime", "tokenizers"), "embed": ("numpy", "onnxruntime", "tokenizers")}
WRITERS = {"llama_cpp": ("llama-cpp-python",), "transformers": ("gguf", "accelerate", "torch", "transformers")}


def write(name: str, version: Path, trust: Trust, target: Path) -> dict[str, Any]:
    """Write the bundle of a fetched version to `target`; what it weighs, in bytes. ShrinkError when it is taken."""
    free(target, "offline")
    signed = signing.verify(name, version, trust).key
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.{os.getpid()}.", dir=target.parent))
    except OSError as error:
        raise ShrinkError(f"offline is '{target}' but nothing can be written there ({error.strerror}).") from None
    try:
        scratch.chmod(0o755)
        fill(scratch, version, next(one.pem for one in trust.keys if one.id == signed))
        free(target, "offline")
        scratch.rename(target)  # an empty folder is replaced
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {"folder": str(target), "bytes": directory_bytes(target), "model": directory_bytes(target / "version/model")}


def fill(folder: Path, version: Path, key: str) -> None:
    """Write every file of the bundle below a folder, the list of them last."""
    for part in STORED:
        shutil.copytree(version / part, folder / "version" / part)
    (folder / "signing.pub").write_text(key)
    (folder / "requirements.txt").write_text(requirements(folder / "version" / "model"))
    listed = json.dumps(manifest_of(folder), sort_keys=True, indent=1)
    shutil.copyfile(TEMPLATES / "offline.py", folder / RUNNER)
    (folder / LISTED).write_text(listed + "\n")


def requirements(model: Path) -> str:
    """The packages that the runner needs, in the versions that are installed here; what is optional as a comment."""
    task = runtime.task(model)
    if task == "generate":
        needed = WRITERS["llama_cpp" if find_spec("llama_cpp") else "transformers"]
    else:
        needed = NEEDS[task]
    pinned = [f"{name}=={importlib.metadata.version(name)}" for name in needed]
    optional = f"# verifies the signature, too: model-signing=={importlib.metadata.version('model-signing')}"
    return "\n".join([*pinned, optional]) + "\n"

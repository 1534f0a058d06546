"""How a version comes from MLflow into a folder: looked at, downloaded, verified, and put in its place in one step."""

import contextlib
import errno
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from registry import contents, mlmodel, signing
from registry.records import digest_directory
from registry.signing import Trust

STORED = (*signing.PARTS, "signature")
TRIES = 5


def download(client: Any, model_id: str, declared: str | None, work: Path, tries: int) -> Path:
    """The files of a logged model, once its names and sizes were looked at; tried again while the server is away."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    limit = int(declared) if declared is not None and declared.isdecimal() else None
    for attempt in range(1, tries + 1):
        target = work / str(attempt)
        target.mkdir()
        try:
            contents.check(_listed(client, model_id), STORED, limit, work)
            download_artifacts(
                f"models:/{model_id}",
                dst_path=str(target),
                tracking_uri=client.tracking_uri,
                registry_uri=client.tracking_uri,
            )
            for file in (mlmodel.FILE, mlmodel.META):  # of MLflow's own clients: not signed, and never read here
                (target / file).unlink(missing_ok=True)
            return target
        except (MlflowException, OSError):
            if attempt == tries:
                raise
            time.sleep(0.5 * 2 ** (attempt - 1))
    raise ValueError(f"tries is {tries}, at least 1 is needed")


def _listed(client: Any, model_id: str) -> Iterator[contents.Listed]:
    """Every file that the registry lists of a logged model; a folder is looked into only once its name may be one."""
    folders: list[str | None] = [None]
    while folders:
        for one in client.list_logged_model_artifacts(model_id, folders.pop()):
            if one.is_dir:
                contents.check_segments(one.path)
                folders.append(one.path)
            elif one.path != mlmodel.FILE or int(one.file_size or 0) > mlmodel.LARGEST:
                yield contents.Listed(path=one.path, size=int(one.file_size or 0))


def verify(folder: Path, name: str, expected: Mapping[str, str], trust: Trust) -> None:
    """Raise Foreign or Unverified unless a folder holds what is expected and nothing else, signed."""
    contents.check_folder(folder, STORED)
    for part, digest in expected.items():
        if digest_directory(folder / part) != digest:
            raise contents.Foreign(f"does not hold the {part} with digest {digest}")
    signing.verify(name, folder, trust)


def place(got: Path, dest: Path, there: Callable[[], bool], work: Path) -> None:
    """Move what was verified to `dest`, unless another process has put it there meanwhile."""
    for _ in range(TRIES):
        try:
            got.rename(dest)
            return
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        if there():
            return
        with contextlib.suppress(FileNotFoundError):
            dest.rename(tempfile.mkdtemp(dir=work))  # damaged: aside in one step, so that no half is ever seen
    raise RuntimeError(f"{dest} is damaged and is put there again and again: end what writes to it")


def whole(folder: Path, name: str, expected: Mapping[str, str], trust: Trust) -> bool:
    """Whether a folder holds what is expected and nothing else, signed."""
    try:
        if not folder.is_dir():
            return False
        verify(folder, name, expected, trust)
    except (OSError, contents.Foreign, signing.Unverified):  # OSError: another process replaces it just now
        return False
    return True

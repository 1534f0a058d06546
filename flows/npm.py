"""npm packages as files: fetched by `npm pack` through the user's own settings, kept by hash, never installed."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel

from flows.settings import base_environment
from flows.sources import scratch_in
from registry.records import STRICT, ShrinkError

MINUTES = 10  # that npm may take for one package


class Package(BaseModel):
    """One version of a package, the SHA-512 of its archive as npm writes it (base64), and its licence."""

    model_config = STRICT
    name: str
    version: str
    sha512: str
    licence: str

    @property
    def spec(self) -> str:
        """NAME@VERSION."""
        return f"{self.name}@{self.version}"


def read(package: Package, members: tuple[str, ...], home: Path) -> dict[str, bytes]:
    """The named files of a package; raises ShrinkError when it cannot be had or is not the one that is pinned."""
    with tarfile.open(archive(package, home)) as opened:
        found = {name: opened.extractfile(f"package/{name}") for name in members}
        return {name: stream.read() for name, stream in found.items() if stream is not None}


def archive(package: Package, home: Path) -> Path:
    """The package's archive in home/npm, fetched where it is missing or damaged."""
    folder = home / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{package.name.replace('/', '-').lstrip('@')}-{package.version}.tgz"
    with FileLock(f"{kept}.lock"):
        if not kept.is_file() or digest(kept) != package.sha512:
            with scratch_in(folder) as scratch:
                got = packed(package, Path(scratch))
                if digest(got) != package.sha512:
                    raise ShrinkError(
                        f"{package.spec} as npm delivered it is not the file that is pinned (another SHA-512): "
                        "check npm's registry setting; nothing was written."
                    )
                got.replace(kept)
    return kept


def packed(package: Package, scratch: Path) -> Path:
    """The one archive that `npm pack` leaves in a scratch folder."""
    npm = shutil.which("npm")
    if npm is None:
        raise ShrinkError(f"npm is not installed, which fetches {package.spec}: `apt install npm`, or another way.")
    quiet = {"npm_config_update_notifier": "false", "npm_config_fund": "false", "npm_config_audit": "false"}
    try:
        done = subprocess.run(
            [npm, "pack", package.spec, "--ignore-scripts", "--loglevel=error", "--pack-destination", str(scratch)],
            cwd=scratch,
            env=base_environment() | quiet,
            capture_output=True,
            text=True,
            timeout=60 * MINUTES,
        )
        said = f"{done.stderr}\n{done.stdout}".strip().splitlines()
    except subprocess.TimeoutExpired:
        said = [f"no answer in {MINUTES} minutes"]
    got = sorted(scratch.glob("*.tgz"))
    if len(got) != 1:
        reason = next((line for line in said if "code" in line), said[0] if said else "it left no file")
        reason = reason.removeprefix("npm error ")
        raise ShrinkError(f"{package.spec} could not be fetched ({reason[:200]}); check npm's settings.")
    return got[0]


def digest(path: Path) -> str:
    """SHA-512 of a file as npm writes it, in base64."""
    with path.open("rb") as stream:
        return base64.b64encode(hashlib.file_digest(stream, "sha512").digest()).decode()

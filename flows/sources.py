"""Sources become local directories: packages fetched as files through the user's own settings, never installed.

`pypi:` packages come by pip, `deb:` ones (documentation of Debian) by apt-get, each with the hash that a recipe names;
`models:` are versions in the registry (flows/registered.py).
"""

import atexit
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

from filelock import FileLock

from flows.recipe import Source
from registry.records import ShrinkError, sha256_file, sha256_json

OTHERWISE = "dir:PATH, file:PATH, models:/NAME@ALIAS, or with its sha256 pypi:NAME==VERSION or deb:NAME==VERSION"
PINNED = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+")  # nothing else may reach pip's requirements file
MODEL = ".gguf"  # ends the name of a file that is a model by itself
SHA = re.compile(r"[0-9a-f]{64}")


def resolve(source: Source, home: Path) -> Path:
    """The local directory of a source; fetched once, kept under home/sources.

    Raises ShrinkError when it cannot be had or its hash is another.
    """
    scheme, _, rest = source.uri.partition(":")
    if scheme == "file":
        return alone(Path(rest), home)
    if scheme == "dir":
        directory = Path(rest) / source.path
        if not directory.is_dir():
            raise ShrinkError(f"source '{source.uri}' is no directory; give the path of one.")
        return directory
    if scheme == "models":
        from flows.registered import take  # needs MLflow, as nothing else here does

        return take(source, home).folder
    wanted = source.sha256 or ""
    if scheme not in {"pypi", "deb"} or not PINNED.fullmatch(rest) or not SHA.fullmatch(wanted):
        raise ShrinkError(f"source '{source.uri}' must be {OTHERWISE}.")
    target = home / "sources" / sha256_json(source.model_dump())[:16]
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            with scratch_in(target.parent) as scratch:
                fetch = download if scheme == "pypi" else download_deb
                unpack(fetch(rest, wanted, Path(scratch)), source.path, Path(scratch)).rename(target)
    return target


def peek(source: Source, home: Path, apart: bool = False) -> Path:
    """A directory to look at before a run: like `resolve`, but one file is looked at where it lies, not copied.

    `apart`: without its neighbours, for whoever reads all that a directory holds.
    """
    scheme, _, rest = source.uri.partition(":")
    file = Path(rest)
    if scheme != "file" or not file.is_file():
        return resolve(source, home)
    return linked(file) if apart or file.suffix == MODEL else file.parent


@cache
def linked(file: Path) -> Path:
    """A directory that holds a link to this one file alone, while the process lives: a model is what its folder holds.

    (`alone` copies it, for a run.)
    """
    scratch = tempfile.TemporaryDirectory(prefix="shrink.")
    atexit.register(scratch.cleanup)
    (Path(scratch.name) / file.name).symlink_to(file.resolve())
    return Path(scratch.name)


def alone(file: Path, home: Path) -> Path:
    """A directory under home/sources that holds a copy of this one file, so that its neighbours do not count."""
    if not file.is_file():
        raise ShrinkError(f"source 'file:{file}' is no file; give the path of one.")
    digest = sha256_file(file)
    target = home / "sources" / sha256_json({"name": file.name, "sha256": digest})[:16]
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not (target / file.name).is_file() or sha256_file(target / file.name) != digest:
            shutil.rmtree(target, ignore_errors=True)
            with scratch_in(target.parent) as scratch:
                (Path(scratch) / "kept").mkdir()
                shutil.copyfile(file, Path(scratch) / "kept" / file.name)
                (Path(scratch) / "kept").rename(target)
    return target


def scratch_in(folder: Path) -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder whose name carries this process's id, so that one left by a kill is known as such."""
    return tempfile.TemporaryDirectory(prefix=f".fetch.{os.getpid()}.", dir=folder)


def download(requirement: str, sha256: str, scratch: Path) -> Path:
    """Fetch one package file by `pip download --require-hashes`; returns its path."""
    (scratch / "requirements.txt").write_text(f"{requirement} --hash=sha256:{sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "-d", str(scratch / "got"), "-r", str(scratch / "requirements.txt")],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "pip failed")
        raise ShrinkError(f"source 'pypi:{requirement}' could not be fetched ({reason}); check pip's settings.")
    return next((scratch / "got").iterdir())


def download_deb(requirement: str, sha256: str, scratch: Path) -> Path:
    """Fetch one Debian package by `apt-get download`, look at its hash, and return the tar of its files."""
    name, _, version = requirement.partition("==")
    failed = f"source 'deb:{requirement}' could not be fetched"
    (scratch / "got").mkdir()
    try:
        command = ["apt-get", "download", "-q", f"{name}={version}"]
        done = subprocess.run(command, cwd=scratch / "got", capture_output=True, text=True)
    except FileNotFoundError:
        raise ShrinkError(f"{failed}: there is no apt-get here; fetch the text yourself and name it as dir:.") from None
    package = next((scratch / "got").glob("*.deb"), None)
    if done.returncode != 0 or package is None:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("E:")), "apt-get failed")
        raise ShrinkError(f"{failed} ({reason}); check apt's settings, or name a folder of text as dir:.")
    if (found := sha256_file(package)) != sha256:
        raise ShrinkError(
            f"source 'deb:{requirement}' has the sha256 {found} but the recipe names another: trust none."
        )
    tar = scratch / f"{name}.tar"
    with tar.open("wb") as files:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=files, check=True)
    return tar


def unpack(package: Path, inner: str, scratch: Path) -> Path:
    """Extract `inner` (a directory, or a .tar.gz inside) of a wheel or sdist into a directory of its own."""
    opened = scratch / "opened"
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            archive.extractall(opened)
        root = opened
    else:
        untar(package, opened)
        root = opened if package.suffix == ".tar" else next(opened.iterdir())
    wanted = root / inner
    if wanted.is_file() and wanted.suffixes[-2:] == [".tar", ".gz"]:
        untar(wanted, scratch / "nested")
        wanted = next((scratch / "nested").iterdir())
    if not wanted.is_dir() or not wanted.resolve().is_relative_to(scratch.resolve()):
        raise ShrinkError(f"path is '{inner}' but {package.name} has no such folder; correct it.")
    kept = scratch / "kept"
    shutil.copytree(wanted, kept)
    return kept


def untar(archive: Path, folder: Path) -> None:
    """Extract the plain files of a tar below a folder (tarfile's own filter came only with Python 3.11.4)."""
    folder.mkdir()
    with tarfile.open(archive) as opened:
        for member in opened:
            target = folder / member.name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise ShrinkError(f"{archive.name} holds '{member.name}', which lies outside: take another source.")
            if (content := opened.extractfile(member) if member.isfile() else None) is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())

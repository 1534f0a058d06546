"""Teachers out of the registry: `models:/NAME@ALIAS` or `models:/NAME/VERSION` → a version, its digest, its folder.

A run asks for the alias once and then stays with the version and its digest (`pinned`). Our own versions are verified
as everywhere; one that others registered is hashed when it is first fetched, and must stay what it was.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from flows.recipe import Recipe, Source, instead
from flows.sources import scratch_in
from registry import listing, versions
from registry.records import ShrinkError, digest_directory, sha256_json

SCHEME = "models:"
URI = re.compile(r"models:/([A-Za-z0-9][A-Za-z0-9._-]*)(?:@([A-Za-z][A-Za-z0-9_-]*)|/([1-9][0-9]*))")
SHAPE = "models:/NAME@ALIAS or models:/NAME/VERSION"
STORED = re.compile(r"models:/m-[0-9a-f]{32}|(runs:|mlflow-artifacts:|s3:/)/.+")  # never a file or URL of elsewhere


class Taken(NamedTuple):
    """A version as it lies here: its model's folder and that folder's content digest."""

    uri: str
    digest: str
    folder: Path


def followed(recipe: Recipe) -> dict[str, Source]:
    """The recipe's sources behind an alias, which may move, by their names."""
    return {name: one for name, one in recipe.origins.items() if one.uri.startswith(SCHEME) and "@" in one.uri}


def used(recipe: Recipe) -> bool:
    """Whether any source is a registered model, for which MLflow must answer."""
    return any(one.uri.startswith(SCHEME) for one in recipe.origins.values())


def version_of(uri: str) -> str:
    """`models:/NAME/VERSION` of what the URI names now; ShrinkError for an unknown model, alias or version."""
    from mlflow.exceptions import MlflowException

    from flows.servers import client

    read = URI.fullmatch(uri)
    if read is None:
        raise ShrinkError(f"source '{uri}' is no registered model; write {SHAPE}.")
    name, alias, version = read.groups()
    try:
        aliases = client().get_registered_model(name).aliases or {}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = sorted(listing.models(client()))
        hint = instead(name, known, "registered are") if known else "none is yet."
        raise ShrinkError(f"source '{uri}': model '{name}' is not registered; {hint}") from None
    if alias is not None and alias not in aliases:
        hint = instead(alias, sorted(aliases), "its aliases are") if aliases else "it has none: set it in MLflow."
        raise ShrinkError(f"source '{uri}': model '{name}' has no alias '{alias}'; {hint}")
    return f"models:/{name}/{version or aliases[alias]}"


def take(source: Source, home: Path) -> Taken:
    """Fetch what a source names now, verified; ShrinkError when it is not there or not what its sha256 says."""
    from flows import named
    from flows.servers import client

    uri = version_of(source.uri)
    name, version = uri.removeprefix("models:/").split("/")
    number = versions.resolve(client(), name, version)
    found = client().get_model_version(name, number)
    if versions.DIGEST_TAG in found.tags:
        folder = inside(named.fetched(f"{name}@{number}", home)[1], source)
        digest = digest_directory(folder)
    else:
        folder, digest = foreign(found, source, home)
    if source.sha256 not in {None, digest}:
        raise ShrinkError(
            f"source '{uri}' has the digest {digest} but sha256 is {source.sha256}: name that version, or drop sha256."
        )
    return Taken(uri, digest, folder)


def foreign(found: Any, source: Source, home: Path) -> tuple[Path, str]:
    """Folder and digest of a version that others registered; its first digest is noted and must not change."""
    uri = f"models:/{found.name}/{found.version}"
    if STORED.fullmatch(found.source or "") is None:
        raise ShrinkError(f"source '{uri}' comes from '{found.source}', which is no store of MLflow: log it there.")
    facts = {"uri": uri, "source": found.source, "path": source.path, "created": int(found.creation_timestamp)}
    target = home / "sources" / sha256_json(facts)[:16]
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        note = target.with_suffix(".json")
        known = json.loads(note.read_text())["digest"] if note.exists() else None
        if known is not None and target.is_dir() and digest_directory(target) == known:
            return target, known
        with scratch_in(target.parent) as scratch:
            got = inside(downloaded(uri, Path(scratch)), source)
            digest = digest_directory(got)
            if known not in {None, digest}:
                raise versions.CorruptVersion(f"{uri} is {digest} now and was {known} when first fetched: not used")
            keep(note, {**facts, "digest": digest})
            if target.exists():
                target.rename(Path(scratch) / "damaged")
            got.rename(target)
    return target, digest


def downloaded(uri: str, scratch: Path) -> Path:
    """All files of a version in a new folder."""
    from mlflow.artifacts import download_artifacts

    from flows.servers import client

    (scratch / "got").mkdir()
    at = client().tracking_uri
    download_artifacts(artifact_uri=uri, dst_path=str(scratch / "got"), tracking_uri=at, registry_uri=at)
    return scratch / "got"


def inside(folder: Path, source: Source) -> Path:
    """The model's folder in a version: the one that `path` names, else model/ where there is one, else all of it."""
    if source.path == ".":
        return folder / "model" if (folder / "model").is_dir() else folder
    wanted = (folder / source.path).resolve()
    if not wanted.is_dir() or not wanted.is_relative_to(folder.resolve()):
        raise ShrinkError(f"path is '{source.path}' but '{source.uri}' has no such folder; correct it.")
    return wanted


def keep(path: Path, facts: Mapping[str, Any]) -> None:
    """Write JSON in one step (temporary, fsync, rename)."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(facts, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(path)


def pinned(recipe: Recipe, home: Path) -> Recipe:
    """The recipe with the version and digest that each registered source has now, fetched."""

    def pin(source: Source) -> Source:
        if not source.uri.startswith(SCHEME):
            return source
        taken = take(source, home)
        return source.model_copy(update={"uri": taken.uri, "sha256": taken.digest})

    return recipe.with_sources(pin)

"""Model versions in MLflow without flavor or pickle: `model/` is what is deployed, `evidence/` says why.

`signature/` is over both (registry/signing.py). Of a fetched version names and sizes are looked at before the download
(registry/contents.py), then its digests and its signature: who may write to the registry cannot make a deployer load
other bytes than those that were judged. Tags are for people and for finding; none of them is believed.
"""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry import attested, contents, signing
from registry.download import TRIES, download, place, verify, whole
from registry.patience import away
from registry.records import ShrinkError, digest_directory, directory_bytes
from registry.signing import Trust
from registry.upload import left, upload

log = logging.getLogger("registry.versions")

DIGEST_TAG = "shrink.digest"
EVIDENCE_TAG = "shrink.evidence"
RECIPE_TAG = "shrink.recipe"
VERDICT_TAG = "shrink.verdict"
INPUTS_TAG = "shrink.inputs"
BYTES_TAG = "shrink.bytes"  # of all its files
KEY_TAG = "shrink.signed_by"
EVALUATED_TAG = "shrink.evaluated"  # the day, and the digest of the champion that it was compared with
ADMISSION_TAG = "shrink.admission"
PASSED, REJECTED, REFUSED = "passed", "rejected", "refused"
SOURCE = re.compile(r"models:/(m-[0-9a-f]{32})")


class CorruptVersion(RuntimeError):
    """What the registry holds is not what the version's digest names."""


def register(
    client: Any,
    name: str,
    directory: Path,
    evidence: Path | None,
    digest: str,
    tags: Mapping[str, str],
    description: str,
    run_id: str,
    trust: Trust,
    signature: Path | None,
    about: str = "",
) -> str:
    """Register a directory as a version; the same digest, recipe, verdict and evaluation give the same number.

    `signature` is the folder with the signature over model and evidence; without one the version is stored and nobody
    loads it. A version whose stored files are damaged, or whose signature `trust` does not hold, is not taken up: a new
    one is made. `about` describes the model as a whole. To be called by one process at a time for a model on one host:
    what a killed one left is taken up or removed. Of two hosts that register the same at once the older version stays.
    """
    contents.checked_name(name)
    if digest_directory(directory) != digest:
        raise CorruptVersion(f"{directory} does not hash to {digest}: it was changed after it was judged")
    _ensure_model(client, name, about)
    known = _find(client, name, digest, tags, trust)
    if known is not None:
        return known
    given = {"model": directory, "evidence": evidence, "signature": signature}
    parts = {part: folder for part, folder in given.items() if folder is not None}
    marks: Mapping[str, str] = {**tags, DIGEST_TAG: digest, BYTES_TAG: str(sum(map(directory_bytes, parts.values())))}
    if evidence is not None:
        marks = {**marks, EVIDENCE_TAG: digest_directory(evidence)}
    taken = _left(client, name, marks, run_id)
    model_id, marks = taken or (upload(client, name, parts, marks, run_id), marks)
    made = client.create_model_version(
        name, source=f"models:/{model_id}", run_id=run_id, tags=marks, description=description, model_id=model_id
    )
    _name_output(client, run_id, model_id)
    older = _find(client, name, digest, tags, trust, below=int(made.version))  # of another host, made meanwhile
    if older is None:
        return str(made.version)
    client.delete_model_version(name, made.version)  # nobody was told of it yet
    client.delete_logged_model(model_id)
    return older


def _name_output(client: Any, run_id: str, model_id: str) -> None:
    from mlflow.entities import LoggedModelOutput

    client.log_outputs(run_id, models=[LoggedModelOutput(model_id, step=0)])


def fetch(
    client: Any, name: str, version: str, dest: Path, trust: Trust, digest: str | None = None, tries: int = TRIES
) -> Path:
    """Download a version into `dest` (`dest/model`, `evidence`, `signature`), verified by digests and signature.

    What is in `dest` is used when it is whole and replaced when it is damaged; several may fetch at once. A caller who
    knows the digest from elsewhere (the ledger) hands it in; the tag must then say the same. Raises CorruptVersion,
    also for a version that no key of `trust` has signed.
    """
    contents.checked_name(name)
    found = _version(client, name, version)
    source, what = SOURCE.fullmatch(found.source or ""), f"version {version} of {name}"
    if DIGEST_TAG not in found.tags or source is None:
        raise CorruptVersion(f"{what} has no digest tag or a foreign source: it is not loaded")
    if digest not in {None, found.tags[DIGEST_TAG]}:
        raise CorruptVersion(f"{what} is tagged with another digest than {digest}: not loaded")
    expected = {"model": found.tags[DIGEST_TAG]}
    if EVIDENCE_TAG in found.tags:
        expected["evidence"] = found.tags[EVIDENCE_TAG]
    if whole(dest, name, expected, trust):
        return dest
    dest.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{dest.name}.{os.getpid()}.", dir=dest.parent))  # whose it is, for sweepers
    try:
        got = download(client, source[1], found.tags.get(BYTES_TAG), work, tries)
        verify(got, name, expected, trust)
        place(got, dest, lambda: whole(dest, name, expected, trust), work)
    except (contents.Foreign, signing.Unverified) as error:
        raise CorruptVersion(f"{what} {error}: it is not loaded") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return dest


def resolve(client: Any, name: str, wanted: str) -> str:
    """The version number behind an alias, or the number itself once it exists."""
    if wanted.isdecimal():
        return str(_version(client, name, wanted).version)
    found = alias(client, name, wanted)
    if found is None:
        raise ShrinkError(f"model {name} has no alias {wanted!r}: promote a version or name one by its number")
    return found


def alias(client: Any, name: str, wanted: str) -> str | None:
    """The version an alias points at, or None while there is no such alias."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(name, wanted).version)
    except MlflowException as error:
        if error.error_code in {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}:
            return None
        raise


def describe(client: Any, name: str, version: str) -> dict[str, Any]:
    """What the registry says of a version, JSON-able."""
    found = _version(client, name, version)
    aliases = client.get_registered_model(name).aliases
    return {
        "name": name,
        "version": str(found.version),
        "status": str(found.status),
        "digest": found.tags.get(DIGEST_TAG),
        "verdict": found.tags.get(VERDICT_TAG),
        "aliases": sorted(key for key, value in aliases.items() if str(value) == str(found.version)),
        "tags": dict(sorted(found.tags.items())),
        "description": found.description or "",
        "run_id": found.run_id,
        "source": found.source,
        "created": int(found.creation_timestamp),
    }


def _ensure_model(client: Any, name: str, about: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        if about and client.get_registered_model(name).description != about:
            client.update_registered_model(name, description=about)


def _find(
    client: Any, name: str, digest: str, tags: Mapping[str, str], trust: Trust, below: int | None = None
) -> str | None:
    """The oldest version (of those `below` a number) of this digest, recipe, verdict, evaluation; whole and signed."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'")
    alike = {int(one.version): one for one in found if _alike(one.tags, tags) and one.status == "READY"}
    for number in sorted(one for one in alike if below is None or one < below):
        if _reads(client, name, alike[number], digest, tags.get(VERDICT_TAG), trust):
            return str(number)
    return None


def _reads(client: Any, name: str, one: Any, digest: str, word: str | None, trust: Trust) -> bool:
    """Whether a version is whole and signed; raises when a server is away, which says nothing of the version.

    Files that are gone look like a server that fails: it is one only if it cannot list them either.
    """
    from mlflow.exceptions import MlflowException

    for again in (True, False):
        with tempfile.TemporaryDirectory() as work:
            try:
                got = fetch(client, name, str(one.version), Path(work) / "got", trust, digest, tries=1)  # MLflow's do
                _says(got, word)
                return True
            except (CorruptVersion, attested.Incomplete, MlflowException, OSError) as error:
                if again and away(error):
                    client.list_logged_model_artifacts(one.source.removeprefix("models:/"), "model")
                    continue
                log.warning("version %s of %s is damaged and not taken up again: %s", one.version, name, error)
                return False
    return False


def _says(version: Path, word: str | None) -> None:
    """Raise CorruptVersion where the signed verdict is another than the tag's, which anybody may have set."""
    if (version / "evidence" / attested.VERDICT).exists():
        said = PASSED if attested.verdict(version).passed else REJECTED
        if word != said:
            raise CorruptVersion(f"its tag says {word}, its signed evidence {said}")


def _alike(tags: Mapping[str, str], others: Mapping[str, str]) -> bool:
    return all(tags.get(tag) == others.get(tag) for tag in (RECIPE_TAG, VERDICT_TAG, EVALUATED_TAG))


def _left(client: Any, name: str, marks: Mapping[str, str], run_id: str) -> tuple[str, Mapping[str, str]] | None:
    """What a killed registration of this run left of this very digest, recipe and verdict, with its own evidence."""

    def same(tags: Mapping[str, str]) -> bool:
        evidence = (EVIDENCE_TAG in marks) == (EVIDENCE_TAG in tags)
        return evidence and _alike(tags, marks) and marks.get(KEY_TAG) == tags.get(KEY_TAG)

    used = {SOURCE.sub(r"\1", one.source or "") for one in client.search_model_versions(f"name = '{name}'")}
    where = f"name = '{name}' AND tags.`{DIGEST_TAG}` = '{marks[DIGEST_TAG]}'"
    model = left(client, run_id, where, used, same)
    if model is None:
        return None
    return str(model.model_id), {**marks, **{key: value for key, value in model.tags.items() if key in marks}}


def _version(client: Any, name: str, version: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise ShrinkError(f"model {name} has no version {version!r}: name one that is registered") from error
        raise

"""Promotion: an append-only ledger on S3, of which MLflow's aliases `champion` and `previous` are a projection.

An intent is written first, then the aliases are moved and read back, then `done` is written. An intent without `done`
is finished by whoever comes next, so a kill at any point leaves nothing in between for good. Writers of one host are
serialised by a lock file; where the S3 honours conditional writes, so are writers of several.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel

from registry import versions
from registry.records import STRICT, ShrinkError
from registry.store import error_code, read_object

CHAMPION, PREVIOUS = "champion", "previous"
LOCK_SECONDS = 120


class Entry(BaseModel):
    """One line of the ledger; `target` is champion after it, `previous` the one a rollback would return to."""

    model_config = STRICT
    seq: int
    event: Literal["intent", "done"]
    action: Literal["promote", "rollback"]
    model: str
    target: str
    former: str | None
    previous: str | None
    digest: str
    who: str
    why: str
    when: str


def promote(client: Any, s3: Any, bucket: str, lock: Path, name: str, version: str, who: str, why: str) -> Entry:
    """Make a version that passed its gate the champion; repeating it changes nothing and returns the same entry."""
    with _locked(lock):
        digest = _promotable(client, name, version)
        entries = _settle(client, s3, bucket, name)
        if _digest(entries, version) not in {None, digest}:
            raise versions.CorruptVersion(
                f"version {version} of {name} is tagged with another digest than in the ledger: it is not promoted"
            )
        line, done = _line(entries), [entry for entry in entries if entry.event == "done"]
        if line and line[-1] == version:
            _project(client, name, version, line[-2] if len(line) > 1 else None)
            return done[-1]
        former = line[-1] if line else None
        intent = _entry(entries, "promote", name, version, former, former, digest, who, why)
        return _carry_out(client, s3, bucket, intent)


def rollback(client: Any, s3: Any, bucket: str, lock: Path, name: str, who: str, why: str) -> Entry:
    """Return to the champion before this one; a rollback that a kill interrupted is finished, not done twice."""
    with _locked(lock):
        before = history(s3, bucket, name)
        entries = _settle(client, s3, bucket, name)
        if len(entries) > len(before) and entries[-1].action == "rollback":
            return entries[-1]
        line = _line(entries)
        if len(line) < 2:
            raise ShrinkError(f"model {name} has no earlier champion to roll back to: promote another version instead")
        digest = _digest(entries, line[-2]) or ""  # never the tag's: who may write to MLflow may change that
        previous = line[-3] if len(line) > 2 else None
        intent = _entry(entries, "rollback", name, line[-2], line[-1], previous, digest, who, why)
        return _carry_out(client, s3, bucket, intent)


def history(s3: Any, bucket: str, name: str) -> list[Entry]:
    """All entries of a model's ledger in order."""
    prefix = _prefix(name)
    keys: list[str] = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        keys += [item["Key"] for item in page.get("Contents", [])]
    entries = [Entry.model_validate_json(read_object(s3, bucket, key) or b"") for key in sorted(keys)]
    if [entry.seq for entry in entries] != list(range(1, len(entries) + 1)):
        raise RuntimeError(f"the ledger of {name} has a gap: restore the missing object below {prefix}")
    return entries


def digest_of(s3: Any, bucket: str, name: str, version: str) -> str | None:
    """The digest in the ledger's newest entry for a version; None for one that was never promoted."""
    return _digest(history(s3, bucket, name), version)


def champion(s3: Any, bucket: str, name: str) -> str | None:
    """The champion's version by the ledger, or None before the first promotion."""
    line = _line(history(s3, bucket, name))
    return line[-1] if line else None


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=LOCK_SECONDS)
    except Timeout as error:
        raise RuntimeError(
            f"another promotion held {lock} for {LOCK_SECONDS} s: run it again when it is over"
        ) from error
    try:
        yield
    finally:
        held.release()


def _promotable(client: Any, name: str, version: str) -> str:
    seen = versions.describe(client, name, version)
    if seen["verdict"] != versions.PASSED:
        raise ShrinkError(
            f"version {version} of {name} has the verdict {seen['verdict']!r}: promote one that is 'passed'"
        )
    if not seen["digest"]:
        raise ShrinkError(f"version {version} of {name} has no digest: register it with shrink")
    return str(seen["digest"])


def _digest(entries: list[Entry], version: str) -> str | None:
    return next((entry.digest for entry in reversed(entries) if entry.target == version and entry.digest), None)


def _line(entries: list[Entry]) -> list[str]:
    """The champions a rollback can walk back along, the present one last."""
    line: list[str] = []
    for entry in entries:
        if entry.event == "done" and entry.action == "promote":
            line.append(entry.target)
        elif entry.event == "done":
            line.pop()
    return line


def _entry(
    entries: list[Entry],
    action: Literal["promote", "rollback"],
    name: str,
    target: str,
    former: str | None,
    previous: str | None,
    digest: str,
    who: str,
    why: str,
) -> Entry:
    return Entry(
        seq=len(entries) + 1,
        event="intent",
        action=action,
        model=name,
        target=target,
        former=former,
        previous=previous,
        digest=digest,
        who=who,
        why=why,
        when=_now(),
    )


def _carry_out(client: Any, s3: Any, bucket: str, intent: Entry) -> Entry:
    _append(s3, bucket, intent)
    return _finish(client, s3, bucket, intent)


def _settle(client: Any, s3: Any, bucket: str, name: str) -> list[Entry]:
    """The ledger, once an intent that was left open is finished."""
    entries = history(s3, bucket, name)
    if entries and entries[-1].event == "intent":
        entries.append(_finish(client, s3, bucket, entries[-1]))
    return entries


def _finish(client: Any, s3: Any, bucket: str, intent: Entry) -> Entry:
    _project(client, intent.model, intent.target, intent.previous)
    done = intent.model_copy(update={"seq": intent.seq + 1, "event": "done", "when": _now()})
    _append(s3, bucket, done)
    return done


def _project(client: Any, name: str, target: str, previous: str | None) -> None:
    """Move the aliases where they differ, `previous` first, and read both back."""
    for alias, version in ((PREVIOUS, previous), (CHAMPION, target)):
        if versions.alias(client, name, alias) == version:
            continue
        if version is None:
            client.delete_registered_model_alias(name, alias)
        else:
            client.set_registered_model_alias(name, alias, version)
        seen = versions.alias(client, name, alias)
        if seen != version:
            raise RuntimeError(f"alias {alias} of {name} reads {seen} after it was set to {version}: run it again")


def _append(s3: Any, bucket: str, entry: Entry) -> None:
    """Write one entry where none may be, and read it back: not every S3 honours the condition."""
    from botocore.exceptions import ClientError

    key = f"{_prefix(entry.model)}{entry.seq:06d}.json"
    body = json.dumps(entry.model_dump(mode="json"), sort_keys=True).encode()
    if read_object(s3, bucket, key) is None:
        try:
            s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json", IfNoneMatch="*")
        except ClientError as error:
            if error_code(error) not in {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}:
                raise
    if read_object(s3, bucket, key) != body:
        raise RuntimeError(f"another writer took entry {entry.seq} of the ledger of {entry.model}: run it again")


def _prefix(name: str) -> str:
    return f"ledger/{name}/"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

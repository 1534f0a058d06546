"""Issued reports on S3: frozen by the digest of their files, restated by a later one, never edited.

The files are an artifact of the store (registry/store.py); `reports/<scope>/<number>.json` then names it, written where
nothing may be (`If-None-Match`; on an S3 that ignores it the caller holds a lock). A restatement is the next number of
its scope and names the digest that it takes the place of, so the entries of a scope are a chain.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from registry import conditional, store
from registry.records import STRICT, ShrinkError

PREFIX = "reports/"


class Issued(BaseModel):
    """One issued report; `digest` is of the directory with its files."""

    model_config = STRICT
    number: int = Field(description="1 of the first of its scope, then of its restatements")
    digest: str
    model: str | None
    since: str | None
    until: str
    issued: str = Field(description="when, UTC; no part of the digest")
    who: str
    restates: str | None = None
    reason: str | None = None

    @property
    def scope(self) -> str:
        """What it is about, as a part of its key."""
        return scope(self.model, self.since, self.until)


def scope(model: str | None, since: str | None, until: str) -> str:
    """A model (or all) and a period as a part of a key; no model's name begins with a dash."""
    return f"{model or '-all'}/{since or 'start'}_{until}"


def entries(s3: Any, bucket: str, within: str = "") -> list[Issued]:
    """Issued reports by scope and number; raises RuntimeError for an entry that cannot be read or does not follow."""
    keys: list[str] = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=PREFIX + within):
        keys += [item["Key"] for item in page.get("Contents", [])]
    found: list[Issued] = []
    for key in sorted(keys):
        try:
            entry = Issued.model_validate_json(store.read_object(s3, bucket, key) or b"")
        except ValidationError:
            raise RuntimeError(
                f"the issued report {key} cannot be read: restore it from a copy of the bucket"
            ) from None
        before = found[-1] if found and found[-1].scope == entry.scope else None
        expected = (before.number + 1 if before else 1, before.digest if before else None)
        if (entry.number, entry.restates) != expected or key != _key(entry):
            raise RuntimeError(f"the issued report {key} does not follow the one before: restore it from a copy")
        found.append(entry)
    return found


def issue(s3: Any, bucket: str, directory: Path, entry: Issued) -> Issued:
    """Store the files, then the entry; issued again with the same bytes it is the entry that is there.

    Raises ShrinkError where another report of this scope was issued meanwhile, RuntimeError for what was damaged.
    """
    digest = store.put(s3, bucket, directory)
    if digest != entry.digest:
        raise RuntimeError("the report changed while it was issued; issue it again")
    key = _key(entry)
    if conditional.put_new(s3, bucket, key, entry.model_dump_json().encode()):
        return entry
    there = Issued.model_validate_json(store.read_object(s3, bucket, key) or b"")
    if there.digest != entry.digest:
        raise ShrinkError(f"report = {entry.scope} was issued as {there.digest[:12]} meanwhile; restate that one.")
    return there


def _key(entry: Issued) -> str:
    return f"{PREFIX}{entry.scope}/{entry.number:06d}.json"

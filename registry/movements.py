"""What was done about each movement of a recipe's teachers: an append-only log on S3, one object an entry.

A run is started by whoever writes the entry that says so: where the S3 honours conditional writes one of several hosts
can, on one host the caller holds a lock. An entry `start` without an end behind it was cut off.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel

from registry.conditional import put_new
from registry.records import STRICT
from registry.store import read_object


class Movement(BaseModel):
    """One entry: the versions that a recipe's teachers were at, and what became of the run for them.

    `same` says that the versions hold the bytes of those before, so that there was nothing to run.
    """

    model_config = STRICT
    seq: int
    event: Literal["start", "passed", "rejected", "failed", "same"]
    recipe: str
    recipe_digest: str
    versions: dict[str, str]  # models:/NAME/VERSION by the source's name in the recipe
    digests: dict[str, str]
    attempt: int
    who: str  # the process, as Prefect's runs are tagged with it
    run: str | None = None
    why: str = ""
    when: str


def last(s3: Any, bucket: str, recipe: str, digest: str) -> Movement | None:
    """The newest entry of a recipe, or None before the first."""
    key = max(_keys(s3, bucket, recipe, digest), default=None)
    return None if key is None else Movement.model_validate_json(read_object(s3, bucket, key) or b"")


def history(s3: Any, bucket: str, recipe: str, digest: str) -> list[Movement]:
    """All entries of a recipe in order."""
    keys = sorted(_keys(s3, bucket, recipe, digest))
    return [Movement.model_validate_json(read_object(s3, bucket, key) or b"") for key in keys]


def append(s3: Any, bucket: str, entry: Movement) -> bool:
    """Write an entry where none may be, and read it back; whether it is ours that stands there now."""
    key = f"{_prefix(entry.recipe, entry.recipe_digest)}{entry.seq:06d}.json"
    body = json.dumps(entry.model_dump(mode="json"), sort_keys=True).encode()
    return put_new(s3, bucket, key, body)


def now() -> str:
    """The time of an entry."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _keys(s3: Any, bucket: str, recipe: str, digest: str) -> Iterator[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=_prefix(recipe, digest))
    return (item["Key"] for page in pages for item in page.get("Contents", []))


def _prefix(recipe: str, digest: str) -> str:
    return f"watch/{recipe}-{digest[:16]}/"

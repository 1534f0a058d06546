"""What has been computed already: one JSON object a key on S3, holding the StageRecord of the stage that did it.

The key covers everything that decides a stage's result; the record is a hint and never trusted: an entry that cannot
be read counts as absent, and the artifact it names is verified by the store.
"""

import json
from collections.abc import Mapping
from typing import Any

from registry.records import StageRecord, sha256_json
from registry.store import read_object

SCHEMA = 1


def key_of(
    kind: str,
    method: str | None,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    code: str,
    seed: int,
    environment: str,
) -> str:
    """The cache key of a stage: what it is, its settings, its inputs' digests, its code, its seed, its libraries."""
    return sha256_json(
        {
            "schema": SCHEMA,
            "kind": kind,
            "method": method,
            "config": dict(config),
            "inputs": dict(inputs),
            "code": code,
            "seed": seed,
            "environment": environment,
        }
    )


def lookup(s3: Any, bucket: str, key: str) -> StageRecord | None:
    """The record under a key; None when there is none, or it is damaged, of another schema or of another key."""
    body = read_object(s3, bucket, _name(key))
    return None if body is None else decode(body, key)


def remember(s3: Any, bucket: str, record: StageRecord) -> None:
    """Write a record under its key; the last writer wins, which is harmless: equal keys give equal artifacts."""
    s3.put_object(Bucket=bucket, Key=_name(record.key), Body=encode(record), ContentType="application/json")


def encode(record: StageRecord) -> bytes:
    """A record as the bytes of an index entry."""
    return json.dumps({"schema": SCHEMA, "record": record.model_dump(mode="json")}, sort_keys=True).encode()


def decode(body: bytes, key: str) -> StageRecord | None:
    """The record of an index entry; None when it is damaged, of another schema or of another key."""
    try:
        value = json.loads(body)
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            return None
        record = StageRecord.model_validate(value.get("record"))
    except ValueError:
        return None
    return record if record.key == key else None


def _name(key: str) -> str:
    return f"index/{key}.json"

"""The ledger of a model's promotions on S3: one object an entry, each naming the digest of the one before it.

Entries are only ever appended. Where the S3 honours `If-None-Match` (it is tried once), that alone decides between
writers, of several hosts too; elsewhere writers hold a lock file, and all of them must be on one host. An entry that
was edited or removed breaks the chain; the model's tag `shrink.ledger` in MLflow remembers the last entry, so that an
edited end and one that was cut off are seen as well.

Entries are signed (registry/sealing.py): appending takes the key, not only the bucket. An entry that no trusted key
signed counts for nothing (registry/standing.py): of before there were signatures, or by a key that is trusted no more,
it is history once a signed one follows; behind the last signed one somebody else wrote it, and the ledger is refused.
"""

import hashlib
import json
import re
import secrets
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from registry import sealing
from registry.conditional import put_new
from registry.records import STRICT
from registry.signing import Signer, Trust
from registry.store import read_object

HEAD_TAG = "shrink.ledger"
ENTRY, FIRST = re.compile(r"\d{6}\.json"), "0" * 64
HEAD = re.compile(r"[1-9][0-9]{0,5}:[0-9a-f]{64}")
Action = Literal["promote", "rollback", "approve", "reject"]


class CorruptLedger(RuntimeError):
    """An entry of the ledger was edited or is missing: nothing is promoted by it before it was restored."""


class Taken(RuntimeError):
    """Another writer appended first: look again at what the ledger says now."""


class Known(NamedTuple):
    """A ledger as it was read, and what S3 then said of its last object."""

    entries: list["Entry"]
    last: str | None


class Entry(BaseModel):
    """One object of the ledger: an action that is decided (`intent`), or that MLflow's aliases follow it (`done`)."""

    model_config = STRICT
    seq: int
    event: Literal["intent", "done"]
    action: Action
    model: str
    target: str  # the version that is spoken of; champion after a promotion or a rollback
    former: str | None  # the champion before
    previous: str | None  # what a rollback would return to afterwards
    digest: str  # of the target's model
    who: str
    why: str
    when: str
    verdict: str | None = None  # digest of the target's evidence, which its verdict is part of
    forced: bool = False  # promoted although it was rejected
    until: str | None = None  # when an approval ends
    id: str = ""  # one for an action, so that nobody takes another's entry for his own
    before: str | None = None  # SHA-256 of the object before this one; null in a ledger that is older than the chain
    key: str | None = None  # id of the key that signed it
    signature: str | None = None
    own: str = Field("", exclude=True)  # SHA-256 of this object as it was read or written
    proved: bool | None = Field(None, exclude=True)  # by a trusted key; null where nobody asked

    @property
    def moves(self) -> bool:
        """Whether it makes its target the champion."""
        return self.action in {"promote", "rollback"}

    @property
    def counts(self) -> bool:
        """Whether it is believed; a rejection always is, it takes nothing into production."""
        return self.proved is not False or self.action == "reject"


def read(s3: Any, bucket: str, name: str, client: Any = None, trust: Trust | None = None) -> list[Entry]:
    """All entries in order, the chain checked; with a client of MLflow its end, with `trust` the signatures, too.

    Raises CorruptLedger.
    """
    prefix = _prefix(name)
    keys: list[str] = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        keys += [item["Key"] for item in page.get("Contents", [])]
    head = remembered(client, name) if client is not None else None
    entries: list[Entry] = []
    for key in sorted(key for key in keys if ENTRY.fullmatch(key.removeprefix(prefix))):
        if key != _key(name, len(entries) + 1):
            raise _broken(name, len(entries) + 1, "is missing")
        entries.append(_checked(name, read_object(s3, bucket, key), entries, trust))
    entries = catch_up(s3, bucket, name, entries, trust)  # what was appended since they were listed
    if head is not None and len(entries) < head[0]:
        raise _broken(name, head[0], "is missing")
    if head is not None and entries[head[0] - 1].own != head[1]:
        raise _broken(name, head[0], "is not the one that MLflow remembers")
    return entries


def catch_up(s3: Any, bucket: str, name: str, entries: list[Entry], trust: Trust | None = None) -> list[Entry]:
    """These entries and all that were appended since; raises CorruptLedger."""
    found = list(entries)
    while (body := read_object(s3, bucket, _key(name, len(found) + 1))) is not None:
        found.append(_checked(name, body, found, trust))
    proved = [one.seq for one in found if one.proved]
    if proved and proved[-1] < len(found):
        number = proved[-1] + 1
        raise CorruptLedger(
            f"entry {number} of the ledger of {name} is not signed by a key that is trusted: if nobody who may promote "
            f"wrote it, move the object {_key(name, number)} and those behind it away; else trust the key again"
        )
    return found


def newer(
    s3: Any,
    bucket: str,
    name: str,
    known: Known | None = None,
    trust: Trust | None = None,
    client: Any = None,
) -> Known:
    """A ledger that was read before, with what was appended since: one request where that is nothing.

    Where its last object is another one now, or gone, or hidden among others, all of it is read anew, with a client of
    MLflow held against what that remembers: an end that was cut off in the bucket brings no earlier champion back.
    Raises CorruptLedger.
    """
    before = known.entries if known is not None else []
    found = s3.list_objects_v2(Bucket=bucket, Prefix=_prefix(name), StartAfter=_key(name, max(0, len(before) - 1)))
    said = {one["Key"]: f"{one['ETag']} {one['Size']} {one['LastModified']}" for one in found.get("Contents", [])}
    whole = not found.get("IsTruncated")  # else what comes next may lie behind a thousand foreign names
    if known is not None and before and whole and said.get(_key(name, len(before))) == known.last is not None:
        if _key(name, len(before) + 1) not in said:
            return known
        entries = catch_up(s3, bucket, name, before, trust)
    else:
        entries = read(s3, bucket, name, client, trust)
    return Known(entries, said.get(_key(name, len(entries))))


def append(s3: Any, bucket: str, entry: Entry, signer: Signer | None = None) -> Entry:
    """Sign one entry, write it where none may be and read it back; raises Taken when another writer was first.

    On an S3 that does not honour the condition the caller holds the lock.
    """
    entry = entry.model_copy(update={"key": None, "signature": None})
    if signer is not None:
        entry = Entry.model_validate(sealing.sealed(entry.model_dump(mode="json"), signer))
    key, body = _key(entry.model, entry.seq), entry.model_dump_json().encode()
    if not put_new(s3, bucket, key, body):
        raise Taken(f"another writer took entry {entry.seq} of the ledger of {entry.model}")
    return entry.model_copy(update={"own": _sha(body), "proved": True if signer else None})


def remembered(client: Any, name: str) -> tuple[int, str] | None:
    """The last entry that MLflow remembers, as its number and digest; None when it remembers none."""
    from mlflow.exceptions import MlflowException

    try:
        text = client.get_registered_model(name).tags.get(HEAD_TAG)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if text is None:
        return None
    if HEAD.fullmatch(text) is None:
        said = f"{text!r:.99}"
        raise CorruptLedger(f"the tag {HEAD_TAG} of {name} is {said}, which no promotion wrote: remove or restore it")
    number, _, digest = text.partition(":")
    return int(number), digest


def remember(client: Any, entries: list[Entry]) -> None:
    """Let MLflow remember the ledger's last entry."""
    text = f"{len(entries)}:{entries[-1].own}"
    if client.get_registered_model(entries[-1].model).tags.get(HEAD_TAG) != text:
        client.set_registered_model_tag(entries[-1].model, HEAD_TAG, text)


def following(entries: list[Entry], **content: Any) -> Entry:
    """The entry behind these."""
    fresh = {"seq": len(entries) + 1, "when": now(), "before": entries[-1].own if entries else FIRST}
    return Entry.model_validate({"id": secrets.token_hex(8), "event": "intent"} | content | fresh)


def now() -> str:
    """The time in UTC, as entries have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _checked(name: str, body: bytes | None, before: list[Entry], trust: Trust | None) -> Entry:
    """The entry in an object that follows these."""
    number, last = len(before) + 1, before[-1] if before else None
    if body is None:
        raise _broken(name, number, "is missing")
    try:
        said = json.loads(body)  # once, for the signature and for what it says
        entry = Entry.model_validate(said)
    except (ValidationError, ValueError, RecursionError):
        raise _broken(name, number, "cannot be read") from None
    if (entry.seq, entry.model) != (number, name):
        raise _broken(name, number, "was edited")
    unchained = entry.before is None and (last is None or last.before is None)
    if not unchained and entry.before != (last.own if last else FIRST):
        raise _broken(name, number - 1 if last else 1, "was edited")
    proved = None if trust is None else sealing.holds(said, trust)
    return entry.model_copy(update={"own": _sha(body), "proved": proved})


def _sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _broken(name: str, number: int, what: str) -> CorruptLedger:
    key = _key(name, number)
    return CorruptLedger(
        f"entry {number} of the ledger of {name} {what}: restore the object {key} from a copy of the bucket, or move "
        f"{_prefix(name)} away, remove the model's tag {HEAD_TAG} in MLflow and promote a version again"
    )


def _prefix(name: str) -> str:
    return f"ledger/{name}/"


def _key(name: str, number: int) -> str:
    return f"{_prefix(name)}{number:06d}.json"

"""Promotion: what people and runs write into a model's ledger, and what it then says.

`settle` carries it out: an intent is appended first and decides, then MLflow's aliases are moved (`projection`), then
`done` is appended; `standing` says what the entries mean.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from registry import ledger, settle, versions
from registry.ledger import Entry
from registry.projection import CHALLENGER, CHAMPION, PREVIOUS, Book, Moved
from registry.records import ShrinkError
from registry.sealing import Keys
from registry.signing import Trust
from registry.standing import Judged, Standing, barred, standing, without

__all__ = ["CHALLENGER", "CHAMPION", "PREVIOUS", "Entry", "Judged", "Moved"]
HOURS = 72.0  # for which an approval counts where the recipe does not say


class Overtaken(RuntimeError):
    """What another wrote into the ledger meanwhile speaks against a promotion; the text is a whole sentence."""


def promote(
    client: Any,
    s3: Any,
    bucket: str,
    lock: Path,
    name: str,
    version: str,
    who: str,
    why: str,
    judged: Judged | None = None,
    force: bool = False,
    keys: Keys | None = None,
    unless: Callable[[Standing], str | None] | None = None,
) -> Entry:
    """Make a version the champion; repeating it changes nothing and returns the same entry.

    `judged` is what its verified files say; without it MLflow's tags are taken. `unless` says of the ledger, as it is
    when the entry is written, what speaks against it: raises Overtaken. Raises ShrinkError for one that was rejected
    (unless forced) or lacks its approval, CorruptVersion when the ledger knows it by another digest.
    """
    seen = judged or by_tags(client, name, version)

    def decide(entries: list[Entry], now: Standing) -> Entry | dict[str, Any]:
        known = _of(now, name, version, seen)
        if now.champion == version:
            return next(one for one in reversed(entries) if one.event == "done" and one.moves and one.target == version)
        if unless is not None and (reason := unless(now)):
            raise Overtaken(reason)
        if reason := barred(now, name, version, seen, force):
            raise ShrinkError(reason)
        forced = force and barred(now, name, version, seen) is not None
        return {"previous": now.champion, **known, "forced": forced}

    return settle.act(Book(client, s3, bucket, name, keys), lock, "promote", version, who, why, decide)


def rollback(
    client: Any, s3: Any, bucket: str, lock: Path, name: str, who: str, why: str, keys: Keys | None = None
) -> Entry:
    """Return to the champion before this one; a rollback that a kill interrupted is finished, not done twice."""

    def decide(entries: list[Entry], now: Standing) -> Entry | dict[str, Any]:
        if now.previous is None:
            raise ShrinkError(f"model {name} has no earlier champion to roll back to; promote another version instead.")
        versions.resolve(client, name, now.previous)  # one that was deleted in MLflow is nothing to return to
        last = next(one for one in reversed(entries) if one.target == now.previous and one.moves)
        further = now.line[-3] if len(now.line) > 2 else None  # the digests are the ledger's, whoever wrote to MLflow
        known = {"digest": now.digests[now.previous], "verdict": last.verdict}
        return {"target": now.previous, "previous": further, **known}

    return settle.act(Book(client, s3, bucket, name, keys), lock, "rollback", None, who, why, decide)


def approve(
    client: Any,
    s3: Any,
    bucket: str,
    lock: Path,
    name: str,
    version: str,
    who: str,
    why: str,
    judged: Judged | None = None,
    hours: float = HOURS,
    keys: Keys | None = None,
) -> Entry:
    """A person's word that these very bytes may be promoted within so many hours; it lifts a rejection."""
    seen = judged or by_tags(client, name, version)

    def decide(entries: list[Entry], now: Standing) -> Entry | dict[str, Any]:
        until = (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="seconds")
        return {"previous": now.previous, **_of(now, name, version, seen), "until": until}

    return settle.act(Book(client, s3, bucket, name, keys), lock, "approve", version, who, why, decide)


def reject(
    client: Any,
    s3: Any,
    bucket: str,
    lock: Path,
    name: str,
    version: str,
    who: str,
    why: str,
    judged: Judged | None = None,
    keys: Keys | None = None,
) -> Entry:
    """A person's word that a version must not be promoted, which withdraws a champion that has none before it.

    Raises ShrinkError for a champion that a rollback can leave.
    """
    seen = judged or by_tags(client, name, version)

    def decide(entries: list[Entry], now: Standing) -> Entry | dict[str, Any]:
        if now.champion == version and now.previous is not None:
            raise ShrinkError(f"version {version} is the champion of {name}: `shrink rollback {name}` first.")
        if now.rejected(version) and version not in now.line:  # one that was forced since may be rejected again
            return next(one for one in reversed(entries) if one.event == "done" and one.target == version)
        rest = without(now.line, version)
        return {"previous": rest[-2] if len(rest) > 1 else None, **_of(now, name, version, seen)}

    return settle.act(Book(client, s3, bucket, name, keys), lock, "reject", version, who, why, decide)


def reconcile(client: Any, s3: Any, bucket: str, lock: Path, name: str, keys: Keys | None = None) -> list[Moved]:
    """Finish what a kill left open and make the aliases follow the ledger; returns those that did not."""
    return settle.repair(Book(client, s3, bucket, name, keys), lock)


def by_tags(client: Any, name: str, version: str) -> Judged:
    """What MLflow's tags say of a version; ShrinkError for one without a digest."""
    seen = versions.describe(client, name, version)
    if not seen["digest"]:
        raise ShrinkError(f"version {version} of {name} has no digest: register it with shrink")
    evidence, passed = seen["tags"].get(versions.EVIDENCE_TAG), seen["verdict"] == versions.PASSED
    return Judged(digest=str(seen["digest"]), evidence=evidence, passed=passed)


def history(s3: Any, bucket: str, name: str, client: Any = None, trust: Trust | None = None) -> list[Entry]:
    """All entries of a model's ledger in order, verified; with a client their end, with `trust` who signed."""
    return ledger.read(s3, bucket, name, client, trust)


def digest_of(
    s3: Any, bucket: str, name: str, version: str, client: Any = None, trust: Trust | None = None
) -> str | None:
    """The digest in the ledger's newest entry for a version; None for one that the ledger does not speak of."""
    return standing(history(s3, bucket, name, client, trust)).digests.get(version)


def champion(s3: Any, bucket: str, name: str, client: Any = None, trust: Trust | None = None) -> str | None:
    """The champion's version by the ledger, or None where there is none."""
    return standing(history(s3, bucket, name, client, trust)).champion


def _of(now: Standing, name: str, version: str, seen: Judged) -> dict[str, Any]:
    """What an entry says of its target; CorruptVersion when the ledger knows it by another digest."""
    if version in now.promoted and now.digests[version] != seen.digest:
        raise versions.CorruptVersion(
            f"version {version} of {name} is tagged with another digest than in the ledger: it is not promoted"
        )
    return {"target": version, "digest": seen.digest, "verdict": seen.evidence}

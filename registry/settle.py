"""Carrying out what the ledger of a model says: intent, aliases, read back, done; whoever comes next finishes it.

A kill at any point leaves nothing in between for good. Writers of one host take turns by a lock file; of several
hosts, by the S3's conditional writes: who comes second looks at the ledger again and decides anew.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from registry import ledger, projection
from registry.conditional import conditional
from registry.ledger import Action, Entry
from registry.projection import ALIASES, Book, Moved
from registry.standing import Standing, standing

LOCK_SECONDS = 300.0
ACT_SECONDS = 600.0  # in which an action is through, however many others there are
PATIENCE_SECONDS = 10.0  # an intent of another host that stays open for longer is finished for it
PAUSES = (0.1, 4.0)  # seconds between two looks at the ledger: at most so many at first, and after many of them
Decision = Callable[[list[Entry], Standing], Entry | dict[str, Any]]


def act(book: Book, lock: Path, action: Action, target: str | None, who: str, why: str, decide: Decision) -> Entry:
    """Append what `decide` says of the ledger as it is, and carry it out; when another writer comes first, anew.

    An entry of the same words that a kill left open is finished and returned instead.
    """
    ends = time.monotonic() + ACT_SECONDS
    with _locked(lock):
        entries = book.read()
        mine = entries[-1] if entries and entries[-1].event == "intent" else None
        while time.monotonic() < ends:
            entries = _settled(book, entries)
            if mine is not None and _words(mine, target) == (action, target, who, why):
                return _done(entries, mine)
            now, mine = standing(entries), None
            said = decide(entries, now)
            if isinstance(said, Entry):
                projection.project(book, entries)
                return said
            intent = ledger.following(
                entries, model=book.name, action=action, former=now.champion, who=who, why=why, **said
            )
            try:
                entries = [*entries, book.append(intent)]
            except ledger.Taken:
                _pause(4)
                entries = book.newer(entries)
                continue
            return _done(_finish(book, entries), intent)
    raise RuntimeError(f"others wrote to the ledger of {book.name} for {ACT_SECONDS:g} s: run it again")


def repair(book: Book, lock: Path) -> list[Moved]:
    """Finish what a kill left open and make the aliases follow the ledger; returns those that did not."""
    with _locked(lock):
        entries = book.read()
        before = projection.aliases(book.client, book.name)
        entries = projection.project(book, _settled(book, entries))
        if entries:
            ledger.remember(book.client, entries)
        after = projection.aliases(book.client, book.name)
    return [Moved(one, before.get(one), after.get(one)) for one in ALIASES if before.get(one) != after.get(one)]


def _settled(book: Book, entries: list[Entry]) -> list[Entry]:
    """The ledger once its last entry is done, by whoever wrote the intent or for him; nothing comes between the two."""
    while entries and entries[-1].event == "intent":
        later = _awaited(book, entries)
        entries = later if len(later) > len(entries) else _finish(book, entries)
    return entries


def _awaited(book: Book, entries: list[Entry]) -> list[Entry]:
    """The ledger once another host has finished its open intent, or was given the time to."""
    if not conditional(book.s3, book.bucket):  # all writers are on this host, and the lock is ours
        return entries
    ends, found, looks = time.monotonic() + PATIENCE_SECONDS, entries, 0
    while time.monotonic() < ends and len(found) == len(entries):
        _pause(looks)
        looks += 1
        found = book.newer(entries)
    return found


def _pause(looks: int) -> None:
    """Sleep at random, longer after more looks: a hundred that wait must not take the time from the one that acts."""
    time.sleep(random.uniform(0, min(PAUSES[1], PAUSES[0] * 2**looks)))


def _finish(book: Book, entries: list[Entry]) -> list[Entry]:
    """The ledger once the aliases follow its last entry, an intent, and `done` says so."""
    intent = entries[-1]
    entries = projection.project(book, entries)
    if entries[-1] == intent:
        done = {**intent.model_dump(exclude={"seq", "when", "before"}), "event": "done"}
        try:
            entries = [*entries, book.append(ledger.following(entries, **done))]
        except ledger.Taken:
            entries = book.newer(entries)
    ledger.remember(book.client, entries)
    return entries


def _words(entry: Entry, target: str | None) -> tuple[str, str | None, str, str]:
    """What was typed for an entry; a rollback names no target."""
    return entry.action, entry.target if target else None, entry.who, entry.why


def _done(entries: list[Entry], intent: Entry) -> Entry:
    return next(one for one in entries if one.event == "done" and one.id == intent.id)


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=LOCK_SECONDS, poll_interval=0.2)
    except Timeout as error:
        raise RuntimeError(
            f"another promotion held {lock} for {LOCK_SECONDS:g} s: run it again when it is over"
        ) from error
    try:
        yield
    finally:
        held.release()

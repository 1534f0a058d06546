"""A teacher's alias that moved starts its recipe, once: `shrink watch RECIPE...`, or the flow `watch` on a schedule.

A look compares the versions that the aliases name with those of the last run for that recipe (registry/movements.py).
`start` is written before a run and its end behind it, so that a killed watcher's run is gone on with by the next one;
a lock (one host) and conditional writes (several) let one watcher alone start it.
"""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout
from prefect import flow
from pydantic import BaseModel

from flows import journal as journals
from flows import registered, servers
from flows.recipe import Recipe, load
from flows.settings import settings
from flows.trouble import explained
from registry import movements, store
from registry.movements import Movement
from registry.patience import patiently
from registry.records import STRICT, ShrinkError
from tasks.discreet import hushed

log = logging.getLogger("flows.watch")
ATTEMPTS = 3  # runs for one movement, the failed ones counted
STALE = 24 * 3600.0  # seconds after which another host's unfinished run is taken for dead
Step = Literal["still", "given up", "busy", "start", "again", "go on"]


class Look(BaseModel):
    """What one look at a recipe's teachers found, and did."""

    model_config = STRICT
    recipe: str
    event: Literal["still", "given up", "busy", "same", "passed", "rejected", "failed"]
    said: str
    versions: dict[str, str] = {}
    run: str | None = None


class Place(NamedTuple):
    """Where the movements of one recipe are kept."""

    s3: Any
    bucket: str
    home: Path


@flow(name="watch", persist_result=False)
def watch(recipes: list[str]) -> list[dict[str, Any]]:
    """One look at the teachers of each recipe, and the runs that it takes; for a schedule of seconds or minutes.

    Raises RuntimeError when a run failed, once all recipes were looked at; the next look tries it again.
    """
    from flows.compress import OURS

    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    looks = [look(recipe) for recipe in recipes]
    quiet = [one.model_copy(update={"said": quietly(one.said)}) for one in looks]  # Prefect keeps all of this
    for one in quiet:
        log.info("%s", one.said)
    if failed := [one.said for one in quiet if one.event == "failed"]:
        raise RuntimeError("; ".join(failed))
    return [one.model_dump() for one in quiet]


def quietly(said: str) -> str:
    """A sentence without what it quotes, which may be a user's text: as it may be stored away from here."""
    return str(hushed(RuntimeError(said)))


def require(recipe: str) -> Recipe:
    """The recipe, once it follows a teacher whose alias exists; ShrinkError otherwise."""
    chosen = load(recipe)
    found = registered.followed(chosen)
    if not found:
        raise ShrinkError(f"recipe '{recipe}' has no teacher that can move: set its uri to models:/NAME@ALIAS.")
    for source in found.values():
        registered.version_of(source.uri)
    return chosen


def look(recipe: str) -> Look:
    """Look once at a recipe's teachers and run it when they moved; raises ShrinkError for what the user can mend."""
    chosen, here = require(recipe), settings()
    found = servers.services(here.home)
    place = Place(store.connect(servers.s3_config(found)), found.bucket, here.home)
    store.ensure_bucket(place.s3, place.bucket)
    (here.home / "locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(here.home / "locks" / f"watch-{chosen.name}-{chosen.digest[:16]}.lock")
    try:
        with lock.acquire(timeout=0):
            return held(chosen, place)
    except Timeout:
        return Look(recipe=chosen.name, event="busy", said=f"{chosen.name}: another watcher runs it")


def held(chosen: Recipe, place: Place) -> Look:
    """The look of the one watcher of this directory that has the lock."""
    seen = {name: registered.version_of(source.uri) for name, source in registered.followed(chosen).items()}
    last = movements.last(place.s3, place.bucket, chosen.name, chosen.digest)
    step = decide(last, seen)
    if last is not None and step in {"still", "given up", "busy"}:
        return Look.model_validate({"recipe": chosen.name, "event": step, "said": told(step, last), "versions": seen})
    fixed = chosen.with_sources(lambda one: one.model_copy(update={"uri": at(chosen, one.uri, seen)}))
    fixed = registered.pinned(fixed, place.home)
    digests = {name: str(fixed.origins[name].sha256) for name in seen}
    entry = Movement(
        seq=1 if last is None else last.seq + 1,
        event="start",
        recipe=chosen.name,
        recipe_digest=chosen.digest,
        versions=seen,
        digests=digests,
        attempt=1 if last is None or step == "start" else last.attempt + (step == "again"),
        who=journals.process_tag(),
        when=movements.now(),
    )
    if last is not None and last.event in {"passed", "rejected", "same"} and last.digests == digests:
        movements.append(place.s3, place.bucket, entry.model_copy(update={"event": "same"}))
        said = f"{chosen.name}: {named(seen)} has the bytes of the version before; nothing to run"
        return Look(recipe=chosen.name, event="same", said=said, versions=seen)
    if not movements.append(place.s3, place.bucket, entry):
        return Look(recipe=chosen.name, event="busy", said=f"{chosen.name}: a watcher of another host runs it")
    before = last.when if last is not None and step == "go on" else None
    return carried_out(fixed, place, entry, before)


def at(chosen: Recipe, uri: str, seen: dict[str, str]) -> str:
    """A source's URI with the version that was seen in the place of its alias."""
    return next((seen[name] for name, one in registered.followed(chosen).items() if one.uri == uri), uri)


def decide(last: Movement | None, seen: dict[str, str]) -> Step:
    """What to do: `start` for a movement, `again` after a failure, `go on` after a kill, else nothing."""
    if last is None:
        return "start"
    if last.event == "start" and elsewhere(last):
        return "busy"
    if last.versions != seen:
        return "start"
    match last.event:
        case "start":
            return "go on"
        case "failed":
            return "again" if last.attempt < ATTEMPTS else "given up"
        case _:
            return "still"


def elsewhere(entry: Movement) -> bool:
    """Whether a process other than this one may still be at work on an entry's run."""
    if entry.who == journals.process_tag() or journals.is_gone(entry.who):
        return False
    if entry.who.split(":")[1] == journals.process_tag().split(":")[1]:
        return True
    age = datetime.now(UTC) - datetime.fromisoformat(entry.when)
    return age.total_seconds() < STALE


def carried_out(fixed: Recipe, place: Place, entry: Movement, before: str | None) -> Look:
    """Run the recipe as it was pinned and write down its end; `before`: when the killed watcher began the same run."""
    from flows.compress import start

    path = place.home / "watch" / f"{fixed.name}-{fixed.digest[:16]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    registered.keep(path, fixed.model_dump(mode="json"))
    log.info("%s: %s, attempt %d of %d", fixed.name, named(entry.versions), entry.attempt, ATTEMPTS)
    done: dict[str, Any]
    said = ""
    try:
        journal = ended_since(place.home, fixed, before) or start(str(path))
        done = {"event": journal["status"], "run": journal["run_id"], "why": f"version {journal['version']}"}
    except Exception as error:
        said = explained(place.home, error)
        done = {"event": "failed", "why": quietly(said)}
    end = entry.model_copy(update={**done, "seq": entry.seq + 1, "when": movements.now()})
    if not patiently(movements.append, place.s3, place.bucket, end):
        log.warning("%s: another watcher took this movement over", fixed.name)
    return Look.model_validate(
        {"recipe": fixed.name, "event": end.event, "said": told(end.event, end, said), "versions": end.versions}
        | {"run": end.run}
    )


def ended_since(home: Path, fixed: Recipe, before: str | None) -> dict[str, Any] | None:
    """The finished run of this very recipe that a watcher, killed since, had begun after `before`."""
    if before is None:
        return None
    begun = datetime.fromisoformat(before)
    for journal in reversed(journals.read_all(home)):
        finished = journal["status"] in {"passed", "rejected"} and journal["recipe_digest"] == fixed.digest
        if finished and datetime.fromisoformat(journal["started"]) >= begun:
            return journal
    return None


def named(versions: dict[str, str]) -> str:
    """The versions in a sentence: bert version 3, small version 1."""
    parts = (uri.removeprefix("models:/").split("/") for uri in versions.values())
    return ", ".join(f"{name} version {number}" for name, number in parts)


def told(step: str, entry: Movement, whole: str = "") -> str:
    """An entry's state in one line; `whole`: its reason with what it quotes."""
    of = f"{entry.recipe}: {named(entry.versions)}"
    match step:
        case "still":
            return f"{of} was run ({entry.event})" if entry.event != "same" else f"{of} has known bytes"
        case "busy":
            return f"{of} is run by another watcher ({entry.who})"
        case "given up":
            return f"{of} failed {entry.attempt} times ({entry.why}); mend that, then `shrink run` the recipe"
        case "failed":
            more = "tried again at the next look" if entry.attempt < ATTEMPTS else "not tried again"
            return f"{of} failed, attempt {entry.attempt} of {ATTEMPTS}, {more}: {whole or entry.why}"
        case _:
            return f"{of} {entry.event} in run {entry.run}: {entry.why}"

"""Run directories: one run = one directory of home/runs, readable with ls and cat; run.json is its journal.

`begin` continues the newest interrupted run of the same recipe, so a killed run is resumed and never doubled; a run
that another process is at work on is never taken over.
"""

import contextlib
import datetime
import json
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from flows.recipe import Recipe
from registry.records import ShrinkError
from tasks.meter import samples

Journal = dict[str, Any]
WAITING = "waiting"  # for its start; it has a decision and no stage (flows/start/waiting.py)
SCHEDULED = "scheduled"  # the same in a worker: no process is at it yet (flows/start/booking.py)
UNFINISHED = {"failed", "cancelled", "crashed", "stopped"}
TAG = "process"
NO_RUNS = "no runs yet; `shrink run sentiment` makes one"
NEEDED = {"run_id", "recipe", "recipe_digest", "status", "pid", "pid_created", "verdict", "version", "stages"}
NAME = re.compile(r"\d{8}-\d{6}-[a-z0-9-]+-[0-9a-f]{4}")  # of a run's directory; nothing else in there is ours


def write(directory: Path, journal: Journal) -> None:
    """Replace run.json in one step (temporary, fsync, rename)."""
    partial = directory / f".run.json.{os.getpid()}"
    with partial.open("w") as stream:
        json.dump(journal, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(directory / "run.json")


def read_all(home: Path) -> list[Journal]:
    """Every run's journal, oldest first; a run whose process is gone reads as crashed.

    A damaged journal is passed over: it must not stop every other run; `shrink doctor` names it.
    """
    found = []
    for path in sorted((home / "runs").glob("*/run.json")):
        journal = read(path)
        if journal is None:
            continue
        if journal["status"] in {"running", WAITING} and not alive(journal):
            journal["status"] = "crashed"
        found.append(journal)
    return found


def read(path: Path) -> Journal | None:
    """One journal, or None when it is damaged."""
    try:
        journal = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return journal if isinstance(journal, dict) and journal.keys() >= NEEDED else None


def alive(journal: Journal) -> bool:
    """Whether the process that wrote `running` is still that process."""
    return same_process(journal["pid"], journal["pid_created"])


def same_process(pid: int, created: float) -> bool:
    """Whether the process of this id is still the one that was created then (in seconds since 1970)."""
    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - created) < 0.05 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def process_tag() -> str:
    """This process as a Prefect tag, so that its run is known as dead even if it is killed before it has a journal."""
    return f"{TAG}:{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_gone(tag: str) -> bool:
    """Whether a tag names a process of this machine that is gone."""
    kind, _, rest = tag.partition(":")
    if kind != TAG:
        return False
    host, pid, created = rest.rsplit(":", 2)
    return host == socket.gethostname() and not same_process(int(pid), float(created))


def lock(home: Path) -> FileLock:
    """The lock to hold while journals are put right and a run is begun."""
    (home / "locks").mkdir(parents=True, exist_ok=True)
    return FileLock(home / "locks" / "journals.lock")


def find(home: Path, run_id: str | None) -> Journal:
    """The newest run's journal of those whose id has this part, of all without one; raises ShrinkError."""
    runs = [journal for journal in read_all(home) if run_id is None or run_id in journal["run_id"]]
    if not runs and run_id is None:
        raise ShrinkError(f"{NO_RUNS}.")
    if not runs:
        raise ShrinkError(f"run '{run_id}' does not exist; `shrink runs` lists them.")
    return runs[-1]


def with_stages(home: Path, journal: Journal) -> Journal:
    """The journal with the stages that its run has computed, where it goes on or was killed before it wrote them."""
    if journal["status"] not in {"running", "crashed"}:
        return journal
    found = []
    for path in sorted((home / "runs" / str(journal["run_id"])).glob("*/record.json")):
        with contextlib.suppress(OSError, ValueError):  # half written when it was killed
            found.append(json.loads(path.read_text(encoding="utf-8")))
    known = {str(one.get("footprint", {}).get("samples")) for one in found}
    vain = samples.lost(home / "runs" / str(journal["run_id"]) / "samples.jsonl", known)
    if journal["status"] == "running":  # the stage that it is at is no vain attempt
        vain = [one for one in vain if one.ended == "failed"]
    return journal | {"stages": found, "attempts": [one.model_dump(mode="json") for one in vain]}


def same_recipe(home: Path, journal: Journal, recipe: Recipe) -> bool:
    """Whether a run is of this very recipe: its digest leaves out in which folder local sources lie."""
    stored = home / "runs" / str(journal["run_id"]) / "recipe.json"
    if journal["recipe_digest"] != recipe.digest or not stored.is_file():
        return False
    return stored.read_text(encoding="utf-8") == recipe.model_dump_json(indent=1)


def begin(home: Path, recipe: Recipe, prefect_run_id: str | None, status: str = "running") -> Journal:
    """Continue the newest interrupted run of this recipe and these sources, or open a new one; call it under `lock`.

    The run that was waiting for this Prefect run is the one that begins.
    """
    me = {"pid": os.getpid(), "pid_created": psutil.Process().create_time(), "status": status, "error": None}
    me["prefect_run_id"] = prefect_run_id
    for journal in reversed(read_all(home)):
        if journal["status"] in {WAITING, SCHEDULED} and journal["prefect_run_id"] == prefect_run_id is not None:
            journal.update(me, started=datetime.datetime.now(datetime.UTC).isoformat())
            break
        if journal["status"] in UNFINISHED and same_recipe(home, journal, recipe):
            journal.update(me, resumed=journal.get("resumed", 0) + 1)
            break
    else:
        now = datetime.datetime.now(datetime.UTC)
        run_id = f"{now:%Y%m%d-%H%M%S}-{recipe.name}-{secrets.token_hex(2)}"
        journal = {"run_id": run_id, "recipe": recipe.name, "recipe_digest": recipe.digest, "started": now.isoformat()}
        journal |= {"stages": [], "evaluation": None, "verdict": None, "version": None, "digest": None}
        journal |= {"mlflow_run_id": None, "resumed": 0} | me
    directory = home / "runs" / str(journal["run_id"])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "recipe.json").write_text(recipe.model_dump_json(indent=1))
    write(directory, journal)
    return journal

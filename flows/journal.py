"""Run directories: one run = one directory of home/runs, readable with ls and cat; run.json is its journal.

`begin` continues the newest interrupted run of the same recipe, so a killed run is resumed and never doubled.
"""

import datetime
import json
import os
import secrets
from pathlib import Path
from typing import Any

import psutil

from flows.recipe import Recipe
from registry.records import ShrinkError

Journal = dict[str, Any]
UNFINISHED = {"running", "failed", "cancelled", "crashed"}


def write(directory: Path, journal: Journal) -> None:
    """Replace run.json in one step (temporary, fsync, rename)."""
    partial = directory / f".run.json.{os.getpid()}"
    with partial.open("w") as stream:
        json.dump(journal, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(directory / "run.json")


def read_all(home: Path) -> list[Journal]:
    """Every run's journal, oldest first; a run whose process is gone reads as crashed."""
    found = []
    for path in sorted((home / "runs").glob("*/run.json")):
        journal = json.loads(path.read_text())
        if journal["status"] == "running" and not alive(journal):
            journal["status"] = "crashed"
        found.append(journal)
    return found


def alive(journal: Journal) -> bool:
    """Whether the process that wrote `running` is still that process."""
    try:
        return bool(psutil.Process(journal["pid"]).create_time() == journal["pid_created"])
    except psutil.NoSuchProcess:
        return False


def find(home: Path, run_id: str | None) -> Journal:
    """One run's journal by id (or a unique part of it), the newest without; raises ShrinkError."""
    runs = [journal for journal in read_all(home) if run_id is None or run_id in journal["run_id"]]
    if not runs:
        raise ShrinkError(f"run '{run_id or 'newest'}' does not exist; `shrink runs` lists them.")
    return runs[-1]


def begin(home: Path, recipe: Recipe) -> Journal:
    """Continue the newest interrupted run of this recipe, or open a new one."""
    me = {"pid": os.getpid(), "pid_created": psutil.Process().create_time(), "status": "running"}
    for journal in reversed(read_all(home)):
        if journal["recipe_digest"] == recipe.digest and journal["status"] in UNFINISHED and not alive(journal):
            journal.update(me, resumed=journal.get("resumed", 0) + 1)
            break
    else:
        now = datetime.datetime.now(datetime.UTC)
        run_id = f"{now:%Y%m%d-%H%M%S}-{recipe.name}-{secrets.token_hex(2)}"
        journal = {"run_id": run_id, "recipe": recipe.name, "recipe_digest": recipe.digest, "started": now.isoformat()}
        journal |= {"stages": [], "evaluation": None, "verdict": None, "version": None, "digest": None}
        journal |= {"mlflow_run_id": None, "prefect_run_id": None, "resumed": 0} | me
    directory = home / "runs" / str(journal["run_id"])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "recipe.json").write_text(recipe.model_dump_json(indent=1))
    write(directory, journal)
    return journal

"""The commands that only look: `shrink plan | stages | runs | logs`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows import console as screen
from flows import sentences, units
from flows.cli_common import Json, RunId, connected, say
from flows.settings import settings
from registry.gate import is_smoke

What = Annotated[str | None, typer.Argument(help="a shipped recipe's name, or a YAML file; with --score a run's id")]
Part = Annotated[str | None, typer.Argument(help="KIND or KIND/METHOD: all its fields")]


def plan(
    what: What = None,
    score: Annotated[
        bool, typer.Option("--score", help="what a finished run's plan foretold, beside what came")
    ] = False,
    as_json: Json = False,
) -> None:
    """What a run will do, stage by stage: weights, bytes, memory, time, energy; and what cannot fit. Runs nothing."""
    from flows import plan_shown

    if score:
        from flows import planned
        from flows.journal import find

        found = planned.score(directory_of(find(settings().home, what)))
        say(found, as_json, plan_shown.scored(found))
        return
    from flows import plan as plans
    from flows import registered, sources
    from flows.preflight import preflight
    from flows.recipe import BEHAVIOUR, load

    recipe, here = load(what or "sentiment"), settings()
    if registered.used(recipe):
        connected()
    teacher, data = sources.peek(recipe.teacher, here.home), sources.peek(recipe.data_source, here.home)
    others = {name: sources.peek(source, here.home, name == BEHAVIOUR) for name, source in recipe.more.items()}
    preflight(recipe, teacher, data, others)
    foretold = plans.make(recipe, teacher, data, here, others)
    facts = plans.facts(foretold, here)
    say(facts, as_json, plan_shown.table(facts))
    plans.refuse(foretold, here)


def stages(part: Part = None, as_json: Json = False) -> None:
    """The stage kinds that a recipe may name, with their methods; of one, all fields."""
    from flows import fields
    from tasks.kinds import methods

    if part is not None:
        chosen = fields.describe(part)
        say(chosen, as_json, screen.fitted("\n\n".join(map(fields.text, chosen))))
        return
    found = methods()
    lines = [f"{kind:10} {', '.join(names)}".rstrip() for kind, names in found.items()]
    lines.append(f"fields: `shrink stages KIND`; a recipe's other keys too: {', '.join(fields.KEYS)}")
    say(found, as_json, screen.fitted("\n".join(lines)))


def runs(as_json: Json = False) -> None:
    """All runs, oldest first, with what became of them."""
    from flows.journal import NO_RUNS, read_all, with_stages

    home = settings().home
    found = [with_stages(home, run) for run in read_all(home)]
    say(found, as_json, screen.fitted("\n".join(map(run_line, found)) or NO_RUNS))


def run_line(run: dict[str, Any]) -> str:
    """A run, its status, and its figures, its error or the stage that it is at."""
    seen, version = run.get("evaluation"), f"version {run['version']}" if run["version"] else ""
    if run["status"] == "running":
        begun = sorted(path.name for path in directory_of(run).glob("[0-9][0-9]-*"))
        told = f"at {begun[-1]}" if begun else "at its beginning"
    elif run["status"] in {"waiting", "scheduled"}:
        told = f"until {str(run.get('starts', ''))[:16].replace('T', ' ')} UTC"
    elif run.get("error"):
        told = next(iter(str(run["error"]).splitlines()), "")
    elif is_smoke(run["recipe"]):
        told = "a smoke walk"
    elif seen:
        smaller = units.ratio(seen["teacher"]["bytes"], seen["student"]["bytes"])
        told = f"{units.number(smaller)}× smaller, keeps {sentences.share(seen['retention']['point'])}"
    else:
        told = ""
    return f"{run['run_id']:36} {run['status']:9} {', '.join(part for part in (version, told) if part)}".rstrip()


def logs(run_id: RunId = None, as_json: Json = False) -> None:
    """What each stage of a run printed and how long it took; Prefect's page has its progress."""
    from flows.journal import find

    home = settings().home
    run = find(home, run_id)
    found = {path.parent.name: path.read_text(errors="replace") for path in sorted(directory_of(run).glob("*/log.txt"))}
    lines = [f"run {run['run_id']} is {run['status']}" if run["status"] == "running" else run_line(run)]
    for stage, printed in found.items():
        lines += [f"== {stage}: {ended(directory_of(run) / stage, run['status'])}", *printed.rstrip().splitlines()]
    if not found:
        lines.append("no stage of this run was computed: all came from the index")
    lines += pages(run, home)
    say(found, as_json, "\n".join(lines))


def directory_of(run: dict[str, Any]) -> Path:
    """Where a run lies."""
    return settings().home / "runs" / str(run["run_id"])


def ended(directory: Path, status: str) -> str:
    """How a stage ended: its seconds and score, or that it goes on or broke."""
    from pydantic import ValidationError

    from registry.records import StageRecord

    try:
        record = StageRecord.model_validate_json((directory / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return "goes on" if status == "running" else "did not finish"
    quality = sentences.score(record.measured)
    return ", ".join(part for part in (units.duration(record.footprint.seconds), quality) if part)


def pages(run: dict[str, Any], home: Path) -> list[str]:
    """Where Prefect shows what the stages reported while they ran."""
    from infra.services import current

    servers, flow_run = current(home), run.get("prefect_run_id")
    if servers is None or flow_run is None:
        return []
    page = servers.prefect_api.removesuffix("/api")
    return [f"progress, a line every ten seconds: {page}/runs/flow-run/{flow_run} (after `shrink up`)"]

"""The end of a run on the screen: one sentence, the table, the verdict, energy, links, and what to type next."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from flows import console as screen
from flows import written
from flows.sentences import digits, lift, sentence, verdict_lines
from registry.records import METRICS

if TYPE_CHECKING:  # the command's help does without it
    from registry.carbon.inputs import Basis

PROMPT = "Why do the leaves of trees turn red in autumn?"


def comparison(evaluation: dict[str, Any]) -> Table:
    """Teacher, student and floor side by side."""
    table = Table("", *written.MODELS)
    if evaluation.get("task") == "generate":
        table.add_column("")
        for row, scores, write, gained in written.rows(evaluation):
            table.add_row(row, *(write(scores[who]) for who in written.MODELS), gained)
        return table
    rows = [("accuracy", 1, ".3f"), ("macro_f1", 1, ".3f"), ("bytes", 1e6, ".3f"), ("p50_ms", 1, ".2f")]
    measures: dict[str, dict[str, Any]] = evaluation.get("measures") or {}
    for name, one in measures.items():
        table.add_row(METRICS[name], *(f"{one[who]:.3f}" for who in written.MODELS))
    if measures:
        rows = rows[2:]
    if (metric := evaluation.get("metric")) in ("mcc", "micro_f1"):
        rows.insert(2, (str(metric), 1, ".3f"))
    names = {
        **METRICS,
        "bytes": "megabytes",
        "p50_ms": "p50 ms (batch 1)",
        "p95_ms": "p95 ms (batch 1)",
        "throughput": "texts/s (batch 32)",
        "peak_rss_mb": "peak memory, MB",
    }
    for field, scale, form in [*rows, ("p95_ms", 1, ".2f"), ("throughput", 1, ".0f"), ("peak_rss_mb", 1, ".0f")]:
        values = [evaluation[who][field] for who in written.MODELS]
        table.add_row(names.get(field, field), *("–" if v is None else format(v / scale, form) for v in values))
    return table


def energy_line(stages: list[dict[str, Any]], given: "Basis", attempts: Sequence[dict[str, Any]] = ()) -> str:
    """What all stages behind this version cost: kWh always, gCO2e of the grid or as a range over grids."""
    from flows.grams import ended, told
    from registry import footprint as fp
    from registry.records import Attempt, StageRecord

    vain = [Attempt.model_validate(one) for one in attempts]
    records = [StageRecord.model_validate(stage) for stage in stages]
    spent = fp.spent(records, vain)
    if spent.kwh is None:
        return "energy: not measured"
    kwh = f"{digits(spent.kwh.central)} kWh ({digits(spent.kwh.low)} to {digits(spent.kwh.high)})"
    part = f", {spent.unmeasured} of {spent.stages} stages not wholly measured" if spent.unmeasured else ""
    part += f", {len(vain)} killed or failed among them" if vain else ""
    found = told(spent.kwh, spent.seconds, ended(records), given)
    if found is None:
        return f"energy: {kwh}{part}; no factor knows this time"
    where = found.over if found.named else f"{found.over}; SHRINK_COUNTRY=FRA names yours"
    least = "at least " if found.at_least else ""
    return f"energy: {kwh}{part}, {least}{digits(found.grams.low)} to {digits(found.grams.high)} gCO2e ({where})"


def this_run(stages: list[dict[str, Any]]) -> str:
    """What a run that re-used stages took itself; empty where it re-used none."""
    from registry import footprint as fp
    from registry.records import StageRecord

    records = [StageRecord.model_validate(stage) for stage in stages]
    own = fp.total(record.footprint for record in records if not record.cached)
    if own.stages == len(records):
        return ""
    kwh = f"{digits(own.kwh.central)} kWh" if own.kwh else "none" if not own.stages else "not measured"
    return f"  of this run: {kwh}; {len(records) - own.stages} of {len(records)} stages were re-used"


def summary(journal: dict[str, Any], facts: dict[str, Any], services: Any, given: "Basis", again: bool = False) -> None:
    """The end of a run: one sentence, the table, the verdict, energy, the links and what to type next.

    `again`: its version is one that an earlier run registered.
    """
    directory = f"runs/{journal['run_id']}"
    name, version = journal["recipe"], journal["version"]
    say = [f"\n{sentence(facts)}\n"]
    say += written.sample(facts) if facts.get("writing") else []
    say.append(lift(facts))
    say += verdict_lines(journal["verdict"], name)
    refused, waits = journal.get("refused", ""), journal.get("waits")
    passed, task = journal["verdict"]["passed"] and not refused and not waits, journal["evaluation"]["task"]
    say += [f"REFUSED before its promotion: {refused}"] if refused else []
    moved = f"; not promoted: {waits.removesuffix('.')}" if waits else "; no alias moved"
    moved = f"; {name}@champion is this version" if passed else moved
    how = (
        f"the same as {name} version {version}, registered before"
        if again
        else f"registered as {name} version {version}"
    )
    say.append(f"{how}{moved}")
    spent = energy_line(journal["stages"], given, journal.get("attempts", []))
    say += filter(None, (spent, this_run(journal["stages"])))
    say += [*estimate(journal["run_id"]), *green(journal)]
    screen.tell("\n".join(say))
    screen.console.print(comparison(journal["evaluation"]))
    screen.console.print("\n".join(links(name, str(version), directory, services)), markup=False, soft_wrap=True)
    steps = next_steps(name, str(version), passed, task, pairs=bool(facts.get("pairs")))
    screen.console.print("\n".join(steps), markup=False, soft_wrap=True)


def green(journal: dict[str, Any]) -> list[str]:
    """What a start that was chosen by the grid's hours came to; nothing where it was not chosen."""
    from flows.start import saved
    from registry.records import CarbonStart

    told = journal.get("carbon_start")
    return [saved.sentence(CarbonStart.model_validate(told))] if told else []


def estimate(run_id: str) -> list[str]:
    """What was foretold of the stages that this run computed beside what came; nothing where it computed none."""
    from flows import plan_shown, planned
    from flows.settings import settings

    directory = Path(settings().home) / "runs" / run_id
    return plan_shown.total(planned.score(directory)) if planned.read(directory) else []


def links(name: str, version: str, directory: str, services: Any) -> list[str]:
    """Where to look: the registered version, the Prefect runs, the report's page."""
    from flows.settings import settings

    pages = sorted((Path(settings().home) / directory / "evidence").glob("*.html"))
    page = pages[0].as_uri() if pages else "`shrink report` writes it"
    return [
        f"MLflow   {services.mlflow_uri}/#/models/{name}/versions/{version}",
        f"Prefect  {services.prefect_api.removesuffix('/api')}/runs",
        f"report   {page}",
    ]


def next_steps(name: str, version: str, passed: bool, task: str = "classify", pairs: bool = False) -> list[str]:
    """What to type next."""
    from flows.recipe_file import shipped

    shrink = "shrink" if shutil.which("shrink") else sys.argv[0]
    steps, texts = [f"{shrink} why {name}@{version}"], '"a touching, funny film"'
    if task == "embed":
        texts += ' "it made me laugh and cry"'
    if pairs:
        texts += ' --pair "it made me laugh and cry"'
    ask = f'generate {name}@champion "{PROMPT}"' if task == "generate" else f"predict {name}@champion {texts}"
    if passed:
        steps = [f"{shrink} {ask}", f"{shrink} why {name}@champion"]
    if name in shipped() and task != "generate":
        steps.append(f"{shrink} init mine --data reviews.csv --model ./my-bert   (your own data and model)")
    steps.append(f"{shrink} down   (stops the servers)")
    return [f"{'' if place else 'next:':8} {step}" for place, step in enumerate(steps)]

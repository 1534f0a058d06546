"""What a person sees while a run goes on: bars with ETA on a terminal, plain lines elsewhere; then the summary.

With --json everything here goes to standard error (`to_stderr`): standard output holds the JSON alone.
"""

import logging
import math
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from flows import units, written
from registry.gate import is_smoke
from registry.records import METRICS, PERPLEXITIES, better

PLAIN_SECONDS = 15.0  # between two progress lines where there is no terminal
SCORES = {
    "validation_accuracy": "accuracy",
    "validation_overlap": "overlap",
    "accuracy": "accuracy",
    "agreement": "agreement",
}
PROMPT = "Why do the leaves of trees turn red in autumn?"
MODELS = ("teacher", "student", "floor")
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def to_stderr() -> None:
    """From now on show everything on standard error."""
    global console
    console = errors


def fitted(text: str, screen: Console | None = None) -> str:
    """Lines wrapped at blanks to a terminal's width, what follows indented; whole lines where there is no terminal."""
    screen = screen or console
    if not screen.is_terminal:
        return text
    lines = []
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        lines += textwrap.wrap(
            line, screen.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return "\n".join(lines)


def tell(text: str) -> None:
    """Print lines, fitted to the terminal."""
    console.print(fitted(text), markup=False, soft_wrap=True)


class ProgressLines(logging.Handler):
    """Turns the `progress` logger's records into bars or lines (logging asks for a class here)."""

    def __init__(self) -> None:
        super().__init__()
        columns = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        self.bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        self.tasks: dict[str, Any] = {}
        self.said = time.monotonic()
        if console.is_interactive:
            self.bars.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Show one progress event, or the line of a finished stage."""
        if "stage" in record.__dict__:
            for name in self.tasks:
                self.bars.update(self.tasks[name], visible=False)
            console.print(stage_line(record.__dict__["stage"]), soft_wrap=True)
            return
        if "waiting" in record.__dict__:
            console.print(f"  {record.__dict__['waiting']}", markup=False, soft_wrap=True)
            return
        name, done, total, note = record.__dict__["progress"]
        if console.is_interactive:
            if name not in self.tasks:
                self.tasks[name] = self.bars.add_task(name, total=total, note=note)
            self.bars.update(self.tasks[name], completed=done, total=total, note=note, visible=done < total)
        elif time.monotonic() - self.said > PLAIN_SECONDS:
            self.said = time.monotonic()
            console.print(f"  {name} {done}/{total} {note}", markup=False, soft_wrap=True)

    def close(self) -> None:
        """End the bars, give the terminal back and hear no more; a second call does nothing."""
        logging.getLogger("progress").removeHandler(self)
        if console.is_interactive:  # elsewhere stop() would print an empty line
            self.bars.stop()
        super().close()


def watch() -> ProgressLines:
    """Start showing progress; close() the returned handler at the end."""
    handler = ProgressLines()
    logger = logging.getLogger("progress")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    return handler


def stage_line(stage: dict[str, Any]) -> str:
    """One line about a finished stage: megabytes, score, seconds and watt-hours, or that it came from the index."""
    name = units.stage_name(stage["kind"], stage["method"], stage["role"])
    kwh = stage["footprint"]["kwh"]
    energy = "energy not measured" if kwh is None else f"{digits(kwh['central'] * 1000)} Wh"
    how = "re-used, verified" if stage["cached"] else f"{stage['footprint']['seconds']:.1f} s, {energy}"
    size, found = f"{digits(stage['bytes'] / 1e6):>7} MB", score(stage["measured"])
    if stage["kind"] in {"reload", "compare"}:  # they leave a proof, no model
        size, found = " " * len(size), found or "same outputs"
    return f"  {name:25} {size}   {found:17}  {how}"


def score(measured: dict[str, Any]) -> str:
    """What a stage measured of its model's quality; empty where it measured none."""
    if measured.get("metric") in PERPLEXITIES:
        return f"perplexity {written.more(1 / measured['retention']['point'])}"
    if isinstance(measured.get("perplexity"), float):
        return f"byte perplexity {units.number(measured['perplexity'])}"
    if isinstance(measured.get("retention"), dict):
        return f"retention {measured['retention']['point']:.1%}"
    if measured.get("cosine") is not None:
        return f"cosine {measured['cosine']:.4f}"
    return next((f"{SCORES[key]} {measured[key]:.1%}" for key in SCORES if measured.get(key) is not None), "")


def digits(value: float) -> str:
    """At least two significant digits, without an exponent and without decimals from 10 on: 91, 6.1, 0.061."""
    if value == 0 or value >= 9.95:
        return f"{value:.0f}"
    places, least = 1, 0.995
    while value < least and places < 9:
        places, least = places + 1, least / 10
    return f"{value:.{places}f}"


def sentence(shown: dict[str, Any]) -> str:
    """The run in one sentence; a dash for what is not known."""
    size, speed, metric = shown["bytes"], shown["latency_ms"], shown.get("metric", "accuracy")
    before = "smoke walk on a 2-layer clone, its scores mean nothing: " if is_smoke(shown["model"]) else ""
    if shown.get("task") == "generate":
        return before + written.sentence(shown)
    scores = shown.get("score") or shown["accuracy"]  # versions of before it could be chosen go by accuracy
    floor = units.ratio(scores["floor"], scores["teacher"] or None)
    kept = interval(shown["retention"]) if scores["teacher"] else "– (the teacher's score is 0)"
    return (
        f"{before}{megabytes(size['teacher'])} MB → {megabytes(size['student'])} MB, "
        f"{milliseconds(speed['teacher'])} → {milliseconds(speed['student'])} ms, "
        f"keeps {kept}{'' if metric == 'accuracy' else f' of its {METRICS[metric]}'}; "
        f"bag-of-words alone keeps {share(floor)}"
    )


def lift(shown: dict[str, Any]) -> str:
    """What of the teacher's win over the floor is left; where there is no win, no share of it can be kept."""
    scores = shown.get("score") or shown["accuracy"]
    floor = written.FLOOR if shown.get("task") == "generate" else "bag-of-words"
    if not better(shown.get("metric", "accuracy"), scores["teacher"], scores["floor"]):
        return f"lift over {floor}: none to retain, the teacher does not beat it either"
    return f"lift over {floor} retained: {interval(shown['lift_retained'])}"


def milliseconds(value: float | None) -> str:
    """One decimal from 1 ms on, two digits below."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.1f}" if value >= 1 else digits(value)


def megabytes(value: float | None) -> str:
    """Bytes as 10^6 bytes, without the unit."""
    return "–" if value is None else digits(value / 1e6)


def share(value: float | None) -> str:
    """A share as per cent."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.1%}"


def interval(seen: dict[str, Any]) -> str:
    """A share with its 95 % interval."""
    return f"{share(seen['point'])} [{share(seen['low'])}, {share(seen['high'])}]"


def comparison(evaluation: dict[str, Any]) -> Table:
    """Teacher, student and floor side by side."""
    table = Table("", *MODELS)
    if evaluation.get("task") == "generate":
        table.add_column("")
        for row, scores, write, gained in written.rows(evaluation):
            table.add_row(row, *(write(scores[who]) for who in MODELS), gained)
        return table
    rows = [("accuracy", 1, ".3f"), ("macro_f1", 1, ".3f"), ("bytes", 1e6, ".3f"), ("p50_ms", 1, ".2f")]
    measures: dict[str, dict[str, Any]] = evaluation.get("measures") or {}
    for name, one in measures.items():
        table.add_row(METRICS[name], *(f"{one[who]:.3f}" for who in MODELS))
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
        values = [evaluation[who][field] for who in MODELS]
        table.add_row(names.get(field, field), *("–" if v is None else format(v / scale, form) for v in values))
    return table


def verdict_lines(verdict: dict[str, Any], model: str) -> list[str]:
    """The verdict on a model, a line a check."""
    open_gate = "; a smoke walk's gate is open: the chain runs, nothing is said of quality" if is_smoke(model) else ""
    lines = [f"  {'✓' if check['passed'] else '✗'} {check['name']}: {check['why']}" for check in verdict["checks"]]
    return [f"verdict: {'passed' if verdict['passed'] else 'REJECTED'}{open_gate}", *lines]


def energy_line(stages: list[dict[str, Any]], country: str | None) -> str:
    """What all stages behind this version cost: kWh always, gCO2e of the country or as a range over grids."""
    from registry import footprint as fp
    from registry.records import StageRecord

    spent = fp.spent(StageRecord.model_validate(stage) for stage in stages)
    if spent.kwh is None:
        return "energy: not measured"
    grid = fp.grid_of(country)
    grams = fp.grams(spent.kwh, grid)
    assert grams is not None
    kwh = f"{digits(spent.kwh.central)} kWh ({digits(spent.kwh.low)} to {digits(spent.kwh.high)})"
    part = f", {spent.unmeasured} of {spent.stages} stages not measured" if spent.unmeasured else ""
    where = grid.name if country else f"{grid.name}; SHRINK_COUNTRY=FRA names yours"
    return f"energy: {kwh}{part}, {digits(grams.low)} to {digits(grams.high)} gCO2e ({where})"


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


def summary(
    journal: dict[str, Any], facts: dict[str, Any], services: Any, country: str | None, again: bool = False
) -> None:
    """The end of a run: one sentence, the table, the verdict, energy, the links and what to type next.

    `again`: its version is one that an earlier run registered.
    """
    directory = f"runs/{journal['run_id']}"
    name, version = journal["recipe"], journal["version"]
    say = [f"\n{sentence(facts)}\n"]
    say += written.sample(facts) if facts.get("writing") else []
    say.append(lift(facts))
    say += verdict_lines(journal["verdict"], name)
    moved = f"; {name}@champion is this version" if journal["verdict"]["passed"] else "; no alias moved"
    how = (
        f"the same as {name} version {version}, registered before"
        if again
        else f"registered as {name} version {version}"
    )
    say.append(f"{how}{moved}")
    say += filter(None, (energy_line(journal["stages"], country), this_run(journal["stages"])))
    tell("\n".join(say))
    console.print(comparison(journal["evaluation"]))
    console.print("\n".join(links(name, str(version), directory, services)), markup=False, soft_wrap=True)
    passed, task = journal["verdict"]["passed"], journal["evaluation"]["task"]
    steps = next_steps(name, str(version), passed, task, pairs=bool(facts.get("pairs")))
    console.print("\n".join(steps), markup=False, soft_wrap=True)


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

"""`shrink report`: energy, emissions and pay-back of runs as a page, Markdown, JSON, CSV or Prometheus' text."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows import console as screen
from flows.cli_common import Json, say
from flows.settings import settings

Model = Annotated[str | None, typer.Argument(help="only the runs of this model, its smoke walks apart")]
Since = Annotated[str | None, typer.Option(help="first day (2026-11-01, UTC), or so many days back (30d)")]
Until = Annotated[str | None, typer.Option(help="last day, the same way")]


class Format(StrEnum):
    """What a report is written as."""

    html = "html"
    md = "md"
    json = "json"
    csv = "csv"
    prom = "prom"


def report(
    model: Model = None,
    since: Since = None,
    until: Until = None,
    written: Annotated[Format, typer.Option("--format", help="what to write it as")] = Format.html,
    out: Annotated[
        Path | None, typer.Option(help="file to write (default: the terminal; of html report.html in .shrink)")
    ] = None,
    as_json: Json = False,
) -> None:
    """Report energy, emissions and pay-back of all runs, or of a model's or a period's, and how well each is known."""
    from flows.journal import NO_RUNS
    from flows.reporting import formats, page
    from flows.reporting.compose import compose
    from flows.reporting.gather import beside, gather
    from flows.reporting.period import period

    here = settings()
    found = gather(here.home, model, period(since, until, datetime.now(UTC).date()))
    facts = compose(found, here.country)
    writers = {
        Format.html: page.html,
        Format.md: formats.markdown,
        Format.json: formats.json_text,
        Format.csv: formats.csv_text,
        Format.prom: formats.prometheus,
    }
    target = out or (here.home / "report.html" if written is Format.html and not as_json else None)
    if target is not None:
        written_whole(target, writers[written](facts))
    if as_json or (target is None and written is not Format.html):
        typer.echo((formats.json_text if as_json else writers[written])(facts), nl=False)
        return
    lines = [f"report: {target.absolute().as_uri()}"] if target else []
    lines += [f"{one.text} {one.says} ({one.between})" for one in facts.figures] if facts.trace else [NO_RUNS]
    if facts.trace:
        lines += [facts.benefit.sentence, *beside(found)]
    if facts.unreadable:
        lines.append(f"not readable, in no total: {', '.join(facts.unreadable)}")
    say(None, False, screen.fitted("\n".join(lines)))


def written_whole(target: Path, text: str) -> None:
    """Write a file in one step: a collector never reads half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)

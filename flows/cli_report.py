"""`shrink report`: energy, emissions and pay-back of runs as a page, Markdown, JSON, CSV or Prometheus' text."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows import console as screen
from flows.cli_common import Json, connected, say
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
    issue: Annotated[bool, typer.Option("--issue", help="freeze it on S3, of a period that is over")] = False,
    restates: Annotated[str | None, typer.Option(help="digest of the issued report that this one replaces")] = None,
    reason: Annotated[str | None, typer.Option(help="why it is restated")] = None,
    issued: Annotated[bool, typer.Option("--issued", help="list what was issued")] = False,
    as_json: Json = False,
) -> None:
    """Report energy, emissions and pay-back of all runs, or of a model's or a period's, and how well each is known."""
    from flows.journal import NO_RUNS
    from flows.reporting import formats, page
    from flows.reporting.compose import compose
    from flows.reporting.gather import beside, gather
    from flows.reporting.period import period
    from registry.carbon.inputs import basis

    here = settings()
    if issued:
        say_issued(as_json)
        return
    if issue or restates or reason:
        issue_it(model, since, until, restates, reason, as_json)
        return
    inputs = basis(here.carbon, here.country)
    found = gather(here.home, model, period(since, until, datetime.now(UTC).date()))
    facts = compose(found, inputs)
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


def issue_it(
    model: str | None, since: str | None, until: str | None, restates: str | None, reason: str | None, as_json: bool
) -> None:
    """Freeze a report on S3 and say under which digest."""
    from flows.reporting.issue import issue, lines
    from flows.reporting.monthly import composer
    from flows.reporting.period import period
    from flows.servers import s3_config
    from registry import store

    today, here = datetime.now(UTC).date(), settings()
    asked = period(since, until, today)
    found = connected()
    s3 = store.connect(s3_config(found))
    entry, report = issue(s3, found.bucket, here.home, composer(), asked, today, model, restates, reason)
    said = [*lines([entry]), f"files: s3://{found.bucket}/manifests/{entry.digest}.json", report.benefit.sentence]
    say(entry.model_dump(), as_json, screen.fitted("\n".join(said)))


def say_issued(as_json: bool) -> None:
    """List the issued reports."""
    from flows.reporting.issue import lines
    from flows.servers import s3_config
    from registry import store
    from registry.issued import entries

    found = connected()
    seen = entries(store.connect(s3_config(found)), found.bucket)
    say([one.model_dump() for one in seen], as_json, screen.fitted("\n".join(lines(seen))))


def written_whole(target: Path, text: str) -> None:
    """Write a file in one step: a collector never reads half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)

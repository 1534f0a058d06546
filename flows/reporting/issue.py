"""Issuing a report: its files are frozen on S3 by their digest; what was wrong is restated, with a reason.

The files depend on runs and inputs alone, so that the same report issued again is the same digest and changes nothing.
"""

import getpass
import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from flows.reporting import formats, page
from flows.reporting.gather import Gathered, gather
from flows.reporting.model import Report, Restated
from flows.reporting.period import Period
from registry import issued
from registry.issued import Issued
from registry.records import ShrinkError, digest_directory

Compose = Callable[[Gathered, Restated | None], Report]


def issue(
    s3: Any,
    bucket: str,
    home: Path,
    compose: Compose,
    asked: Period,
    today: date,
    model: str | None = None,
    restates: str | None = None,
    reason: str | None = None,
) -> tuple[Issued, Report]:
    """Freeze the report of a period that is over; raises ShrinkError where it may not be issued so."""
    found = gather(home, model, asked)
    check(asked, today, found)
    with FileLock(home / "locks" / "reports.lock"):
        until = str(asked.until)
        scope = issued.scope(model, asked.since.isoformat() if asked.since else None, until)
        before = issued.entries(s3, bucket, scope)
        instead = follows(before, scope, restates, reason)
        report = compose(found, instead or _same(before))
        with tempfile.TemporaryDirectory(dir=home) as folder:
            digest = write(Path(folder), report)
            if before and before[-1].digest == digest and instead is None:
                return before[-1], report
            if before and instead is None:
                raise ShrinkError(
                    f"report = {scope} was issued as {before[-1].digest[:12]} and would now be another; "
                    f"give --restates {before[-1].digest[:12]} and --reason."
                )
            entry = Issued(
                number=len(before) + 1,
                digest=digest,
                model=model,
                since=asked.since.isoformat() if asked.since else None,
                until=until,
                issued=datetime.now(UTC).isoformat(timespec="seconds"),
                who=getpass.getuser(),
                restates=instead.digest if instead else None,
                reason=instead.reason if instead else None,
            )
            return issued.issue(s3, bucket, Path(folder), entry), report


def check(asked: Period, today: date, found: Gathered) -> None:
    """Refuse a period that is not over, and one in which a run goes on: both would change under their digest."""
    if asked.until is None or asked.until >= today:
        raise ShrinkError(f"--until is {asked.until or 'not given'} but only days that are over are issued; name one.")
    going = [run["run_id"] for run in found.runs if run["status"] == "running"]
    if going:
        raise ShrinkError(f"run '{going[0]}' goes on; issue the report when it has ended.")


def follows(before: list[Issued], scope: str, restates: str | None, reason: str | None) -> Restated | None:
    """The issued report that is restated, or None; raises ShrinkError for one that is not the last of its scope."""
    if restates is None:
        if reason is not None:
            raise ShrinkError("--reason is given without the report that it is about; name that with --restates.")
        return None
    if not reason or not reason.strip():
        raise ShrinkError(f"--restates is '{restates}' but no reason is given; say it with --reason.")
    last = before[-1] if before else None
    if last is None or len(restates) < 8 or not last.digest.startswith(restates):
        known = f"the one that stands is {last.digest[:12]}" if last else "none was issued"
        raise ShrinkError(f"--restates is '{restates}' but of {scope} {known}; restate that one.")
    return Restated(digest=last.digest, reason=" ".join(reason.split()))


def write(folder: Path, report: Report) -> str:
    """The report's files in a folder; returns their digest."""
    (folder / "report.html").write_text(page.html(report), encoding="utf-8")
    (folder / "report.json").write_text(formats.json_text(report), encoding="utf-8")
    (folder / "report.csv").write_text(formats.csv_text(report), encoding="utf-8")
    (folder / "report.md").write_text(formats.markdown(report), encoding="utf-8")
    return digest_directory(folder)


def lines(found: list[Issued]) -> list[str]:
    """A line an issued report: what it is about, its digest, and what it restates."""
    said = []
    for one in found:
        restated = f", restates {one.restates[:12]}: {one.reason}" if one.restates else ""
        said.append(f"{one.digest[:12]}  {one.model or 'all models'}, {one.since or 'start'} to {one.until}{restated}")
    return said or ["no report was issued yet; `shrink report --until DAY --issue` issues one"]


def _same(before: list[Issued]) -> Restated | None:
    """What the standing report says that it restates: issued again it must be the same bytes."""
    last = before[-1] if before else None
    return Restated(digest=last.restates, reason=last.reason or "") if last and last.restates else None

"""What a person sees while a run goes on: bars with ETA on a terminal, plain lines elsewhere; then the summary."""

import logging
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

PLAIN_SECONDS = 15.0  # between two progress lines where there is no terminal
console = Console(highlight=False)


class ProgressLines(logging.Handler):
    """Turns the `progress` logger's records into bars or lines (logging asks for a class here)."""

    def __init__(self) -> None:
        super().__init__()
        columns = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        self.bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        self.tasks: dict[str, Any] = {}
        self.said = time.monotonic()
        if sys.stdout.isatty():
            self.bars.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Show one progress event, or the line of a finished stage."""
        if "stage" in record.__dict__:
            self.bars.console.print(stage_line(record.__dict__["stage"]))
            return
        name, done, total, note = record.__dict__["progress"]
        if sys.stdout.isatty():
            if name not in self.tasks:
                self.tasks[name] = self.bars.add_task(name, total=total, note=note)
            self.bars.update(self.tasks[name], completed=done, total=total, note=note, visible=done < total)
        elif time.monotonic() - self.said > PLAIN_SECONDS:
            self.said = time.monotonic()
            console.print(f"  {name} {done}/{total} {note}")

    def close(self) -> None:
        """End the bars."""
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
    """One line about a finished stage: megabytes, seconds, watt-hours, from the index or new."""
    name = "/".join(part for part in (stage["kind"], stage["method"]) if part)
    kwh = stage["footprint"]["kwh"]
    energy = "unmeasured" if kwh is None else f"{kwh['central'] * 1000:.2f} Wh"
    how = "re-used, verified" if stage["cached"] else f"{stage['footprint']['seconds']:.1f} s, {energy}"
    return f"  {name:26} {stage['bytes'] / 1e6:8.2f} MB   {stage['digest'][:12]}   {how}"


def sentence(shown: dict[str, Any]) -> str:
    """The run in one sentence."""
    size, speed, kept = shown["bytes"], shown["latency_ms"], shown["retention"]
    floor = shown["accuracy"]["floor"] / shown["accuracy"]["teacher"]
    return (
        f"{size['teacher'] / 1e6:.0f} MB → {size['student'] / 1e6:.1f} MB, "
        f"{speed['teacher']:.1f} → {speed['student']:.1f} ms, keeps {kept['point']:.1%} "
        f"[{kept['low']:.1%}, {kept['high']:.1%}]; bag-of-words alone keeps {floor:.1%}"
    )


def comparison(evaluation: dict[str, Any]) -> Table:
    """Teacher, student and floor side by side."""
    table = Table("", "teacher", "student", "floor")
    rows = [("accuracy", 1, ".3f"), ("macro_f1", 1, ".3f"), ("bytes", 1e6, ".2f"), ("p50_ms", 1, ".2f")]
    names = {"bytes": "megabytes", "p50_ms": "p50 ms (batch 1)", "throughput": "sentences/s (batch 32)"}
    for field, scale, form in [*rows, ("p95_ms", 1, ".2f"), ("throughput", 1, ".0f"), ("peak_rss_mb", 1, ".0f")]:
        values = [evaluation[who][field] for who in ("teacher", "student", "floor")]
        table.add_row(names.get(field, field), *("–" if v is None else format(v / scale, form) for v in values))
    return table


def verdict_lines(verdict: dict[str, Any]) -> list[str]:
    """The verdict, a line a check."""
    lines = [f"  {'✓' if check['passed'] else '✗'} {check['name']}: {check['why']}" for check in verdict["checks"]]
    return [f"verdict: {'passed' if verdict['passed'] else 'REJECTED'}", *lines]

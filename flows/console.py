"""What a person sees while a run goes on: bars with ETA on a terminal, plain lines elsewhere.

With --json everything here goes to standard error (`to_stderr`): standard output holds the JSON alone.
"""

import logging
import textwrap
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flows.sentences import stage_line

PLAIN_SECONDS = 15.0  # between two progress lines where there is no terminal
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

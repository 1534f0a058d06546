"""A served version and its process, what was seen of it, and the slot that holds what a server answers with."""

import math
import threading
import time
from bisect import bisect
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from flows.serve.child import Child, Failed, Gone, Part, rows
from flows.serve.rollout import P95, TIMED, Numbers, Options, Phase, Seen, late_ms, percentile
from registry.records import STRICT, ShrinkError, Task

KEPT = 5000  # times of the last requests of a version


def now() -> str:
    """This moment, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Served(BaseModel):
    """A verified version: what its process opens, and how much memory that may take."""

    model_config = STRICT
    version: str
    digest: str
    directory: Path
    task: Task
    config: dict[str, Any]
    runtime: str
    limit_mb: float


class Refused(BaseModel):
    """A version that is not served, and why."""

    model_config = STRICT
    version: str
    why: str
    mark: str = Field("", description="the ledger's entry that named it: promoted anew, it is tried anew")
    phase: str = Field("", description="in which it was refused: opening, shadow, canary, watch or in place")
    since: str = Field(default_factory=now, description="when it was refused, UTC")
    until: float = Field(math.inf, exclude=True, description="time.monotonic() at which it is tried again")


class Tally:
    """What a version's requests were like since it was begun anew; may be read and written from any thread."""

    def __init__(self) -> None:
        self.requests = self.errors = 0
        self._spent: deque[tuple[float, float]] = deque(maxlen=KEPT)  # when it was asked, and the milliseconds
        self._lock = threading.Lock()

    def note(self, milliseconds: float | None, asked: float = 0.0) -> None:
        """Count a request, its time and when it was asked (time.perf_counter()); None: it was not answered."""
        with self._lock:
            self.requests += 1
            if milliseconds is None:
                self.errors += 1
            else:
                self._spent.append((asked, milliseconds))

    def numbers(self) -> Numbers:
        """Counts and percentiles."""
        counts = {"requests": self.requests, "errors": self.errors}
        spent = [milliseconds for _, milliseconds in self.spent()]
        return Numbers(**counts, p50_ms=percentile(spent, 0.5), p95_ms=percentile(spent, P95))

    def spent(self) -> list[tuple[float, float]]:
        """When each of the last requests was asked and what it took, in that order."""
        with self._lock:
            return sorted(self._spent)

    def late(self, other: "Tally") -> tuple[int, float | None]:
        """How many took longer than the other version's requests of the same moments allow, and the usual limit in ms.

        What slows the machine for a while slows both. (0, None) where the other one was hardly asked.
        """
        known, own = other.spent(), self.spent()
        if len(known) < TIMED or not own:
            return 0, None
        times, limits = [asked for asked, _ in known], list[float]()
        for asked, _ in own:
            at = min(max(bisect(times, asked), TIMED // 2), len(known) - TIMED // 2)
            near = [milliseconds for _, milliseconds in known[max(0, at - TIMED) : at + TIMED]]
            limits.append(late_ms(percentile(near, P95) or 0.0))
        late = sum(spent > limit for (_, spent), limit in zip(own, limits, strict=True))
        return late, percentile(limits, 0.5)


@dataclass
class Lane:
    """A version and the process that answers for it, another one after it died."""

    served: Served
    child: Child
    tally: Tally = field(default_factory=Tally)
    deaths: list[float] = field(default_factory=list)  # time.monotonic()
    buried: bool = False  # the death of this process is counted
    tried: float = 0.0  # when it was last started again
    leaves: float = 0.0  # since when it only finishes what it was asked
    peak_mb: float = 0.0

    def ask(self, question: dict[str, Any], part: Part | None = None) -> "tuple[int, Future[dict[str, Any]]]":
        """Ask its process; time and failure are noted as soon as the answer is there. Raises Gone."""
        begun = time.perf_counter()
        number, future = self.child.ask(question, part)

        def note(done: "Future[dict[str, Any]]") -> None:
            if done.cancelled() or isinstance(error := done.exception(), Gone | ShrinkError):
                return  # a death is counted as such, and what the asker can mend is no failure
            milliseconds: float | None = 1e3 * (time.perf_counter() - begun)
            if error is not None or not sound(done.result()):
                milliseconds = None
            self.tally.note(milliseconds, begun)

        future.add_done_callback(note)
        return number, future


def sound(answer: dict[str, Any]) -> bool:
    """Whether the numbers of an answer are numbers."""
    try:
        return "rows" not in answer or bool(rows(answer).size)
    except Failed:
        return False


@dataclass
class Slot:
    """What a server answers with; the loops assign under the lock, requests read."""

    name: str
    alias: str
    options: Options = field(default_factory=Options)
    serving: Lane | None = None
    candidate: Lane | None = None  # answers copies (shadow) or its share (canary)
    former: Lane | None = None  # at hand while the one that took over is watched, and gets copies to compare times
    leaving: list[Lane] = field(default_factory=list)  # finish what they were asked
    phase: Phase | None = None
    since: float = 0.0  # time.monotonic() at which the phase began
    compared: int = 0
    agreed: int = 0
    copies: int = 0  # that are not answered yet
    share: float = 0.0  # grows with every request; the canary takes one when it reaches 1
    refused: Refused | None = None
    trouble: str | None = None
    retreat: str | None = None  # why what is in place should be replaced by the one before it
    mark: str = ""  # of the ledger's entry that the candidate, or what is in place, was named by
    restarts: int = 0
    rollbacks: int = 0
    waiting: int = 0  # requests that are being answered
    lock: Any = field(default_factory=threading.RLock)

    def seen(self) -> Seen:
        """The numbers of the present phase."""
        candidate, former = (
            (self.serving, self.former) if self.phase == "watch" else (self.candidate, self.serving)
        )  # fmt: skip
        assert candidate is not None
        old = former.tally if former is not None else Tally()
        late, limit = candidate.tally.late(old)
        return Seen(
            seconds=time.monotonic() - self.since,
            former=old.numbers(),
            candidate=candidate.tally.numbers(),
            late=late,
            late_ms=limit,
            compared=self.compared,
            agreed=self.agreed,
            deaths=len([one for one in candidate.deaths if one >= self.since]),
            peak_mb=candidate.peak_mb,
            limit_mb=candidate.served.limit_mb,
        )

    def begin(self, phase: Phase | None) -> None:
        """Enter a phase, counting anew."""
        self.phase, self.since = phase, time.monotonic()
        self.compared = self.agreed = 0
        for lane in self.lanes():
            if lane is not None:
                lane.tally = Tally()

    def lanes(self) -> list[Lane]:
        """Every version that a process runs for, those that leave excepted."""
        return [lane for lane in (self.serving, self.candidate, self.former) if lane is not None]

"""How fast and how hungry this machine is beside the reference: from earlier runs here, else by a short probe."""

import statistics
import time
from pathlib import Path
from typing import NamedTuple

from flows import planned
from flows.planned import StagePlan
from registry.records import Band, StageRecord

RUNS = 20  # the newest ones that are looked at
LIKE = 0.2  # a stage tells of one at most five times its work: in smaller ones what is constant prevails
REFERENCE = 50e9  # multiply-adds a second of the probe on the reference
PROBE = (256, 384, 1536)  # a batch of tokens through a feed-forward product of a small encoder
PROBE_SECONDS = 0.12
SHARE = 0.9  # of a further thread that comes through
SURE, UNSURE = 1.35, 2.0  # how far off a time may be: by the same stage's earlier times, by others' or a probe
WATTS = Band(low=6.0, central=25.0, high=45.0)  # of a small machine, where no run was metered yet

Pairs = list[tuple[StagePlan, StageRecord]]


class Pace(NamedTuple):
    """Seconds here a second of the reference, by stage where it has run before; power; in words where from."""

    pairs: Pairs
    other: float
    watts: Band
    threads: int
    words: str

    def seconds(self, kind: str, method: str | None, work: float, parallel: bool) -> Band:
        """The time of a stage of so much work."""
        like = [
            record.footprint.seconds / stage.work
            for stage, record in self.pairs
            if (stage.kind, stage.method) == (kind, method) and stage.work >= LIKE * work
        ]
        if like:
            recent = like[-5:]
            middle = work * statistics.median(recent)
            return Band(low=min(work * min(recent), middle) / SURE, central=middle, high=work * max(recent) * SURE)
        middle = work * self.other / (speedup(self.threads) if parallel else 1.0)
        return Band(low=middle / UNSURE, central=middle, high=middle * UNSURE)

    def kwh(self, seconds: Band) -> Band:
        """The energy of a stage that takes so long."""
        return Band(
            low=seconds.low * self.watts.low / 3.6e6,
            central=seconds.central * self.watts.central / 3.6e6,
            high=seconds.high * self.watts.high / 3.6e6,
        )


def pace(home: Path, threads: int) -> Pace:
    """The pace of a stage with so many threads, from the runs in a home where there are any."""
    found: Pairs = []
    for directory in sorted((home / "runs").glob("*"))[-RUNS:]:
        plan = planned.read(directory)
        if plan is not None and plan.threads == threads:
            found += planned.pairs(directory)
    metered = [record.footprint for _, record in found if record.footprint.kwh and record.footprint.seconds > 1]
    watts = WATTS
    if metered:
        spent = sum(one.seconds for one in metered)
        low, central, high = (
            sum(getattr(one.kwh, end) for one in metered) * 3.6e6 / spent for end in ("low", "central", "high")
        )
        watts = Band(low=low, central=central, high=high)
    words = "a probe of this machine (no run here was planned before)"
    if found:
        words = "earlier runs of the same stages here, else a probe of this machine"
    return Pace(found, REFERENCE / probe(), watts, threads, words)


def speedup(threads: int) -> float:
    """How much faster so many threads are than one."""
    return 1 + SHARE * (threads - 1)


def probe() -> float:
    """Multiply-adds a second of one thread: the fastest over a tenth of a second, as other load can only slow it."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    rows, inner, columns = PROBE
    left, right = np.ones((rows, inner), np.float32), np.ones((inner, columns), np.float32)
    taken: list[float] = []
    with threadpool_limits(1):
        began = time.perf_counter()
        while len(taken) < 3 or time.perf_counter() - began < PROBE_SECONDS:
            start = time.perf_counter()
            left @ right
            taken.append(time.perf_counter() - start)
    return rows * inner * columns / min(taken)

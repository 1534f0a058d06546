"""Whether a new version may take over from the one in place: pure decisions from numbers.

shadow: it answers copies of live requests beside the version in place, and nobody sees its answers. canary: a share of
the requests is its own to answer. watch: it answers all, the former one stays at hand. Then it is in place. Shares are
judged by their 95 % interval: few requests on a busy machine do not take a good version back.
"""

import math
from typing import Literal, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from registry.records import STRICT, ShrinkError

Phase = Literal["shadow", "canary", "watch"]
PHASES: tuple[Phase, ...] = ("shadow", "canary", "watch")
PHASE_SECONDS = 600.0  # where few ask, a phase is judged by what there was
LEAST_AGREEMENT = 0.8  # two students of one teacher agree in nine of ten texts (benchmarks/README.md)
ERRORS, MORE_ERRORS = 3, 0.02  # so many errors, and so much larger a share of the requests than in the version in place
DEATHS = 2  # one may be the machine's
P95, TIMED = 0.95, 20  # requests of each, below which no p95 is compared
SLOWER, SLOWER_MS = 2.0, 10.0  # times the p95 of the version in place at that moment, and more: longer is late


class Options(BaseModel):
    """How a new version is tried, and what its process may take."""

    model_config = STRICT
    shadow: int = Field(50, ge=0, description="Live requests that each phase compares; 0: no shadow.")
    canary: float = Field(0.1, ge=0, le=1, description="Share of requests that a canary answers; 0: no canary.")
    memory_mb: float | None = Field(None, gt=0, description="MB of a version's process; null: by the model's size.")
    batch: int = Field(8, ge=1, le=128, description="Texts that go through the model together; 1: each alone.")
    rollback: bool = Field(False, description="Append a rollback to the ledger when the champion proves unfit.")


def options_of(**given: float | bool | None) -> Options:
    """Options as they were typed; raises ShrinkError that names the one that will not do."""
    try:
        return Options.model_validate(given)
    except ValidationError as error:
        wrong = error.errors()[0]
        name, said = f"{wrong['loc'][0]}", wrong["msg"].removeprefix("Input should be ")
        option = f"--{name.replace('_', '-')}"
        raise ShrinkError(f"{name} is {wrong['input']} but must be {said}; change {option}.") from None


class Numbers(BaseModel):
    """What one version's requests were like."""

    model_config = STRICT
    requests: int = 0
    errors: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None


class Seen(BaseModel):
    """What was seen in a phase, of both versions."""

    model_config = STRICT
    seconds: float
    former: Numbers
    candidate: Numbers
    late: int = 0  # of the candidate's answers, those that took too long beside the other version's at that moment
    late_ms: float | None = None  # the median of these limits: each answer has its moment's
    compared: int = 0
    agreed: int = 0
    deaths: int = 0
    peak_mb: float = 0.0
    limit_mb: float | None = None


class Decision(NamedTuple):
    """What to do with a version that is being tried, and why it is refused."""

    step: Literal["wait", "advance", "refuse"]
    why: str = ""


def phases(options: Options) -> tuple[Phase, ...]:
    """The phases that a new version goes through where another is in place."""
    left_out = {"shadow": options.shadow == 0, "canary": options.canary == 0, "watch": False}
    return tuple(phase for phase in PHASES if not left_out[phase])


def decided(phase: Phase, seen: Seen, options: Options) -> Decision:
    """What the numbers of a phase say; what cannot become good any more is refused before the phase is over."""
    wanted = options.shadow or TIMED
    why = broken(seen) or differs(seen, wanted)
    if why:
        return Decision("refuse", why)
    enough = seen.compared if phase == "shadow" else seen.candidate.requests
    if enough < wanted and seen.seconds < PHASE_SECONDS:
        return Decision("wait")
    why = differs(seen, seen.compared) or slow(seen)
    return Decision("refuse", why) if why else Decision("advance")


def broken(seen: Seen) -> str:
    """Why a version is not sound: its process ended, took too much memory, or could not answer; else empty."""
    if seen.limit_mb is not None and seen.peak_mb > seen.limit_mb:
        return f"its process took {seen.peak_mb:.0f} MB, allowed are {seen.limit_mb:.0f} (--memory-mb)"
    if seen.deaths >= DEATHS:
        return f"its process ended {seen.deaths} times"
    new, old = seen.candidate, seen.former
    known = old.errors / old.requests if old.requests else 0.0
    if new.errors >= ERRORS and new.errors / new.requests > known + MORE_ERRORS:
        return f"it could not answer {new.errors} of {new.requests} requests"
    return ""


def differs(seen: Seen, wanted: int) -> str:
    """Why it does not agree often enough, or can no longer; else empty."""
    total = max(wanted, seen.compared)
    if not seen.compared or interval(total - (seen.compared - seen.agreed), total)[1] >= LEAST_AGREEMENT:
        return ""
    share = f"in {seen.agreed} of {seen.compared} live requests"
    return f"it agrees with the version in place {share}, which is surely less than {LEAST_AGREEMENT:.0%}"


def slow(seen: Seen) -> str:
    """Why it is too slow, where both were asked often enough: surely more than a twentieth are late; else empty."""
    new, old = seen.candidate, seen.former
    answered = new.requests - new.errors
    if min(answered, old.requests) < TIMED or seen.late_ms is None:
        return ""
    if interval(seen.late, answered)[0] <= 1 - P95:
        return ""
    return (
        f"{seen.late} of {answered} requests took it longer than allowed at that moment (about {seen.late_ms:.1f} ms): "
        f"{told(new)}, beside it {told(old)}"
    )


def told(numbers: Numbers) -> str:
    """A p95 as people write it."""
    return f"p95 {numbers.p95_ms or 0:.1f} ms"


def late_ms(p95_ms: float) -> float:
    """Milliseconds above which an answer is late, by the p95 of the other version's requests around its moment."""
    return SLOWER * p95_ms + SLOWER_MS


def interval(count: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, z = count / of, 1.96
    middle, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


def percentile(values: list[float], share: float) -> float | None:
    """The value that such a share of them does not exceed (nearest rank); None of none."""
    if not values:
        return None
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, math.ceil(share * len(ranked)) - 1)]

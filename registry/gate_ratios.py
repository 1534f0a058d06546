"""Checks of what a student keeps and gains, as ratios: retention, the win over the floor, size, speed, bits."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from registry.records import METRICS, PERPLEXITIES, Check, Evaluation, Interval, MeasureName

if TYPE_CHECKING:
    from registry.gate import Gate

GENERAL: tuple[MeasureName, ...] = ("perplexity", "perplexity_second")


def ratio(above: float, below: float) -> float:
    """above / below, NaN where one of them is no positive number."""
    usable = math.isfinite(above) and math.isfinite(below) and above > 0 and below > 0
    return above / below if usable else math.nan


def at_least(name: str, value: float, limit: float, what: str) -> Check:
    """A value that must reach a limit; what is no finite number fails."""
    if not math.isfinite(value):
        why = f"{what} is not a finite number, which fails; at least {limit:g} is asked for"
        return Check(name=name, value=None, limit=limit, passed=False, why=why)
    passed = value >= limit
    verb = "reaches" if passed else "is below"
    return Check(
        name=name, value=value, limit=limit, passed=passed, why=f"{what} is {value:.4f} and {verb} the least {limit:g}"
    )


def of_measures(gate: "Gate", seen: Evaluation) -> Iterator[Check]:
    """What is asked of the one score of a classifier, of each measure of a model that embeds or writes.

    Of one that writes, what is asked of no measure by name is asked of its perplexities a token: how it answers a few
    prompts and questions has limits of another size, to be named.
    """
    general = [name for name in seen.measures if seen.task == "embed" or name in GENERAL]
    floors = () if not gate.beat_floor else general if gate.beat_floor_of is None else gate.beat_floor_of
    for name in (*seen.measures, *(one for one in (*gate.retention_min_of, *floors) if one not in seen.measures)):
        if name not in seen.measures:
            kind = "retention" if name in gate.retention_min_of else "beat_floor"
            yield unmeasured(kind, name, seen.left_out.get(name, "the evaluation does not take it"))
            continue
        one, own = seen.measures[name], gate.retention_min_of.get(name)
        order = (
            "the teacher's {0} over the student's" if name in PERPLEXITIES else "the student's {0} over the teacher's"
        )
        what = order.format(METRICS[name])
        least = gate.retention_min if own is None and name in general else own
        if least is not None:
            yield at_least(f"retention_{name}", one.retention.point, least, what)
        if gate.retention_low_min is not None and own is None and name in general:
            text = f"the lower end of the 95 % interval of {what}"
            yield at_least(f"retention_low_{name}", one.retention.low, gate.retention_low_min, text)
        if name in floors:
            lower = name in PERPLEXITIES
            yield beat_floor(f"beat_floor_{name}", one.win_over_floor, seen.examples, lower=lower)


def unmeasured(kind: str, name: MeasureName, why: str) -> Check:
    """A check of a measure that was not taken."""
    return Check(
        name=f"{kind}_{name}", value=None, limit=None, passed=False, why=f"{METRICS[name]} was not measured: {why}"
    )


def bits(value: float | None, limit: float) -> Check:
    """Bits per weight, which must not exceed a limit."""
    if value is None or not math.isfinite(value):
        why = f"the student's bits per weight are not known, which fails; at most {limit:g} is asked for"
        return Check(name="bits_per_weight", value=None, limit=limit, passed=False, why=why)
    verb = "stays within" if value <= limit else "exceeds"
    why = f"the student takes {value:.3f} bits per weight and {verb} the most {limit:g}"
    return Check(name="bits_per_weight", value=value, limit=limit, passed=value <= limit, why=why)


def beat_floor(name: str, won: Interval, examples: int, possible: bool = True, lower: bool = False) -> Check:
    """The win over the floor, whose whole interval must lie above zero."""
    if not all(math.isfinite(value) for value in (won.low, won.point, won.high)):
        why = "the student's win over the floor is not a finite number, which fails"
        return Check(name=name, value=None, limit=0.0, passed=False, why=why)
    passed = won.low > 0
    verb = "lies above" if passed else "is not wholly above"
    order = "floor minus student" if lower else "student minus floor"
    why = (
        f"{order} is {won.point:+.4f}, and its 95 % interval {won.low:+.4f} to {won.high:+.4f} {verb} zero"
        f" on {examples} examples"
    )
    if not passed and not possible:
        why += "; its teacher does not beat the floor either: take the floor, or ask with harder data"
    return Check(name=name, value=won.low, limit=0.0, passed=passed, why=why)

"""The gate: pure judgement of an Evaluation against a policy; what is not a number fails."""

import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, Field

from registry.records import METRICS, PERPLEXITIES, STRICT, Check, Evaluation, Interval, MeasureName, Verdict

GENERAL: tuple[MeasureName, ...] = ("perplexity", "perplexity_second")
SMOKE = "-smoke"  # ends the name of a recipe that only shows that the chain runs, its gate open
MOST_KEPT = 2.0  # a student that is asked for more than twice its teacher's score is asked for a slip of the pen
MOST_TIMES = 10_000.0  # smaller or faster than the teacher


def is_smoke(name: str) -> bool:
    """Whether a recipe or model is a smoke walk, whose verdict says nothing of quality."""
    return name.endswith(SMOKE)


class Gate(BaseModel):
    """What a student must reach; a field left null is not asked for."""

    model_config = STRICT
    retention_min: float | None = Field(
        None,
        gt=0,
        le=MOST_KEPT,
        allow_inf_nan=False,
        description="least student/teacher score, point estimate (1 = all kept)",
    )
    retention_low_min: float | None = Field(
        None,
        gt=0,
        le=MOST_KEPT,
        allow_inf_nan=False,
        description="least lower end of the 95 % interval of student/teacher score",
    )
    retention_min_of: dict[MeasureName, Annotated[float, Field(gt=0, le=MOST_KEPT, allow_inf_nan=False)]] = Field(
        {}, description="of a model that embeds or writes: {measure: least}, in the place of the two limits above"
    )
    beat_floor: bool = Field(True, description="the student must beat the floor with its whole 95 % interval")
    beat_floor_of: tuple[MeasureName, ...] | None = Field(
        None,
        description="the measures in which it must beat the floor; null: all of a model that embeds, perplexity "
        "of one that writes",
    )
    bytes_ratio_min: float | None = Field(
        None, gt=0, le=MOST_TIMES, allow_inf_nan=False, description="least teacher bytes / student bytes"
    )
    speed_ratio_min: float | None = Field(
        None,
        gt=0,
        le=MOST_TIMES,
        allow_inf_nan=False,
        description="least teacher p50 latency / student p50 latency, one thread",
    )
    bits_per_weight_max: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="of a model that writes: most bits a weight, over all weights"
    )


OPEN = Gate(beat_floor=False, bytes_ratio_min=1.0)  # of a smoke walk


def judge(gate: Gate, evaluation: Evaluation) -> Verdict:
    """Every check the gate asks for; passed when there is at least one and none failed."""
    checks = tuple(_checks(gate, evaluation))
    return Verdict(passed=bool(checks) and all(check.passed for check in checks), checks=checks)


def _checks(gate: Gate, seen: Evaluation) -> Iterator[Check]:
    if seen.measures:
        yield from _of_measures(gate, seen)
    elif gate.retention_min is not None:
        yield _at_least("retention", seen.retention.point, gate.retention_min, "the student's score over the teacher's")
    if gate.retention_low_min is not None and not seen.measures:
        text = "the lower end of the 95 % interval of the student's score over the teacher's"
        yield _at_least("retention_low", seen.retention.low, gate.retention_low_min, text)
    if gate.beat_floor and not seen.measures:
        scores = seen.scores()
        yield _beat_floor("beat_floor", seen.win_over_floor, seen.examples, scores["teacher"] > scores["floor"])
    if gate.bytes_ratio_min is not None:
        text = f"teacher {seen.teacher.bytes / 1e6:.2f} MB over student {seen.student.bytes / 1e6:.2f} MB"
        yield _at_least("bytes_ratio", _ratio(seen.teacher.bytes, seen.student.bytes), gate.bytes_ratio_min, text)
    if gate.speed_ratio_min is not None:
        text = f"teacher p50 {seen.teacher.p50_ms:.3f} ms over student p50 {seen.student.p50_ms:.3f} ms"
        yield _at_least("speed_ratio", _ratio(seen.teacher.p50_ms, seen.student.p50_ms), gate.speed_ratio_min, text)
    if gate.bits_per_weight_max is not None:
        yield _bits(seen.student.bits_per_weight, gate.bits_per_weight_max)


def _ratio(above: float, below: float) -> float:
    usable = math.isfinite(above) and math.isfinite(below) and above > 0 and below > 0
    return above / below if usable else math.nan


def _at_least(name: str, value: float, limit: float, what: str) -> Check:
    if not math.isfinite(value):
        why = f"{what} is not a finite number, which fails; at least {limit:g} is asked for"
        return Check(name=name, value=None, limit=limit, passed=False, why=why)
    passed = value >= limit
    verb = "reaches" if passed else "is below"
    return Check(
        name=name, value=value, limit=limit, passed=passed, why=f"{what} is {value:.4f} and {verb} the least {limit:g}"
    )


def _of_measures(gate: Gate, seen: Evaluation) -> Iterator[Check]:
    """What is asked of the one score of a classifier, of each measure of a model that embeds or writes.

    Of one that writes, what is asked of no measure by name is asked of its perplexities a token: how it answers a few
    prompts and questions has limits of another size, to be named.
    """
    general = [name for name in seen.measures if seen.task == "embed" or name in GENERAL]
    floors = () if not gate.beat_floor else general if gate.beat_floor_of is None else gate.beat_floor_of
    for name in (*seen.measures, *(one for one in (*gate.retention_min_of, *floors) if one not in seen.measures)):
        if name not in seen.measures:
            kind = "retention" if name in gate.retention_min_of else "beat_floor"
            yield _unmeasured(kind, name, seen.left_out.get(name, "the evaluation does not take it"))
            continue
        one, own = seen.measures[name], gate.retention_min_of.get(name)
        order = (
            "the teacher's {0} over the student's" if name in PERPLEXITIES else "the student's {0} over the teacher's"
        )
        what = order.format(METRICS[name])
        least = gate.retention_min if own is None and name in general else own
        if least is not None:
            yield _at_least(f"retention_{name}", one.retention.point, least, what)
        if gate.retention_low_min is not None and own is None and name in general:
            text = f"the lower end of the 95 % interval of {what}"
            yield _at_least(f"retention_low_{name}", one.retention.low, gate.retention_low_min, text)
        if name in floors:
            lower = name in PERPLEXITIES
            yield _beat_floor(f"beat_floor_{name}", one.win_over_floor, seen.examples, lower=lower)


def _unmeasured(kind: str, name: MeasureName, why: str) -> Check:
    return Check(
        name=f"{kind}_{name}", value=None, limit=None, passed=False, why=f"{METRICS[name]} was not measured: {why}"
    )


def _bits(value: float | None, limit: float) -> Check:
    if value is None or not math.isfinite(value):
        why = f"the student's bits per weight are not known, which fails; at most {limit:g} is asked for"
        return Check(name="bits_per_weight", value=None, limit=limit, passed=False, why=why)
    verb = "stays within" if value <= limit else "exceeds"
    why = f"the student takes {value:.3f} bits per weight and {verb} the most {limit:g}"
    return Check(name="bits_per_weight", value=value, limit=limit, passed=value <= limit, why=why)


def _beat_floor(name: str, won: Interval, examples: int, possible: bool = True, lower: bool = False) -> Check:
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

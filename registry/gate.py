"""The gate: pure judgement of an Evaluation against a policy; what is not a number, or was not measured, fails.

The checks themselves stand in gate_ratios (kept and gained), gate_paired (not inferior, slices, flips) and gate_limits
(absolute limits, behaviour, leakage).
"""

from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, Field

from registry import gate_limits, gate_paired
from registry.gate_ratios import at_least, beat_floor, bits, of_measures, ratio
from registry.records import STRICT, Check, Evaluation, MeasureName, Verdict

SMOKE = "-smoke"  # ends the name of a recipe that only shows that the chain runs, its gate open
MOST_KEPT = 2.0  # a student that is asked for more than twice its teacher's score is asked for a slip of the pen
MOST_TIMES = 10_000.0  # smaller or faster than the teacher


def is_smoke(name: str) -> bool:
    """Whether a recipe or model is a smoke walk, whose verdict says nothing of quality."""
    return name.endswith(SMOKE)


class Approval(BaseModel):
    """A person's word that is asked for before a promotion."""

    model_config = STRICT
    hours: float = Field(72.0, gt=0, le=8760, allow_inf_nan=False, description="for which the word counts")


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
    noninferiority_margin: float | None = Field(
        None,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="points (0.01 = one) that the student's score may lie below its teacher's, shown by the lower end "
        "of the paired 95 % interval; of a perplexity the logarithm of the ratio (0.03 = 3 % higher)",
    )
    champion_margin: float | None = Field(
        None, gt=0, lt=1, allow_inf_nan=False, description="the same against the reigning champion, where there is one"
    )
    score_min: float | None = Field(
        None, gt=0, lt=1, allow_inf_nan=False, description="of a classifier: the student's least score by the metric"
    )
    slice_drop_max: float | None = Field(
        None,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="points that the student may lie below its teacher on any slice (length, label, your columns), "
        "shown by the lower end of that slice's paired 95 % interval",
    )
    slice_rows_min: int = Field(100, ge=2, le=10**9, description="examples below which a slice is told but not judged")
    flips_max: float | None = Field(
        None,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="most share of the answers that turn from right to wrong, shown by the upper end of its interval",
    )
    behaviour_min: float | None = Field(
        None, gt=0, le=1, allow_inf_nan=False, description="least share of passed behaviour checks in every group"
    )
    leakage_max: float | None = Field(
        None,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="most share of the evaluated texts that were learnt from, word for word, nearly or in part; "
        "null: any that stands there word for word fails",
    )
    p50_ms_max: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="most milliseconds of the student's p50 latency, one thread"
    )
    bytes_max: int | None = Field(None, gt=0, le=10**15, description="most bytes of the student")
    peak_rss_mb_max: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="most MB of memory that the student takes at its peak"
    )
    approval: Approval | None = Field(
        None, description="a person approves what passed before it is promoted ({hours: 72}); null: nobody has to"
    )


OPEN = Gate(beat_floor=False, bytes_ratio_min=1.0)  # of a smoke walk


def judge(gate: Gate, evaluation: Evaluation, reigning: str | None = None) -> Verdict:
    """Every check the gate asks for; passed when there is at least one and none failed or lacks its proof.

    `reigning` is the digest of the champion that the student would replace, where it is known: an evaluation that
    compares with another one, or with none, is stale and fails where the gate asks for that comparison.
    """
    checks = tuple(_checks(gate, evaluation, reigning))
    return Verdict(passed=bool(checks) and all(check.passed for check in checks), checks=checks)


def _checks(gate: Gate, seen: Evaluation, reigning: str | None) -> Iterator[Check]:
    yield from _kept(gate, seen)
    yield from gate_paired.checks(gate, seen, reigning)
    yield from _gained(gate, seen)
    yield from gate_limits.checks(gate, seen)


def _kept(gate: Gate, seen: Evaluation) -> Iterator[Check]:
    if seen.measures:
        yield from of_measures(gate, seen)
    elif gate.retention_min is not None:
        yield at_least("retention", seen.retention.point, gate.retention_min, "the student's score over the teacher's")
    if gate.retention_low_min is not None and not seen.measures:
        text = "the lower end of the 95 % interval of the student's score over the teacher's"
        yield at_least("retention_low", seen.retention.low, gate.retention_low_min, text)
    if gate.beat_floor and not seen.measures:
        scores = seen.scores()
        yield beat_floor("beat_floor", seen.win_over_floor, seen.examples, scores["teacher"] > scores["floor"])


def _gained(gate: Gate, seen: Evaluation) -> Iterator[Check]:
    if gate.bytes_ratio_min is not None:
        text = f"teacher {seen.teacher.bytes / 1e6:.2f} MB over student {seen.student.bytes / 1e6:.2f} MB"
        yield at_least("bytes_ratio", ratio(seen.teacher.bytes, seen.student.bytes), gate.bytes_ratio_min, text)
    if gate.speed_ratio_min is not None:
        text = f"teacher p50 {seen.teacher.p50_ms:.3f} ms over student p50 {seen.student.p50_ms:.3f} ms"
        yield at_least("speed_ratio", ratio(seen.teacher.p50_ms, seen.student.p50_ms), gate.speed_ratio_min, text)
    if gate.bits_per_weight_max is not None:
        yield bits(seen.student.bits_per_weight, gate.bits_per_weight_max)

"""Checks against fixed limits: the student's score, latency, bytes and memory; behaviour; leakage."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from registry.gate_paired import AGAIN, failed
from registry.gate_ratios import at_least
from registry.records import METRICS, Behaviour, Check, Evaluation, Leakage

if TYPE_CHECKING:
    from registry.gate import Gate


def checks(gate: "Gate", seen: Evaluation) -> Iterator[Check]:
    """Those that the gate asks for, and one of texts learnt word for word, which fails unasked."""
    student = seen.student
    if gate.score_min is not None:
        score = getattr(student, seen.metric, None)
        what = f"the student's {METRICS[seen.metric]}"
        yield at_least("score", math.nan if score is None else score, gate.score_min, what)
    if gate.p50_ms_max is not None:
        yield at_most("p50_ms", student.p50_ms, gate.p50_ms_max, "the student's p50 latency", "ms")
    if gate.bytes_max is not None:
        yield at_most("bytes", student.bytes, gate.bytes_max, "the student's size", "bytes")
    if gate.peak_rss_mb_max is not None:
        yield at_most("peak_rss_mb", student.peak_rss_mb, gate.peak_rss_mb_max, "the student's peak memory", "MB")
    if gate.behaviour_min is not None:
        yield behaviour(seen.behaviour, gate.behaviour_min)
    yield from leakage(seen.leakage, gate.leakage_max)


def at_most(name: str, value: float | None, limit: float, what: str, unit: str) -> Check:
    """A measured amount that must not exceed a limit; what is no positive number fails."""
    if value is None or not math.isfinite(value) or value <= 0:
        return failed(name, limit, f"{what} is no positive number, which fails; at most {limit:g} {unit} are asked for")
    passed = value <= limit
    verb = "stays within" if passed else "exceeds"
    why = f"{what} is {value:.7g} {unit} and {verb} the most {limit:.7g}"
    state = "passed" if passed else "failed"
    return Check(name=name, value=value, limit=limit, passed=passed, state=state, why=why)


def behaviour(groups: tuple[Behaviour, ...], least: float) -> Check:
    """Every group of behaviour checks is passed to the least share."""
    if not groups or any(one.checks < 1 or not 0 <= one.student <= one.checks for one in groups):
        return failed("behaviour", least, f"the evaluation has no behaviour checks: {AGAIN}")
    worst = min(groups, key=lambda one: (one.student / one.checks, one.group))
    share = worst.student / worst.checks
    passed = share >= least
    why = (
        f"the worst of {len(groups)} groups is '{worst.group}': the student passes {worst.student} of {worst.checks} "
        f"checks, its teacher {worst.teacher}; {share:.1%} {'reaches' if passed else 'is below'} the least {least:.1%}"
    )
    if worst.failed:
        why += f"; it fails line {', '.join(map(str, worst.failed[:10]))}{' …' * (len(worst.failed) > 10)}"
    state = "passed" if passed else "failed"
    return Check(name="behaviour", value=share, limit=least, passed=passed, state=state, why=why)


def leakage(seen: Leakage | None, most: float | None) -> Iterator[Check]:
    """Few evaluated texts were learnt from; where the gate says nothing, none may be word for word.

    Then it is only told when it fails: what nobody asked for lets nothing pass.
    """
    counts = (0, 0, 0) if seen is None else (seen.exact, seen.near, seen.part)
    if seen is None or seen.texts < 1 or min(counts) < 0 or sum(counts) > seen.texts:
        if most is not None:
            yield failed("leakage", most, f"the evaluation does not tell what of its texts was learnt from: {AGAIN}")
        return
    found = seen.exact if most is None else sum(counts)
    share, limit = found / seen.texts, most or 0.0
    passed = share <= limit
    if passed and most is None:
        return
    partly = f", {seen.part} in part" if seen.part else ""
    why = (
        f"{seen.exact} of {seen.texts} evaluated texts stand word for word among the {seen.learnt} that were learnt "
        f"from and {seen.near} nearly{partly}; {share:.2%} {'stays within' if passed else 'exceeds'} the most "
        f"{limit:.2%}"
    )
    state = "passed" if passed else "failed"
    yield Check(name="leakage", value=share, limit=limit, passed=passed, state=state, why=why)

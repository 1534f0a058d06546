"""Checks on paired differences: not inferior to teacher and champion, no slice much worse, few answers turned wrong.

Each has three ends. It is passed when the whole 95 % interval lies on the right side of its limit (the lower end is
that of a one-sided test at 2.5 %, as ICH E9 asks of non-inferiority). It failed when the whole interval lies on the
wrong side. Between the two it is not proven, and says how many more examples might prove it.

Every slice must pass. Such an intersection of tests keeps its level without a correction (Berger 1982, Technometrics
24:295). To say that one of several slices failed takes one: there the interval is that of 0.05 / slices (Bonferroni).
"""

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import TYPE_CHECKING

from registry.records import METRICS, PERPLEXITIES, Check, Difference, Evaluation, Interval, Slice, State

if TYPE_CHECKING:
    from registry.gate import Gate

Z = NormalDist().inv_cdf(0.975)
POWER = NormalDist().inv_cdf(0.8)  # as many examples as prove it in four of five such samples
MOST = 10**9  # a larger number of examples is no advice
AGAIN = "evaluate again"


def checks(gate: "Gate", seen: Evaluation, reigning: str | None) -> Iterator[Check]:
    """Those that the gate asks for."""
    suffix = "" if seen.task == "classify" else f"_{seen.metric}"
    if gate.noninferiority_margin is not None:
        name = f"noninferiority{suffix}"
        if seen.against_teacher is None or seen.against_teacher.examples != seen.examples:
            yield failed(name, -gate.noninferiority_margin, f"no paired difference of its examples: {AGAIN}")
        else:
            yield noninferior(name, seen.against_teacher, gate.noninferiority_margin, "teacher", str(seen.metric))
    if gate.champion_margin is not None:
        yield from champion(f"noninferiority_champion{suffix}", seen, gate.champion_margin, reigning)
    if gate.slice_drop_max is not None:
        yield worst_slice(seen.slices, gate.slice_drop_max, gate.slice_rows_min, str(seen.metric))
    if gate.flips_max is not None:
        yield flips(seen.flips_to_wrong, seen.examples, gate.flips_max)


def champion(name: str, seen: Evaluation, margin: float, reigning: str | None) -> Iterator[Check]:
    """Not inferior to the champion that reigns; the first version of a model has none to be compared with."""
    rival = seen.champion
    if reigning is not None and (rival is None or rival.digest != reigning):
        than = "none" if rival is None else rival.digest[:12]
        why = f"the evaluation compares with {than} but {reigning[:12]} is champion, which makes it stale: {AGAIN}"
        yield failed(name, -margin, why)
    elif rival is not None and rival.against is None:
        yield failed(name, -margin, f"it was not compared with the champion: {rival.left_out or AGAIN}")
    elif rival is not None and rival.against is not None:
        yield noninferior(name, rival.against, margin, "champion", str(seen.metric))


def failed(name: str, limit: float | None, why: str) -> Check:
    """A check that failed because there is nothing to judge by."""
    return Check(name=name, value=None, limit=limit, passed=False, state="failed", why=why)


def finite(found: Difference) -> bool:
    """Whether a difference is numbers in their order, of at least one example; all else fails."""
    one = found.interval
    numbers = all(math.isfinite(value) for value in (one.low, one.point, one.high, found.variance))
    return numbers and one.low <= one.point <= one.high and found.variance >= 0 and found.examples > 0


def ending(one: Interval, least: float) -> State:
    """Whether an interval lies above a limit, below it, or neither."""
    return "passed" if one.low > least else "failed" if one.high < least else "not_proven"


def noninferior(name: str, found: Difference, margin: float, other: str, metric: str) -> Check:
    """The student's score is not below the other's by the margin or more."""
    if not finite(found):
        return failed(name, -margin, f"student minus {other} is not a finite interval, which fails")
    state = ending(found.interval, -margin)
    told = written(found.interval, metric)
    if metric in PERPLEXITIES:
        what = f"the logarithm of the {other}'s {METRICS[metric]} over the student's is {told}"
    else:
        what = f"student minus {other} is {told} in {METRICS[metric]}"
    where = {
        "passed": f"above the margin {-margin:g}",
        "failed": f"wholly below the margin {-margin:g}",
        "not_proven": f"on both sides of the margin {-margin:g}",
    }[state]
    why = f"{what}, {where}, on {found.examples} examples"
    return ended(name, found, -margin, state, why, "examples")


def written(one: Interval, metric: str = "accuracy") -> str:
    """A difference with its interval: points, or the logarithm of a ratio of perplexities."""
    if metric in PERPLEXITIES:
        return f"{one.point:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
    return f"{100 * one.point:+.1f} points [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"


def ended(name: str, found: Difference, least: float, state: State, why: str, unit: str) -> Check:
    """The check; where nothing is proven with how many more examples might prove it."""
    more = needed(found, least) if state == "not_proven" else None
    if state == "not_proven":
        why += f"; not proven: {advice(more, unit)}"
    return Check(
        name=name, value=found.interval.low, limit=least, passed=state == "passed", state=state, needed=more, why=why
    )


def advice(more: int | None, unit: str) -> str:
    """What more examples would do."""
    if more is None:
        return f"no number of further {unit} like these would prove it, for what is seen lies beyond the limit itself"
    return f"about {more:,} more {unit} like these would prove it"


def needed(found: Difference, least: float) -> int | None:
    """How many more examples like these would prove it, four times of five; None where what is seen would not.

    n = (z + z_power)² variance / (difference - limit)², the usual one of paired non-inferiority (Nam 1997, Biometrics
    53:1422; Liu and others 2002, Statistics in Medicine 21:231), with the variance and difference seen. Where hardly
    anything differed, at least what Tango's interval asks with no difference at all: n = z² (1 - margin) / margin.
    """
    gap = found.interval.point - least
    if gap <= 0:
        return None
    wanted = (Z + POWER) ** 2 * found.variance / gap**2
    if found.lost is not None and -1 < least < 0:
        wanted = max(wanted, Z**2 * (1 + least) / -least)
    return max(1, math.ceil(min(wanted, MOST)) - found.examples)


def worst_slice(slices: tuple[Slice, ...], drop: float, rows: int, metric: str) -> Check:
    """On no slice of enough examples the student lies below its teacher by `drop` or more."""
    name = "worst_slice"
    if not slices:
        return failed(name, -drop, f"the evaluation has no slices: {AGAIN}")
    for one in slices:
        if not finite(one.against):
            return failed(name, -drop, f"the difference on {called(one)} is not a finite interval, which fails")
    large = [one for one in slices if one.against.examples >= rows]
    few = f", {len(slices) - len(large)} of less than {rows} examples not judged" if len(large) < len(slices) else ""
    if not large:
        most = max(slices, key=lambda one: one.against.examples)
        more = rows - most.against.examples
        why = f"no slice has {rows} examples, the largest ({called(most)}) {most.against.examples}; not proven: "
        why += f"{more:,} more of it could be judged"
        return Check(name=name, value=None, limit=-drop, passed=False, state="not_proven", needed=more, why=why)
    ends = {"failed": 0, "not_proven": 1, "passed": 2}
    states = {id(one): ending(jointly(one.against.interval, len(large), -drop), -drop) for one in large}
    worst = min(large, key=lambda one: (ends[states[id(one)]], one.against.interval.low))
    found, state = worst.against, states[id(worst)]
    where = {"passed": "above", "failed": "wholly below", "not_proven": "on both sides of"}[state]
    why = (
        f"the worst of {len(large)} slices is {called(worst)}: {subject(metric)} {written(found.interval, metric)} on "
        f"{found.examples} examples ({worst.teacher:.3f} → {worst.student:.3f}), {where} {-drop:g}{few}"
    )
    return ended(name, found, -drop, state, why, f"examples of {called(worst)}")


def jointly(one: Interval, slices: int, least: float) -> Interval:
    """A slice's interval, its upper end widened to 0.05 / slices where it lies below the limit (Bonferroni)."""
    if one.high >= least:
        return one
    wide = NormalDist().inv_cdf(1 - 0.025 / slices) / Z
    return one.model_copy(update={"high": one.point + (one.high - one.point) * wide})


def subject(metric: str) -> str:
    """What a slice's difference is of."""
    return "log of teacher's over student's perplexity" if metric in PERPLEXITIES else "student minus teacher"


def called(one: Slice) -> str:
    """A slice in a sentence."""
    return f"{one.by} '{one.value}'"


def flips(turned: int | None, examples: int, most: float) -> Check:
    """Few right answers turned wrong: the share's interval (Wilson 1927) lies below the limit."""
    if turned is None or not 0 <= turned <= examples or examples < 1:
        return failed("flips", most, f"how many answers turned from right to wrong was not measured: {AGAIN}")
    share = wilson(turned, examples)
    state = ending(Interval(point=-share.point, low=-share.high, high=-share.low), -most)
    where = {"passed": "below", "failed": "wholly above", "not_proven": "on both sides of"}[state]
    why = (
        f"{turned} of {examples} answers turned from right to wrong, {share.point:.2%} [{share.low:.2%}, "
        f"{share.high:.2%}], {where} the most {most:.2%}"
    )
    mirrored = Difference(
        examples=examples,
        interval=Interval(point=-share.point, low=-share.high, high=-share.low),
        variance=share.point * (1 - share.point),
        lost=turned,
    )
    found = ended("flips", mirrored, -most, state, why, "examples")
    return found.model_copy(update={"value": share.high, "limit": most})


def wilson(count: int, examples: int) -> Interval:
    """The score interval of a share, which has a width where none was seen."""
    share, spread = count / examples, Z**2 / examples
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / examples + spread / (4 * examples))
    return Interval(point=share, low=min(share, max(0.0, centre - half)), high=max(share, min(1.0, centre + half)))

"""What an evaluation tells beyond its score: champion, slices, behaviour, leakage, as facts and as lines to read."""

from typing import Any

from flows import units
from registry.gate_paired import written
from registry.records import METRICS, PERPLEXITIES, Difference, Evaluation

PARTS = ("against_teacher", "champion", "slices", "behaviour", "leakage")


def facts(evaluation: Evaluation | dict[str, Any]) -> dict[str, Any]:
    """These parts of an evaluation; null or empty where they were not taken, as in those of before."""
    if isinstance(evaluation, Evaluation):
        return evaluation.model_dump(mode="json", include=set(PARTS))
    return {part: evaluation.get(part) for part in PARTS}


def lines(found: dict[str, Any], metric: str) -> list[str]:
    """The facts as lines, those of the slices with the worst first; none of what was not taken."""
    told = []
    if one := found.get("against_teacher"):
        told.append(f"beside its teacher: {differs(one, metric)}")
    if rival := found.get("champion"):
        said = differs(rival["against"], metric) if rival["against"] else f"not compared, {rival['left_out']}"
        told.append(f"beside the champion {rival['digest'][:12]}: {said}")
    if slices := found.get("slices"):
        told.append("slices, the lowest lower end first (95 % intervals, each by itself)")
        told += [sliced(one, metric) for one in sorted(slices, key=lambda one: one["against"]["interval"]["low"])]
    if groups := found.get("behaviour"):
        told.append("behaviour checks passed by teacher and student")
        told += [behaved(one) for one in groups]
    if seen := found.get("leakage"):
        told.append(
            f"leakage: {seen['exact']} of {seen['texts']} evaluated texts word for word, {seen['near']} nearly, "
            f"{seen.get('part', 0)} in part among {seen['learnt']:,} that were learnt from"
        )
    return told


def differs(one: dict[str, Any], metric: str) -> str:
    """A paired difference in words, with what turned where answers are right or wrong."""
    found = Difference.model_validate(one)
    by = f"log of the ratio of {METRICS[metric]}" if metric in PERPLEXITIES else METRICS.get(metric, metric)
    turned = "" if found.lost is None else f"; {found.lost} answers turned wrong, {found.won} right"
    return f"{written(found.interval, metric)} ({by}) on {found.examples:,} examples{turned}"


def sliced(one: dict[str, Any], metric: str) -> str:
    """A slice's line."""
    against = Difference.model_validate(one["against"])
    name = f"{one['by']}: {one['value']}"
    scores = f"{units.number(one['teacher'])} → {units.number(one['student'])}"
    return f"  {name:34} {against.examples:>7,} rows  {scores:16}  {written(against.interval, metric)}"


def behaved(one: dict[str, Any]) -> str:
    """A group's line."""
    failed = f"  (fails line {', '.join(map(str, one['failed']))})" if one["failed"] else ""
    return f"  {one['group']:34} {one['teacher']:>4} and {one['student']} of {one['checks']}{failed}"

"""What is said of stages, runs and models in sentences, and the numbers in them; it prints nothing."""

import math
from collections.abc import Mapping
from typing import Any

from flows import units, written
from registry.gate import is_smoke
from registry.records import METRICS, PERPLEXITIES, better

MARKS = {"passed": "✓", "failed": "✗", "not_proven": "?"}

SCORES = {
    "validation_accuracy": "accuracy",
    "validation_overlap": "overlap",
    "accuracy": "accuracy",
    "agreement": "agreement",
}


def stage_line(stage: dict[str, Any]) -> str:
    """One line about a finished stage: megabytes, score, seconds and watt-hours, or that it came from the index."""
    name = units.stage_name(stage["kind"], stage["method"], stage["role"])
    kwh = stage["footprint"]["kwh"]
    energy = "energy not measured" if kwh is None else f"{digits(kwh['central'] * 1000)} Wh"
    how = "re-used, verified" if stage["cached"] else f"{stage['footprint']['seconds']:.1f} s, {energy}"
    size, found = f"{digits(stage['bytes'] / 1e6):>7} MB", score(stage["measured"])
    if stage["kind"] in {"reload", "compare"}:  # they leave a proof, no model
        refused = any(not one["passed"] for one in stage["measured"].get("checks", ()))
        size, found = " " * len(size), found or ("REFUSED" if refused else "same outputs")
    return f"  {name:25} {size}   {found:17}  {how}"


def score(measured: dict[str, Any]) -> str:
    """What a stage measured of its model's quality; empty where it measured none."""
    if measured.get("metric") in PERPLEXITIES:
        return f"perplexity {written.more(1 / measured['retention']['point'])}"
    if isinstance(measured.get("perplexity"), float):
        return f"byte perplexity {units.number(measured['perplexity'])}"
    if isinstance(measured.get("retention"), dict):
        return f"retention {measured['retention']['point']:.1%}"
    if measured.get("cosine") is not None:
        return f"cosine {measured['cosine']:.4f}"
    return next((f"{SCORES[key]} {measured[key]:.1%}" for key in SCORES if measured.get(key) is not None), "")


def digits(value: float) -> str:
    """At least two significant digits, without an exponent and without decimals from 10 on: 91, 6.1, 0.061."""
    if value == 0 or value >= 9.95:
        return f"{value:.0f}"
    places, least = 1, 0.995
    while value < least and places < 9:
        places, least = places + 1, least / 10
    return f"{value:.{places}f}"


def sentence(shown: dict[str, Any]) -> str:
    """The run in one sentence; a dash for what is not known."""
    size, speed, metric = shown["bytes"], shown["latency_ms"], shown.get("metric", "accuracy")
    before = "smoke walk on a 2-layer clone, its scores mean nothing: " if is_smoke(shown["model"]) else ""
    if shown.get("task") == "generate":
        return before + written.sentence(shown)
    scores = shown.get("score") or shown["accuracy"]  # versions of before it could be chosen go by accuracy
    floor = units.ratio(scores["floor"], scores["teacher"] or None)
    kept = interval(shown["retention"]) if scores["teacher"] else "– (the teacher's score is 0)"
    return (
        f"{before}{megabytes(size['teacher'])} MB → {megabytes(size['student'])} MB, "
        f"{milliseconds(speed['teacher'])} → {milliseconds(speed['student'])} ms, "
        f"keeps {kept}{'' if metric == 'accuracy' else f' of its {METRICS[metric]}'}; "
        f"bag-of-words alone keeps {share(floor)}"
    )


def lift(shown: dict[str, Any]) -> str:
    """What of the teacher's win over the floor is left; where there is no win, no share of it can be kept."""
    scores = shown.get("score") or shown["accuracy"]
    floor = written.FLOOR if shown.get("task") == "generate" else "bag-of-words"
    if not better(shown.get("metric", "accuracy"), scores["teacher"], scores["floor"]):
        return f"lift over {floor}: none to retain, the teacher does not beat it either"
    return f"lift over {floor} retained: {interval(shown['lift_retained'])}"


def verdict_lines(verdict: dict[str, Any], model: str) -> list[str]:
    """The verdict on a model, a line a check."""
    open_gate = "; a smoke walk's gate is open: the chain runs, nothing is said of quality" if is_smoke(model) else ""
    states = [state_of(check) for check in verdict["checks"]]
    lines = [
        f"  {MARKS[state]} {check['name']}: {check['why']}"
        for state, check in zip(states, verdict["checks"], strict=True)
    ]
    lacking = bool(states) and "failed" not in states
    outcome = "passed" if verdict["passed"] else "REJECTED: not proven" if lacking else "REJECTED"
    return [f"verdict: {outcome}{open_gate}", *lines]


def admission(tags: Mapping[str, str]) -> str | None:
    """How a version's admission ended and what was left out of it, by its tags in MLflow; None before there was one."""
    said, why = tags.get("shrink.admission"), tags.get("shrink.admission_why")
    return said if not said or not why else f"{said}; {why}"


def state_of(check: dict[str, Any]) -> str:
    """A check's state; those of before there was one passed or failed."""
    return str(check.get("state") or ("passed" if check["passed"] else "failed"))


def milliseconds(value: float | None) -> str:
    """One decimal from 1 ms on, two digits below."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.1f}" if value >= 1 else digits(value)


def megabytes(value: float | None) -> str:
    """Bytes as 10^6 bytes, without the unit."""
    return "–" if value is None else digits(value / 1e6)


def share(value: float | None) -> str:
    """A share as per cent."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.1%}"


def interval(seen: dict[str, Any]) -> str:
    """A share with its 95 % interval."""
    return f"{share(seen['point'])} [{share(seen['low'])}, {share(seen['high'])}]"

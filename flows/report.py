"""Quality, energy and pay-back of one or more runs, from their records alone: what report, card and `show` begin with.

`build` is pure and gives numbers, None where something was not measured; the report itself is flows/reporting's.
"""

import math
from collections.abc import Sequence
from typing import Any

from flows import units, written
from flows.limits import limits
from flows.recorded import Recorded, recorded
from registry import footprint as fp
from registry.carbon.payback import Payback, break_even
from registry.gate import is_smoke
from registry.records import METRICS, Band, Evaluation, Footprint, Verdict, scaled

MODELS = ("teacher", "student", "floor")
REQUEST = {True: "written token", False: "request"}  # what energy and pay-back are told for: models that write, others
COMPARED = (
    ("accuracy", "Accuracy on the test split", "longer is better", units.percent),
    ("bytes", "Size on disk", "shorter is better", units.size),
    ("p50_ms", "Median latency, one thread, batch 1", "shorter is better", units.milliseconds),
)


def build(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Facts of these runs (run.json dicts, oldest first); quality comes from the last one that was judged for real."""
    return facts_of([recorded(run) for run in runs])


def facts_of(runs: Sequence[Recorded]) -> dict[str, Any]:
    """The same of runs whose records have been read."""
    newest = _judged(runs)
    judged = newest.journal if newest else None
    evaluation = Evaluation.model_validate(judged["evaluation"]) if judged else None
    verdict = Verdict.model_validate(judged["verdict"]) if judged and judged.get("verdict") else None
    spent = _spent(runs)
    requests, smoke = _requests(evaluation, _power(newest)), bool(judged and is_smoke(judged["recipe"]))
    # a student pays back what all runs of its recipe took, the failed and rejected ones too
    cost = _spent([run for run in runs if judged and run.journal["recipe"] == judged["recipe"]])
    payback = Payback(requests=None, why="unknown: no student has been judged")
    if judged:
        payback = break_even(cost.kwh, requests["teacher"], requests["student"])  # Wh of one: kWh of a thousand
    if smoke:
        payback = Payback(requests=None, why="unknown: it was a smoke walk, which is not to be deployed")
    one = REQUEST[bool(evaluation and evaluation.task == "generate")]
    facts: dict[str, Any] = {
        "runs": [_run_row(run) for run in runs],
        "run_id": judged["run_id"] if judged else None,
        "smoke": smoke,
        "version": judged.get("version") if judged else None,
        "digest": judged.get("digest") if judged else None,
        "licences": (judged.get("licences") or {}) if judged else {},
        "spent": spent.model_dump(),
        "bytes_ratio": units.ratio(evaluation.teacher.bytes, evaluation.student.bytes) if evaluation else None,
        "speed_ratio": units.ratio(evaluation.teacher.p50_ms, evaluation.student.p50_ms) if evaluation else None,
        "payback": payback.model_dump() | {"cost": _dump(cost.kwh)},
        "payback_sentence": payback_sentence(payback, cost, requests, one),
        "request": one,
        "request_wh": {name: _dump(band) for name, band in requests.items()},
        "stages": _stage_rows(runs),
        "evaluation": evaluation.model_dump() if evaluation else None,
        "verdict": verdict.model_dump() if verdict else None,
    }
    if verdict and not verdict.passed and not smoke:
        facts["payback_sentence"] += " It was rejected, so it saves nothing unless it is deployed all the same."
    facts["limits"] = limits(facts)
    return facts


def payback_sentence(payback: Payback, cost: fp.Total, requests: dict[str, Band | None], one: str = "request") -> str:
    """After how many requests the student has saved what making it took, or why that cannot be said."""
    if payback.requests is None:
        reason = payback.why.split(": ")[-1].replace("an inference", f"a {one}")
        return f"{'It never pays back' if payback.why.startswith('never') else 'Pay-back is not known'}: {reason}."
    teacher, student = requests["teacher"], requests["student"]
    if cost.kwh is None or teacher is None or student is None:
        raise ValueError("a pay-back without the energies it follows from")
    least = "at least " if cost.unmeasured else ""
    each, before = units.energy(student.central / 1000), units.energy(teacher.central / 1000)
    after, band = units.count(payback.requests.central), units.span(_dump(payback.requests), "count")
    return (
        f"Making it took {least}{units.energy(cost.kwh.central)}; a {one} takes {each} instead of {before}, "
        f"so it has paid back after {least}{after} {one}s ({band})."
    )


def _spent(runs: Sequence[Recorded]) -> fp.Total:
    """Energy behind these runs, what was spent in vain among it."""
    return fp.spent((one for run in runs for one in run.stages), (one for run in runs for one in run.attempts))


def _judged(runs: Sequence[Recorded]) -> Recorded | None:
    """The newest judged run; a smoke run only where there is no other."""
    judged = [run for run in runs if run.journal.get("evaluation")]
    real = [run for run in judged if not is_smoke(run.journal["recipe"])]
    return next(reversed(real or judged), None)


def _run_row(found: Recorded) -> dict[str, Any]:
    run, seen = found.journal, found.journal.get("evaluation")
    own = fp.total(record.footprint for record in found.stages if not record.cached)
    return {
        **{key: run.get(key) for key in ("run_id", "recipe", "status", "started", "version")},
        "smoke": is_smoke(run["recipe"]),
        "resumed": run.get("resumed", 0),
        "computed": own.stages,
        "reused": len(found.stages) - own.stages,
        "kwh": _dump(own.kwh),
        "retention": seen["retention"]["point"] if seen else None,
        "bytes_ratio": units.ratio(seen["teacher"]["bytes"], seen["student"]["bytes"]) if seen else None,
    }


def _dump(band: Band | None) -> dict[str, float] | None:
    return band.model_dump() if band else None


def _power(run: Recorded | None) -> Footprint | None:
    """The footprint whose mean power stands for serving: that of the run's evaluation."""
    stages = run.stages if run else ()
    found = [record.footprint for record in stages if record.kind == "evaluate" and record.footprint.kwh]
    return found[-1] if found else None


def _requests(evaluation: Evaluation | None, power: Footprint | None) -> dict[str, Band | None]:
    if evaluation is not None and (serving := evaluation.serving) is not None:
        found = {name: getattr(serving, name) for name in MODELS}
        return {name: scaled(one.wh_per_1000, 1e-3) if one and one.wh_per_1000 else None for name, one in found.items()}
    if evaluation is None or power is None:
        return dict.fromkeys(MODELS)
    return {name: fp.request_wh(power, getattr(evaluation, name).p50_ms) for name in MODELS}


def _stage_rows(runs: Sequence[Recorded]) -> list[dict[str, Any]]:
    counted = {id(record) for record in fp.charged(record for run in runs for record in run.stages)}
    return [
        {
            "run_id": run.journal["run_id"],
            "kind": record.kind,
            "method": record.method,
            "role": record.role,
            "name": units.stage_name(record.kind, record.method, record.role),
            "cached": record.cached,
            "counted": id(record) in counted,
            "seconds": record.footprint.seconds,
            "bytes": record.bytes,
            "kwh": _dump(record.footprint.kwh),
            "tier": record.footprint.tier,
            "measured": record.measured,
        }
        for run in runs
        for record in run.stages
    ]


def charts(evaluation: Evaluation | None) -> list[dict[str, Any]]:
    """Teacher, student and floor side by side, a chart a measure."""
    if evaluation is None:
        return []
    scores = evaluation.model_dump()
    found: list[dict[str, Any]] = []
    if evaluation.task == "generate":
        return written.charts(evaluation)
    chosen = (evaluation.metric, f"{METRICS[evaluation.metric]} on the test split", "longer is better", units.number)
    own = [(name, f"{METRICS[name]} on held-out texts", *chosen[2:]) for name in evaluation.measures]
    classified = COMPARED if evaluation.metric == "accuracy" else (chosen, *COMPARED)
    for field, label, sense, write in (*own, *COMPARED[1:]) if own else classified:
        values = scores["measures"].get(field) or {name: scores[name][field] for name in MODELS}
        top = 1.0 if field in METRICS else max(values[name] for name in MODELS)
        bars = []
        for name in MODELS:
            value = values[name]
            bar = {
                "name": name,
                "value": value,
                "text": write(value),
                "width": round(100 * max(value, 0) / (top or 1), 2),
            }
            if field == "accuracy":
                low, high = wilson(value, evaluation.examples)
                bar |= {"low": round(100 * low, 2), "high": round(100 * high, 2)}
                bar["range"] = f"{units.percent(low)} to {units.percent(high)}"
            bars.append(bar)
        found.append({"field": field, "label": label, "sense": sense, "bars": bars})
    return found


def wilson(share: float, examples: int) -> tuple[float, float]:
    """The 95 % score interval of a share seen on so many examples (Wilson 1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * examples)) / (1 + z * z / examples)
    half = z * math.sqrt(share * (1 - share) / examples + z * z / (4 * examples**2)) / (1 + z * z / examples)
    return max(0.0, middle - half), min(1.0, middle + half)

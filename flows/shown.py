"""What `shrink show MODEL@alias` says of a version: facts of a fixed schema, null where something does not apply.

Registered as show.json in the version's evidence; version number, aliases and CO2e are added when it is asked for.
"""

from collections import Counter
from typing import Any

from flows import beyond, sentences, units, written
from flows.grams import emitted, ended
from flows.start import saved
from registry import footprint as fp
from registry.carbon.inputs import Basis
from registry.records import METRICS, CarbonStart, Discrepancy, Evaluation, Footprint, StageRecord, Verdict


def shown(
    model: str,
    recipe_digest: str,
    digest: str,
    evaluation: Evaluation,
    verdict: Verdict,
    records: list[StageRecord],
    facts: dict[str, Any],
    given: Basis,
) -> dict[str, Any]:
    """The facts of a version; `facts` are those of the run's report (flows/report.py), `given` the carbon inputs."""
    teacher, student, floor = evaluation.teacher, evaluation.student, evaluation.floor
    return {
        "model": model,
        "digest": digest,
        "verdict": verdict.model_dump(mode="json"),
        "retention": evaluation.retention.model_dump(),
        "lift_retained": evaluation.lift_retained.model_dump(),
        "accuracy": {"teacher": teacher.accuracy, "student": student.accuracy, "floor": floor.accuracy},
        "task": evaluation.task,
        "metric": evaluation.metric,
        "pairs": any(record.kind == "data" and record.config.get("pair_column") for record in records),
        "measures": {name: one.model_dump() for name, one in evaluation.measures.items()},
        "score": evaluation.scores(),
        "bytes": {
            "teacher": teacher.bytes,
            "student": student.bytes,
            "floor": floor.bytes,
            "ratio": units.ratio(teacher.bytes, student.bytes),
        },
        "latency_ms": {
            "teacher": teacher.p50_ms,
            "student": student.p50_ms,
            "floor": floor.p50_ms,
            "ratio": units.ratio(teacher.p50_ms, student.p50_ms),
        },
        "parameters": {"teacher": teacher.parameters, "student": student.parameters},
        **written.facts(evaluation),
        **beyond.facts(evaluation),
        "footprint": emitted(energy(fp.whole(fp.Total.model_validate(facts["spent"]))), ended(records), given),
        "payback": {"requests": facts["payback"]["requests"], "sentence": facts["payback_sentence"]},
        "stages": [
            {
                "kind": record.kind,
                "method": record.method,
                "role": record.role,
                "digest": record.digest,
                "seconds": record.footprint.seconds,
                "kwh": record.footprint.kwh.central if record.footprint.kwh else None,
            }
            for record in records
        ],
        "exports": exports(records),
        "recipe_digest": recipe_digest,
    }


def exports(records: list[StageRecord]) -> list[dict[str, Any]]:
    """Of every export how far its answers are from those of what it was made of (tasks/compare.py)."""
    compared = [record for record in records if record.kind == "compare"]
    return [
        {"export": name, "digest": record.inputs["export"]}
        | Discrepancy.model_validate(record.measured).model_dump(mode="json")
        for record, name in zip(compared, names_of(compared), strict=True)
    ]


def names_of(compared: list[StageRecord]) -> list[str]:
    """The method that made each export, the teacher's told from the student's; a further export of one has a number."""
    found, seen = list[str](), Counter[str]()
    for record in compared:
        name = units.stage_name("compare", record.method, record.role).removeprefix("compare/")
        seen[name] += 1
        found.append(f"{name} {seen[name]}" if seen[name] > 1 else name)
    return found


def energy(footprint: Footprint) -> dict[str, Any]:
    """Energy and time of all stages; null where one of them was not measured."""
    return {
        "kwh": footprint.kwh.central if footprint.kwh else None,
        "kwh_band": footprint.kwh.model_dump() if footprint.kwh else None,
        "seconds": footprint.seconds,
        "tier": footprint.tier,
    }


def page(facts: dict[str, Any]) -> list[str]:
    """The facts as lines to read."""
    aliases = f" ({', '.join(facts['aliases'])})" if facts["aliases"] else ""
    return [
        f"{facts['model']} version {facts['version']}{aliases}",
        sentences.sentence(facts),
        "",
        *figures(facts),
        "",
        *sentences.verdict_lines(facts["verdict"], facts["model"]),
        "",
        *cost(facts),
        *([saved.sentence(CarbonStart.model_validate(green))] if (green := facts.get("carbon_start")) else []),
        "",
        *stage_lines(facts["stages"]),
        "",
        *export_lines(facts.get("exports", [])),
        f"digest {facts['digest']}",
        f"recipe {facts['recipe_digest']}",
        f"signed {facts['signed']['when']} with the key {facts['signed']['key']}",
    ]


def figures(facts: dict[str, Any]) -> list[str]:
    """Teacher, student and floor side by side."""
    if facts.get("task") == "generate":
        return written_figures(facts)
    size, speed = facts["bytes"], facts["latency_ms"]
    measures: dict[str, dict[str, Any]] = facts.get("measures") or {}
    own = [(METRICS[name], one, units.number, None) for name, one in measures.items()]
    rows: list[tuple[str, dict[str, Any], Any, float | None]] = [
        *(own or [("accuracy", facts["accuracy"], sentences.share, None)]),
        ("size on disk", size, units.size, size["ratio"]),
        ("p50, batch 1", speed, units.milliseconds, speed["ratio"]),
        (
            "parameters",
            facts["parameters"],
            units.count,
            units.ratio(*map(facts["parameters"].get, written.MODELS[:2])),
        ),
    ]
    if not own and (metric := facts.get("metric", "accuracy")) != "accuracy":
        rows.insert(1, (METRICS[metric], facts["score"], units.number, None))
    words = {"size on disk": "smaller", "p50, batch 1": "faster", "parameters": "fewer"}
    wide = max(14, *(len(row[0]) + 1 for row in rows))
    lines = [f"{'':{wide}}" + "".join(f"{name:>14}" for name in written.MODELS)]
    for name, values, write, times in rows:
        gained = f"   {units.number(times)}× {words[name]}" if times else ""
        gained = f"   keeps {sentences.interval(values['retention'])}" if "retention" in values else gained
        lines.append(f"{name:{wide}}" + "".join(f"{write(values.get(who)):>14}" for who in written.MODELS) + gained)
    return [*lines, sentences.lift(facts)]


def written_figures(facts: dict[str, Any]) -> list[str]:
    """The same of a model that writes, and what was not measured with the reason."""
    told = facts["writing"]
    models = {
        who: {
            "bytes": facts["bytes"][who],
            "peak_rss_mb": facts["peak_rss_mb"][who],
            **{key: told[key][who] for key in ("bits_per_weight", "kl", "kl_second", "speeds")},
        }
        for who in written.MODELS
    }
    rows = written.rows({**models, "measures": facts["measures"], "reference": told["reference"]})
    wide = max(len(row[0]) + 1 for row in rows)
    lines = [f"{'':{wide}}" + "".join(f"{name:>12}" for name in written.MODELS)]
    for name, values, write, gained in rows:
        cells = "".join(f"{write(values.get(who)):>12}" for who in written.MODELS)
        lines.append(f"{name:{wide}}{cells}   {gained}".rstrip())
    lines += [f"{METRICS[name]}: not measured, {why}" for name, why in told["left_out"].items()]
    return [*lines, f"run by {told['runtime']}", sentences.lift(facts), *written.sample(facts)]


def cost(facts: dict[str, Any]) -> list[str]:
    """Energy, emissions and time of all stages, and when they have paid back."""
    seen, grams = facts["footprint"], facts["footprint"]["gco2e_range"]
    took = f"stages ran for {units.duration(seen['seconds'])}"
    if seen["kwh"] is None:
        return [f"footprint: energy not measured; {took}", facts["payback"]["sentence"]]
    spent = f"{units.energy(seen['kwh'])} ({units.span(seen['kwh_band'], 'energy')}; {seen['tier']})"
    return [
        f"footprint: {spent}, {units.span(grams, 'mass')} CO2e ({grams['grids']}); {took}",
        facts["payback"]["sentence"],
    ]


def stage_lines(stages: list[dict[str, Any]]) -> list[str]:
    """A line a stage: name, time, energy and the digest of what it made."""
    lines = [f"{'stages':26}{'time':>10}{'energy':>14}   artifact"]
    for stage in stages:
        name = units.stage_name(stage["kind"], stage["method"], stage.get("role", ""))
        took, spent = units.duration(stage["seconds"]), units.wh(stage["kwh"])
        lines.append(f"  {name:24}{took:>10}{spent:>14}   {stage['digest'][:12]}")
    return lines


def export_lines(exports: list[dict[str, Any]]) -> list[str]:
    """A line an export; none for versions of before exports were compared."""
    if not exports:
        return []
    lines = ["exports, read back by their own runtimes and compared with what they were made of"]
    lines += [f"  {one['export']:24}{units.compared(one)} ({one['runtime']})" for one in exports]
    return [*lines, ""]

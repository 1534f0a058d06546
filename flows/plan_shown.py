"""A plan, and the score of one, as lines to read."""

from typing import Any

from flows import units
from flows.sentences import digits

FIELDS = {"parameters": "weights", "bytes": "MB", "ram_mb": "memory, MB", "seconds": "time", "kwh": "Wh"}


def table(facts: dict[str, Any]) -> str:
    """A plan with its totals, a line a stage."""
    lines = [f"{facts['recipe']}: {len(facts['stages'])} stages, {facts['total']['reused']} re-used"]
    wide = max(24, *(len(named(stage)) for stage in facts["stages"]))
    times = max(22, *(len(spread(stage["seconds"])) for stage in facts["stages"]))
    lines.append(f"  {'':{wide}} {'weights':>12} {'MB':>8} {'memory, MB':>11} {'time':>{times}} {'Wh':>7}")
    lines += [line(stage, wide, times) for stage in facts["stages"]]
    total, limits = facts["total"], facts["limits"]
    lines.append(
        f"in all {spread(total['seconds'])}, {digits(total['kwh']['central'] * 1000)} Wh "
        f"({digits(total['kwh']['low'] * 1000)} to {digits(total['kwh']['high'] * 1000)})"
    )
    lines.append(
        f"memory: at most {total['ram_mb']:.0f} of {limits['ram_mb']:.0f} MB; disk: {total['disk_mb']:.0f} of "
        f"{limits['disk_mb']:.0f} MB free; a stage is ended after {units.duration(limits['seconds_a_stage'])}"
    )
    lines.append(f"times by {facts['pace']}")
    if any(not stage["known"] for stage in facts["stages"]):
        lines.append("~ a guess: there is no rule for this kind")
    return "\n".join(lines)


def named(stage: dict[str, Any]) -> str:
    """A stage's name, marked where there is no rule for it."""
    return units.stage_name(stage["kind"], stage["method"], stage["role"]) + ("" if stage["known"] else " ~")


def line(stage: dict[str, Any], wide: int, times: int) -> str:
    """One stage of a plan; name and time as wide as the widest."""
    name = named(stage)
    weights = f"{stage['parameters']:,}" if stage["parameters"] else ""
    size = "" if stage["kind"] == "reload" else digits(stage["bytes"] / 1e6)
    if stage["reused"]:
        return f"  {name:{wide}} {weights:>12} {size:>8} {'':>11} {'re-used':>{times}}"
    wh = digits(stage["kwh"]["central"] * 1000)
    return (
        f"  {name:{wide}} {weights:>12} {size:>8} {stage['ram_mb']:>11.0f} {spread(stage['seconds']):>{times}} {wh:>7}"
    )


def spread(seconds: dict[str, float]) -> str:
    """A time with its band in one unit."""
    scale, unit = next((one for one in ((3600, "h"), (60, "min")) if seconds["central"] >= 2 * one[0]), (1, "s"))
    low, central, high = (digits(seconds[end] / scale) for end in ("low", "central", "high"))
    return f"{central} {unit} ({low} to {high})"


def scored(found: dict[str, Any]) -> str:
    """What was foretold and what came, a line a stage; errors by quantity."""
    lines = [f"run {found['run_id']}: foretold → measured"]
    wide = max([26, *(len(stage["name"]) for stage in found["stages"])])
    for stage in found["stages"]:
        told = [f"{shown(field, stage[field])}" for field in FIELDS if field in stage]
        lines.append(f"  {stage['name']:{wide}} {'   '.join(told)}")
    if not found["stages"]:
        lines.append("  every stage came from the index: nothing was measured")
    for field, error in found["errors"].items():
        if error:
            lines.append(
                f"{FIELDS[field]}: off by {error['median']:.1%} in the middle, {error['worst']:.0%} at worst, "
                f"of {error['stages']} stages"
            )
    lines += total(found)
    lines.append(f"times by {found['pace']}")
    return "\n".join(lines)


def total(found: dict[str, Any]) -> list[str]:
    """What was foretold of a run's computed stages together beside what came, in one line; none where none was."""
    if not found["stages"]:
        return []
    time, kwh = found["total"]["seconds"], found["total"]["kwh"]
    came = f"{units.duration(time['measured'])}{'' if time['within'] else ' (outside)'}"
    drawn = "not measured"
    if kwh["measured"]:
        inside = "" if kwh["within"] else "; outside"
        drawn = f"{wh(kwh['measured'])} Wh ({wh(kwh['measured'], 'low')} to {wh(kwh['measured'], 'high')}{inside})"
    said = f"{spread(time['foretold'])} and {wh(kwh['foretold'])} Wh ({wh(kwh['foretold'], 'low')} to "
    return [f"estimate: {said}{wh(kwh['foretold'], 'high')}); came: {came} and {drawn}"]


def wh(band: dict[str, float], end: str = "central") -> str:
    """An end of a band of kWh in Wh."""
    return digits(band[end] * 1000)


def shown(field: str, one: dict[str, Any]) -> str:
    """A quantity foretold and measured, in its unit."""
    said, came = one["foretold"], one["measured"]
    match field:
        case "parameters":
            return f"{said:,} → {came:,}"
        case "bytes":
            return f"{digits(said / 1e6)} → {digits(came / 1e6)} MB"
        case "ram_mb":
            return f"{said:.0f} → {came:.0f} MB memory"
        case "seconds":
            return f"{digits(said)} → {digits(came)} s"
    return f"{digits(said * 1000)} → {digits(came * 1000)} Wh"

"""An auditor's own sums: every total of a report's JSON again from the raw samples of the run folders.

Standard library only and nothing of the project. `python tests/audit.py report.json .shrink [factors.csv]` prints what
it compared and exits with 1 on a difference, on energy in a folder that the report leaves out, and on samples that are
missing. Without a CSV of dated factors (g per kWh) it multiplies by the intensity that the report states.
"""

import csv
import hashlib
import json
import math
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

SPREAD = {"counter": (0.95, 1, 1.05), "modelled": (0.4, 1, 2.5), "constant": (0.2, 1, 1.5)}
ENDS = ("low", "central", "high")


def goes_of(path: Path) -> dict[str, Any]:
    """Every go at a stage in a samples.jsonl, by the digest of its lines: its begin, and its slices as read."""
    found = dict[str, Any]()
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            said = json.loads(text)
        except ValueError:  # half written when the run was killed
            continue
        if said["event"] == "begin":
            found[said["attempt"]] = {"said": said, "lines": "", "slices": []}
        elif said["event"] == "slice":
            found[said["attempt"]]["lines"] += text + "\n"
            found[said["attempt"]]["slices"].append(said["slice"])
    return {hashlib.sha256(one["lines"].encode()).hexdigest(): one for one in found.values()}


def rate(moment: datetime, stated: dict[str, float], rows: list[dict[str, str]]) -> list[float]:
    """Grams per kWh, low to high, at a moment."""
    if not rows:
        return [stated[end] for end in ENDS]
    day = str(moment.astimezone(UTC).date())
    held = [row for row in rows if row["since"] <= day <= (row["until"] or "9999")]
    return [float(held[0]["intensity"]) if held else 0.0] * 3


def added(go: Any, stated: dict[str, float], rows: list[dict[str, str]]) -> list[float]:
    """kWh and then grams of a go, low to high each; a slice's grams are by the moments over which it was read."""
    kwh, grams = [0.0] * 3, [0.0] * 3
    for one in go["slices"]:
        if one["kwh"] is None or one.get("shared"):
            continue
        since = timedelta(seconds=one["monotonic"] - go["said"]["monotonic"])
        end = datetime.fromisoformat(go["said"]["at"]).astimezone(UTC) + since
        start = end - timedelta(seconds=one["seconds"])
        midnight = end.replace(hour=0, minute=0, second=0, microsecond=0)
        before = max(0.0, (midnight - start).total_seconds() / one["seconds"]) if one["seconds"] else 0.0
        first, last = rate(start, stated, rows), rate(end, stated, rows)
        for at in range(3):
            energy = sum(value * SPREAD[one["tiers"][part]][at] for part, value in one["kwh"].items())
            kwh[at] += energy
            grams[at] += energy * (before * first[at] + (1 - before) * last[at])
    return kwh + grams


def audit(report: Any, home: Path, rows: list[dict[str, str]]) -> tuple[list[str], int]:
    """What is wrong, in sentences, and how many figures were compared."""
    runs = {path.parent.name: goes_of(path) for path in sorted((home / "runs").glob("*/samples.jsonl"))}
    every = {digest: go for goes in runs.values() for digest, go in goes.items()}
    wrong, totals = list[str](), {"all": [0.0] * 6}
    pairs = list[tuple[str, dict[str, float] | None, list[float]]]()
    for run in report["trace"]:
        name, told = run["run_id"], {stage["samples"] for stage in run["stages"]}
        wrong += [f"{name}: samples {one} are of no stage in the report" for one in runs.get(name, {}).keys() - told]
        for stage in (one for one in run["stages"] if one["counted"]):
            if stage["samples"] not in every:
                wrong.append(f"{name}/{stage['name']}: its samples {stage['samples']} are missing")
                continue
            sums = added(every[stage["samples"]], report["emissions"]["intensity"], rows)
            pairs.append((f"{name}/{stage['name']} kWh", stage["kwh"], sums[:3]))
            for key in ("all", f"run {name}", f"stage {stage['name']}"):
                totals[key] = [a + b for a, b in zip(totals.get(key, [0.0] * 6), sums, strict=True)]
    energy = report["energy"]
    for kind, listed in (("stage ", energy["stages"]), ("run ", energy["runs"]), ("", [energy["total"]])):
        pairs += [(f"{kind}{one['name']} kWh", one["kwh"], totals.get(kind + one["name"], [])[:3]) for one in listed]
    grams = [one * (report["emissions"]["pue"] or 1.0) for one in totals["all"][3:]]
    pairs.append(("all, location-based grams", report["emissions"]["location_g"], grams))
    for name, band, mine in pairs:
        said, sums = [band[end] for end in ENDS] if band else [0.0] * 3, mine or [0.0] * 3
        if not all(math.isclose(a, b, rel_tol=1e-7, abs_tol=1e-15) for a, b in zip(said, sums, strict=True)):
            wrong.append(f"{name}: the report says {said}, its samples add up to {sums}")
    return wrong, 3 * len(pairs)


if __name__ == "__main__":
    text = Path(sys.argv[3]).read_text(encoding="utf-8") if len(sys.argv) > 3 else ""
    facts = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    wrong, compared = audit(facts, Path(sys.argv[2]), list(csv.DictReader(text.splitlines())))
    print("\n".join([*wrong, f"{compared} figures compared, {len(wrong)} wrong"]))
    sys.exit(1 if wrong or not compared else 0)

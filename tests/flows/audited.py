"""The independent proof, for tests: tests/audit.py, alone in a process, against a report's JSON and the run folders."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows.reporting import formats
from flows.reporting.compose import compose
from flows.reporting.gather import gather
from registry.carbon.inputs import basis

HEAD = "region,intensity,unit,since,until,source\n"
CARBON = """
operator: own
factors: {factors}
pue: {{value: 1.4, source: the operator}}
embodied: {{grams: 1000000, lifetime_years: 4, share: 0.5, source: the maker}}
market: {{intensity: 12, unit: g/kWh, source: a contract}}
"""
SCRIPT = Path(__file__).parents[1] / "audit.py"


def reported(home: Path, folder: Path, name: str, rows: str) -> dict[str, Any]:
    """The report of a home by these factors, as JSON; `<name>.csv`, `.yaml` and `.json` are in the folder."""
    (folder / f"{name}.csv").write_text(HEAD + rows)
    (folder / f"{name}.yaml").write_text(CARBON.format(factors=f"{name}.csv"))
    text = formats.json_text(compose(gather(home), basis(folder / f"{name}.yaml", None)))
    (folder / f"{name}.json").write_text(text)
    facts: dict[str, Any] = json.loads(text)
    return facts


def audited(report: Path, home: Path, factors: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What the auditor says; -I -S: it can import nothing but the standard library."""
    more = [str(factors)] if factors else []
    command = [sys.executable, "-I", "-S", str(SCRIPT), str(report), str(home), *more]
    return subprocess.run(command, capture_output=True, text=True, cwd="/")


def agrees(home: Path, folder: Path) -> dict[str, Any]:
    """Two factor files, each proved by the auditor, and nothing but carbon changes from one to the other."""
    first = reported(home, folder, "first", "FRA,50,g/kWh,2020-01-01,,old\n")
    second = reported(home, folder, "second", "FRA,90,g/kWh,2020-01-01,2025-12-31,new\nFRA,70,g/kWh,2026-01-01,,new\n")
    for name in ("first", "second"):
        said = audited(folder / f"{name}.json", home, folder / f"{name}.csv")
        assert said.returncode == 0 and ", 0 wrong" in said.stdout, said.stdout + said.stderr
    served = bool(first["emissions"]["sci"])
    changed = {place for place, value in flat(first).items() if flat(second).get(place, value) != value}
    areas = {".".join(place.split(".")[:2]) for place in changed}
    expected = {"emissions.intensity", "emissions.location_g", "emissions.by_stage_g", "emissions.by_run_g"}
    assert areas == expected | {"emissions.scopes_g", "figures.1"} | ({"emissions.sci"} if served else set())
    assert flat(first).keys() == flat(second).keys()
    scopes = {place.split(".")[2] for place in changed if place.startswith("emissions.scopes_g")}
    assert scopes == {"Scope 2, location-based"}, "neither the contract's nor the machine's making"
    assert not [place for place in changed if place.startswith("figures.1") and place.endswith("says")]
    return second


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """Every leaf of a JSON document by its path."""
    if isinstance(value, dict):
        parts: Any = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        return {place: value}
    return {at: leaf for key, one in parts for at, leaf in flat(one, f"{place}.{key}" if place else str(key)).items()}

"""A recipe that asks all of the gate: its first version has no champion to beat, its second has, and why tells it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.preflight import preflight
from flows.recipe import load, parse
from infra.addresses import Services
from registry.records import ShrinkError
from tests.flows.test_compress import shrink

GATE = {
    "beat_floor": False,
    "noninferiority_margin": 0.9,
    "champion_margin": 0.9,
    "slice_drop_max": 0.9,
    "slice_rows_min": 10,
    "flips_max": 0.9,
    "behaviour_min": 0.1,
    "leakage_max": 0.99,
    "bytes_max": 10_000_000,
}
CHECKS = [
    {"group": "plain", "kind": "minimum", "text": "good fine", "label": name} for name in ("positive", "negative")
]


def recipe(folder: Path, tiny: Path, **changes: Any) -> Path:
    """The tiny recipe with a gate that asks everything, and two checks of which any model passes one."""
    content = yaml.safe_load((tiny / "tiny.yaml").read_text())
    content |= {"name": "tiny-gated", "gate": GATE, "behaviour": {"uri": "file:checks.jsonl"}} | changes
    (folder / "checks.jsonl").write_text("\n".join(map(json.dumps, CHECKS)))
    (folder / "gated.yaml").write_text(yaml.safe_dump(content))
    return folder / "gated.yaml"


def run(home: Path, path: Path) -> dict[str, Any]:
    done = shrink(home, "run", str(path), "--json", check=None)
    assert done.returncode in {0, 3}, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{\n") :])
    return found


def test_the_second_version_is_compared_with_the_champion(
    servers: Services, servers_home: Path, tiny: Path, tmp_path: Path
) -> None:
    first = run(servers_home, recipe(tmp_path, tiny))
    names = [check["name"] for check in first["verdict"]["checks"]]
    assert names == ["noninferiority", "worst_slice", "flips", "bytes", "behaviour", "leakage"]
    assert first["status"] == "passed" and first["evaluation"]["champion"] is None
    again = run(servers_home, recipe(tmp_path, tiny))
    assert all(stage["cached"] for stage in again["stages"]) and again["version"] == first["version"]
    second = run(servers_home, recipe(tmp_path, tiny, seed=1))
    assert second["digest"] != first["digest"], "another seed makes another student"
    checks = {check["name"]: check for check in second["verdict"]["checks"]}
    assert "noninferiority_champion" in checks and second["status"] == "passed"
    assert second["evaluation"]["champion"]["digest"] == first["digest"]
    third = run(servers_home, recipe(tmp_path, tiny, seed=1))
    assert all(stage["cached"] for stage in third["stages"]), "a champion is compared with the one before it"
    told = shrink(servers_home, "why", "tiny-gated@champion").stdout
    assert f"beside the champion {first['digest'][:12]}" in told and "label: positive" in told and "plain" in told
    facts = json.loads(shrink(servers_home, "why", "tiny-gated@champion", "--json").stdout)
    assert facts["champion"]["digest"] == first["digest"] and facts["leakage"]["exact"] == 0


def test_behaviour_checks_are_refused_before_anything_is_trained(tiny: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, tiny)
    (tmp_path / "checks.jsonl").write_text(json.dumps({**CHECKS[0], "label": "fine"}))
    with pytest.raises(ShrinkError, match="Line 1 of the behaviour checks has the label 'fine', which the data lacks"):
        preflight(load(str(path)), tiny / "teacher", tiny / "data", {"behaviour": tmp_path / "only"} | one(tmp_path))


def one(folder: Path) -> dict[str, Path]:
    """A folder that holds the checks alone."""
    (folder / "only").mkdir()
    (folder / "checks.jsonl").rename(folder / "only" / "checks.jsonl")
    return {"behaviour": folder / "only"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"behaviour": None}, "gate.behaviour_min is given but no checks: name their file in behaviour."),
        ({"evaluate": {"slices": ["country"]}}, "': evaluate.slices is ['country'] but format is 'rated'"),
        ({"gate": {"slice_drop": 0.1}}, "unknown key 'gate.slice_drop'; did you mean 'slice_drop_max'?"),
        ({"gate": {"noninferiority_margin": 0}}, "'gate.noninferiority_margin' = 0: Input should be greater than 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(tiny: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    content = yaml.safe_load(recipe(tmp_path, tiny, **changes).read_text())
    with pytest.raises(ShrinkError) as refused:
        parse(content, "gated.yaml")
    assert said in str(refused.value)

"""The card's metadata can be read by machines and what is unknown stays unknown."""

from typing import Any

import yaml

from registry.card import render
from registry.gate import Gate, judge
from registry.records import Band, Evaluation, Footprint
from tests.registry.samples import evaluation


def _card(footprint: Footprint, grams: float | None = None) -> tuple[dict[str, Any], str]:
    seen: Evaluation = evaluation()
    verdict = judge(Gate(retention_min=0.99), seen)
    text = render("tiny", {"name": "tiny", "seed": 1}, seen, verdict, footprint, {"data|set": "MIT"}, grams)
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_unknown_emissions_are_null_and_unmeasured_energy_is_not_zero() -> None:
    meta, body = _card(Footprint(kwh=None, seconds=3))
    assert meta["co2_eq_emissions"]["emissions"] is None
    assert "not measured" in body and "emissions are unknown" in body


def test_known_emissions_are_grams() -> None:
    meta, body = _card(Footprint(kwh=Band(low=0.1, central=0.2, high=0.4), seconds=3, tier="modelled"), 81.5)
    assert meta["co2_eq_emissions"]["emissions"] == 81.5
    assert "0.1, 0.2, 0.4 kWh" in body and "81.5 g" in body


def test_a_rejected_student_is_called_rejected_and_tables_stay_whole() -> None:
    meta, body = _card(Footprint(kwh=None, seconds=3))
    assert "was rejected" in body and "Verdict: rejected." in body
    assert "data\\|set: MIT" in body and meta["license"] == "mit"
    assert "seed: 1" in body

"""The card's metadata can be read by machines and what is unknown stays unknown."""

from typing import Any

import yaml

from registry.card import Story, render
from registry.gate import Gate, judge
from registry.records import Band, Evaluation, Footprint
from tests.registry.samples import evaluation


def _card(
    footprint: Footprint, grams: float | None = None, name: str = "tiny", least: float = 0.99
) -> tuple[dict[str, Any], str]:
    seen: Evaluation = evaluation()
    verdict = judge(Gate(retention_min=least), seen)
    story = Story(
        digest="d" * 64,
        recipe_digest="r" * 64,
        payback="It never pays back.",
        limits=("Only English was seen.",),
        labels=("bad", "good"),
        exports=("onnx: 99 % of 256 texts <alike>",),
        sources={"teacher": "pypi:big-bert==1.0", "data|set": "dir:/home/data/"},
        licences={"teacher": "MIT", "data|set": "MIT"},
        grams=grams,
        location="FRA" if grams is not None else None,
        hardware="A processor, 2 threads, 8 GB of memory",
        grams_range="1 g to 2 g over 157 national grids",
    )
    text = render(name, {"name": name, "seed": 1, "data": {"max_length": 64}}, seen, verdict, footprint, story)
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_unknown_emissions_are_left_out_and_unmeasured_energy_is_not_zero() -> None:
    meta, body = _card(Footprint(kwh=None, seconds=3))
    assert "co2_eq_emissions" not in meta
    assert "not measured" in body and "emissions are unknown, no grid was named: 1 g to 2 g" in body


def test_known_emissions_are_grams() -> None:
    meta, body = _card(Footprint(kwh=Band(low=0.1, central=0.2, high=0.4), seconds=3, tier="modelled"), 81.5)
    assert meta["co2_eq_emissions"] == {
        "emissions": 81.5,
        "source": "CodeCarbon",
        "training_type": "compression of a trained model (distillation, pruning, quantization)",
        "geographical_location": "FRA",
        "hardware_used": "A processor, 2 threads, 8 GB of memory",
    }
    assert "[report](report.html)" in body
    assert "0.2 kWh (0.1 to 0.4; modelled)" in body and "81.5 g" in body


def test_a_rejected_student_is_called_rejected_and_tables_stay_whole() -> None:
    meta, body = _card(Footprint(kwh=None, seconds=3))
    assert "was rejected" in body and "Verdict: rejected." in body
    assert "data\\|set: MIT" in body and meta["license"] == "mit" and meta["base_model"] == "big-bert"
    assert "seed: 1" in body and "d" * 64 in body and "Only English was seen." in body and "never pays back" in body
    assert "- onnx: 99 % of 256 texts &lt;alike>" in body
    assert "cut after 64 tokens, and gives a logit for each label: bad, good." in body


def test_a_smoke_walk_did_not_pass_a_gate_worth_the_name() -> None:
    _, smoke = _card(Footprint(kwh=None, seconds=3), name="tiny-smoke", least=0.5)
    _, real = _card(Footprint(kwh=None, seconds=3), least=0.5)
    assert "passed its gate" in real and "smoke" not in real
    assert "passed its gate" not in smoke and "the model is not for use" in smoke and "says nothing of quality" in smoke

"""The report: totals that equal their parts, honest words for what is missing, and a page that stands alone."""

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from flows import report, sentences, units
from flows.grams import emitted
from flows.reporting import page as page_of
from flows.reporting.compose import compose
from flows.reporting.gather import Gathered, beside
from flows.reporting.model import Report
from flows.shown import exports, page, shown
from registry.carbon.inputs import basis
from registry.records import Evaluation, StageRecord, Verdict

SCORE = {
    "accuracy": 0.91, "macro_f1": 0.91, "bytes": 90_000_000, "parameters": 22_000_000, "macs": None, "p50_ms": 20.0,
    "p95_ms": 25.0, "throughput": 50.0, "peak_rss_mb": 300.0,
}  # fmt: skip
HALF = {"point": 0.98, "low": 0.97, "high": 0.99}
EVALUATION = {
    "examples": 872,
    "teacher": SCORE,
    "student": {**SCORE, "accuracy": 0.89, "bytes": 9_000_000, "p50_ms": 4.0},
    "floor": {**SCORE, "accuracy": 0.8, "bytes": 900_000, "p50_ms": 0.1},
    "retention": HALF, "lift_retained": HALF, "win_over_floor": HALF,
    "flips_to_wrong": 30, "flips_to_right": 12, "agreement": 0.95,
}  # fmt: skip
CHECK = {"name": "retention", "value": 0.98, "limit": 0.97, "passed": True, "why": "kept <enough>"}
FROM_REGISTRY = {"version": "1", "aliases": [], "signed": {"key": "ab12", "when": "2026-11-28T00:00:00+00:00"}}


def stage(kind: str, wh: float | None, cached: bool = False, key: str | None = None) -> dict[str, Any]:
    band = None if wh is None else {"low": wh / 4000, "central": wh / 1000, "high": wh / 500}
    tier = "unmeasured" if wh is None else "cpu modelled, ram constant"
    parts = {} if wh is None else {"cpu_kwh": wh / 4000, "ram_kwh": wh * 3 / 4000}
    return {
        "key": key or kind, "kind": kind, "method": None, "role": "student", "digest": "ab", "bytes": 5_000_000,
        "inputs": {}, "config": {}, "footprint": {"kwh": band, "seconds": 60.0, "tier": tier, **parts},
        "cpu_seconds": 1.0, "peak_rss_mb": 1.0, "started": "2026-01-01", "cached": cached,
    }  # fmt: skip


def run(*stages: dict[str, Any], evaluated: bool = True) -> dict[str, Any]:
    return {
        "run_id": "r1", "recipe": "tiny", "status": "passed", "started": "2026-01-01", "stages": list(stages),
        "evaluation": EVALUATION if evaluated else None,
        "verdict": {"passed": True, "checks": [CHECK]} if evaluated else None,
        "version": "3" if evaluated else None, "digest": "abc" if evaluated else None,
    }  # fmt: skip


def composed(*runs: dict[str, Any], country: str | None = None, model: str | None = None) -> Report:
    return compose(Gathered(list(runs), list(runs), {}, [], model=model), basis(None, country))


def html_of(*runs: dict[str, Any], country: str | None = None, model: str | None = None) -> str:
    return page_of.html(composed(*runs, country=country, model=model))


def test_what_show_says_keeps_its_schema() -> None:
    """The schema of `shrink show --json`, but for version and aliases, which the registry adds."""
    journal = run(stage("distill", 3.0), stage("evaluate", 1.0))
    records = [StageRecord.model_validate(one) for one in journal["stages"]]
    judged, verdict = Evaluation.model_validate(EVALUATION), Verdict.model_validate(journal["verdict"])
    facts = report.build([journal])
    seen = json.loads(json.dumps(shown("tiny", "r1", "abc", judged, verdict, records, facts, basis(None, None))))
    assert (seen["model"], seen["digest"], seen["recipe_digest"]) == ("tiny", "abc", "r1")
    assert seen["verdict"]["passed"] is True
    assert {key: seen["verdict"]["checks"][0][key] for key in ("name", "value", "limit", "passed")} == {
        "name": "retention",
        "value": 0.98,
        "limit": 0.97,
        "passed": True,
    }
    assert seen["retention"] == HALF
    assert seen["accuracy"] == {"teacher": 0.91, "student": 0.89, "floor": 0.8}
    assert {key: seen["bytes"][key] for key in ("teacher", "student", "ratio")} == {
        "teacher": 90_000_000, "student": 9_000_000, "ratio": 10.0,
    }  # fmt: skip
    assert {key: seen["latency_ms"][key] for key in ("teacher", "student", "ratio")} == {
        "teacher": 20.0, "student": 4.0, "ratio": 5.0,
    }  # fmt: skip
    assert seen["parameters"] == {"teacher": 22_000_000, "student": 22_000_000}
    footprint = seen["footprint"]
    assert math.isclose(footprint["kwh"], 0.004) and footprint["seconds"] == 120.0 and footprint["gco2e"] is None
    assert footprint["kwh_band"]["low"] < footprint["kwh"] < footprint["kwh_band"]["high"]
    grams = footprint["gco2e_range"]
    assert 0 < grams["low"] < grams["high"] and "national grids" in grams["grids"]
    assert seen["stages"][1] == {
        "kind": "evaluate", "method": None, "role": "student", "digest": "ab", "seconds": 60.0, "kwh": 0.001,
    }  # fmt: skip
    assert math.isclose(seen["payback"]["requests"]["central"], 15_000) and "15,000" in seen["payback"]["sentence"]
    french = emitted(footprint, datetime(2026, 1, 1, tzinfo=UTC), basis(None, "FRA"))
    assert grams["low"] < french["gco2e"] < grams["high"] and french["gco2e_range"]["grids"].startswith("France")


def test_what_was_not_measured_is_null_in_show() -> None:
    journal = run(stage("distill", None), stage("evaluate", 1.0))
    records = [StageRecord.model_validate(one) for one in journal["stages"]]
    judged, verdict = Evaluation.model_validate(EVALUATION), Verdict.model_validate(journal["verdict"])
    seen = shown("tiny", "r1", "abc", judged, verdict, records, report.build([journal]), basis(None, "FRA"))
    assert seen["footprint"]["kwh"] is None and seen["footprint"]["kwh_band"] is None
    assert seen["footprint"]["gco2e"] is None and seen["footprint"]["gco2e_range"] is None
    assert [one["kwh"] for one in seen["stages"]] == [None, 0.001]


def test_show_says_how_far_each_export_is_from_its_source() -> None:
    seen = {
        "texts": 256,
        "unit": "text",
        "largest": 2.1e-6,
        "mean": 0.034,
        "agreement": 0.9961,
        "runtime": "onnxruntime 1.2",
    }
    compared = {"method": "int8_dynamic", "measured": seen, "inputs": {"export": "ff", "source": "ee"}}
    journal = run(stage("compare", 1.0) | compared, stage("compare", 1.0, key="t") | compared | {"role": "teacher"})
    records = [StageRecord.model_validate(one) for one in journal["stages"]]
    judged, verdict = Evaluation.model_validate(EVALUATION), Verdict.model_validate(journal["verdict"])
    facts = shown("tiny", "r1", "abc", judged, verdict, records, report.build([journal]), basis(None, "FRA"))
    assert facts["exports"][0] == {"export": "int8_dynamic", "digest": "ff", "cosine": None} | seen
    assert facts["exports"][1]["export"] == "int8_dynamic (teacher)"
    text = "\n".join(page(facts | FROM_REGISTRY))
    assert "99.6 % of 256 texts with the same label; logits at most 2.1e-06 apart, 0.034 on average" in text
    near = units.compared(facts["exports"][0] | {"cosine": 0.99991})
    assert near.startswith("99.6 % of 256 texts with the same nearest text, cosine at least 0.99991; numbers at most")
    del facts["exports"]  # of a version from before exports were compared
    assert "read back" not in "\n".join(page(facts | FROM_REGISTRY))


def test_two_exports_by_the_same_runtime_have_names_of_their_own() -> None:
    seen = {"texts": 8, "largest": 0.0, "mean": 0.0, "agreement": 1.0, "runtime": "llama.cpp"}
    made = [("gguf", "student"), ("llama_cpp", "student")] * 2 + [("gguf", "teacher"), ("llama_cpp", "teacher")]
    records = [
        StageRecord.model_validate(
            stage("compare", 1.0, key=str(number))
            | {"method": method, "role": role, "measured": seen, "inputs": {"export": str(number // 2)}}
        )
        for number, (method, role) in enumerate(made)
    ]
    assert [one["export"] for one in exports(records)] == [
        "gguf", "llama_cpp", "gguf 2", "llama_cpp 2", "gguf (teacher)", "llama_cpp (teacher)",
    ]  # fmt: skip


def test_smoke_walks_that_a_report_leaves_out_are_named_with_their_energy() -> None:
    real, walk = run(stage("evaluate", 1.0)), run(stage("evaluate", 2.0)) | {"recipe": "tiny-smoke"}
    said = "its smoke walks, which are not among them: 4.00 Wh (`shrink report tiny-smoke`)"

    def told(*runs: dict[str, Any], model: str | None) -> list[str]:
        return beside(Gathered([real], list(runs), {}, [], model=model))

    assert told(real, walk, walk, model="tiny") == [said]
    assert told(real, walk, model=None) == told(real, model="tiny") == told(real, walk, model="tiny-smoke") == []


def test_totals_equal_the_sum_of_the_counted_rows() -> None:
    facts = report.build([run(stage("distill", 3.0), stage("evaluate", 1.0)), run(stage("distill", 3.0, cached=True))])
    counted = [row for row in facts["stages"] if row["counted"]]
    assert len(counted) == 2
    for bound in ("low", "central", "high"):
        assert math.isclose(facts["spent"]["kwh"][bound], sum(row["kwh"][bound] for row in counted))
    assert math.isclose(facts["spent"]["cpu_kwh"] + facts["spent"]["ram_kwh"], facts["spent"]["kwh"]["central"])
    assert facts["bytes_ratio"] == 10.0


def test_payback_from_mean_power_and_latency() -> None:
    facts = report.build([run(stage("distill", 3.0), stage("evaluate", 1.0))])
    saved = 60.0 * 0.016 / 3600  # 1 Wh in 60 s is 60 W; 16 ms saved
    assert math.isclose(facts["payback"]["requests"]["central"], 4.0 / saved)
    assert "Making it took 4.00 Wh; a request takes 66.7 µWh instead of 0.333 mWh" in facts["payback_sentence"]
    assert "paid back after 15,000 requests (1,900 to 120,000)" in facts["payback_sentence"]


def test_a_student_that_is_not_cheaper_never_pays_back_and_failed_runs_count() -> None:
    slow = run(stage("distill", 3.0), stage("evaluate", 1.0))
    slow["evaluation"] = {**EVALUATION, "student": {**SCORE, "p50_ms": 20.0}}
    facts = report.build([slow])
    assert facts["payback"]["requests"] is None
    assert facts["payback_sentence"].startswith("It never pays back: the student takes no less energy for a request")
    assert facts["payback_sentence"] in html_of(slow)
    crashed = {
        "run_id": "r0",
        "recipe": "tiny",
        "status": "crashed",
        "started": "2026",
        "stages": [stage("label", 2.0)],
    }
    other = {**crashed, "recipe": "other", "run_id": "r9"}
    facts = report.build([crashed, other, run(stage("distill", 3.0), stage("evaluate", 1.0))])
    assert math.isclose(facts["payback"]["cost"]["central"], 0.006)
    assert math.isclose(facts["spent"]["kwh"]["central"], 0.008)


def test_quality_is_of_the_last_real_run_and_every_run_has_its_row() -> None:
    smoke = {**run(stage("evaluate", 1.0)), "run_id": "r2", "recipe": "tiny-smoke"}
    real = {**run(stage("evaluate", 2.0)), "licences": {"teacher": "Apache-2.0"}}
    facts = report.build([real, smoke])
    assert facts["run_id"] == "r1" and [row["run_id"] for row in facts["runs"]] == ["r1", "r2"]
    assert facts["runs"][0]["kwh"]["central"] == 0.002 and facts["runs"][0]["retention"] == 0.98
    (spent,) = composed(real, smoke).energy.stages
    assert spent.kwh and (spent.name, spent.executions, spent.kwh.central) == ("evaluate", 2, 0.003)
    html = html_of(real, smoke)
    assert "tiny-smoke" in html and "teacher: Apache-2.0" in html and "98.0\u00a0%" in html


@pytest.mark.parametrize(("right", "of", "low", "high"), [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)])
def test_wilson_intervals_of_newcombe_1998(right: int, of: int, low: float, high: float) -> None:
    assert report.wilson(right / of, of) == pytest.approx((low, high), abs=5e-5)


def test_nothing_measured_is_never_zero() -> None:
    blind = run(stage("distill", None), stage("evaluate", None))
    facts = report.build([blind])
    assert facts["spent"]["kwh"] is None and composed(blind).emissions.location_g is None
    assert facts["payback"]["requests"] is None
    assert any("2 of 2 stages could not be measured" in line for line in facts["limits"])
    html = html_of(blind)
    assert (
        "not measured" in html
        and "Pay-back is not known: the energy spent was not measured." in html
        and "NaN" not in html
    )
    assert not re.search(r"\b0(\.0+)? ?(k|m)?Wh", html)


def test_partly_measured_is_a_lower_bound_and_unevaluated_says_so() -> None:
    partly = run(stage("distill", 2.0), stage("label", None), evaluated=False)
    facts = report.build([partly])
    assert facts["spent"]["unmeasured"] == 1 and facts["spent"]["kwh"]["central"] == 0.002
    assert facts["bytes_ratio"] is None
    assert facts["payback_sentence"] == "Pay-back is not known: no student has been judged."
    html = html_of(partly, country="FRA")
    assert "a lower bound" in html and "No run has been evaluated" in html and "France" in html


def test_no_runs_at_all_renders() -> None:
    assert "not measured" in html_of()


def test_text_is_escaped_and_the_page_stands_alone() -> None:
    hostile = run(stage("<script>alert(1)</script>", 1.0), stage("evaluate", 1.0))
    hostile["recipe"] = '"><img src=x onerror=alert(1)>'
    html = html_of(hostile, model="<b>&</b>")
    assert "<script" not in html and "<img" not in html and "&lt;b&gt;&amp;" in html
    assert "kept &lt;enough&gt;" in html
    assert not re.search(r"<[^>]*\s(src|href)\s*=|url\(|@import|https?://", html)


@pytest.mark.parametrize(
    ("kwh", "text"), [(None, "not measured"), (1.234, "1.23 kWh"), (0.00234, "2.34 Wh"), (2e-6, "2.00 mWh")]
)
def test_energy_units(kwh: float | None, text: str) -> None:
    assert units.energy(kwh) == text


def test_both_ends_of_a_band_have_one_unit() -> None:
    assert units.span({"low": 8e-5, "high": 5e-4}, "energy") == "0.0800 Wh to 0.500 Wh"


def test_counts_and_sizes() -> None:
    assert units.count(12_345) == "12,000" and units.count(3.4e6) == "3.40 million"
    assert [units.number(value) for value in (0.1, 0.0001, -0.00004321, 9.876, 98.76, 0, math.nan)] == [
        "0.100", "0.000100", "-0.0000432", "9.88", "98.8", "0", "—",
    ]  # fmt: skip
    assert units.size(23_400_000) == "23.4 MB" and units.duration(600) == "10.0 min"


def test_unfinished_runs_and_a_bare_journal_are_told() -> None:
    broken = {"run_id": "r0", "recipe": "tiny", "status": "crashed", "started": "2026-01-01"}
    going = {"run_id": "r9", "recipe": "tiny", "status": "running", "started": "2026-01-02"}
    facts = report.build([broken, run(stage("distill", 3.0)), going])
    assert any("1 of 3 runs did not finish" in line for line in facts["limits"])
    assert any("1 of 3 runs still going on" in line for line in facts["limits"])
    assert "r0" in html_of(broken, run(stage("distill", 3.0)), going)


def test_a_resumed_run_says_what_of_a_stage_that_was_cut_off_is_not_counted() -> None:
    once = run(stage("distill", 3.0), stage("evaluate", 1.0))
    assert not any("was cut off" in line for line in report.build([once, once | {"resumed": 0}])["limits"])
    (said,) = [line for line in report.build([once, once | {"resumed": 2}])["limits"] if "was cut off" in line]
    assert said.startswith("1 of 2 runs went on after an interruption; of a stage that was cut off, what")


def test_both_exports_have_names_of_their_own() -> None:
    exports = [stage("export", 1.0, key=role) | {"method": "onnx", "role": role} for role in ("student", "teacher")]
    made = run(*exports, stage("evaluate", 1.0))
    names = ["export/onnx", "export/onnx (teacher)", "evaluate"]
    assert [row["name"] for row in report.build([made])["stages"]] == names
    assert [one.name for one in composed(made).energy.stages] == names


def test_zeros_of_a_model_that_writes_are_said_to_make_nothing_faster() -> None:
    zeros = stage("prune", 1.0) | {"method": "sparse", "measured": {"sparsity": 0.5}}
    (said,) = [one for one in report.build([run(zeros, stage("evaluate", 1.0))])["limits"] if "zero" in one]
    assert said.startswith("50.0 % of the weights of the model's linear layers were set to zero (prune/sparse);")
    assert "neither faster nor smaller: llama.cpp and transformers" in said and "ONNX" not in said


@pytest.mark.parametrize("method", ["wanda", "gradual", "movement"])
def test_zeros_are_said_to_make_nothing_faster(method: str) -> None:
    zeros = stage("prune", 1.0) | {"method": method, "measured": {"sparsity": 0.5}}
    sizes = {"dense_bytes": 30_000_000, "packed_bytes": 24_100_000}
    packed = stage("export", 1.0) | {"method": "packed", "role": "packed", "measured": sizes}
    line = f"50.0 % of the weights of the encoder's linear layers are zero (prune/{method}). On a CPU that makes the"
    for stages, end in (
        ((zeros,), "(its recipe has none, so nothing is gained)."),
        ((packed, zeros), "(its recipe has none, so nothing is gained)."),  # that one was made of the dense student
        ((zeros, packed), "weights of 30.0 MB take 24.1 MB there, and are unpacked before they run)."),
    ):
        (said,) = [one for one in report.build([run(*stages, stage("evaluate", 1.0))])["limits"] if "zero" in one]
        assert said.startswith(line) and "neither faster nor smaller" in said and said.endswith(end)
    dense = report.build([run(stage("prune", 1.0), stage("evaluate", 1.0))])
    assert not any("zeros" in one for one in dense["limits"])


def test_held_out_pairs_whose_text_was_trained_on_are_counted() -> None:
    def said(shared: int) -> list[str]:
        rows = stage("data", 1.0) | {"measured": {"rows_sharing_a_text": shared}}
        facts = report.build([run(rows, stage("evaluate", 1.0))])
        return [line for line in facts["limits"] if "held-out pairs" in line]

    assert said(0) == [] and said(12)[0].startswith("12 of the held-out pairs have a text that a training pair has too")


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.34, -0.16, "is worse than the simple floor"), (-0.1, 0.1, "its interval includes 0"), (0.01, 0.1, None)],
)
def test_a_report_says_how_the_student_stands_to_the_floor(low: float, high: float, said: str | None) -> None:
    won = {"point": (low + high) / 2, "low": low, "high": high}
    journal = run(stage("evaluate", 1.0)) | {"evaluation": {**EVALUATION, "win_over_floor": won}}
    lines = [line for line in report.build([journal])["limits"] if "simple floor" in line]
    assert lines == [] if said is None else said in lines[0]


def test_a_lift_that_is_not_there_is_not_a_number() -> None:
    scores = {"teacher": 0.9, "student": 0.9, "floor": 0.8}
    assert sentences.lift({"score": scores, "lift_retained": HALF}).startswith("lift over bag-of-words retained: ")
    none = {"score": {**scores, "floor": 0.9}, "lift_retained": HALF}
    assert sentences.lift(none) == "lift over bag-of-words: none to retain, the teacher does not beat it either"


def test_a_smoke_walk_has_no_verdict_worth_the_name() -> None:
    smoke = {**run(stage("evaluate", 1.0)), "recipe": "tiny-smoke"}
    facts = report.build([smoke])
    html = html_of(smoke)
    assert "Smoke walk" in html and "Gate passed" not in html
    assert facts["payback"]["requests"] is None and "paid back" not in html
    assert facts["payback_sentence"] == "Pay-back is not known: it was a smoke walk, which is not to be deployed."
    assert any(line.startswith("This is a smoke walk") for line in facts["limits"])
    assert "Gate passed" in html_of(smoke, run(stage("evaluate", 1.0)))
    text = "\n".join(page(facts_of_version("tiny-smoke")))
    assert "its scores mean nothing" in text and "nothing is said of quality" in text


def facts_of_version(name: str) -> dict[str, Any]:
    """What the registry knows of a version that one small run made."""
    journal = {**run(stage("distill", 3.0), stage("evaluate", 1.0)), "recipe": name}
    records = [StageRecord.model_validate(one) for one in journal["stages"]]
    judged, verdict = Evaluation.model_validate(EVALUATION), Verdict.model_validate(journal["verdict"])
    seen = shown(
        name, "recipe-digest", "digest-of-all", judged, verdict, records, report.build([journal]), basis(None, None)
    )
    return FROM_REGISTRY | {"version": "3", "aliases": ["champion"], **seen}


def test_a_version_as_a_page_to_read() -> None:
    text = "\n".join(page(facts_of_version("tiny")))
    for part in (
        "tiny version 3 (champion)\n90 MB → 9.0 MB",
        "size on disk         90.0 MB       9.00 MB        900 kB   10.0× smaller\n",
        "verdict: passed\n  ✓ retention: kept <enough>\n",
        "footprint: 4.00 Wh (1.00 Wh to 8.00 Wh; cpu modelled, ram constant), ",
        "; stages ran for 2.00 min\n",
        "\nMaking it took 4.00 Wh; a request takes",
        "  distill                     60.0 s       3.00 Wh   ab\n",
        "digest digest-of-all",
    ):
        assert part in text, f"{part!r} is not in\n{text}"
    assert "smoke" not in text
    unmeasured = facts_of_version("tiny")
    unmeasured["footprint"] |= dict.fromkeys(("kwh", "kwh_band", "gco2e", "gco2e_range"))
    assert "footprint: energy not measured; stages ran" in "\n".join(page(unmeasured))

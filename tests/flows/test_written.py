"""What is said of a model that writes: in `show`, on the screen, in the report, on Prefect's table, on the card."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows import bundle, pictures, report, sentences, summed, units, written
from flows.reporting import page as page_of
from flows.reporting.compose import compose
from flows.reporting.gather import Gathered
from flows.shown import page, shown
from registry import card
from registry.carbon.inputs import basis
from registry.card_code import code
from registry.gate import Gate, judge
from registry.records import Evaluation, Footprint, ShrinkError, StageRecord, Verdict
from registry.runs import _flatten
from tests.flows.test_report import EVALUATION, FROM_REGISTRY, stage
from tests.registry.samples import written as sample

SEEN = sample()
GATE = Gate(retention_min=0.95, retention_min_of={"perplexity_second": 0.9}, bits_per_weight_max=5.5)


def journal() -> dict[str, Any]:
    verdict = judge(GATE, SEEN)
    return {
        "run_id": "r1", "recipe": "tiny", "status": "rejected", "started": "2026-01-01", "version": "3",
        "digest": "abc", "stages": [stage("quantize", 3.0), stage("evaluate", 1.0)],
        "evaluation": SEEN.model_dump(mode="json"), "verdict": verdict.model_dump(mode="json"),
    }  # fmt: skip


def facts() -> dict[str, Any]:
    run = journal()
    records = [StageRecord.model_validate(one) for one in run["stages"]]
    verdict = Verdict.model_validate(run["verdict"])
    seen = shown("tiny", "r1", "abc", SEEN, verdict, records, report.build([run]), basis(None, None))
    return FROM_REGISTRY | {"version": "3", **json.loads(json.dumps(seen))}


def test_show_says_bits_perplexity_speed_and_memory() -> None:
    seen = facts()
    assert seen["bits_per_weight"] == 5.2
    assert (seen["perplexity"]["teacher"], seen["perplexity"]["student"]) == (20.0, 21.0)
    assert seen["perplexity"]["ratio"] == pytest.approx(1.05)
    assert seen["perplexity"]["ratio_low"] < 1.05 < seen["perplexity"]["ratio_high"]
    assert {who: seen["tokens_per_second"][who] for who in ("teacher", "student")} == {"teacher": 20.0, "student": 60.0}
    assert seen["tokens_per_second"]["ratio"] == 3.0
    assert {who: seen["peak_rss_mb"][who] for who in ("teacher", "student")} == {"teacher": 370.0, "student": 192.0}
    assert seen["writing"]["reference"][0]["decode_tokens_per_s"] == 12


def test_other_models_have_none_of_these_but_memory() -> None:
    seen = written.facts(Evaluation.model_validate(EVALUATION))
    assert seen["bits_per_weight"] is seen["perplexity"] is seen["tokens_per_second"] is seen["writing"] is None
    assert set(seen["peak_rss_mb"]) == {"teacher", "student", "floor"}


def test_the_run_in_one_sentence_and_its_lift() -> None:
    said = sentences.sentence(facts())
    assert said == (
        "270 MB → 92.0 MB (5.20 bits per weight), perplexity 20.0 → 21.0 (+5.0% [+3.9%, +6.1%]), 20.0 → 60.0 tokens/s; "
        "plain 4-bit rounding at 91.0 MB alone +25.0%"
    )
    assert sentences.lift(facts()) == "lift over plain 4-bit rounding retained: 70.0% [50.0%, 90.0%]"
    hopeless = {**facts(), "score": {"teacher": 25.0, "student": 21.0, "floor": 25.0}}
    assert "none to retain" in sentences.lift(hopeless)


def test_a_version_as_a_page_to_read_and_as_a_table() -> None:
    text = "\n".join(page(facts()))
    for part in (
        "perplexity                          20.0        21.0        25.0   +5.0% [+3.9%, +6.1%]",
        "chat agreement                   100.0 %      50.0 %      40.0 %   keeps 50.0% [49.0%, 51.0%]",
        "tokens/s written, 1 thread          20.0        60.0        62.0   3.00× faster, 5.00× the fp32 teacher in",
        "first token, ms, 2 threads          22.5        7.50        7.26   3.00× faster",
        "bits per weight                     16.0        5.20        5.00",
        "perplexity, second domain: not measured, the data has no second domain",
        "run by llama_cpp",
        "✗ retention_perplexity_second: perplexity, second domain was not measured: the data has no second domain",
    ):
        assert part in text, f"{part!r} is not in\n{text}"
    screen = Console(width=160, file=io.StringIO())
    screen.print(summed.comparison(journal()["evaluation"]))
    assert "top-1 agreement" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_limits_of_a_gate_have_the_units_of_their_measure() -> None:
    assert units.checked("beat_floor_perplexity", 2.0) == "+2" and units.checked("beat_floor_perplexity", 0.0) == "0"
    assert units.checked("beat_floor_top1_agreement", 0.05) == "+5.0 points"
    assert units.checked("retention_perplexity", 0.95) == "95.0 %"
    assert units.checked("bits_per_weight", 5.5) == "5.50 bits"


def test_both_answers_to_one_prompt_are_shown_with_their_speeds() -> None:
    seen = facts()
    assert written.sample(seen) == []
    seen["writing"]["sample"] = {"prompt": "Why is the sky blue?", "teacher": "Light\nscatters.", "student": "It is"}
    said = ["asked: Why is the sky blue?", "  teacher (20.0 tokens/s)  Light scatters."]
    assert written.sample(seen) == [*said, "  student (60.0 tokens/s)  It is …"]
    assert "\n".join(written.sample(seen)) in "\n".join(page(seen))


def test_a_finished_stage_says_its_perplexity() -> None:
    assert sentences.score(journal()["evaluation"]) == "perplexity +5.0%"
    assert sentences.score({"perplexity_before": 2.2, "perplexity": 2.104}) == "byte perplexity 2.10"


def test_the_report_compares_and_tells_of_written_tokens() -> None:
    made = report.build([journal()])
    charts = {chart["field"]: chart for chart in report.charts(SEEN)}
    assert set(charts) == {"perplexity", "top1_agreement", "chat_agreement", "bytes", "p50_ms"}
    assert charts["perplexity"]["sense"] == "shorter is better" == charts["bytes"]["sense"]
    assert [bar["width"] for bar in charts["perplexity"]["bars"]] == [80.0, 84.0, 100.0]
    assert charts["chat_agreement"]["sense"] == "longer is better"
    assert "a written token takes" in made["payback_sentence"] and "written tokens" in made["payback_sentence"]
    assert any("perplexity, second domain was not measured" in line for line in made["limits"])
    html = page_of.html(compose(Gathered([journal()], [journal()], {}, [])))
    assert "+5.0%" in html and "perplexity beside the teacher’s" in html and "Energy of a written token" in html
    assert "request" not in html.split("<h2>Pay-back</h2>")[1].split("</section>")[0]


def test_prefects_table_has_all_rows_as_numbers() -> None:
    rows = {row["line"]: row for row in pictures.comparison_rows(SEEN)}
    assert rows["perplexity"]["student"] == 21.0 and rows["bits per weight"]["student"] == 5.2
    assert rows["tokens/s written, 2 threads"]["student"] == 120.0


def test_mlflow_gets_the_speeds_by_their_number() -> None:
    numbers = dict(_flatten(SEEN.model_dump(mode="json")))
    assert numbers["student.speeds.2.decode_tokens_per_s"] == 120.0
    assert numbers["measures.perplexity.student"] == 21.0


def test_the_card_tells_what_kept_means_for_a_perplexity() -> None:
    story = card.Story(
        digest="d", recipe_digest="r", payback="It never pays back.", limits=(), labels=(),
        sources={"teacher": "pypi:big==1.0"}, licences={"teacher": "MIT"},
    )  # fmt: skip
    text = card.render("tiny", {"task": "generate"}, SEEN, judge(GATE, SEEN), Footprint(kwh=None, seconds=3), story)
    for part in (
        "pipeline_tag: text-generation",
        "library_name: gguf",
        "92.00 MB, 5.20 bits per weight, where its teacher takes 270.00 MB (2.9×), writes 3.0× as fast",
        "Its perplexity is 21.000 where its teacher's is 20.000 (+5.0% (+3.9% to +6.1%); 95 % interval, 90 documents",
        "| perplexity | 20.0000 | 21.0000 | 25.0000 | +5.0% (+3.9% to +6.1%) |",
        "| chat agreement | 1.0000 | 0.5000 | 0.4000 | 50.0% (49.0% to 51.0%) |",
        "| student | 92.00 | 5.20 | unknown | 192 | 60.0 | 300.0 | 15 | 120.0 | 600.0 | 8 |",
        "The teacher in float32 in transformers writes 12.0 tokens/s with 1 thr.",
        "perplexity, second domain was not measured: the data has no second domain.",
        'shrink generate tiny@champion "Once upon a time"',
        "goes on with it token by token",
    ):
        assert part in text, f"{part!r} is not in\n{text}"
    compile(code("tiny", "generate"), "card", "exec")
    for context, room in ((512, 512), (8192, 2048), (None, 2048)):
        assert f"n_ctx={room}," in code("tiny", "generate", context=context)


def test_a_model_that_writes_is_not_bundled(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"task": "generate", "context": 64}')
    with pytest.raises(ShrinkError, match="the page cannot show: ask it with `shrink generate`"):
        bundle.check(tmp_path)

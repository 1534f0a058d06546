"""An embedding recipe through the command and the real servers, and what is refused when one is read."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from flows import init, order, plan, recipe, recipe_file, steps
from flows.serve import api, lanes, opening
from flows.settings import Settings
from flows.smoke import smoke
from infra.addresses import Services
from registry import gate
from registry.records import Evaluation, Interval, Measure, ShrinkError, directory_bytes
from tasks.kinds import function_of
from tests.flows.test_compress import shrink
from tests.flows.test_init import make_csv
from tests.flows.test_init import make_model as make_bert
from tests.registry import samples


def shipped() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((recipe_file.SHIPPED / "embedder.yaml").read_text())
    return content


@pytest.fixture(scope="module")
def tiny_embed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tasks import models
    from tests.tasks.test_torch_stages import make_model, make_texts, make_tokenizer

    folder = tmp_path_factory.mktemp("tiny-embed")
    (folder / "teacher").mkdir()
    models.save(folder / "teacher", make_model(), make_tokenizer(), models.Head(labels=("a", "b"), max_length=16))
    (folder / "data").mkdir()
    lines = [json.dumps({"text": text}) for text, _ in make_texts(300, 1)]
    (folder / "data" / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    content = {
        "name": "tiny-embed",
        "task": "embed",
        "teacher": {"uri": f"dir:{folder / 'teacher'}"},
        "data_source": {"uri": f"dir:{folder / 'data'}"},
        "data": {"kind": "data", "file": "texts.jsonl", "format": "jsonl", "label_column": None, "max_length": 16},
        "stages": [
            {"kind": "adopt"},
            {"kind": "label", "transfer": False},
            {"kind": "prune", "method": "structured", "layers": [0, 2], "ffn": 24},
            {"kind": "distill", "method": "embeddings", "epochs": 2, "lr": 1e-3, "transfer": False},
            {"kind": "export", "method": "onnx"},
            {"kind": "quantize", "method": "int8_dynamic"},
        ],
        "gate": {"beat_floor": False, "bytes_ratio_min": 1.1, "retention_min": 0.05},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_the_whole_loop_of_an_embedding_recipe(servers: Services, servers_home: Path, tiny_embed: Path) -> None:
    printed = shrink(servers_home, "run", str(tiny_embed / "tiny.yaml")).stdout
    assert "overlap@10" in printed and "rank correlation" in printed and "accuracy" not in printed
    shown = json.loads(shrink(servers_home, "show", "tiny-embed@champion", "--json").stdout)
    assert shown["verdict"]["passed"] and set(shown["measures"]) == {"overlap_at_10", "spearman"}
    names = {check["name"] for check in shown["verdict"]["checks"]}
    assert names == {"retention_overlap_at_10", "retention_spearman", "bytes_ratio"}
    page = shrink(servers_home, "show", "tiny-embed@champion").stdout
    assert "overlap@10" in page and "rank correlation" in page
    texts = ("good fine film", "good fine film", "bad plot")
    found = json.loads(shrink(servers_home, "predict", "tiny-embed@champion", *texts, "--json").stdout)
    assert [one["text"] for one in found] == list(texts) and len(found[0]["embedding"]) == 32
    lines = shrink(servers_home, "predict", "tiny-embed@champion", *texts).stdout.splitlines()
    assert len(lines) == 3 and lines[0] == f" 1.000  {texts[0]}  ·  {texts[1]}"
    version = servers_home / "models" / "tiny-embed" / "1"
    card = (version / "evidence" / "README.md").read_text()
    assert "pipeline_tag: sentence-similarity" in card and "| overlap@10 | 1.0000 |" in card
    report = (version / "evidence" / "report.html").read_text()
    assert "overlap@10 on held-out texts" in report and "Accuracy on the test split" not in report
    check_served(version)


def check_served(version: Path) -> None:
    """The version behind HTTP: vectors at /embed, and a word of direction at /predict."""
    loaded = opening.opened(version / "model", version / "evidence" / "golden.json", "1")
    http = TestClient(api.application(lanes.Slot(name="tiny-embed", alias="champion", serving=loaded)))
    answer = http.post("/embed", json={"texts": ["good film", "a bad joke"]}).json()
    assert [len(vector) for vector in answer["embeddings"]] == [32, 32]
    assert sum(value**2 for value in answer["embeddings"][0]) == pytest.approx(1, abs=1e-4)
    refused = http.post("/predict", json={"texts": ["good film"]})
    assert refused.status_code == 404 and "/embed" in refused.json()["detail"]
    assert http.get("/healthz").json()["task"] == "embed"


def test_floor_and_evaluation_follow_the_task_and_the_smoke_walk_keeps_them() -> None:
    loaded = recipe.parse(shipped(), "mine.yaml")
    assert loaded.floor.task == loaded.evaluate.task == "embed"
    walk = smoke(loaded)
    assert walk.floor.task == "embed" and getattr(walk.stages[0], "keep_layers", None) == 2
    again = recipe.parse(json.loads(walk.model_dump_json()), "recipe.json")
    assert again.digest == walk.digest


def changed(change: str) -> dict[str, Any]:
    """The shipped recipe with one thing amiss."""
    content = shipped()
    match change:
        case "finetune":
            content["stages"][0] = {"kind": "finetune"}
        case "logits":
            content["stages"][4] = {"kind": "distill", "method": "logits"}
        case "classify":
            content["task"] = "classify"
        case "second teacher":
            content["stages"][1]["second_teacher"] = 0.5
        case "no adopt":
            content["stages"] = content["stages"][1:]
        case "late adopt":
            content["stages"].insert(4, {"kind": "adopt"})
        case "floor":
            content["floor"] = {"task": "classify"}
        case "evaluate key":
            content["evaluate"] = {"metric": "mcc"}
        case "no labels":
            content["data"] |= {"format": "csv", "label_column": None}
            content["gate"]["retention_min_of"] = {"probe_accuracy": 0.5}
        case "measure":
            content["gate"]["retention_min_of"] = {"overlap": 0.5}
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("finetune", r"stage 1 \(finetune\) is for task classify, not embed: adopt makes the teacher"),
        ("logits", r"stage 5 \(distill/logits\) is for task classify, not embed"),
        ("classify", r"stage 1 \(adopt/encoder\) is for task embed, not classify: finetune makes the teacher"),
        ("second teacher", r"stage 2 \(label\) has a second_teacher, which needs labels: set it to 0"),
        ("no adopt", r"stage 1 \(label\) needs teacher as torch, but it is source"),
        ("late adopt", r"stage 5 \(adopt/encoder\) makes the teacher anew and would discard what"),
        ("floor", r"floor.task is classify but the recipe's is embed: leave it out"),
        ("evaluate key", r"unknown key 'evaluate.embed.metric'; valid here are: batch, bootstrap"),
        (
            "no labels",
            r"gate.retention_min_of names probe_accuracy, which is not measured; known are: overlap_at_10, sp",
        ),
        ("measure", r"retention_min_of.overlap"),
    ],
)
def test_wrong_combinations_are_refused_when_the_recipe_is_read(change: str, message: str) -> None:
    with pytest.raises(ShrinkError, match=message) as caught:
        recipe.parse(changed(change), "mine.yaml")
    assert "\n" not in str(caught.value)


def test_a_classifier_needs_a_label_column() -> None:
    content: dict[str, Any] = yaml.safe_load((recipe_file.SHIPPED / "sentiment.yaml").read_text())
    content["data"] |= {"format": "csv", "label_column": None}
    with pytest.raises(ShrinkError, match="label_column is null but a classifier needs labels"):
        recipe.parse(content, "mine.yaml")


@pytest.mark.parametrize("column", [None, "label"])
def test_what_init_writes_for_embeddings_passes_every_check(tmp_path: Path, column: str | None) -> None:
    rows, model = make_csv(tmp_path / "rows.csv"), make_bert(tmp_path / "bert")
    found = init.write("mine", rows, model, ("text", column), folder=tmp_path, task="embed")
    loaded = recipe.load(found["recipe"])
    assert loaded.task == loaded.floor.task == "embed" and loaded.rows.label_column == column
    assert [stage.kind for stage in loaded.stages][:2] == ["adopt", "label"] and not found["head_replaced"]
    assert found["labels"] == ([] if column is None else ["no", "yes"])
    assert order.measures_of(loaded)[-1] == ("spearman" if column is None else "probe_accuracy")


@pytest.mark.skipif(find_spec("model2vec") is None, reason="the extra model2vec is not installed")
def test_a_floor_of_static_vectors_is_made_of_the_teachers_source_and_planned(tiny_embed: Path, tmp_path: Path) -> None:
    content = yaml.safe_load((tiny_embed / "tiny.yaml").read_text()) | {"floor": {"vectors": "model2vec"}}
    loaded = recipe.parse(content, "tiny.yaml")
    step = next(step for step in steps.steps_of(loaded).steps if step.role == "floor")
    assert step.inputs == {"teacher": steps.TEACHER}
    teacher = tiny_embed / "teacher"
    function_of(step.config)({"teacher": teacher}, step.config, tmp_path, 0)
    foretold = plan.make(loaded, teacher, tiny_embed / "data", Settings(home=tmp_path / "home"))
    said = next(stage for stage in foretold.stages if stage.role == "floor")
    assert said.known and said.bytes == pytest.approx(
        directory_bytes(tmp_path), rel=0.5
    )  # a tiny one is mostly records


def measured(retention: float, low: float, win: float) -> Measure:
    whole = {"lift_retained": Interval(point=0.9, low=0.8, high=1.0)}
    whole |= {"retention": Interval(point=retention, low=low, high=1.0)}
    whole |= {"win_over_floor": Interval(point=win + 0.1, low=win, high=win + 0.2)}
    return Measure(teacher=1.0, student=retention, floor=0.1, **whole)


def test_the_gate_asks_every_measure_and_names_exceptions() -> None:
    two = {"overlap_at_10": measured(0.6, 0.58, 0.4), "spearman": measured(0.97, 0.96, -0.1)}
    seen = Evaluation.model_validate(samples.evaluation().model_dump() | {"task": "embed", "measures": two})
    verdict = gate.judge(gate.Gate(retention_min=0.95, beat_floor=True), seen)
    assert {check.name: check.passed for check in verdict.checks} == {
        "retention_overlap_at_10": False,
        "beat_floor_overlap_at_10": True,
        "retention_spearman": True,
        "beat_floor_spearman": False,
    }
    asked = gate.Gate(retention_min=0.95, retention_low_min=0.9, retention_min_of={"overlap_at_10": 0.55})
    asked = asked.model_copy(update={"beat_floor_of": ("overlap_at_10",)})
    names = [check.name for check in gate.judge(asked, seen).checks]
    assert gate.judge(asked, seen).passed and "retention_low_overlap_at_10" not in names
    assert "beat_floor_spearman" not in names


def test_stored_evaluations_of_before_stay_readable() -> None:
    old = samples.evaluation().model_dump(exclude={"task", "measures"})
    assert Evaluation.model_validate(old).scores() == {"teacher": 0.92, "student": 0.90, "floor": 0.85}

"""Fresh students: built by transformers' own classes, taught by the distil stage and carried to int8, or refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from flows.forecast.sizes import check_stages
from flows.recipe import parse
from registry.records import ShrinkError, digest_directory
from tasks import data, finetune, label, layout, models, runtime, shape, students
from tasks.distill import logits
from tasks.export import onnx
from tasks.kinds import EveryStage
from tasks.quantize import int8_dynamic
from tests.tasks.encoders import save_teacher
from tests.tasks.test_torch_stages import make_texts

SMALL: dict[str, dict[str, Any]] = {
    "distilbert": {"layers": 2, "width": 24, "ffn": 48},
    "narrow": {"layers": 4, "width": 16, "ffn": 32},
    "mobilebert": {"layers": 2, "width": 24, "ffn": 32, "bottleneck": 16, "embedding": 16},
    "squeezebert": {"layers": 2, "width": 32, "ffn": 64},
}


def stage(method: str, **changes: Any) -> Any:
    return EveryStage.validate_python({"kind": "student", "method": method, **SMALL[method], **changes})


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rows, a tuned teacher, and its answers."""
    home = tmp_path_factory.mktemp("students")
    held = {name: home / name for name in ("rows", "tuned", "labels")}
    for path in held.values():
        path.mkdir()
    for name, count, seed in (("train", 160, 1), ("validation", 60, 2)):
        texts = make_texts(count, seed)
        found = [{"id": str(n), "text": text, "label": int(mean > 0)} for n, (text, mean) in enumerate(texts)]
        data.write_rows(held["rows"] / f"{name}.jsonl", found)
    facts = {"labels": ["negative", "positive"], "max_length": 16, "rows": {}, "format": "csv"}
    (held["rows"] / "data.json").write_text(json.dumps(facts))
    teacher = save_teacher(home / "teacher", "bert")
    tuned = finetune.FinetuneConfig(epochs=6, lr=5e-3, batch_size=8)
    finetune.run({"teacher": teacher, "data": held["rows"]}, tuned, held["tuned"], 0)
    answers = {"teacher": held["tuned"], "data": held["rows"]}
    label.run(answers, label.LabelConfig(transfer=False), held["labels"], 0)
    return held


@pytest.mark.parametrize("method", SMALL)
def test_a_fresh_student_learns_and_goes_the_whole_way(tmp_path: Path, taught: dict[str, Path], method: str) -> None:
    def made(module: Any, config: Any, inputs: dict[str, Path], name: str) -> tuple[Path, dict[str, Any]]:
        (tmp_path / name).mkdir()
        return tmp_path / name, module.run(inputs, config, tmp_path / name, 0)

    fresh, counts = made(students, stage(method), {"student": taught["tuned"]}, "fresh")
    again, _ = made(students, stage(method), {"student": taught["tuned"]}, "again")
    assert digest_directory(fresh) == digest_directory(again)
    found = layout.read(fresh)
    assert (found.architecture, found.layers) == (students.architecture(stage(method)), SMALL[method]["layers"])
    assert shape.of_files(fresh).with_labels(2).parameters == counts["parameters"]
    assert found.positions == 16 and counts["parameters"] < counts["parameters_before"]
    assert (fresh / "tokenizer.json").read_bytes() == (taught["tuned"] / "tokenizer.json").read_bytes()

    learning = logits.DistillLogitsConfig(epochs=12, lr=5e-3, batch_size=8, hidden_weight=0, transfer=False)
    inputs = {"student": fresh, "labels": taught["labels"], "data": taught["rows"]}
    student, measured = made(logits, learning, inputs, "student")
    assert measured["validation_accuracy"] > 0.85 > measured["validation_accuracy_before"]
    graph, compared = made(onnx, onnx.OnnxConfig(), {"model": student}, "onnx")
    assert compared["max_difference"] < 1e-4
    small, _ = made(int8_dynamic, int8_dynamic.Int8DynamicConfig(), {"student": graph}, "int8")
    texts = [row["text"] for row in data.read_rows(taught["rows"], "validation")]
    sure, rough = runtime.predict(graph, texts), runtime.predict(small, texts)
    assert float(np.mean(sure.argmax(1) == rough.argmax(1))) > 0.9


def test_one_batch_or_many_gives_a_mobilebert_the_same_answer(tmp_path: Path, taught: dict[str, Path]) -> None:
    (tmp_path / "fresh").mkdir()
    students.run({"student": taught["tuned"]}, stage("mobilebert"), tmp_path / "fresh", 0)
    from tasks import train

    model, tokenizer, _ = models.load(tmp_path / "fresh")
    ids = train.tokenize(tokenizer, ["good film", "a great cast ends the joke and more of it"])
    together, alone = train.predict(model, ids)[0][0], train.predict(model, ids[:1])[0][0]
    np.testing.assert_allclose(together.numpy(), alone.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("distilbert", {"width": 30}, "heads = 4 does not divide it"),
        ("mobilebert", {"bottleneck": 18}, "heads = 4 does not divide it"),
        ("squeezebert", {"groups": 5}, "it does not divide width = 32"),
        ("narrow", {"heads": 3, "width": 128}, "heads = 3 does not divide it"),
        ("squeezebert", {"ffn": 66}, "it does not divide ffn = 66"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_when_read(method: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        stage(method, **changes)


def recipe(*stages: dict[str, Any]) -> Any:
    source = {"uri": "dir:x"}
    before = [{"kind": "finetune"}, {"kind": "label", "transfer": False}]
    content = {"name": "mine", "teacher": source, "data_source": source, "data": {"kind": "data", "file": "rows.csv"}}
    return parse({**content, "stages": [*before, *stages, {"kind": "export"}]}, "mine")


FRESH = {"kind": "student", "method": "narrow"}


def test_a_student_that_would_discard_work_is_refused_when_read() -> None:
    recipe({"kind": "prune", "method": "vocabulary"}, FRESH)
    with pytest.raises(ShrinkError, match=r"stage 4 \(student/narrow\) makes the student anew and would discard what"):
        recipe({"kind": "prune", "method": "structured", "ffn": 8}, FRESH)
    with pytest.raises(ShrinkError, match=r"stage 4 \(student/narrow\) makes the student anew"):
        recipe(FRESH, FRESH)


def test_what_a_student_cannot_do_is_refused_before_training(tmp_path: Path) -> None:
    model = layout.read(save_teacher(tmp_path / "bert", "bert"))
    check_stages(recipe(FRESH, {"kind": "distill", "hidden_weight": 0}), model, ["a", "b"])
    with pytest.raises(
        ShrinkError, match=r"stage 4 \(distill/logits\): hidden_weight is 1.0 but the student is 128 wide"
    ):
        check_stages(recipe(FRESH, {"kind": "distill"}), model, ["a", "b"])
    with pytest.raises(ShrinkError, match=r"stage 4 \(prune/structured\): ffn is 999 but the model has only 512"):
        check_stages(recipe(FRESH, {"kind": "prune", "method": "structured", "ffn": 999}), model, ["a", "b"])
    squeezed = recipe({**FRESH, "method": "squeezebert"}, {"kind": "prune", "method": "magnitude"})
    with pytest.raises(
        ShrinkError, match=r"stage 4 \(prune/magnitude\): SqueezeBERT's layers are grouped convolutions"
    ):
        check_stages(squeezed, model, ["a", "b"])
    roberta = layout.read(save_teacher(tmp_path / "roberta", "roberta"))
    with pytest.raises(ShrinkError, match=r"stage 3 \(student/mobilebert\): a MobileBERT pads with piece 0"):
        check_stages(recipe({**FRESH, "method": "mobilebert"}), roberta, ["a", "b"])

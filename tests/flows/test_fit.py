"""Pairs, several labels a row and rare labels from `shrink init` to the answers, on the real servers."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from flows import init, recipe, smoke
from flows.preflight import preflight
from flows.recipe import load
from flows.recipe_file import SHIPPED
from flows.serve import api, lanes, opening
from infra.addresses import Services
from registry.card_code import code
from registry.records import ShrinkError
from tasks import runtime
from tests.flows.test_compress import shrink
from tests.flows.test_init import make_csv
from tests.flows.test_init import make_model as make_bert

PAIRS, SEVERAL = {"pair_column": "other"}, {"multi_label": True, "label_separator": "|"}


def changed(**changes: Any) -> dict[str, Any]:
    """The recipe `sentiment` reading a table, with fields of data, or of the recipe, replaced."""
    content: dict[str, Any] = yaml.safe_load((SHIPPED / "sentiment.yaml").read_text())
    content["data"] = {"kind": "data", "file": "rows.csv", **changes.pop("data", {})}
    content["stages"][1]["second_teacher"] = changes.pop("second_teacher", 0)
    return content | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": SEVERAL, "evaluate": {"kind": "evaluate", "metric": "mcc"}},
            "evaluate.metric is 'mcc' but data.multi",
        ),
        ({"evaluate": {"kind": "evaluate", "metric": "micro_f1"}}, "'micro_f1', which with one label a row is the acc"),
        ({"data": SEVERAL, "second_teacher": 0.5}, r"stage 2 \(label\): second_teacher is 0.5 but data.multi_label is"),
        ({"data": {"multi_label": True}}, "data.multi_label is true but label_separator is missing"),
        ({"data": {"label_separator": "|"}}, r"data.label_separator is '\|' but is for csv with multi_label alone"),
        ({"data": {"format": "rated", **PAIRS}}, "data.pair_column is 'other' but format is 'rated'"),
        ({"data": {"pair_column": "label"}}, "data.label_column is 'label' and so is pair_column"),
        ({"data": {**PAIRS, "max_length": 7}}, "data.max_length is 7 but two texts need 8"),
        ({"data": {"multi_label": True, "label_separator": ""}}, "label_separator"),
        ({"data": {**SEVERAL, "label_column": None}}, "recipe 'sentiment'"),
    ],
)
def test_what_does_not_go_together_is_refused_when_the_recipe_is_read(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ShrinkError, match=message) as refused:
        recipe.parse(changed(**changes), "mine.yaml")
    assert "\n" not in str(refused.value)


def test_what_goes_together_is_read_and_embeddings_have_neither() -> None:
    loaded = recipe.parse(changed(data={**PAIRS, **SEVERAL}, evaluate={"kind": "evaluate", "metric": "micro_f1"}), "x")
    assert smoke.smoke(loaded).rows.multi_label and loaded.rows.pair_column == "other"
    embedder: dict[str, Any] = yaml.safe_load((SHIPPED / "embedder.yaml").read_text())
    embedder["data"] |= {"format": "csv", "file": "x.csv", **PAIRS}
    with pytest.raises(ShrinkError, match=r"data.pair_column is for task classify, not embed"):
        recipe.parse(embedder, "x")


def with_template(model: Path) -> Path:
    """The model's tokenizer joining two texts as BERT's does."""
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    marks = [(name, int(str(tokenizer.token_to_id(name)))) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.BertProcessing(marks[1], marks[0])
    tokenizer.save(str(model / "tokenizer.json"))
    return model


def test_init_of_pairs_and_of_several_labels_and_of_a_rare_one(tmp_path: Path) -> None:
    model, rows = with_template(make_bert(tmp_path / "bert")), make_csv(tmp_path / "rows.csv", count=400)
    lines = rows.read_text().splitlines()
    both = [
        "text,other,label",
        *(f"{line.split(',')[0]},w{n % 50} w{n},{line.split(',')[1]}" for n, line in enumerate(lines[1:])),
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(both))
    init.write("two", tmp_path / "pairs.csv", model, folder=tmp_path, kinds=PAIRS)
    assert load(str(tmp_path / "two.yaml")).rows.pair_column == "other"
    sets = ["text,label", *(f"{line.split(',')[0]},{('a', 'a|b', '', 'b')[n % 4]}" for n, line in enumerate(lines[1:]))]
    (tmp_path / "sets.csv").write_text("\n".join(sets))
    found = init.write("sets", tmp_path / "sets.csv", model, folder=tmp_path, kinds=SEVERAL)
    several: Any = load(str(tmp_path / "sets.yaml"))
    assert found["labels"] == ["a", "b"] and several.evaluate.metric == "micro_f1"
    assert several.stages[1].second_teacher == 0 and several.data.label_separator == "|"
    for kinds, key in ((PAIRS, "pair_column"), (SEVERAL, "multi_label")):
        with pytest.raises(ShrinkError, match=f"{key} is for task classify, not embed: leave it out"):
            init.write("vectors", tmp_path / "pairs.csv", model, folder=tmp_path, task="embed", kinds=kinds)
    rare = make_csv(tmp_path / "rare.csv", ("no", *["yes"] * 9), 600)
    init.write("rare", rare, model, folder=tmp_path)
    weighted: Any = load(str(tmp_path / "rare.yaml"))
    assert weighted.evaluate.metric == "macro_f1" and weighted.floor.class_weights == "balanced"
    assert [stage.class_weights for stage in weighted.stages if hasattr(stage, "class_weights")] == ["balanced"] * 2


def test_pairs_that_a_tokenizer_cannot_join_or_that_hold_its_separator_are_refused(tmp_path: Path) -> None:
    model = make_bert(tmp_path / "bert")
    lines = [f"w{n % 60} w{n},w{n % 50} w{n + 1},{n % 2}" for n in range(200)]
    (tmp_path / "pairs.csv").write_text("text,other,label\n" + "\n".join(lines))
    with pytest.raises(ShrinkError, match="sets no separator between two texts"):
        init.write("two", tmp_path / "pairs.csv", model, folder=tmp_path, kinds=PAIRS)
    with_template(model)
    init.write("two", tmp_path / "pairs.csv", model, folder=tmp_path, kinds=PAIRS)
    (tmp_path / "pairs.csv").write_text("text,other,label\nw1 [SEP] w2,w3,0\n" + "\n".join(lines))
    with pytest.raises(ShrinkError, match=r"row 1 has \[SEP\] inside a text"):
        preflight(load(str(tmp_path / "two.yaml")), model, tmp_path)


def write_recipe(folder: Path, name: str, lines: list[dict[str, Any]], data: dict[str, Any], metric: str) -> Path:
    """A tiny teacher, rows and the recipe NAME.yaml that walks every kind of stage."""
    from tasks import models
    from tests.tasks.test_torch_stages import make_model, make_tokenizer

    (folder / "teacher").mkdir()
    models.save(folder / "teacher", make_model(), make_tokenizer(), models.Head(labels=("a", "b"), max_length=16))
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    content = {
        "name": name,
        "teacher": {"uri": f"dir:{folder / 'teacher'}"},
        "data_source": {"uri": f"file:{folder / 'rows.jsonl'}"},
        "data": {"kind": "data", "file": "rows.jsonl", "format": "jsonl", "max_length": 16, **data},
        "stages": [
            {"kind": "finetune", "epochs": 8, "lr": 3e-3, "batch_size": 16},
            {"kind": "label", "transfer": False},
            {"kind": "prune", "method": "vocabulary"},
            {"kind": "prune", "method": "structured", "layers": [0, 2], "ffn": 40},
            {"kind": "distill", "method": "logits", "epochs": 4, "lr": 2e-3, "transfer": False},
            {"kind": "export", "method": "onnx"},
            {"kind": "quantize", "method": "int8_dynamic", "embedding": "int4"},
        ],
        "evaluate": {"kind": "evaluate", "metric": metric, "rounds": 5},
        "gate": {"beat_floor": False, "bytes_ratio_min": 1.1},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder / f"{name}.yaml"


def served(home: Path, name: str) -> tuple[TestClient, Path]:
    """The first version of a model behind HTTP, and its folder as `shrink predict` has fetched it."""
    version = home / "models" / name / "1"
    loaded = opening.opened(version / "model", version / "evidence" / "golden.json", "1")
    slot = lanes.Slot(name=name, alias="champion", serving=loaded)
    return TestClient(api.application(slot)), version


def test_the_whole_loop_of_pairs(servers: Services, servers_home: Path, tmp_path: Path) -> None:
    from tests.tasks.test_pairs import make_pairs

    lines = [{"text": one, "other": two, "label": label} for one, two, label in make_pairs(400, 1)]
    file = write_recipe(tmp_path, "tiny-pairs", lines, PAIRS, "accuracy")
    shrink(servers_home, "run", str(file))
    asked = ("tiny-pairs@champion", "good film", "fine plot")
    refused = shrink(servers_home, "predict", *asked, check=2)
    assert "model 'tiny-pairs@champion' answers pairs: give each text's second one with --pair" in refused.stderr
    uneven = shrink(servers_home, "predict", *asked, "--pair", "bad plot", check=2)
    assert "there are 2 texts but 1 --pair" in uneven.stderr
    both = (*asked, "--pair", "bad plot", "--pair", "great end")
    found = json.loads(shrink(servers_home, "predict", *both, "--json").stdout)
    assert [(one["text"], one["pair"]) for one in found] == [("good film", "bad plot"), ("fine plot", "great end")]
    assert "good film | bad plot" in shrink(servers_home, "predict", *both).stdout
    http, version = served(servers_home, "tiny-pairs")
    bodies = {"pairs": [[one["text"], one["pair"]] for one in found]}  # one batch: dynamic int8 depends on it a little
    answers = http.post("/predict", json=bodies).json()["predictions"]
    assert [one["label"] for one in answers] == [one["label"] for one in found]
    assert answers[0]["score"] == pytest.approx(found[0]["score"], abs=1e-6)
    for body, problem in (
        ({"texts": ["good film"]}, "this version answers pairs alone"),
        ({"pairs": [["good film"]]}, "at least 2 items"),
        ({"pairs": [["good film", "bad plot", "fine"]]}, "at most 2 items"),
        ({"pairs": [["good film", ""]]}, "at least 1 character"),
        ({"pairs": ["good film", "bad plot"]}, "valid array"),
        ({"pairs": []}, "at least 1 item"),
        ({"pair": [["good", "bad"]]}, "not permitted"),
        ({"pairs": [["good", "bad"]], "texts": ["x"]}, "either texts or pairs"),
    ):
        wrong = http.post("/predict", json=body)
        assert wrong.status_code == 422 and problem in wrong.text
    page = shrink(servers_home, "bundle", "tiny-pairs@champion", "--browser", str(tmp_path / "page"), check=2)
    assert "the model answers pairs of texts, which the page cannot ask for" in page.stderr
    assert page.stderr.count("shrink:") == 1 and "Traceback" not in page.stderr and not (tmp_path / "page").exists()
    card = (version / "evidence" / "README.md").read_text()
    assert "two texts, read together, cut after 16 tokens" in card and '"a text" --pair "another text"' in card
    seen: dict[str, Any] = {}
    lines_of_code = code("tiny-pairs", "classify", pairs=True)
    assert lines_of_code in card
    exec(lines_of_code.replace('"a text", "another text"', '"good film", "bad plot"'), seen)
    assert seen["label"] == found[0]["label"]
    golden = json.loads((version / "evidence" / "golden.json").read_text())
    assert all(len(text) == 2 for text in golden["texts"])


def test_the_whole_loop_of_several_labels(servers: Services, servers_home: Path, tmp_path: Path) -> None:
    from tests.tasks.test_multilabel import make_rows

    lines = [{"text": text, "label": names} for text, names in make_rows(400, 1)]
    file = write_recipe(tmp_path, "tiny-several", lines, {"multi_label": True}, "micro_f1")
    printed = shrink(servers_home, "run", str(file)).stdout
    assert "micro-F1" in printed and "of its micro-F1" in printed
    shown = json.loads(shrink(servers_home, "show", "tiny-several@champion", "--json").stdout)
    assert shown["metric"] == "micro_f1" and set(shown["score"]) == {"teacher", "student", "floor"}
    assert "retention" in shrink(servers_home, "why", "tiny-several").stdout or shown["verdict"]["passed"]
    texts = [text for text, _ in make_rows(12, 7)]
    found = json.loads(shrink(servers_home, "predict", "tiny-several@champion", *texts, "--json").stdout)
    assert all(one["labels"] == [n for n in one["labels"] if one["scores"][n] > 0.5] for one in found)
    assert len({len(one["labels"]) for one in found}) > 1 and all(len(one["scores"]) == 3 for one in found)
    assert len(shrink(servers_home, "predict", "tiny-several@champion", *texts).stdout.splitlines()) == 12
    alone = shrink(servers_home, "predict", "tiny-several@champion", texts[0], "--pair", texts[1], check=2)
    assert "answers single texts: drop --pair" in alone.stderr
    http, version = served(servers_home, "tiny-several")
    wrong = http.post("/predict", json={"pairs": [texts[:2]]})
    assert wrong.status_code == 422 and "this version answers texts alone; give those" in wrong.text
    answers = http.post("/predict", json={"texts": texts}).json()["predictions"]
    assert [one["labels"] for one in answers] == [one["labels"] for one in found]
    card = (version / "evidence" / "README.md").read_text()
    assert "micro F1 |" in card and "those above 0 are its answer" in card and "whole set of labels is right" in card
    assert "micro-F1 on the test split" in (version / "evidence" / "report.html").read_text()
    seen: dict[str, Any] = {}
    lines_of_code = code("tiny-several", "classify", multi_label=True)
    assert lines_of_code in card
    exec(lines_of_code.replace("a text", texts[0]), seen)
    assert sorted(seen["labels"]) == sorted(found[0]["labels"])
    assert runtime.settings(version / "model")["multi_label"] is True

"""`shrink init` and the preflight: what is written runs through every check, and nothing is written when one fails."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from flows import init, sources
from flows.preflight import preflight
from flows.recipe import Recipe, load
from registry.records import ShrinkError
from tasks import architectures, multilabel

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(60)))
SIZES = {
    "vocab_size": 64,
    "hidden_size": 8,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}


def make_model(folder: Path, **changes: Any) -> Path:
    """A BERT folder whose files have the right names and shapes (all weights 0)."""
    folder.mkdir(parents=True)
    sizes = {**SIZES, **{key: value for key, value in changes.items() if key in SIZES}}
    shapes = architectures.wanted_shapes({"model_type": "bert", **sizes})
    weights = {f"bert.{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "pad_token_id": 0, **sizes}
    (folder / "config.json").write_text(json.dumps(config | changes))
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(PIECES[:4]))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def make_csv(path: Path, labels: tuple[str, ...] = ("no", "yes"), count: int = 120) -> Path:
    rows = [f"w{number % 60} w{number // 7 % 60} w{number},{labels[number % len(labels)]}" for number in range(count)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def make_recipe(folder: Path, **changes: Any) -> tuple[Recipe, Path, Path]:
    model = make_model(folder / "bert", **changes)
    written = init.write("mine", make_csv(folder / "rows.csv"), model, folder=folder)
    recipe = load(written["recipe"])
    return recipe, model, sources.resolve(recipe.data_source, folder / ".shrink")


def test_what_init_writes_fits_the_model_and_loads_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = make_model(tmp_path / "bert"), make_csv(tmp_path / "rows.csv")
    found = init.write("mine", rows, model, licences=("MIT", "CC0-1.0"), folder=tmp_path)
    assert found["labels"] == ["no", "yes"] and sum(found["rows"].values()) == 120 and found["head_replaced"]
    monkeypatch.chdir("/")
    recipe = load(found["recipe"])
    stages = {(stage.kind, getattr(stage, "method", None)): stage for stage in recipe.stages}
    cut: Any = stages["prune", "structured"]
    label: Any = stages["label", None]
    assert cut.layers == (0, 2, 5) and cut.ffn == 16 and label.second_teacher == 0.5
    assert recipe.data.max_length == 16 and recipe.teacher.licence == "MIT" and recipe.data_source.licence == "CC0-1.0"
    assert recipe.teacher.uri == f"dir:{model}" and sources.resolve(recipe.teacher, tmp_path) == model
    held = sources.resolve(recipe.data_source, tmp_path / ".shrink")
    assert [path.name for path in held.iterdir()] == ["rows.csv"]
    assert (held / "rows.csv").read_bytes() == rows.read_bytes()
    assert sources.resolve(recipe.data_source, tmp_path / ".shrink") == held
    make_csv(rows, count=121)
    assert sources.resolve(recipe.data_source, tmp_path / ".shrink") != held


@pytest.mark.parametrize(("layers", "kept"), [(1, [0]), (2, [0, 1]), (4, [0, 3]), (6, [0, 2, 5]), (12, [0, 3, 7, 11])])
def test_kept_layers_spread_from_first_to_last(layers: int, kept: list[int]) -> None:
    assert init.spread(layers) == kept


def test_three_labels_in_jsonl_have_no_second_teacher(tmp_path: Path) -> None:
    lines = [json.dumps({"body": f"w{n} w{n % 50}", "class": n % 3}) for n in range(150)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    init.write("mine", tmp_path / "rows.jsonl", make_model(tmp_path / "bert"), ("body", "class"), folder=tmp_path)
    content = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert content["data"]["format"] == "jsonl" and content["stages"][1]["second_teacher"] == 0


def test_labels_that_look_like_several_are_pointed_out(tmp_path: Path) -> None:
    model = make_model(tmp_path / "bert")
    found = init.write("mine", make_csv(tmp_path / "rows.csv", ("a", "b", "a|b")), model, folder=tmp_path)
    assert found["several"] == (
        "Labels such as 'a|b' look like several at once: if they are, give --multi-label --label-separator '|'."
    )
    lines = (tmp_path / "rows.csv").read_text().splitlines()[:90]
    (tmp_path / "few.csv").write_text("\n".join([*lines, "w1 once,a|b|c", "w2 once,c"]))
    with pytest.raises(ShrinkError, match=r"'a.b.c'.* look like several at once: if they are, give --multi-la"):
        init.write("few", tmp_path / "few.csv", model, folder=tmp_path)
    assert multilabel.separator_in(["yes", "no", "N/A"]) is None
    assert multilabel.separator_in(["sci/tech", "world", "sci/fi"]) is None
    assert multilabel.separator_in(["a;b", "b; c", "c;a"]) == ";"


def test_a_folder_that_transformers_saved_is_read(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    model = make_model(tmp_path / "bert")
    BertForSequenceClassification(BertConfig(**SIZES)).save_pretrained(model)
    found = init.write("mine", make_csv(tmp_path / "rows.csv"), model, folder=tmp_path)
    assert found["layers"] == 6 and found["head_replaced"]


def cut_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def other_tokenizer(folder: Path, count: int) -> None:
    Tokenizer(models.WordPiece({f"p{n}": n for n in range(count)}, unk_token="p0")).save(str(folder / "tokenizer.json"))


def set_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


BAD_MODELS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "architecture": (lambda f: set_config(f, model_type="gpt2"), r"model_type is 'gpt2' but only these"),
    "no config": (lambda f: (f / "config.json").unlink(), r"must hold one config.json with model_type, found none"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), r"config.json in the model folder is no JSON"),
    "sizes": (lambda f: set_config(f, intermediate_size=31), r"lacks encoder.layer.0.intermediate.dense.weight in the"),
    "no size": (lambda f: set_config(f, vocab_size=None), r"config.json has vocab_size = None"),
    "positions": (
        lambda f: set_config(f, position_embedding_type="relative_key"),
        r"position_embedding_type is 'relative_key' but only 'absolute'",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        r"model.safetensors is missing in the model folder \(pytorch_model.bin is there\)",
    ),
    "cut weights": (
        lambda f: cut_file(f / "model.safetensors"),
        r"model.safetensors has \d+ bytes but its header says",
    ),
    "no safetensors": (lambda f: (f / "model.safetensors").write_bytes(b"hello"), r"is no safetensors file"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer.json is missing"),
    "larger tokenizer": (lambda f: other_tokenizer(f, 65), r"tokenizer.json has 65 pieces but .* vocab_size is 64"),
    "other padding": (lambda f: set_config(f, pad_token_id=3), r"numbers \[PAD\] 0 but the model's pad_token_id is 3"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_bad_model_is_refused_in_one_sentence_before_anything_is_written(tmp_path: Path, case: str) -> None:
    spoil, message = BAD_MODELS[case]
    recipe, model, data = make_recipe(tmp_path)
    (tmp_path / "mine.yaml").unlink()
    spoil(model)
    with pytest.raises(ShrinkError, match=message) as caught:
        preflight(recipe, model, data)
    assert "\n" not in str(caught.value)
    with pytest.raises(ShrinkError, match=message):
        init.write("mine", tmp_path / "rows.csv", model, folder=tmp_path)
    assert not (tmp_path / "mine.yaml").exists()


def test_a_much_smaller_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match=r"tokenizer.json has 64 pieces but the model's vocab_size is 2000"):
        make_recipe(tmp_path, vocab_size=2000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label\nfine,1\n,0\n", r"Row 2 of rows.csv has no 'text'"),
        ("text,label\nfine,1\nbad,\n", r"Row 2 of rows.csv has no 'label'"),
        ("text,label\nfine,1\nbad, really,0\n", r"Row 2 of rows.csv has more cells than the header"),
        ("text,lable\nfine,1\n", r"label_column is 'label' but row 1 .* did you mean 'lable'"),
        ("text,label\n", r"file is 'rows.csv' but it has no rows"),
        ("text,label\n" + "".join(f"w{n},1\n" for n in range(90)), r"holds one class only \(1\)"),
        ("text,label\nfine,1\nfine,0\n", r"The validation split is empty"),
        (b"text,label\nfin\xe9,1\n", r"rows.csv is no UTF-8 at byte 14"),
    ],
)
def test_bad_rows_are_refused_before_anything_is_written(tmp_path: Path, text: str | bytes, message: str) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ShrinkError, match=message):
        init.write("mine", rows, make_model(tmp_path / "bert"), folder=tmp_path)
    assert not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("sentiment", "rows.csv", r"name is 'sentiment' but a shipped recipe"),
        ("../mine", "rows.csv", r"name is '../mine' but a name has 1 to 56 lowercase"),
        ("Mine", "rows.csv", r"name is 'Mine' but a name has"),
        ("", "rows.csv", r"name is '' but a name has"),
        ("m" * 57, "rows.csv", r"name is 'm+' but a name has"),
        ("m" * 999, "rows.csv", r"name is 'm+' but a name has"),
        ("mine-smoke", "rows.csv", r"'mine-smoke': only smoke walks end in -smoke"),
        ("taken", "rows.csv", r"taken.yaml' exists; choose another name"),
        ("mine", "rows.tsv", r"must end in .csv, .jsonl"),
        ("mine", "none.csv", r"none.csv' but there is no such file"),
    ],
)
def test_bad_names_and_files(tmp_path: Path, name: str, file: str, message: str) -> None:
    make_csv(tmp_path / "rows.csv")
    (tmp_path / "taken.yaml").write_text("mine")
    with pytest.raises(ShrinkError, match=message):
        init.write(name, tmp_path / file, make_model(tmp_path / "bert"), folder=tmp_path)
    assert (tmp_path / "taken.yaml").read_text() == "mine" and not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layers": (0, 6)},
            r"stage 4 \(prune/structured\): layers is \[0, 6\] but must be rising indices from 0",
        ),
        ({"ffn": 33}, r"stage 4 \(prune/structured\): ffn is 33 but the model has only 32"),
        ({"heads": 3}, r"stage 4 \(prune/structured\): heads is 3 but the model has only 2"),
    ],
)
def test_stages_that_ask_for_more_than_the_model_has(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    recipe, model, data = make_recipe(tmp_path)
    stages = [one.model_copy(update=changes) if "ffn" in type(one).model_fields else one for one in recipe.stages]
    with pytest.raises(ShrinkError, match=message):
        preflight(recipe.model_copy(update={"stages": tuple(stages)}), model, data)


def test_other_mismatches_of_recipe_and_sources(tmp_path: Path) -> None:
    recipe, model, data = make_recipe(tmp_path)
    longer = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_length": 41})})
    with pytest.raises(ShrinkError, match=r"data.max_length is 41 but the teacher reads 40 tokens"):
        preflight(longer, model, data)
    missing = recipe.model_copy(update={"data": recipe.data.model_copy(update={"transfer": ("row.csv",)})})
    with pytest.raises(ShrinkError, match=r"transfer is 'row.csv' but .* did you mean 'rows.csv'"):
        preflight(missing, model, data)
    make_csv(data / "rows.csv", ("a", "b", "c"))
    with pytest.raises(ShrinkError, match=r"second_teacher is 0.5 but the data has 3 labels"):
        preflight(recipe, model, data)


def test_where_one_label_is_rare_the_gate_goes_by_macro_f1() -> None:
    assert init.balance([0] * 69 + [1] * 31)["metric"] == "accuracy"
    assert init.balance([0] * 71 + [1] * 29)["metric"] == "macro_f1"


def test_a_tar_with_a_file_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("text")
    with tarfile.open(tmp_path / "good.tar.gz", "w:gz") as good:
        good.add(tmp_path / "plain.txt", "inner/plain.txt")
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as bad:
        bad.add(tmp_path / "plain.txt", "../outside.txt")
    sources.untar(tmp_path / "good.tar.gz", tmp_path / "good")
    assert (tmp_path / "good" / "inner" / "plain.txt").read_text() == "text"
    with pytest.raises(ShrinkError, match=r"bad.tar.gz holds '../outside.txt', which lies outside"):
        sources.untar(tmp_path / "bad.tar.gz", tmp_path / "bad")
    assert not (tmp_path / "outside.txt").exists()

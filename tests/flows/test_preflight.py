"""What a user's files may hold that no stage could work with: each is one sentence, before anything is started."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models

from flows import init, order, sources
from flows.preflight import check_texts, preflight
from flows.recipe import Recipe, Source, load
from flows.smoke import smoke
from registry.records import ShrinkError, has_text
from tasks import data, extras, layout, pieces, splits
from tasks.kinds import EveryStage
from tests.flows.test_init import make_csv, make_model, make_recipe, set_config


def spoil(folder: Path, value: float, kind: str = "float32") -> None:
    """One bad number in the last layer's weights."""
    held = {name: one.astype(kind) for name, one in load_file(folder / "model.safetensors").items()}
    held["bert.encoder.layer.5.output.dense.weight"][-1, -1] = value
    save_file(held, folder / "model.safetensors")


def bfloat16_spoiled(folder: Path) -> None:
    """A NaN in bfloat16, which numpy has no name for: it is the upper half of a float32."""
    path = folder / "model.safetensors"
    held = {name: np.full(one.shape, 0x3F80, np.uint16) for name, one in load_file(path).items()}
    held["bert.embeddings.word_embeddings.weight"][3, 3] = 0x7FC0
    save_file(held, path)
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    head = content[8:end].replace(b'"U16"', b'"BF16"')
    path.write_bytes(len(head).to_bytes(8, "little") + head + content[end:])


def other_pieces(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def without(token: str) -> Callable[[dict[str, Any]], None]:
    """Take a token's name away from vocabulary and added tokens; another takes its number."""

    def change(description: dict[str, Any]) -> None:
        vocabulary = description["model"]["vocab"]
        vocabulary["other"] = vocabulary.pop(token)
        description["added_tokens"] = [one for one in description["added_tokens"] if one["content"] != token]

    return change


ODD_MODELS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nan": (
        lambda f: spoil(f, float("nan")),
        r"holds NaN or infinity in bert.encoder.layer.5.output.dense.weight: take",
    ),
    "infinity": (lambda f: spoil(f, float("-inf"), "float16"), r"holds NaN or infinity in bert.encoder.layer.5.output"),
    "bfloat16": (bfloat16_spoiled, r"holds NaN or infinity in bert.embeddings.word_embeddings.weight"),
    "integers": (lambda f: spoil(f, 1, "int8"), r"holds bert.* as I8: save the model as float32"),
    "activation": (
        lambda f: set_config(f, hidden_act="gelo"),
        r"hidden_act = 'gelo' but needs one of: gelu, .*tanh: give",
    ),
    "no dropout": (lambda f: set_config(f, hidden_dropout_prob=None), r"hidden_dropout_prob = None but needs a number"),
    "much dropout": (
        lambda f: set_config(f, attention_probs_dropout_prob=7),
        r"dropout_prob = 7 but needs a number from",
    ),
    "heads": (
        lambda f: set_config(f, num_attention_heads=3),
        r"hidden_size = 8, which its num_attention_heads = 3 does",
    ),
    "negative": (
        lambda f: set_config(f, num_hidden_layers=-1),
        r"num_hidden_layers = -1 but needs a whole number above 0",
    ),
    "endless": (
        lambda f: set_config(f, num_hidden_layers=10**12),
        r"num_hidden_layers = 10+ but model.safetensors only",
    ),
    "text": (lambda f: set_config(f, hidden_size="8"), r"hidden_size = '8' but needs a whole number"),
    "true": (lambda f: set_config(f, intermediate_size=True), r"intermediate_size = True but needs a whole number"),
    "types": (lambda f: set_config(f, type_vocab_size=0), r"type_vocab_size = 0 but needs a whole number above 0"),
    "norm": (lambda f: set_config(f, layer_norm_eps="tiny"), r"layer_norm_eps = 'tiny' but needs a decimal above 0"),
    "padding": (lambda f: set_config(f, pad_token_id=64), r"pad_token_id = 64 but needs below 64"),
    "decoder": (lambda f: set_config(f, is_decoder=True), r"is_decoder = True but needs false"),
    "deep": (
        lambda f: (f / "config.json").write_text("[" * 10**5),
        r"config.json in the model folder is no JSON object",
    ),
    "kind": (
        lambda f: other_pieces(f, lambda one: one["model"].update(type="Subwords")),
        r"tokenizer.json cannot be read \(.*\): save the fast tokenizer again",
    ),
    "no json": (lambda f: (f / "tokenizer.json").write_text("{"), r"tokenizer.json is no tokenizer of the tokenizers"),
    "no unknown": (lambda f: other_pieces(f, without("[UNK]")), r"lacks the piece \[UNK\], which its WordPiece needs"),
    "no separator": (lambda f: other_pieces(f, without("[SEP]")), r"lacks the piece \[SEP\], which its WordPiece"),
    "post-processor": (
        lambda f: other_pieces(f, lambda one: one.update(post_processor=template(99))),
        r"tokenizer.json gives the piece 99 but the model's vocab_size is 64",
    ),
}


def template(number: int) -> dict[str, Any]:
    """A post-processor that begins every text with the piece of this number."""
    tokens = {"[CLS]": {"id": "[CLS]", "ids": [number], "tokens": ["[CLS]"]}}
    order = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": order, "pair": order, "special_tokens": tokens}


@pytest.mark.parametrize("case", ODD_MODELS)
def test_an_odd_model_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    change, message = ODD_MODELS[case]
    folder = make_model(tmp_path / "bert")
    assert layout.read(folder).layers == 6
    change(folder)
    with pytest.raises(ShrinkError, match=message) as caught:
        layout.read(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_the_known_activations_are_those_that_transformers_has() -> None:
    from transformers.activations import ACT2FN

    assert set(layout.ACTIVATIONS) == set(ACT2FN) - {"prelu", "xielu"}  # these two have weights of their own


def test_a_text_of_signs_alone_is_legal_but_most_must_be_known(tmp_path: Path) -> None:
    recipe, folder, _ = make_recipe(tmp_path)
    model, texts = layout.read(folder), ["w1 w2", "\U0001f600\U0001f680", "w3", "\U0001f44d\u200d\U0001f3fd"]
    assert pieces.unknown(folder / "tokenizer.json", texts) == [1, 3]
    rows = [{"id": str(number), "text": text} for number, text in enumerate(texts, start=1)]
    check_texts(recipe, model, rows)
    with pytest.raises(ShrinkError, match=r"67% of the texts in rows.csv, such as row 2, have no piece that"):
        check_texts(recipe, model, rows[1:])
    Tokenizer(models.BPE({"w": 0}, [])).save(str(tmp_path / "no-unknown.json"))
    assert pieces.unknown(tmp_path / "no-unknown.json", ["w", "?"]) == [1]


def test_a_floor_whose_words_would_stand_in_more_texts_than_there_are_is_refused(tmp_path: Path) -> None:
    recipe, model, rows = make_recipe(tmp_path)
    have = len(splits.split_rows(data.labelled_rows(rows, recipe.rows)[0], recipe.data.split)["train"])
    asking = [recipe.model_copy(update={"floor": recipe.floor.model_copy(update={"min_df": have + n})}) for n in (0, 1)]
    preflight(asking[0], model, rows)
    with pytest.raises(ShrinkError, match=rf"floor.min_df is {have + 1} but the data has {have} training texts: lower"):
        preflight(asking[1], model, rows)
    preflight(smoke(asking[1]), model, rows)  # its few rows need few texts of a word


def test_a_limit_that_leaves_one_class_is_what_is_named(tmp_path: Path) -> None:
    recipe, model, rows = make_recipe(tmp_path)
    few = recipe.model_copy(update={"data": recipe.data.model_copy(update={"limit": 1, "split": (98, 99)})})
    with pytest.raises(ShrinkError, match=r"The \w+ split .*: raise data.limit, which is 1, or give"):
        preflight(few, model, rows)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1, 0.0],
            r"Row 3 of rows.jsonl has the label 0.0 \(decimal\) but row 1 0 \(whole number\): write all labels",
        ),
        ([0, "0"], r"Row 2 of rows.jsonl has the label '0' \(text\) but row 1 0 \(whole number\)"),
        (["yes", True], r"Row 2 .* the label True \(true or false\) but row 1 'yes' \(text\)"),
        ([["a"], ["b", 1]], r"Row 2 .* the label 1 \(whole number\) but row 1 'a' \(text\)"),
    ],
)
def test_labels_of_two_kinds_are_refused(tmp_path: Path, labels: list[Any], message: str) -> None:
    lines = [json.dumps({"text": f"w{number}", "label": label}) for number, label in enumerate(labels)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    several = isinstance(labels[0], list)
    config = data.DataConfig(file="rows.jsonl", format="jsonl", multi_label=several)
    with pytest.raises(ShrinkError, match=message):
        data.labelled_rows(tmp_path, config)


@pytest.mark.parametrize(("kind", "method"), [("prune", "wanda"), ("quantize", "int8_static")])
def test_more_calibration_texts_than_there_are_is_refused_before_it_starts(
    tmp_path: Path, kind: str, method: str
) -> None:
    recipe, model, rows = make_recipe(tmp_path)
    have = len(splits.split_rows(data.labelled_rows(rows, recipe.rows)[0], recipe.data.split)["train"])
    for wanted in (have, have + 1):
        stage = EveryStage.validate_python({"kind": kind, "method": method, "calibration_rows": wanted})
        before = tuple(one for one in recipe.stages if one.kind != "quantize")
        asking = recipe.model_copy(update={"stages": (*before, stage)})
        if wanted == have:
            preflight(asking, model, rows)
    number = len(asking.stages)
    message = (
        rf"stage {number} \({kind}/{method}\): calibration_rows is {wanted} but the data has {have} training texts"
    )
    with pytest.raises(ShrinkError, match=message):
        preflight(asking, model, rows)
    (shortened,) = [one for one in smoke(asking).stages if hasattr(one, "calibration_rows")]
    assert shortened.calibration_rows == 64


def test_a_stage_whose_library_is_not_installed_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, model, rows = make_recipe(tmp_path)
    extra = EveryStage.validate_python({"kind": "export", "method": "openvino"})
    asking = recipe.model_copy(update={"stages": (*recipe.stages, extra)})
    order.check(asking)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    preflight(recipe, model, rows)
    with pytest.raises(
        ShrinkError, match=r"stage \d \(export/openvino\): openvino is not installed: `pip install 'shr"
    ):
        preflight(asking, model, rows)
    with pytest.raises(ShrinkError, match=r"stage 1 \(export/openvino\) needs student as onnx, but it is source there"):
        order.check(recipe.model_copy(update={"stages": (extra, *recipe.stages)}))


@pytest.mark.parametrize("method", ["distill/logits", "prune/gradual", "prune/movement"])
def test_a_width_that_cannot_be_cut_or_compared_is_refused_before_it_starts(tmp_path: Path, method: str) -> None:
    recipe, model, rows = make_recipe(tmp_path)
    cut, *_ = (at for at, one in enumerate(recipe.stages) if one.kind == "label")

    kind, name = method.split("/")

    def run(hidden: int, weight: float) -> None:
        lesson = EveryStage.validate_python({"kind": kind, "method": name, "hidden_weight": weight})
        width = EveryStage.validate_python({"kind": "prune", "method": "structured", "hidden": hidden})
        preflight(recipe.model_copy(update={"stages": (*recipe.stages[: cut + 1], width, lesson)}), model, rows)

    run(8, 1.0)
    run(4, 0.0)
    at = cut + 3
    with pytest.raises(
        ShrinkError, match=rf"stage {at} \({method}\): hidden_weight is 1.0 but the student is 4 wide and the"
    ):
        run(4, 1.0)
    with pytest.raises(
        ShrinkError, match=rf"stage {at - 1} \(prune/structured\): hidden is 5 but an attention head has"
    ):
        run(5, 0.0)
    with pytest.raises(
        ShrinkError, match=rf"stage {at - 1} \(prune/structured\): hidden is 12 but the model has only 8"
    ):
        run(12, 0.0)


@pytest.mark.parametrize("text", [" ", "\u200b", "\u00a0\u2003", "\ufeff\u200d"])
def test_a_row_whose_text_cannot_be_seen_has_none(tmp_path: Path, text: str) -> None:
    assert not has_text(text) and has_text(text + "\U0001faa8")
    rows = make_csv(tmp_path / "rows.csv")
    rows.write_text(rows.read_text() + f"{text},yes\n", encoding="utf-8")
    with pytest.raises(ShrinkError, match=r"Row 121 of rows.csv has no 'text'"):
        init.write("mine", rows, make_model(tmp_path / "bert"), folder=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,label\nfine\0,yes\n", r"rows.csv has a NUL character in line 2: convert"),
        ("text,label\nfine,yes\n".encode("utf-16-le"), r"rows.csv has a NUL character in line 1: convert"),
        ("text,label\nfine,yes\n".encode("utf-16"), r"rows.csv is no UTF-8 at byte 0"),
        (b"text,label,text\nfine,yes,bad\n", r"rows.csv has more than one column 'text': rename"),
        (b'text,label\n"fine,yes\n', r"Row 1 of rows.csv is no CSV"),
        (b"text,label\nw1,yes\nw2,no\nw3,yes\n", r"split is empty|one class only"),
        (b"", r"file is 'rows.csv' but it has no rows"),
    ],
)
def test_odd_files_of_rows(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(ShrinkError, match=message):
        init.write("mine", tmp_path / "rows.csv", make_model(tmp_path / "bert"), folder=tmp_path)
    assert not (tmp_path / "mine.yaml").exists()


def test_a_mark_at_the_beginning_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    model, rows = make_model(tmp_path / "bert"), make_csv(tmp_path / "rows.csv")
    plain = init.write("plain", rows, model, folder=tmp_path)
    rows.write_bytes(b"\xef\xbb\xbf" + re.sub(rb"\n", b"\r\n", rows.read_bytes()))
    other = init.write("other", rows, model, folder=tmp_path)
    assert other["rows"] == plain["rows"] and other["labels"] == plain["labels"]


@pytest.mark.parametrize(
    ("uri", "sha256"),
    [("pypi:x==1", None), ("pypi:x==1", "00"), ("pypi:x==1\n--index-url http://h", "0" * 64), ("pypi:x", "0" * 64)],
)
def test_a_package_is_named_with_version_and_hash_alone(tmp_path: Path, uri: str, sha256: str | None) -> None:
    with pytest.raises(
        ShrinkError,
        match=r"must be dir:PATH, file:PATH, models:/NAME@ALIAS, or with its sha256 pypi:NAME==VERSION or deb:",
    ):
        sources.resolve(Source(uri=uri, sha256=sha256), tmp_path)
    assert not list(tmp_path.iterdir())


def teaching(recipe: Recipe, *stages: dict[str, Any]) -> Recipe:
    """The recipe with these stages in place of its distillation."""
    made = tuple(EveryStage.validate_python(stage) for stage in stages)
    place = next(number for number, stage in enumerate(recipe.stages) if stage.kind == "distill")
    return recipe.model_copy(update={"stages": (*recipe.stages[:place], *made, *recipe.stages[place + 1 :])})


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"method": "hidden", "layer_map": {3: 5}}, r"layer_map names the student's layer 3 but its last is 2"),
        ({"method": "hidden", "layer_map": {0: 6}}, r"layer_map names the teacher's layer 6 but its last is 5"),
        ({"method": "self", "keep": 4}, r"keep is 4 but the model has only 3 there: give at most that"),
    ],
)
def test_layers_that_are_not_there_are_refused_before_training(
    tmp_path: Path, stage: dict[str, Any], message: str
) -> None:
    recipe, model, rows = make_recipe(tmp_path)
    asking = teaching(recipe, {"kind": "distill", **stage})
    number = next(place for place, one in enumerate(asking.stages, start=1) if one.kind == "distill")
    with pytest.raises(ShrinkError, match=rf"stage {number} \(distill/{stage['method']}\): {message}"):
        preflight(asking, model, rows)
    preflight(smoke(asking), model, rows)


def test_a_teacher_of_another_source_must_fit_what_is_asked_of_it(tmp_path: Path) -> None:
    recipe, model, rows = make_recipe(tmp_path)
    wide, foreign = make_model(tmp_path / "wide", hidden_size=16), make_model(tmp_path / "foreign")
    other_pieces(foreign, without("w7"))
    big: dict[str, Any] = {"kind": "finetune", "teacher": "big"}

    def check(other: Path, *stages: dict[str, Any]) -> None:
        preflight(teaching(recipe, big, *stages), model, rows, {"big": other})

    labels: dict[str, Any] = {"kind": "label", "teachers": {"big": 1.0}}
    along: dict[str, Any] = {"kind": "distill", "method": "hidden", "teacher": "big"}
    check(wide, along)
    check(foreign, labels, {"kind": "distill"})
    with pytest.raises(ShrinkError, match=r"big runs along and must know the student's word pieces, but lacks 'w7'"):
        check(foreign, along)
    with pytest.raises(ShrinkError, match=r"the student has 8 and the teacher 16: use distill/hidden"):
        check(wide, along | {"method": "triple"})
    with pytest.raises(ShrinkError, match=r"hidden_weight is 1.0 but the student is 8 wide and the teacher 16"):
        check(wide, labels, {"kind": "distill"})
    check(wide, labels, {"kind": "distill", "hidden_weight": 0})
    with pytest.raises(ShrinkError, match=r"data.max_length is 16 but the teacher 'big' reads 8 tokens"):
        check(make_model(tmp_path / "short", max_position_embeddings=8), labels, {"kind": "distill"})


def test_hidden_pieces_need_a_mask_piece(tmp_path: Path) -> None:
    recipe, model, rows = make_recipe(tmp_path)
    asking = teaching(recipe, {"kind": "distill", "method": "triple", "masked_weight": 1})
    with pytest.raises(
        ShrinkError, match=r"\(distill/triple\): masked_weight needs a tokenizer with a piece \[MASK\] or <mask>"
    ):
        preflight(asking, model, rows)

    def with_one(description: dict[str, Any]) -> None:
        vocabulary = description["model"]["vocab"]
        vocabulary["[MASK]"] = vocabulary.pop("w7")

    other_pieces(model, with_one)
    preflight(asking, model, rows)


def test_a_narrower_embedding_student_is_refused_before_training_unless_it_learns_relations(tmp_path: Path) -> None:
    rows, model = make_csv(tmp_path / "rows.csv"), make_model(tmp_path / "bert")
    written = init.write("mine", rows, model, ("text", None), folder=tmp_path, task="embed")
    recipe = load(written["recipe"])
    stages: list[Any] = list(recipe.stages)
    number = next(place for place, stage in enumerate(stages) if stage.kind == "distill")
    stages.insert(number, EveryStage.validate_python({"kind": "prune", "method": "structured", "hidden": 4}))

    def check(**weights: float) -> None:
        changed = stages[number + 1].model_copy(update=weights)
        parts = (*stages[: number + 1], changed, *stages[number + 2 :])
        preflight(recipe.model_copy(update={"stages": parts}), model, rows.parent)

    zero = {"cosine_weight": 0.0, "tokens_weight": 0.0, "relations_weight": 0.0}
    where = rf"stage {number + 2} \(distill/embeddings\)"
    for name in ("cosine_weight", "tokens_weight"):
        with pytest.raises(ShrinkError, match=rf"{where}: {name} is 1.0 but the student is 4 wide and the teacher 8"):
            check(**zero | {name: 1.0})
    with pytest.raises(ShrinkError, match=rf"{where}: .* are all 0: set one of them above 0"):
        check(**zero)
    check(**zero | {"relations_weight": 1.0})


def test_a_floor_of_model2vec_is_refused_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, model = make_csv(tmp_path / "rows.csv"), make_model(tmp_path / "bert")
    recipe = load(init.write("mine", rows, model, ("text", None), folder=tmp_path, task="embed")["recipe"])
    static = recipe.model_copy(update={"floor": recipe.floor.model_copy(update={"vectors": "model2vec"})})
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    preflight(recipe, model, rows.parent)
    wanted = (
        r"floor: model2vec is not installed: `pip install 'shrinking-frontier\[model2vec\]'`, or take vectors: tfidf"
    )
    with pytest.raises(ShrinkError, match=wanted):
        preflight(static, model, rows.parent)

"""Pairs of texts: token types in the model as the tokenizer has them, groups that a split keeps whole, every stage."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors

from registry.records import ShrinkError, digest_directory
from tasks import data, evaluate, finetune, floor, label, overlap, pairs, reload, runtime, splits, train
from tasks import models as encoders
from tasks.distill import logits as distill
from tasks.distill import relations
from tasks.export import onnx as export
from tasks.prune import structured, vocabulary, wanda
from tasks.quantize import int8_dynamic, int8_static
from tests.tasks.test_torch_stages import FILLER, SPECIALS, make_model, make_tokenizer

TEXTS = [("good film", "bad plot and scenes"), ("joke", "joke"), ("a great cast ends the joke", "start music")]


def make_pairs(count: int, seed: int) -> list[tuple[str, str, str]]:
    """A second text answers the first ("yes") when its kind of word is the same, whatever the words around."""
    rng, kinds, found = np.random.default_rng(seed), (("good", "fine", "great"), ("bad", "poor", "awful")), []
    for number in range(count):
        side, same = rng.integers(2), number % 2
        words = [[*rng.choice(FILLER, 2), *rng.choice(kinds[one], 2)] for one in (side, side if same else 1 - side)]
        found.append((" ".join(words[0]), " ".join(words[1]), ("no", "yes")[same]))
    return found


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    source, out = tmp_path / "source", tmp_path / "rows"
    source.mkdir()
    out.mkdir()
    lines = [json.dumps({"a": a, "b": b, "label": name}) for a, b, name in make_pairs(500, 1)]
    (source / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (source / "more.jsonl").write_text("\n".join(json.dumps({"a": "film", "b": w}) for w in FILLER), encoding="utf-8")
    config = data.DataConfig(
        file="pairs.jsonl", format="jsonl", text_column="a", pair_column="b", transfer=("more.jsonl",), max_length=16
    )
    data.run({"source": source}, config, out, 0)
    return out


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    (tmp_path / "pretrained").mkdir()
    head = encoders.Head(labels=("no", "yes"), max_length=16, pairs=True)
    encoders.save(tmp_path / "pretrained", make_model(), make_tokenizer(), head)
    return tmp_path / "pretrained"


def with_template(template: Any) -> Tokenizer:
    tokenizer = make_tokenizer()
    tokenizer.post_processor = template
    return tokenizer


def test_types_are_those_of_the_tokenizer_and_reach_the_encoder(teacher: Path) -> None:
    from transformers import AutoModel

    model, tokenizer, head = encoders.load(teacher)
    assert head.pairs and model.separator == tokenizer.token_to_id("[SEP]")
    encodings = tokenizer.encode_batch(TEXTS)
    assert all(len(one.ids) <= 16 and 1 in one.type_ids for one in encodings)
    ids, mask = train.pad(train.tokenize(tokenizer, TEXTS))
    wanted, _ = train.pad([one.type_ids for one in encodings])
    assert torch.equal(pairs.token_types(ids, model.separator or 0) * mask, wanted)
    assert [pairs.types_of(one.ids, model.separator or 0) for one in encodings] == [one.type_ids for one in encodings]
    reference = AutoModel.from_pretrained(teacher, add_pooling_layer=False).eval()
    with torch.no_grad():
        hidden = reference(input_ids=ids, attention_mask=mask, token_type_ids=wanted).last_hidden_state
        assert torch.allclose(model.features(ids, mask), encoders.mean_pool(hidden, mask), atol=1e-5)
        model.separator = None
        assert not torch.allclose(model.features(ids, mask), encoders.mean_pool(hidden, mask), atol=1e-3)


def test_a_tokenizer_that_marks_no_types_gives_none_and_one_that_cannot_join_is_refused() -> None:
    marks = [("[CLS]", 2), ("[SEP]", 3)]
    assert pairs.separator(with_template(processors.RobertaProcessing(marks[1], marks[0]))) is None
    assert pairs.separator(with_template(processors.BertProcessing(marks[1], marks[0]))) == 3
    alone = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    with pytest.raises(ShrinkError, match="sets no separator between two texts"):
        pairs.separator(with_template(alone))
    turned = processors.TemplateProcessing(single="$A", pair="$A:1 [SEP]:1 $B:0", special_tokens=marks)
    with pytest.raises(ShrinkError, match="marks two texts by the types"):
        pairs.separator(with_template(turned))


def test_the_separator_survives_a_short_truncation_which_stays() -> None:
    tokenizer = make_tokenizer()
    tokenizer.enable_truncation(5)
    assert pairs.separator(tokenizer) == 3
    cut = tokenizer.encode("good film plot actor", "bad")
    assert cut.tokens == ["[CLS]", "good", "[SEP]", "bad", "[SEP]"]


def test_a_row_with_the_separator_inside_is_named(teacher: Path) -> None:
    file = teacher / "tokenizer.json"
    pairs.check_template(file, TEXTS, ["1", "2", "3"])
    with pytest.raises(ShrinkError, match=r"row 8 has \[SEP\] inside a text"):
        pairs.check_template(file, [TEXTS[0], ("good [SEP] film", "bad")], ["7", "8"])


def test_pairs_that_share_a_text_stand_in_one_split_unless_all_hang_together() -> None:
    keys = [(f"premise {number // 3}", f"claim {number}") for number in range(300)]
    groups = pairs.linked(keys)
    assert len({*groups}) == 100 and all(groups[at] == groups[at - at % 3] for at in range(300))
    assert pairs.linked([("b", "a"), ("a", "b"), ("c", "d")])[0] == pairs.linked([("b", "a"), ("a", "b")])[1]
    chain = [(f"s{number}", f"s{number + 1}") for number in range(300)]
    assert len({*pairs.linked(chain)}) == 300
    assert len({*pairs.linked([*chain, ("s1", "s0")])}) == 300, "a pair turned around is the same pair"


def test_rows_keep_both_texts_and_splits_do_not_leak(rows: Path) -> None:
    parts = {name: data.read_rows(rows, name) for name in (*splits.SPLITS, "transfer")}
    assert data.read_facts(rows)["pairs"] and len(parts["transfer"]) == len(FILLER)
    line = json.loads((rows / "train.jsonl").read_text().split("\n")[0])
    assert (line["text"], line["pair"]) == parts["train"][0]["text"]
    assert floor.read_rows(rows / "test.jsonl") == parts["test"]
    keys = [{splits.normalise(row["text"]) for row in parts[name]} for name in splits.SPLITS]
    assert not (keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])
    turned = tuple(reversed(parts["train"][0]["text"]))
    assert splits.normalise(turned) in keys[0]


def test_held_out_pairs_that_share_a_text_with_train_are_counted(tmp_path: Path) -> None:
    sentences = [f"sentence number {number}" for number in range(400)]
    lines = [
        json.dumps({"text": one, "pair": other, "label": place % 2})
        for place, (one, other) in enumerate(itertools.pairwise(sentences))
    ]
    (tmp_path / "chain.jsonl").write_text("\n".join(lines))
    (tmp_path / "out").mkdir()
    config = data.DataConfig(file="chain.jsonl", format="jsonl", pair_column="pair")
    measured = data.run({"source": tmp_path}, config, tmp_path / "out", 0)
    seen = {text for row in data.read_rows(tmp_path / "out", "train") for text in row["text"]}
    held = [row for name in ("validation", "test") for row in data.read_rows(tmp_path / "out", name)]
    assert measured["rows_sharing_a_text"] == sum(any(text in seen for text in row["text"]) for row in held) > 50


@pytest.mark.parametrize(
    ("record", "settings", "message"),
    [
        ({"a": "x", "b": " ", "label": 1}, {"pair_column": "b"}, r"Row 1 of p.jsonl has no 'b' \(pair_column\)"),
        ({"a": "x", "b": "y", "label": 1}, {"pair_column": "bb"}, r"pair_column is 'bb' but row 1 .* did you mean 'b'"),
        ({"a": "x", "b": "y", "label": 1}, {"pair_column": "a"}, "pair_column is 'a' and so is text_column"),
        (
            {"a": ["x", "y"], "label": 1},
            {},
            r"has a list under 'a' \(text_column\): give one text, and a",
        ),
        (
            {"a": "x", "b": ["y"], "label": 1},
            {"pair_column": "b"},
            r"has a list under 'b' \(pair_column\): give one",
        ),
        (
            {"a": "x", "label": ["l"]},
            {},
            r"has a list under 'label' .* or set multi_label",
        ),
        ({"a": {}, "label": 1}, {}, r"has an object under 'a' \(text_column\)"),
        ({"a": "x", "b": "y", "label": 1}, {"format": "rated", "pair_column": "b"}, "format is 'rated'"),
    ],
)
def test_what_is_wrong_with_pairs_is_one_sentence(
    tmp_path: Path, record: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(record))
    config = data.DataConfig(**{"file": "p.jsonl", "format": "jsonl", "text_column": "a", **settings})
    with pytest.raises(ShrinkError, match=message):
        data.labelled_rows(tmp_path, config)


def test_overlap_of_two_texts() -> None:
    assert overlap.terms(("Good film", "film ends"), 2) == [
        "1 good", "1 film", "1 good film", "2 film", "2 ends", "2 film ends", "& film",
    ]  # fmt: skip
    found = overlap.measures(("good film", "film ends now"), {"2 film": 0, "2 ends": 1}, np.array([1.0, 3.0]))
    assert found == pytest.approx([1 / 4, 1 / 2, 1 / 3, 1 / (1 + 3 + 3 + 3), 2 / 3])
    assert overlap.measures(("a", "?"), {}, np.array([1.0])).tolist() == [0, 0, 0, 0, 0]


def test_every_stage_takes_pairs(rows: Path, teacher: Path, tmp_path: Path) -> None:
    def out(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    names = ("floor", "tuned", "labels", "cut", "words", "related", "student", "zeros", "onnx", "teacher-onnx", "int8")
    at = {name: out(name) for name in (*names, "static")}
    source = {"data": rows}
    floor.run(source, floor.FloorConfig(), at["floor"], 0)
    tuned = finetune.FinetuneConfig(tuned_layers=3, epochs=16, lr=3e-3, batch_size=16)
    measured = finetune.run({"teacher": teacher, **source}, tuned, at["tuned"], 0)
    label.run({"teacher": at["tuned"], "floor": at["floor"], **source}, label.LabelConfig(), at["labels"], 0)
    structured.run({"student": at["tuned"], **source}, structured.PruneStructuredConfig(ffn=40), at["cut"], 0)
    vocabulary.run({"student": at["cut"], **source}, vocabulary.PruneVocabularyConfig(), at["words"], 0)
    taught = {"student": at["words"], "labels": at["labels"], **source}
    answered = distill.DistillLogitsConfig(epochs=2, lr=1e-3)
    learned = distill.run(taught, answered, at["student"], 0)
    related = relations.DistillRelationsConfig(epochs=1, lr=1e-4, relation_heads=4)
    relations.run({**taught, "teacher": at["tuned"]}, related, at["related"], 0)
    wanda.run({"student": at["student"], **source}, wanda.PruneWandaConfig(sparsity=0.1), at["zeros"], 0)
    for source_of, target in (("student", "onnx"), ("tuned", "teacher-onnx")):
        export.run({"model": at[source_of]}, export.OnnxConfig(), at[target], 0)
    int8_dynamic.run({"student": at["onnx"]}, int8_dynamic.Int8DynamicConfig(), at["int8"], 0)
    int8_static.run(
        {"student": at["onnx"], **source}, int8_static.Int8StaticConfig(calibration_rows=50), at["static"], 0
    )
    assert measured["validation_accuracy"] > 0.8 and learned["validation_accuracy"] > 0.8, "it compares the two texts"
    check_judged(rows, at, out("evaluation"), out("reload"))
    model, tokenizer, _ = encoders.load(at["student"])
    asked = [row["text"] for row in data.read_rows(rows, "test")]
    ids, mask = train.pad(train.tokenize(tokenizer, asked))
    with torch.no_grad():
        wanted = model(ids, mask).numpy()
    np.testing.assert_allclose(runtime.predict(at["onnx"], asked), wanted, atol=1e-4)
    assert [len(row) for row in runtime.encode(at["onnx"], asked)] == [len(i) for i in train.tokenize(tokenizer, asked)]


def check_judged(rows: Path, at: dict[str, Path], out: Path, again: Path) -> None:
    """The evaluation is of pairs, and golden pairs reload."""
    judged = {"teacher": at["teacher-onnx"], "student": at["int8"], "floor": at["floor"], "data": rows}
    found = evaluate.run(judged, evaluate.EvaluateConfig(rounds=3, bootstrap=100), out, 0)
    assert found["student"]["accuracy"] > 0.8 and found["floor"]["accuracy"] > 0.6 and found["student"]["macs"]
    golden = json.loads((out / "golden.json").read_text())
    assert golden["texts"][-1] == [evaluate.GOLDEN[-1], evaluate.GOLDEN[0]]
    result = reload.run({"model": at["int8"], "golden": out}, reload.ReloadConfig(), again, 0)
    assert result["max_difference"] < 1e-5
    assert json.loads((at["int8"] / "config.json").read_text())["pairs"] is True


def test_pruned_specials_move_the_separator(rows: Path, teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    tokenizer = make_tokenizer()
    description = json.loads(tokenizer.to_str())
    vocab = description["model"]["vocab"]
    vocab["unused"], vocab["[SEP]"] = vocab["[SEP]"], vocab["unused"]
    text = json.dumps(description).replace('"ids": [3]', f'"ids": [{vocab["[SEP]"]}]')
    moved = json.loads(text)
    moved["added_tokens"] = [{**one, "id": vocab[one["content"]]} for one in moved["added_tokens"]]
    head = encoders.Head(labels=("no", "yes"), max_length=16, pairs=True)
    encoders.save(teacher, encoders.load(teacher)[0], Tokenizer.from_str(json.dumps(moved)), head)
    before, _, _ = encoders.load(teacher)
    vocabulary.run({"student": teacher, "data": rows}, vocabulary.PruneVocabularyConfig(), tmp_path / "out", 0)
    after, smaller, _ = encoders.load(tmp_path / "out")
    assert before.separator == len(SPECIALS) and after.separator == smaller.token_to_id("[SEP]") == len(SPECIALS) - 1


def test_the_same_bytes_again(rows: Path, teacher: Path, tmp_path: Path) -> None:
    config, digests = finetune.FinetuneConfig(epochs=1, tuned_layers=1), []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        finetune.run({"teacher": teacher, "data": rows}, config, tmp_path / name, 0)
        digests.append(digest_directory(tmp_path / name))
    assert digests[0] == digests[1]

"""The torch stages on a tiny seeded BERT and a tiny WordPiece vocabulary: maths, cuts, data split, whole stages."""

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from registry.records import ShrinkError, digest_directory
from tasks import data, finetune, label, layout, losses, splits, train
from tasks import models as encoders
from tasks.distill import logits as distill
from tasks.prune import importance, structured, vocabulary

GOOD, BAD = ("good", "fine", "great"), ("bad", "poor", "awful")
FILLER = ("film", "plot", "actor", "scene", "music", "end", "start", "joke", "shot", "cast")
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_tokenizer() -> Tokenizer:
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*SPECIALS, "unused", *GOOD, *BAD, *FILLER, *letters, *(f"##{letter}" for letter in letters), "##s"]
    names = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(names, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", names["[CLS]"]), ("[SEP]", names["[SEP]"])],
    )
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def make_model(layers: int = 3) -> encoders.Classifier:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=make_tokenizer().get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        initializer_range=0.2,
        attention_probs_dropout_prob=0.0,  # as every model of ours is saved
    )
    return encoders.Classifier(BertModel(config, add_pooling_layer=False), 2).eval()


def make_texts(count: int, seed: int) -> list[tuple[str, float]]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        side = number % 2
        words = [*rng.choice(FILLER, rng.integers(2, 5)), *rng.choice((BAD, GOOD)[side], 4)]
        rng.shuffle(words)
        found.append((" ".join(words), 1.5 if side else -1.5))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        path = tmp_path / name
        path.mkdir()
        return path

    return make


@pytest.fixture
def rows(folder: Callable[[str], Path]) -> Path:
    source, out = folder("source"), folder("rows")
    lines = [f"{number}\t{mean}\t{text}" for number, (text, mean) in enumerate(make_texts(240, 1), start=1)]
    (source / "rated.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    more = [f"{number}\t0.0\t{text}" for number, (text, _) in enumerate(make_texts(30, 2), start=1)]
    (source / "more.txt").write_text("\n".join(more), encoding="utf-8")
    config = data.DataConfig(file="rated.txt", format="rated", transfer=("more.txt",), max_length=16)
    data.run({"source": source}, config, out, 0)
    return out


@pytest.fixture
def teacher(folder: Callable[[str], Path]) -> Path:
    out = folder("pretrained")
    encoders.save(out, make_model(), make_tokenizer(), encoders.Head(labels=("negative", "positive"), max_length=16))
    return out


def batch() -> tuple[Tensor, Tensor]:
    tokenizer = make_tokenizer()
    tokenizer.enable_truncation(16)
    texts = ["good film", "poor plot and awful scenes", "a great cast ends the joke"]
    return train.pad(train.tokenize(tokenizer, texts), 0)


def softmax(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    raised = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def test_losses_equal_numpy() -> None:
    rng = np.random.default_rng(3)
    student, taught = rng.normal(size=(2, 6, 3))
    soft_student, soft_taught = softmax(student / 2.5), softmax(taught / 2.5)
    wanted = (soft_taught * np.log(soft_taught / soft_student)).sum(-1).mean() * 2.5**2
    assert float(losses.kd_loss(torch.tensor(student), torch.tensor(taught), 2.5)) == pytest.approx(wanted, rel=1e-9)
    assert float(losses.kd_loss(torch.tensor(taught), torch.tensor(taught), 2.5)) == pytest.approx(0, abs=1e-9)

    norms = np.linalg.norm(student, axis=-1) * np.linalg.norm(taught, axis=-1)
    cosine = 1 - ((student * taught).sum(-1) / norms).mean()
    assert float(losses.pooled_cosine_loss(torch.tensor(student), torch.tensor(taught))) == pytest.approx(cosine)

    labels = np.array([0, 2, -1, 1, -1, 0])
    known = np.flatnonzero(labels >= 0)
    entropy = -np.log(softmax(student)[known, labels[known]]).mean()
    assert float(losses.label_loss(torch.tensor(student), torch.tensor(labels))) == pytest.approx(entropy)
    assert float(losses.label_loss(torch.tensor(student), torch.full((6,), -1))) == 0


def test_schedule_warms_up_then_falls() -> None:
    factors = [train.warm_up_factor(step, 100) for step in range(101)]
    assert factors[0] < factors[3] < 1 and max(factors) <= 1 and factors[100] == 0
    assert all(late <= early for early, late in itertools.pairwise(factors[7:]))


def test_batches_cover_every_row_once() -> None:
    lengths = np.random.default_rng(0).integers(3, 30, 107).tolist()
    for batches in (train.sorted_batches(lengths, 8), train.shuffled_batches(lengths, 8, np.random.default_rng(1))):
        assert sorted(row for rows in batches for row in rows) == list(range(107))


def test_own_forward_equals_transformers() -> None:
    model, (ids, mask) = make_model(), batch()
    with torch.no_grad():
        hidden = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        wanted = model.head(encoders.mean_pool(hidden, mask))
        assert torch.allclose(model(ids, mask), wanted, atol=1e-5)
        alone = model(ids[:1, : int(mask[0].sum())], mask[:1, : int(mask[0].sum())])
        assert torch.allclose(model(ids, mask)[:1], alone, atol=1e-5)


def test_save_and_load_keep_logits_and_bytes(teacher: Path, folder: Callable[[str], Path]) -> None:
    model, tokenizer, head = encoders.load(teacher)
    ids, mask = batch()
    with torch.no_grad():
        assert torch.equal(model(ids, mask), make_model()(ids, mask))
    again = folder("again")
    encoders.save(again, model, tokenizer, head)
    assert digest_directory(again) == digest_directory(teacher)


def test_transformers_reads_what_is_saved(teacher: Path) -> None:
    from transformers import AutoModel

    model, (ids, mask) = AutoModel.from_pretrained(teacher, add_pooling_layer=False).eval(), batch()
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        wanted = encoders.load(teacher)[0].features(ids, mask)
        assert torch.allclose(encoders.mean_pool(hidden, mask), wanted, atol=1e-5)


def test_only_encoders_are_read(teacher: Path) -> None:
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(ShrinkError, match=r"model_type is 'gpt2'"):
        encoders.load(teacher)


def test_wrong_weights_are_a_user_error(teacher: Path) -> None:
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps({**config, "intermediate_size": 20}))
    with pytest.raises(ShrinkError, match=r"model.safetensors lacks .*intermediate"):
        encoders.load(teacher)


def test_sliced_student_equals_masked_reference(folder: Callable[[str], Path]) -> None:
    neurons, heads, (ids, mask) = [1, 4, 5, 17, 40], [0, 3], batch()
    reference, small = make_model(), make_model()
    ffn_masks, head_masks = [torch.zeros(1, 1, 48)] * 3, [torch.zeros(1, 1, 4, 1)] * 3
    ffn_masks[0][..., neurons] = 1
    head_masks[0][:, :, heads] = 1
    importance.attach(reference, ffn_masks, head_masks)
    for layer in small.layers:
        encoders.slice_ffn(layer, neurons)
        encoders.slice_heads(layer, heads, 8)
    small.config.intermediate_size, small.config.kept_heads = len(neurons), len(heads)
    encoders.slice_positions(small, 16)
    out = folder("cut")
    encoders.save(out, small, make_tokenizer(), encoders.Head(labels=("a", "b"), max_length=16))
    with torch.no_grad():
        wanted = reference(ids, mask)
        assert not torch.allclose(wanted, make_model()(ids, mask), atol=1e-3)
        assert torch.allclose(small(ids, mask), wanted, atol=1e-5)
        assert torch.equal(encoders.load(out)[0](ids, mask), small(ids, mask))


def test_dead_neurons_and_heads_have_no_importance() -> None:
    model = make_model()
    with torch.no_grad():
        model.layers[1].output.dense.weight[:, 7] = 0
        model.layers[1].attention.output.dense.weight[:, 8:16] = 0
    sequences = [[2, 6, 12, 3], [2, 9, 13, 14, 3], [2, 7, 3]]
    ffn, heads = importance.measure(model, sequences, [1, 0, 1], "fisher", 4, size=2)[:2]
    assert ffn[1][7] == 0 and heads[1][1] == 0
    assert int((ffn[1] == 0).sum()) == 1 and int((heads[1] == 0).sum()) == 1
    assert 7 not in structured.top(ffn[1], 47) and all(weight.requires_grad for weight in model.parameters())
    apart = [
        importance.measure(model, [item], [answer], "fisher", 4).ffn[2]
        for item, answer in zip(sequences, (1, 0, 1), strict=True)
    ]
    assert torch.allclose(ffn[2], torch.stack(apart).sum(0), rtol=1e-3, atol=1e-7)


def test_structured_stage_keeps_layers(teacher: Path, rows: Path, folder: Callable[[str], Path]) -> None:
    out = folder("out")
    config = structured.PruneStructuredConfig(layers=(0, 2), ffn=16, heads=2)
    measured = structured.run({"student": teacher, "data": rows}, config, out, 0)
    model, _, _ = encoders.load(out)
    assert len(model.layers) == 2 and model.config.intermediate_size == 16
    assert measured["parameters"] == encoders.count_parameters(model) < measured["parameters_before"]
    again = structured.PruneStructuredConfig(heads=1, positions=False)
    structured.run({"student": out, "data": rows}, again, folder("thinner"), 0)
    for wrong, text in (({"layers": (0, 3)}, "layers is"), ({"ffn": 49}, "ffn is 49"), ({"heads": 5}, "heads is 5")):
        with pytest.raises(ShrinkError, match=text):
            structured.run({"student": teacher, "data": rows}, structured.PruneStructuredConfig(**wrong), out, 0)


def test_pruned_vocabulary_gives_identical_logits(teacher: Path, rows: Path, folder: Callable[[str], Path]) -> None:
    out = folder("out")
    config = vocabulary.PruneVocabularyConfig(min_count=1)
    measured = vocabulary.run({"student": teacher, "data": rows}, config, out, 0)
    big, old, _ = encoders.load(teacher)
    small, new, _ = encoders.load(out)
    assert measured["pieces"] == small.config.vocab_size == new.get_vocab_size() < old.get_vocab_size()
    assert "unused" not in new.get_vocab() and {*SPECIALS, "a", "##z"} <= set(new.get_vocab())
    texts = [row["text"] for row in data.read_rows(rows, "train")] + ["zebras good film!"]
    for text in texts:
        assert old.encode(text).tokens == new.encode(text).tokens
    wanted, _ = train.predict(big, train.tokenize(old, texts))
    assert torch.equal(train.predict(small, train.tokenize(new, texts))[0], wanted)
    assert "[UNK]" not in new.encode("unused").tokens


def test_an_old_checkpoint_is_read_whole_and_one_without_a_weight_is_refused_before_training(
    teacher: Path, folder: Callable[[str], Path]
) -> None:
    old, weights = folder("old"), load_file(teacher / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (old / name).write_bytes((teacher / name).read_bytes())
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}  # as bert-base-uncased has them
    for new, was in names.items():
        weights = {f"bert.{name}".replace("bert.bert.", "bert.").replace(new, was): w for name, w in weights.items()}
    save_file(weights, old / "model.safetensors")
    assert layout.read(old).layers == layout.read(teacher).layers
    found, known = encoders.load_encoder(old).state_dict(), encoders.load_encoder(teacher).state_dict()
    assert all(torch.equal(found[name], known[name]) for name in known)
    del weights["bert.encoder.layer.1.attention.self.query.weight"]
    save_file(weights, old / "model.safetensors")
    with pytest.raises(ShrinkError, match=r"lacks encoder\.layer\.1\.attention\.self\.query\.weight"):
        layout.read(old)


def test_vocabulary_keeps_added_tokens_and_renumbers_a_sequence_of_post_processors() -> None:
    description = json.loads(make_tokenizer().to_str())
    last = len(description["model"]["vocab"])  # a token added by its user stands outside of the vocabulary
    description["added_tokens"].append({**description["added_tokens"][0], "id": last, "content": "[URL]"})
    description["post_processor"] = {"type": "Sequence", "processors": [description["post_processor"]]}
    old = Tokenizer.from_str(json.dumps(description))
    text = "film [URL] good"
    kept = vocabulary.kept_pieces(description, Counter(old.encode(text).ids), 1)
    smaller, new = vocabulary.reindex(description, kept)
    found = Tokenizer.from_str(json.dumps(smaller)).encode(text)
    assert len(kept) < last and found.tokens == old.encode(text).tokens == ["[CLS]", "film", "[URL]", "good", "[SEP]"]
    assert found.ids == [new[number] for number in old.encode(text).ids]


def test_vocabulary_needs_a_tokenizer_that_spells() -> None:
    description = json.loads(Tokenizer(models.WordLevel({"a": 0}, "a")).to_str())
    with pytest.raises(ShrinkError, match="is WordLevel but only WordPiece, BPE, Unigram can be pruned"):
        vocabulary.kept_pieces(description, Counter(), 1)


def test_data_split_has_no_leak_and_is_stable(folder: Callable[[str], Path]) -> None:
    texts = make_texts(200, 4)
    lines = [f"{number}\t{mean}\t{text}" for number, (text, mean) in enumerate(texts, start=1)]
    lines += [f"{number + 500}\t{mean}\t{text.upper()}!!" for number, (text, mean) in enumerate(texts, start=1)]
    lines.append("900\t0.0\tneither here nor there")
    source, out = folder("source"), folder("out")
    (source / "rated.txt").write_text("\r\n".join(lines), encoding="utf-8")
    extra = [texts[0][0], "new words", "New, words.", "other words"]
    (source / "extra.txt").write_text("\n".join(f"{n}\t1\t{text}" for n, text in enumerate(extra)), encoding="utf-8")
    config = data.DataConfig(file="rated.txt", format="rated", transfer=("extra.txt",))
    measured = data.run({"source": source}, config, out, 0)
    parts = {name: data.read_rows(out, name) for name in (*splits.SPLITS, "transfer")}
    assert sum(len(parts[name]) for name in splits.SPLITS) == 400 and measured["transfer_rows"] == 2
    keys = {name: {splits.normalise(row["text"]) for row in part} for name, part in parts.items()}
    names = list(keys)
    assert all(not keys[a] & keys[b] for place, a in enumerate(names) for b in names[place + 1 :])
    assert data.read_facts(out)["labels"] == ["negative", "positive"]

    (source / "rated.txt").write_text("\n".join(reversed(lines)), encoding="utf-8")
    other = folder("other")
    data.run({"source": source}, config, other, 1)
    ids = [{row["id"] for row in data.read_rows(path, "test")} for path in (out, other)]
    assert ids[0] == ids[1] and ids[0]


def test_tables_have_row_numbers_and_named_labels(folder: Callable[[str], Path]) -> None:
    source = folder("source")
    found = [(text, ("down", "up")[mean > 0]) for text, mean in make_texts(80, 5)]
    table = "text,label\n" + "".join(f'"{text}, yes",{name}\n' for text, name in found)
    (source / "rows.csv").write_text(table, encoding="utf-8")
    lines = [json.dumps({"body": text + ", yes", "class": name}) for text, name in found]
    (source / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    outs = [folder("csv"), folder("jsonl")]
    data.run({"source": source}, data.DataConfig(file="rows.csv"), outs[0], 0)
    config = data.DataConfig(file="rows.jsonl", format="jsonl", text_column="body", label_column="class")
    data.run({"source": source}, config, outs[1], 0)
    for name in splits.SPLITS:
        assert data.read_rows(outs[0], name) == data.read_rows(outs[1], name)
    facts = data.read_facts(outs[0])
    assert facts["labels"] == ["down", "up"] and sum(facts["rows"].values()) == 80
    row = data.read_rows(outs[0], "train")[0]
    assert found[int(row["id"]) - 1][1] == facts["labels"][row["label"]]


@pytest.mark.parametrize(
    ("name", "text", "settings", "message"),
    [
        ("a.csv", "text,label\nfine,1\n,0\n", {}, r"Row 2 of a.csv has no 'text'"),
        ("a.csv", "text,label\nfine,1\nbad,\n", {}, r"Row 2 of a.csv has no 'label'"),
        ("a.csv", "texts,label\nfine,1\n", {}, r"text_column is 'text' but row 1 .* did you mean 'texts'\?"),
        ("a.csv", "text,label\nfine,1\nbad, very,0\n", {}, r"Row 2 of a.csv has more cells than the header"),
        ("a.csv", 'text,label\n"fine,1\n', {}, r"Row 1 of a.csv is no CSV"),
        ("a.jsonl", '{"text":"a","label":1}\n[1]\n', {"format": "jsonl"}, r"Row 2 of a.jsonl is no JSON object"),
        ("a.txt", "1\t2\tfine\n2\tx\tbad\n", {"format": "rated"}, r"Row 2 of a.txt has the label 'x'"),
        ("a.txt", "1\t2\n", {"format": "rated"}, r"Row 1 of a.txt has no text"),
        ("a.csv", "text,label\n" + "".join(f"w{n},1\n" for n in range(90)), {}, r"holds one class only \(1\)"),
        ("a.csv", "text,label\n", {}, r"file is 'a.csv' but it has no rows"),
        ("a.csv", "text,label\nfine,1\nfine,0\n", {}, r"The validation split is empty"),
        ("b.csv", "text,label\n", {"file": "../a.csv"}, r"file is '../a.csv'"),
    ],
)
def test_data_errors_name_the_row(
    folder: Callable[[str], Path], name: str, text: str, settings: dict[str, Any], message: str
) -> None:
    source, out = folder("source"), folder("out")
    (source / name).write_text(text, encoding="utf-8")
    with pytest.raises(ShrinkError, match=message):
        data.run({"source": source}, data.DataConfig(**{"file": name, **settings}), out, 0)


def test_a_limit_spreads_over_a_sorted_file_and_keeps_rare_labels(folder: Callable[[str], Path]) -> None:
    source = folder("source")
    labels = ["a"] * 900 + ["b"] * 500 + ["rare"] * 12
    lines = [json.dumps({"text": f"words {number}", "label": label}) for number, label in enumerate(labels)]
    (source / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows, names = data.labelled_rows(source, data.DataConfig(file="rows.jsonl", format="jsonl", limit=100))
    counts = Counter(names[row["label"]] for row in rows)
    assert 100 <= len(rows) <= 130 and counts["rare"] == 12 and counts["a"] > counts["b"] > 30


def test_cached_bottom_gives_the_whole_models_loss(teacher: Path) -> None:
    model, _, _ = encoders.load(teacher)
    ids, mask = batch()
    sequences = [row[: int(real.sum())].tolist() for row, real in zip(ids, mask, strict=True)]
    cache = finetune.bottom_activations(model, sequences, 2)
    loss = finetune._loss(model, cache, [0, 1, 1], 2)([0, 1, 2])
    wanted = losses.label_loss(model(ids, mask), torch.tensor([0, 1, 1]))
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), abs=2e-3)


def chain(rows: Path, teacher: Path, folder: Callable[[str], Path], tag: str) -> tuple[list[Path], list[Any]]:
    outs = [folder(f"{tag}{name}") for name in ("tuned", "labels", "cut", "words", "student")]
    floor = folder(f"{tag}floor")
    counts = data.read_facts(rows)["rows"]
    values = {name: torch.linspace(-1, 1, counts[name]) for name in ("train", "transfer")}
    save_file(values, floor / "logits.safetensors")
    tuned = finetune.FinetuneConfig(keep_layers=2, tuned_layers=1, epochs=8, lr=5e-3, batch_size=8)
    taught = distill.DistillLogitsConfig(epochs=6, lr=5e-3, batch_size=8)
    measured = [
        finetune.run({"teacher": teacher, "data": rows}, tuned, outs[0], 0),
        label.run(
            {"teacher": outs[0], "data": rows, "floor": floor}, label.LabelConfig(second_teacher=0.1), outs[1], 0
        ),
        structured.run({"student": outs[0], "data": rows}, structured.PruneStructuredConfig(ffn=24), outs[2], 0),
        vocabulary.run({"student": outs[2], "data": rows}, vocabulary.PruneVocabularyConfig(), outs[3], 0),
        distill.run({"student": outs[3], "labels": outs[1], "data": rows}, taught, outs[4], 0),
    ]
    return outs, measured


def test_stages_learn_and_repeat(rows: Path, teacher: Path, folder: Callable[[str], Path]) -> None:
    outs, measured = chain(rows, teacher, folder, "one-")
    assert measured[0]["validation_accuracy"] > 0.9 and measured[0]["loss"][-1] < measured[0]["loss"][0]
    assert measured[4]["validation_accuracy"] > 0.9
    before, after = encoders.load(teacher)[0], encoders.load(outs[0])[0]
    assert torch.equal(before.layers[0].output.dense.weight, after.layers[0].output.dense.weight)
    assert not torch.equal(before.layers[1].output.dense.weight, after.layers[1].output.dense.weight)
    hidden, counts = load_file(outs[1] / "hidden.safetensors"), data.read_facts(rows)["rows"]
    assert hidden["train"].dtype == torch.float16 and hidden["transfer"].shape == (counts["transfer"], 32)
    again, _ = chain(rows, teacher, folder, "two-")
    assert [digest_directory(path) for path in again] == [digest_directory(path) for path in outs]


def test_floor_mixes_into_the_margin() -> None:
    answer = label.mix_margins(torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([-1.0, 3.0]), 0.5)
    assert torch.allclose(answer, torch.tensor([[-0.75, 0.75], [-0.25, 0.25]]))
    with pytest.raises(ShrinkError, match="second_teacher needs the floor's train values for 2 rows"):
        label._floor_values({"train": torch.zeros(3)}, "train", 2)


def test_distill_refuses_other_labels(rows: Path, teacher: Path, folder: Callable[[str], Path]) -> None:
    labels = folder("labels")
    label.run({"teacher": teacher, "data": rows}, label.LabelConfig(transfer=False), labels, 0)
    inputs = {"student": teacher, "labels": labels, "data": rows}
    with pytest.raises(ShrinkError, match="labels hold 0 transfer rows"):
        distill.run(inputs, distill.DistillLogitsConfig(), folder("out"), 0)


def test_finetune_refuses_a_longer_input_than_the_teacher_reads(
    rows: Path, teacher: Path, folder: Callable[[str], Path]
) -> None:
    facts = data.read_facts(rows)
    (rows / "data.json").write_text(json.dumps({**facts, "max_length": 64}), encoding="utf-8")
    with pytest.raises(ShrinkError, match="max_length is 64 but the teacher reads 40 tokens"):
        finetune.run({"teacher": teacher, "data": rows}, finetune.FinetuneConfig(), folder("out"), 0)


def test_texts_of_which_no_piece_is_left_and_padding_that_is_no_special_token(folder: Callable[[str], Path]) -> None:
    description = json.loads(make_tokenizer().to_str()) | {"post_processor": None, "added_tokens": []}
    tokenizer = Tokenizer.from_str(json.dumps(description))
    sequences = train.tokenize(tokenizer, ["\u200b", "\u200b"])
    logits, _ = train.predict(make_model(), sequences)
    assert sequences == [[0], [0]] and torch.isfinite(logits).all()
    student, rows, out = folder("student"), folder("rows"), folder("out")
    encoders.save(student, make_model(), tokenizer, encoders.Head(labels=("a", "b"), max_length=16))
    data.write_rows(rows / "train.jsonl", [{"id": "1", "text": "good film", "label": 1}])
    vocabulary.run({"student": student, "data": rows}, vocabulary.PruneVocabularyConfig(), out, 0)
    assert "[PAD]" in json.loads((out / "tokenizer.json").read_text())["model"]["vocab"]

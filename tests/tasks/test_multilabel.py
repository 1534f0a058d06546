"""Several labels a row, and rare labels: reading, losses and measures against references, every stage, more recall."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, recall_score
from torch.nn import functional

from registry.records import ShrinkError
from tasks import data, evaluate, finetune, floor, label, losses, metrics, multilabel, reload, runtime, splits, train
from tasks import models as encoders
from tasks.distill import logits as distill
from tasks.distill import relations
from tasks.export import onnx as export
from tasks.prune import structured, vocabulary
from tasks.quantize import int8_dynamic
from tests.tasks.test_torch_stages import BAD, FILLER, GOOD, make_model, make_tokenizer

NAMES = ("bad", "film", "good")


def make_rows(count: int, seed: int) -> list[tuple[str, list[str]]]:
    """A text has a label where one of its words stands for it; some have none, some all."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        there = [name for name in NAMES if rng.random() < 0.45]
        words = [
            *rng.choice(FILLER[1:], 3),
            *(str(rng.choice({"bad": BAD, "good": GOOD}.get(n, ("film",)))) for n in there),
        ]
        rng.shuffle(words)
        found.append((" ".join(words), there))
    return found


def write_data(folder: Path, found: list[tuple[str, Any]], **settings: Any) -> Path:
    source, out = folder / "source", folder / "rows"
    source.mkdir()
    out.mkdir()
    lines = [json.dumps({"text": text, "label": names}) for text, names in found]
    (source / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data.run({"source": source}, data.DataConfig(file="rows.jsonl", format="jsonl", max_length=16, **settings), out, 0)
    return out


def read(folder: Path, name: str, content: str, **settings: Any) -> tuple[list[data.Row], list[str]]:
    (folder / name).write_text(content, encoding="utf-8")
    kind = "csv" if name.endswith("csv") else "jsonl"
    return data.labelled_rows(
        folder, data.DataConfig(**{"file": name, "format": kind, "multi_label": True, **settings})
    )


def test_lists_and_cells_are_read_alike_and_a_row_may_have_no_label(tmp_path: Path) -> None:
    rows = [("one", ["b", "a"]), ("two", []), ("three", ["c", "c"])]
    lines = "\n".join(json.dumps({"text": text, "label": names}) for text, names in rows)
    table = "text,label\n" + "".join(f"{text},{' | '.join(names)}\n" for text, names in rows)
    assert read(tmp_path, "a.jsonl", lines) == read(tmp_path, "a.csv", table, label_separator="|")
    found, names = read(tmp_path, "b.jsonl", lines)
    assert names == ["a", "b", "c"] and [row["label"] for row in found] == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    numbers, names = read(tmp_path, "c.jsonl", '{"text": "x", "label": [10, 2]}')
    assert names == ["2", "10"] and numbers[0]["label"] == [1, 1]


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("a.csv", "text,label\nx,a|b\n", {"label_separator": ";"}, r"label_separator is ';' .* did you mean '\|'\?"),
        ("a.csv", "text,label\nx,a\ny,b\n", {"label_separator": ";"}, "no row of a.csv has two labels: leave it out"),
        ("a.jsonl", '{"text": "x", "label": []}', {}, "no row of a.jsonl has any label"),
        ("a.csv", "text,label\nx,a\n", {}, "label_separator is missing: say what stands between two labels"),
        ("a.jsonl", '{"text": "x", "label": "a"}', {}, r"Row 1 of a.jsonl has 'a' under 'label' .* a JSON list"),
        ("a.jsonl", '{"text": "x", "label": ["a", ["b"]]}', {}, "Row 1 of a.jsonl has"),
        ("a.jsonl", '{"text": "x", "label": ["a", true]}', {}, "Row 1 of a.jsonl has"),
        ("a.jsonl", '{"text": "x", "label": ["a", " "]}', {}, "has the label ''"),
        ("a.jsonl", '{"text": "x", "label": null}', {}, "Row 1 of a.jsonl has None"),
        ("a.jsonl", '{"text": "x", "label": ["a"]}', {"label_separator": ","}, "is for csv with multi_label alone"),
        ("a.jsonl", '{"text": "x", "label": ["a"]}', {"format": "rated"}, "format is 'rated'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_labels_is_one_sentence(
    tmp_path: Path, name: str, content: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ShrinkError, match=message):
        read(tmp_path, name, content, **settings)


def test_a_label_on_no_or_every_train_row_is_refused_and_a_limit_keeps_rare_ones() -> None:
    def split(labels: list[list[int]]) -> dict[str, list[data.Row]]:
        return {name: [{"text": "x", "label": one} for one in labels] for name in splits.SPLITS}

    with pytest.raises(ShrinkError, match="The train split has no row of label 'b'"):
        splits.check_splits(split([[1, 0], [0, 0]]), ["a", "b"])
    with pytest.raises(ShrinkError, match="Every train row has the label 'a'"):
        splits.check_splits(split([[1, 0], [1, 1]]), ["a", "b"])
    splits.check_splits(split([[1, 0], [0, 1]]), ["a", "b"])
    rows = [{"text": str(n), "label": [int(n % 2 == 0), int(n % 90 == 0), 0]} for n in range(900)]
    kept = splits.thin(rows, 90)
    assert 90 <= len(kept) <= 130 and sum(row["label"][1] for row in kept) == 10


def test_losses_equal_their_definitions() -> None:
    torch.manual_seed(0)
    student, taught = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    wanted = torch.stack(  # a label is a softmax of two: present and absent
        [
            losses.kd_loss(torch.stack([s, s * 0], 1), torch.stack([t, t * 0], 1), 2.5)
            for s, t in zip(student.T, taught.T, strict=True)
        ]
    ).mean()
    assert float(losses.binary_kd_loss(student, taught, 2.5)) == pytest.approx(float(wanted), rel=1e-9)
    assert float(losses.binary_kd_loss(taught, taught, 2.0)) == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(losses.binary_kd_loss(student * 1e4, taught * -1e4, 1.0))
    labels = torch.tensor([[1, 0, 0], [-1, -1, -1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    known = labels[:, 0] >= 0
    entropy = functional.binary_cross_entropy(student[known].sigmoid(), labels[known].double())
    assert float(losses.label_loss(student, labels)) == pytest.approx(float(entropy), rel=1e-9)
    assert float(losses.label_loss(student, labels * 0 - 1)) == 0
    summed = losses.label_loss(student, labels, reduction="sum")
    assert float(summed) == pytest.approx(float(entropy) * 12, rel=1e-9)


def test_balanced_weights_are_those_of_scikit_learn_and_torch() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10 + [-1] * 5)
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=labels[:100].numpy())
    assert losses.class_weights(labels, 3).tolist() == pytest.approx(wanted.tolist())
    several = torch.tensor([[1, 0], [0, 0], [0, 1], [1, 0], [0, 0], [-1, -1]])
    assert losses.class_weights(several, 2).tolist() == pytest.approx([3 / 2, 4])


def test_measures_agree_with_sklearn() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 5)) < (0.5, 0.3, 0.1, 0.02, 0)).astype(np.int64)
    guesses = np.where(rng.random((400, 5)) < 0.9, labels, (rng.random((400, 5)) < 0.2).astype(np.int64))
    guesses[:, 4] = 0  # in neither: it does not count
    assert metrics.accuracy(guesses, labels) == np.mean([(a == b).all() for a, b in zip(guesses, labels, strict=True)])
    assert metrics.measure("accuracy", guesses, labels) == metrics.accuracy(guesses, labels)
    macro = f1_score(labels, guesses, average="macro", zero_division=np.nan)
    assert metrics.measure("macro_f1", guesses, labels) == pytest.approx(macro)
    micro = f1_score(labels, guesses, average="micro")
    assert metrics.measure("micro_f1", guesses, labels) == pytest.approx(micro)
    nothing = np.zeros_like(labels)
    assert metrics.measure("micro_f1", nothing, nothing) == 0 == metrics.measure("macro_f1", nothing, labels)
    with pytest.raises(ShrinkError, match="metric is 'mcc'"):
        metrics.measure("mcc", guesses, labels)
    with pytest.raises(ShrinkError, match="metric is 'micro_f1'"):
        metrics.measure("micro_f1", guesses[:, 0], labels[:, 0])


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "micro_f1"])
def test_the_bootstrap_is_one_over_rows(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    labels = (rng.random((250, 3)) < (0.5, 0.2, 0.05)).astype(np.int64)
    guesses = tuple(np.where(rng.random((250, 3)) < p, labels, 1 - labels) for p in (0.95, 0.9, 0.7))
    found = metrics.resampled(metric, guesses, labels, 3000, 3)
    assert found.shape == (3001, 3)
    assert found[0] == pytest.approx([metrics.measure(metric, guess, labels) for guess in guesses])
    slow = []
    for _ in range(1500):
        rows = rng.integers(0, 250, 250)
        slow.append([metrics.measure(metric, guess[rows], labels[rows]) for guess in guesses])
    for fast, one in zip(found[1:].T, np.array(slow).T, strict=True):
        assert np.quantile(fast, [0.025, 0.5, 0.975]) == pytest.approx(np.quantile(one, [0.025, 0.5, 0.975]), abs=0.015)
    gap = np.std(found[1:, 0] - found[1:, 1]), np.std(np.array(slow)[:, 0] - np.array(slow)[:, 1])
    assert gap[0] == pytest.approx(gap[1], rel=0.1), "paired"
    monkeypatch.setattr(multilabel, "CHUNK", 20_000)
    assert metrics.resampled(metric, guesses, labels, 500, 3).shape == (501, 3)


def test_comparison_counts_whole_sets() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 1], [0, 1]])
    teacher, student = labels.copy(), labels.copy()
    teacher[0, 1], student[1, 0], student[2, 1] = 1, 1, 0
    found = metrics.comparison(teacher, student, 1 - labels, labels, 200, metric="micro_f1")
    assert (found["flips_to_wrong"], found["flips_to_right"], found["agreement"]) == (2, 1, 0.25)
    assert found["win_over_floor"].low < 0  # four rows prove nothing, forty do
    t, s, f, truth = (np.tile(one, (10, 1)) for one in (teacher, student, 1 - labels, labels))
    assert metrics.comparison(t, s, f, truth, 200, metric="micro_f1")["win_over_floor"].low > 0


def test_every_stage_takes_several_labels(tmp_path: Path) -> None:
    def out(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    rows = write_data(tmp_path, make_rows(400, 1), multi_label=True)
    names = ("teacher", "floor", "tuned", "labels", "cut", "words", "related", "student", "onnx", "plain", "int8")
    at, source = {name: out(name) for name in (*names, "evaluation", "reload")}, {"data": rows}
    encoders.save(at["teacher"], make_model(), make_tokenizer(), encoders.Head(labels=("a", "b"), max_length=16))
    measured = floor.run(source, floor.FloorConfig(), at["floor"], 0)
    assert measured["validation_accuracy"] > 0.8 and measured["out_of_fold_accuracy"] is None
    tuned = finetune.FinetuneConfig(tuned_layers=3, epochs=14, lr=3e-3, batch_size=16)
    measured = finetune.run({"teacher": at["teacher"], **source}, tuned, at["tuned"], 0)
    answers = {"teacher": at["tuned"], "floor": at["floor"], **source}
    with pytest.raises(ShrinkError, match="second_teacher works with two labels only, one a row"):
        label.run(answers, label.LabelConfig(second_teacher=0.5), at["labels"], 0)
    label.run(answers, label.LabelConfig(transfer=False), at["labels"], 0)
    structured.run(
        {"student": at["tuned"], **source}, structured.PruneStructuredConfig(layers=(0, 2), ffn=40), at["cut"], 0
    )
    vocabulary.run({"student": at["cut"], **source}, vocabulary.PruneVocabularyConfig(), at["words"], 0)
    taught = {"student": at["words"], "labels": at["labels"], **source}
    answered = distill.DistillLogitsConfig(epochs=4, lr=3e-3, transfer=False, class_weights="balanced")
    learned = distill.run(taught, answered, at["student"], 0)
    related = relations.DistillRelationsConfig(epochs=1, relation_heads=4, transfer=False)
    relations.run({**taught, "teacher": at["tuned"]}, related, at["related"], 0)
    assert measured["validation_accuracy"] > 0.8 and learned["validation_accuracy"] > 0.8
    export.run({"model": at["student"]}, export.OnnxConfig(), at["onnx"], 0)
    export.run({"model": at["tuned"]}, export.OnnxConfig(), at["plain"], 0)
    int8_dynamic.run({"student": at["onnx"]}, int8_dynamic.Int8DynamicConfig(), at["int8"], 0)
    judged = {"teacher": at["plain"], "student": at["int8"], "floor": at["floor"], **source}
    config = evaluate.EvaluateConfig(rounds=3, bootstrap=100, metric="micro_f1")
    found = evaluate.run(judged, config, at["evaluation"], 0)
    assert found["student"]["micro_f1"] > 0.8 and found["student"]["mcc"] is None and found["metric"] == "micro_f1"
    reload.run({"model": at["int8"], "golden": at["evaluation"]}, reload.ReloadConfig(), at["reload"], 0)
    check_answers(at["int8"])


def check_answers(model: Path) -> None:
    """A label is given where its logit is above 0, likeliest first, none at all where none is; all are told."""
    config, asked = runtime.settings(model), [text for text, _ in make_rows(60, 9)]
    logits = runtime.predict(model, asked)
    found = runtime.answers(logits, config)
    assert config["multi_label"] is True and {len(one["labels"]) for one in found} >= {0, 1, 2}
    for row, one in zip(logits, found, strict=True):
        wanted = sorted(np.flatnonzero(row > 0), key=lambda place: -row[place])
        assert one["labels"] == [NAMES[place] for place in wanted]
        assert [one["scores"][name] for name in NAMES] == pytest.approx((1 / (1 + np.exp(-row))).tolist(), abs=1e-6)


def test_the_floor_of_several_labels_is_one_against_the_rest(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline

    rows = write_data(tmp_path, make_rows(200, 3), multi_label=True)
    (tmp_path / "floor").mkdir()
    floor.run({"data": rows}, floor.FloorConfig(class_weights="balanced"), tmp_path / "floor", 0)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    linear = OneVsRestClassifier(LogisticRegression(C=4.0, max_iter=1000, class_weight="balanced"))
    train_rows = data.read_rows(rows, "train")
    known = make_pipeline(words, linear).fit(
        [r["text"] for r in train_rows], np.array([r["label"] for r in train_rows])
    )
    asked = [text for text, _ in make_rows(20, 4)]
    wanted = known.decision_function(asked)
    np.testing.assert_allclose(floor.scores(tmp_path / "floor", asked), wanted, atol=1e-5)


def test_balanced_weights_find_more_of_a_label_of_five_per_cent(tmp_path: Path) -> None:
    """What hints at the rare label occurs with the frequent one twice as often: without weights it is never said."""
    rng, found = np.random.default_rng(5), []
    for number in range(800):
        rare = number % 20 == 0
        hint = rng.choice(BAD) if rare or rng.random() < 0.1 else rng.choice(GOOD)
        words = [*rng.choice(FILLER, 3), hint, hint, hint]
        rng.shuffle(words)
        found.append((" ".join(words), "rare" if rare else "usual"))
    rows = write_data(tmp_path, found)
    (tmp_path / "teacher").mkdir()
    head = encoders.Head(labels=("a", "b"), max_length=16)
    encoders.save(tmp_path / "teacher", make_model(), make_tokenizer(), head)
    held = [row for name in ("validation", "test") for row in data.read_rows(rows, name)]
    labels = np.array([row["label"] for row in held])
    recalls: dict[str, list[float]] = {}
    for weights in ("none", "balanced"):
        tuned, linear = tmp_path / weights, tmp_path / f"{weights}-floor"
        tuned.mkdir()
        linear.mkdir()
        config = finetune.FinetuneConfig(tuned_layers=1, epochs=6, lr=5e-3, batch_size=8, class_weights=weights)
        finetune.run({"teacher": tmp_path / "teacher", "data": rows}, config, tuned, 0)
        plain = floor.FloorConfig(class_weights=weights)
        floor.run({"data": rows}, plain, linear, 0)
        model, tokenizer, _ = encoders.load(tuned)
        logits, _ = train.predict(model, train.tokenize(tokenizer, [row["text"] for row in held]))
        guesses = [logits.argmax(-1).numpy(), floor.predicted(floor.scores(linear, [row["text"] for row in held]))]
        recalls[weights] = [float(recall_score(labels, guess, pos_label=0)) for guess in guesses]
    assert 0.02 < np.mean(labels == 0) < 0.09, "labels are sorted: 0 is `rare`"
    for before, after in zip(recalls["none"], recalls["balanced"], strict=True):
        assert before < 0.3 and after > 0.5, recalls

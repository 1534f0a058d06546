"""Embedding models: the measures against independent ones, the losses, and every stage on a tiny seeded encoder."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from tokenizers import Tokenizer

from registry.records import Evaluation, ShrinkError, digest_directory
from tasks import bench, data, extras, floor, label, losses, metrics, models, reload, runtime, splits, train
from tasks.distill import alongside, embeddings, states
from tasks.embed import adopt, evaluate, measures, static
from tasks.embed import floor as embed_floor
from tasks.export import onnx
from tasks.prune import importance, structured, vocabulary
from tasks.quantize import int8_dynamic
from tests import kills
from tests.tasks.test_torch_stages import make_model, make_texts, make_tokenizer

Folder = Callable[[str], Path]


def unit(rng: np.random.Generator, count: int, width: int = 6) -> Any:
    vectors = rng.normal(size=(count, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_overlap_counts_common_neighbours_and_leaves_the_text_itself_out() -> None:
    rng = np.random.default_rng(0)
    first, second = (one @ one.T for one in (unit(rng, 30), unit(rng, 30)))
    for row in (0, 17):
        near = [
            set(sorted((other for other in range(30) if other != row), key=lambda other: -one[row, other])[:10])
            for one in (first, second)
        ]
        assert measures.overlap(first, second)[row] == pytest.approx(len(near[0] & near[1]) / 10)
    assert (measures.overlap(first, first) == 1).all()
    assert (measures.overlap(first, -first) == 0).all()
    assert measures.neighbours(np.zeros((4, 4)), 2).tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]


def test_rank_correlation_is_scipys_with_ties_and_without() -> None:
    rng = np.random.default_rng(1)
    first = unit(rng, 20) @ unit(rng, 20).T
    second = np.round(first + rng.normal(scale=0.3, size=(20, 20)), 1)
    found = measures.rank_correlation(first, second)
    for row in range(20):
        others = np.arange(20) != row
        assert found[row] == pytest.approx(spearmanr(first[row, others], second[row, others]).statistic)
    assert measures.rank_correlation(first, np.zeros((20, 20))).tolist() == [0.0] * 20


def test_intervals_are_those_of_a_bootstrap_written_out() -> None:
    rng = np.random.default_rng(2)
    values = {role: rng.uniform(low, 1, 40) for role, low in (("teacher", 0.8), ("student", 0.6), ("floor", 0.1))}
    found = measures.compared(values, measures.resamples(40, 500, 7))
    counts = np.random.default_rng(7).multinomial(40, np.full(40, 1 / 40), size=500)
    lots = []
    for row in counts:
        chosen = np.repeat(np.arange(40), row)
        lots.append([values[role][chosen].mean() for role in ("teacher", "student", "floor")])
    t, s, f = np.array(lots).T
    assert found.student == pytest.approx(values["student"].mean())
    assert [found.retention.low, found.retention.high] == pytest.approx(np.quantile(s / t, [0.025, 0.975]).tolist())
    assert found.lift_retained.low == pytest.approx(np.quantile((s - f) / (t - f), 0.025))
    assert found.win_over_floor.high == pytest.approx(np.quantile(s - f, 0.975))


def test_the_probe_finds_what_is_linear_in_dense_and_in_sparse_vectors() -> None:
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(3)
    vectors, plane = unit(rng, 400), rng.normal(size=6)
    labels = (vectors @ plane > 0).astype(np.int64)
    dense = measures.probe(vectors[:300], labels[:300], vectors[300:])
    assert metrics.accuracy(dense, labels[300:]) > 0.93
    sparse = measures.probe(csr_matrix(vectors[:300]), labels[:300], csr_matrix(vectors[300:]))
    assert (dense == sparse).all()


def test_neighbour_loss_equals_numpy_and_ignores_the_width() -> None:
    rng = np.random.default_rng(4)
    student, teacher = unit(rng, 5, 4), unit(rng, 5, 7)
    total = 0.0
    for row in range(5):
        others = np.arange(5) != row
        raised = [np.exp((one @ one[row])[others] / 0.2) for one in (student, teacher)]
        mine, theirs = (one / one.sum() for one in raised)
        total += float((theirs * np.log(theirs / mine)).sum())
    found = losses.neighbour_loss(torch.tensor(student), torch.tensor(teacher), 0.2)
    assert float(found) == pytest.approx(total / 5, rel=1e-9)
    assert float(losses.neighbour_loss(torch.tensor(student), torch.tensor(student), 0.2)) == pytest.approx(0, abs=1e-9)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def make(name: str) -> Path:
        path = tmp_path / name
        path.mkdir()
        return path

    return make


@pytest.fixture
def source(folder: Folder) -> Path:
    """A bare encoder as one finds it: no head, no record of ours."""
    out = folder("source")
    model = make_model()
    bare = models.Classifier(model.encoder, labels=0)
    models.save(out, bare, make_tokenizer(), models.Head(task="embed", labels=(), max_length=16))
    (out / "head.json").unlink()
    return out


def rows_of(folder: Folder, label_column: str | None) -> Path:
    raw, out = folder("raw"), folder("rows")
    lines = [json.dumps({"text": text, "label": str(mean > 0)}) for text, mean in make_texts(240, 1)]
    (raw / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    more = [json.dumps({"text": f"{text} joke"}) for text, _ in make_texts(60, 2)]
    (raw / "more.jsonl").write_text("\n".join(more), encoding="utf-8")
    config = data.DataConfig(
        file="rows.jsonl", format="jsonl", label_column=label_column, transfer=("more.jsonl",), max_length=16
    )
    data.run({"source": raw}, config, out, 0)
    return out


@pytest.fixture
def rows(folder: Folder) -> Path:
    return rows_of(folder, "label")


def test_adopt_keeps_the_encoder_and_gives_vectors_of_length_1(source: Path, rows: Path, folder: Folder) -> None:
    out = folder("teacher")
    found = adopt.run({"teacher": source, "data": rows}, adopt.AdoptConfig(), out, 0)
    model, tokenizer, head = models.load(out)
    assert (head.task, head.labels, found["width"]) == ("embed", (), 32)
    assert not (out / "head.safetensors").exists()
    ids = torch.tensor([tokenizer.encode("good film").ids])
    with torch.no_grad():
        hidden = make_model().encoder(input_ids=ids).last_hidden_state.mean(1)
        wanted = hidden / hidden.norm(dim=-1, keepdim=True)
        assert torch.allclose(model(ids, torch.ones_like(ids)), wanted, atol=1e-5)


def test_adopt_refuses_another_pooling(source: Path, rows: Path, folder: Folder) -> None:
    (source / "1_Pooling").mkdir()
    path = source / "1_Pooling" / "config.json"
    path.write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}))
    adopt.check_pooling(source)
    path.write_text(json.dumps({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}))
    with pytest.raises(ShrinkError, match="pools by cls_token but only mean_tokens"):
        adopt.run({"teacher": source, "data": rows}, adopt.AdoptConfig(), folder("teacher"), 0)


def test_the_floors_vectors_are_scikit_learns(rows: Path, folder: Folder) -> None:
    out = folder("floor")
    embed_floor.run({"data": rows}, embed_floor.EmbedFloorConfig(ngrams=2), out, 0)
    texts = [row["text"] for name in ("train", "transfer") for row in data.read_rows(rows, name)]
    wanted = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2).fit(texts)
    asked = ["good good film cast", "nothing of this is known", "a great plot ends"]
    found = embed_floor.vectors(floor.load(out), asked)
    assert np.allclose(found.toarray(), wanted.transform(asked).toarray(), atol=1e-6)


def test_data_without_labels_is_split_and_has_none(folder: Folder) -> None:
    rows = rows_of(folder, None)
    assert data.read_facts(rows)["labels"] == []
    assert {row["label"] for name in splits.SPLITS for row in data.read_rows(rows, name)} == {-1}


def test_the_whole_chain(source: Path, rows: Path, folder: Folder) -> None:
    teacher, labels, cut = folder("teacher"), folder("labels"), folder("cut")
    adopt.run({"teacher": source, "data": rows}, adopt.AdoptConfig(), teacher, 0)
    measured = label.run({"teacher": teacher, "data": rows}, label.LabelConfig(), labels, 0)
    assert "train_accuracy" not in measured and not (labels / "logits.safetensors").exists()
    vectors = load_file(labels / "hidden.safetensors")
    assert {name: len(one) for name, one in vectors.items()} == {
        name: len(data.read_rows(rows, name)) for name in ("train", "transfer", "validation")
    }
    pruned = folder("pruned")
    vocabulary.run({"student": teacher, "data": rows}, vocabulary.PruneVocabularyConfig(transfer=True), pruned, 0)
    shape = structured.PruneStructuredConfig(layers=(0, 2), ffn=24, heads=2)
    structured.run({"student": pruned, "data": rows}, shape, cut, 0)
    taught, again = folder("taught"), folder("again")
    lesson = embeddings.DistillEmbeddingsConfig(epochs=20, lr=3e-3, relations_weight=0.1)
    inputs = {"student": cut, "labels": labels, "data": rows}
    learnt = embeddings.run(inputs, lesson, taught, 0)
    assert learnt["loss"][-1] < learnt["loss"][0] / 2
    assert learnt["validation_overlap"] > learnt["validation_overlap_before"] + 0.1
    embeddings.run(inputs, lesson, again, 0)
    assert digest_directory(again) == digest_directory(taught)
    check_deployable(rows, teacher, taught, folder)


def check_deployable(rows: Path, teacher: Path, taught: Path, folder: Folder) -> None:
    """Export, quantise, evaluate and reload; every measure is there, and the teacher keeps all of itself."""
    full, exported, small, base = (folder(name) for name in ("full", "exported", "small", "floor"))
    onnx.run({"model": teacher}, onnx.OnnxConfig(), full, 0)
    onnx.run({"model": taught}, onnx.OnnxConfig(), exported, 0)
    int8_dynamic.run({"student": exported}, int8_dynamic.Int8DynamicConfig(embedding="int4"), small, 0)
    embed_floor.run({"data": rows}, embed_floor.EmbedFloorConfig(), base, 0)
    answers = runtime.predict(small, ["good film", "a bad joke"])
    assert answers.shape == (2, 32) and np.allclose((answers**2).sum(1), 1, atol=1e-4)
    out, config = folder("evaluation"), evaluate.EmbedEvaluateConfig(rounds=3, bootstrap=200)
    inputs = {"teacher": full, "student": small, "floor": base, "data": rows, "champion": exported}
    found = Evaluation.model_validate(evaluate.run(inputs, config, out, 0))
    assert found.serving and found.serving.unit == "request" and len(found.serving.student.windows) == 5
    assert "serving" not in json.loads((out / "evaluation.json").read_text())
    assert set(found.measures) == {"overlap_at_10", "spearman", "probe_accuracy"}
    assert found.measures["spearman"].teacher == pytest.approx(1) and found.measures["overlap_at_10"].teacher == 1
    assert found.measures["overlap_at_10"].student > found.measures["overlap_at_10"].floor
    assert found.retention == found.measures[found.metric].retention  # type: ignore[index]
    assert found.retention.point == min(one.retention.point for one in found.measures.values())
    assert found.agreement is not None and found.flips_to_wrong is not None
    assert found.student.bytes < found.teacher.bytes and found.student.accuracy is None
    check_beside(found)
    for name in splits.SPLITS:
        unlabelled = [{**row, "label": -1} for row in data.read_rows(rows, name)]
        data.write_rows(rows / f"{name}.jsonl", unlabelled)
    bare = Evaluation.model_validate(evaluate.run(inputs, config, folder("bare"), 0))
    check_beside(bare)
    assert set(bare.measures) == {"overlap_at_10", "spearman"} and bare.agreement is bare.flips_to_wrong is None
    held = folder("reloaded")
    assert reload.run({"model": small, "golden": out}, reload.ReloadConfig(), held, 0)["max_difference"] < 1e-4
    other = reload.run({"model": full, "golden": out}, reload.ReloadConfig(), held, 0)
    wrong = [one for one in other["checks"] if not one["passed"]]
    assert [one["name"] for one in wrong] == ["golden"] and "golden sentence_embedding" in wrong[0]["why"]


def check_beside(found: Evaluation) -> None:
    """What the gate asks beyond the whole goes by the measure that kept least, and nothing else."""
    scores = found.scores()
    assert found.against_teacher and found.against_teacher.interval.point == pytest.approx(
        scores["student"] - scores["teacher"]
    )
    assert found.champion and found.champion.against and found.champion.against.examples == found.examples
    assert {one.by for one in found.slices} == {"length"} and found.leakage and found.leakage.texts == found.examples
    weights = [one.against.examples / found.examples for one in found.slices]
    whole = sum(part * one.student for part, one in zip(weights, found.slices, strict=True))
    assert whole == pytest.approx(scores["student"])


def test_importance_without_labels_is_the_squared_change_of_the_embedding(source: Path, rows: Path) -> None:
    model = models.Classifier(make_model(2).encoder, labels=0).eval()
    tokenizer = make_tokenizer()
    texts = [row["text"] for row in data.read_rows(rows, "train")][:12] * 24
    sequences = [tokenizer.encode(text).ids for text in texts]
    scores = importance.measure(model, sequences, [-1] * len(texts), "fisher", 4).ffn
    step, wanted = 1e-3, torch.zeros(48)
    with torch.no_grad():
        for neuron in range(0, 48, 6):
            for ids in sequences[:12]:
                batch = torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long)
                ends = []
                for sign in (1, -1):
                    mask = torch.ones(48)
                    mask[neuron] += sign * step
                    hook = lambda _module, _args, output, mask=mask: output * mask  # noqa: E731
                    handle = model.layers[0].intermediate.register_forward_hook(hook)
                    ends.append(model(*batch))
                    handle.remove()
                wanted[neuron] += (((ends[0] - ends[1]) / (2 * step)) ** 2).sum() * 24
    some = torch.arange(0, 48, 6)
    assert torch.corrcoef(torch.stack([scores[0][some], wanted[some]]))[0, 1] > 0.9
    assert float(scores[0][some].sum() / wanted[some].sum()) == pytest.approx(1, abs=0.25)


def test_distillation_refuses_nothing_to_learn_and_other_widths(source: Path, rows: Path, folder: Folder) -> None:
    teacher, labels = folder("teacher"), folder("labels")
    adopt.run({"teacher": source, "data": rows}, adopt.AdoptConfig(), teacher, 0)
    label.run({"teacher": teacher, "data": rows}, label.LabelConfig(transfer=False), labels, 0)
    inputs = {"student": teacher, "labels": labels, "data": rows}
    nothing = embeddings.DistillEmbeddingsConfig(cosine_weight=0, relations_weight=0, transfer=False)
    with pytest.raises(ShrinkError, match="cosine_weight, tokens_weight and relations_weight are all 0"):
        embeddings.run(inputs, nothing, folder("a"), 0)
    with pytest.raises(ShrinkError, match="labels hold 0 transfer rows"):
        embeddings.run(inputs, embeddings.DistillEmbeddingsConfig(), folder("b"), 0)
    narrow = folder("narrow")
    structured.run({"student": teacher, "data": rows}, structured.PruneStructuredConfig(hidden=16), narrow, 0)
    for weights, name in (({}, "cosine_weight"), ({"cosine_weight": 0, "tokens_weight": 0.5}, "tokens_weight")):
        lesson = embeddings.DistillEmbeddingsConfig(transfer=False, **weights)
        with pytest.raises(ShrinkError, match=rf"{name} is .* but the student is 16 wide and the teacher 32: set it"):
            embeddings.run(inputs | {"student": narrow}, lesson, folder(f"wide {name}"), 0)
    relations = embeddings.DistillEmbeddingsConfig(cosine_weight=0, relations_weight=1, transfer=False, epochs=1)
    assert embeddings.run(inputs | {"student": narrow}, relations, folder("c"), 0)["loss"]


def test_the_distance_of_tokens_equals_numpy_over_the_mapped_layers() -> None:
    rng = np.random.default_rng(5)
    lengths = [4, 2]
    mask = torch.tensor([[1] * length + [0] * (4 - length) for length in lengths])
    student, teacher = ([rng.normal(size=(2, 4, 6)) for _ in range(count)] for count in (3, 5))
    wanted = []
    for mine, theirs in ((1, 2), (2, 4)):  # two layers learn from the second and the fourth of four
        for row, length in enumerate(lengths):
            for place in range(length):
                one, other = student[mine][row, place], teacher[theirs][row, place]
                wanted.append(1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    seen, taught = ([torch.tensor(one) for one in many] for many in (student, teacher))
    found = embeddings.tokens_apart(seen, taught, mask)
    assert float(found) == pytest.approx(np.mean(wanted), rel=1e-9)


@pytest.fixture
def pupil(source: Path, rows: Path, folder: Folder) -> dict[str, Path]:
    """A teacher, its labels, a student with fewer layers and pieces, and the data."""
    made = {"data": rows, **{name: folder(name) for name in ("teacher", "labels", "pruned", "student")}}
    adopt.run({"teacher": source, "data": rows}, adopt.AdoptConfig(), made["teacher"], 0)
    label.run({"teacher": made["teacher"], "data": rows}, label.LabelConfig(), made["labels"], 0)
    rare = vocabulary.PruneVocabularyConfig(min_count=120, transfer=True)
    vocabulary.run({"student": made["teacher"], "data": rows}, rare, made["pruned"], 0)
    shape = structured.PruneStructuredConfig(layers=(0, 2), ffn=24)
    structured.run({"student": made["pruned"], "data": rows}, shape, made["student"], 0)
    return made


METHODS: dict[str, dict[str, float]] = {
    "vectors": {},
    "tokens": {"tokens_weight": 2.0},
    "all three": {"tokens_weight": 1.0, "relations_weight": 0.1},
}


@pytest.mark.parametrize("case", METHODS)
def test_a_killed_distillation_goes_on_to_the_same_digest(
    pupil: dict[str, Path], folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    config = embeddings.DistillEmbeddingsConfig(epochs=3, lr=4e-3, batch_size=16, **METHODS[case])
    inputs = {role: pupil[role] for role in config.reads}
    assert ("teacher" in inputs) == ("tokens_weight" in METHODS[case])
    measured = embeddings.run(inputs, config, folder("one"), 0)
    assert measured["loss"][-1] < 0.9 * measured["loss"][0]
    assert measured.get("respelled_rows", 1) > 0  # the teacher reads the pieces that the student has left
    texts = sum(len(data.read_rows(pupil["data"], name)) for name in ("train", "transfer"))
    kills.goes_on_to_the_same_bytes(
        monkeypatch,
        tmp_path / "one",
        measured,
        lambda out: embeddings.run(inputs, config, folder(out.name), 0),
        at=8,
        whole=3 * -(-texts // 16),
    )


def test_tokens_come_nearer_than_by_vectors_alone(pupil: dict[str, Path], folder: Folder) -> None:
    texts = [row["text"] for row in data.read_rows(pupil["data"], "validation")]

    def apart(student: Path) -> float:
        model, tokenizer, _ = models.load(student)
        guide, own, _ = models.load(pupil["teacher"])
        numbers = alongside.teacher_numbers(tokenizer, own)
        ids, mask = train.pad(train.tokenize(tokenizer, texts))
        with torch.no_grad():
            seen = states.states(model, ids, mask), states.states(guide, numbers[ids], mask)
        return float(embeddings.tokens_apart(*seen, mask))

    found = []
    for weight in (0.0, 2.0):
        config, out = embeddings.DistillEmbeddingsConfig(epochs=6, lr=4e-3, tokens_weight=weight), folder(f"{weight}")
        embeddings.run({role: pupil[role] for role in config.reads}, config, out, 0)
        found.append(apart(out))
    assert found[1] < 0.7 * found[0], found


@pytest.mark.skipif(find_spec("model2vec") is None, reason="the extra model2vec is not installed")
def test_static_vectors_are_a_floor_that_is_the_same_each_time(source: Path, rows: Path, folder: Folder) -> None:
    config, outs = embed_floor.EmbedFloorConfig(vectors="model2vec"), [folder("one"), folder("two")]
    assert (config.reads, config.needs) == ({"teacher": "source"}, static.NEEDS)
    measured = [embed_floor.run({"teacher": source}, config, out, 0) for out in outs]
    assert digest_directory(outs[0]) == digest_directory(outs[1]) and measured[0]["width"] <= 32
    assert str(source) not in (outs[0] / "config.json").read_text()
    found = embed_floor.caller(outs[0])(["good film", "good good film", "film good", ""])
    held = load_file(outs[0] / "model.safetensors")["embeddings"].double().numpy()
    pieces = Tokenizer.from_file(str(outs[0] / "tokenizer.json"))
    mean = held[pieces.encode("good good film", add_special_tokens=False).ids].mean(0)
    assert np.allclose(found[1], mean / np.linalg.norm(mean), atol=1e-3)
    assert np.allclose(found[0], found[2]) and (found[3] == 0).all()
    assert bench.parameters(outs[0]) == held.size and len(bench.caller(outs[0])(["good film"])) == 1


def test_static_vectors_ask_for_their_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(
        ShrinkError, match=r"model2vec is not installed: `pip install 'shrinking-frontier\[model2vec\]'`"
    ):
        embed_floor.run({"teacher": tmp_path}, embed_floor.EmbedFloorConfig(vectors="model2vec"), tmp_path, 0)

"""Export, quantisation, runtime, floor, metrics, bench, evaluate and reload on a tiny random BERT."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from registry.records import Evaluation, ShrinkError, digest_directory
from tasks import bench, evaluate, floor, metrics, reload, runtime
from tasks.export import onnx as export
from tasks.quantize import embedding, int4_weight_only, int8_dynamic, int8_static

torch = pytest.importorskip("torch")
GOOD = ["good", "great", "warm", "clever", "superb", "lovely", "bright", "charming"]
BAD = ["bad", "dull", "awful", "broken", "noisy", "weak", "boring", "terrible"]
FILL = ["the", "film", "was", "and", "it", "ending", "script", "plot", "battery", "screen"]


def sentences(count: int, seed: int) -> list[tuple[str, int]]:
    rng = np.random.default_rng(seed)
    rows = []
    for place in range(count):
        words = list(rng.choice(FILL, 4)) + list(rng.choice(GOOD if place % 2 else BAD, 2))
        rows.append((" ".join(rng.permutation(words)), place % 2))
    return rows


def write_rows(folder: Path) -> Path:
    folder.mkdir()
    for number, (name, count) in enumerate({"train": 60, "validation": 12, "test": 24, "transfer": 10}.items()):
        lines = []
        for place, (text, label) in enumerate(sentences(count, number)):
            row: dict[str, Any] = {"id": f"{name}-{place}", "text": text}
            lines.append(json.dumps(row if name == "transfer" else row | {"label": label}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "data.json").write_text(json.dumps({"labels": ["negative", "positive"], "max_length": 16}))
    return folder


def write_torch(folder: Path, seed: int) -> Path:
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILL, *GOOD, *BAD]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=32,
    )
    BertModel(config, add_pooling_layer=False).eval().save_pretrained(folder)
    save_file({"weight": torch.randn(2, 64) * 0.2, "bias": torch.zeros(2)}, folder / "head.safetensors")
    head = {"labels": ["negative", "positive"], "pooling": "mean", "max_length": 16}
    (folder / "head.json").write_text(json.dumps(head))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def made(module: Any, config: BaseModel, inputs: dict[str, Path], out: Path) -> Path:
    out.mkdir()
    json.dumps(module.run(inputs, config, out, 0), allow_nan=False)
    return out


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("artifacts")
    kept = {"data": write_rows(root / "data"), "torch": write_torch(root / "torch", 0)}
    kept["onnx"] = made(export, export.OnnxConfig(), {"model": kept["torch"]}, root / "onnx")
    student = {"student": kept["onnx"]}
    kept["int8"] = made(int8_dynamic, int8_dynamic.Int8DynamicConfig(), student, root / "int8")
    light = int4_weight_only.Int4WeightOnlyConfig(embedding="int4")
    kept["int4"] = made(int4_weight_only, light, student, root / "int4")
    static = int8_static.Int8StaticConfig(calibration_rows=40)
    kept["static"] = made(int8_static, static, student | {"data": kept["data"]}, root / "static")
    kept["floor"] = made(floor, floor.FloorConfig(), {"data": kept["data"]}, root / "floor")
    roles = {"teacher": kept["onnx"], "student": kept["int8"], "floor": kept["floor"], "data": kept["data"]}
    kept["evaluation"] = made(evaluate, evaluate.EvaluateConfig(rounds=5, bootstrap=200), roles, root / "evaluation")
    return kept


def test_runtime_agrees_with_torch_whatever_the_batch(artifacts: dict[str, Path]) -> None:
    from tasks.models import load

    texts = [text for text, _ in sentences(9, 5)] + ["good"]
    model = load(artifacts["torch"])[0].eval()
    expected = []
    with torch.inference_mode():
        for ids in runtime.encode(artifacts["onnx"], texts):
            tokens = torch.tensor([ids])
            expected.append(model(tokens, torch.ones_like(tokens))[0].numpy())
    for batch in (1, 4):
        np.testing.assert_allclose(runtime.predict(artifacts["onnx"], texts, batch), expected, atol=2e-5)


def test_export_does_not_depend_on_folder_nor_hold_paths(artifacts: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    moved = Path(shutil.copytree(artifacts["torch"], tmp_path / "elsewhere"))
    again = made(export, export.OnnxConfig(), {"model": moved}, tmp_path / "again")
    assert digest_directory(again) == digest_directory(artifacts["onnx"])
    blob = (again / "model.onnx").read_bytes()
    for word in (b".py", b"site-packages", b"stack_trace", str(Path(__file__).parent).encode()):
        assert word not in blob


def test_all_weight_products_are_quantised(artifacts: dict[str, Path]) -> None:
    import onnx

    kinds = {name: onnx.load(artifacts[name] / "model.onnx").graph.node for name in ("int8", "int4", "static")}
    counts = {name: [node.op_type for node in nodes] for name, nodes in kinds.items()}
    assert counts["int8"].count("MatMulInteger") >= 12
    assert counts["int4"].count("MatMulNBits") >= 12
    fixed = {node.input[0] for node in kinds["static"] if node.op_type == "QuantizeLinear"}
    products = [node for node in kinds["static"] if node.op_type in ("MatMul", "Gemm")]
    assert len(fixed) >= 6 and sum("DequantizeLinear" in node.input[1] for node in products) >= 12
    texts = [text for text, _ in sentences(8, 6)]
    whole = runtime.predict(artifacts["onnx"], texts)
    for name, limit in (("int8", 0.05), ("static", 0.15), ("int4", 0.5)):
        assert np.abs(runtime.predict(artifacts[name], texts, 1) - whole).max() < limit


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        (int8_dynamic, int8_dynamic.Int8DynamicConfig()),
        (int8_static, int8_static.Int8StaticConfig(calibration_rows=9)),
        (int4_weight_only, int4_weight_only.Int4WeightOnlyConfig()),
    ],
)
def test_quantising_twice_gives_one_digest(
    stage: Any, config: BaseModel, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    inputs = {"student": artifacts["onnx"], "data": artifacts["data"]}
    twice = [made(stage, config, inputs, tmp_path / name) for name in "ab"]
    assert digest_directory(twice[0]) == digest_directory(twice[1])


def test_too_few_calibration_texts_are_refused(artifacts: dict[str, Path], tmp_path: Path) -> None:
    inputs = {"student": artifacts["onnx"], "data": artifacts["data"]}
    with pytest.raises(ShrinkError, match="calibration_rows of quantize/int8_static is 61 but the data has 60"):
        made(int8_static, int8_static.Int8StaticConfig(calibration_rows=61), inputs, tmp_path / "out")


def lookup(table: np.ndarray[Any, Any], bits: Any, ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node("Gather", ["table", "input_ids"], ["rows"])
    ends = [("input_ids", TensorProto.INT64, ["b", "t"]), ("rows", TensorProto.FLOAT, ["b", "t", table.shape[1]])]
    given, found = (helper.make_tensor_value_info(*end) for end in ends)
    graph = helper.make_graph([node], "g", [given], [found], [numpy_helper.from_array(table, "table")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    embedding.quantize_embedding(proto, bits)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input_ids": ids})[0])


@pytest.mark.parametrize("width", [64, 48, 6])
def test_embedding_graph_agrees_with_numpy(width: int) -> None:
    rng = np.random.default_rng(width)
    table = rng.normal(size=(40, width)).astype(np.float32)
    table[3] = 0
    ids = rng.integers(0, 40, (3, 7))
    ids[0, 0] = 3
    values, scale = embedding.quantize_rows(table)
    dense = values.astype(np.float32) * scale.astype(np.float32)
    np.testing.assert_array_equal(lookup(table, "int8", ids), dense[ids])
    packed, scales = embedding.quantize_groups(table, embedding.group_of(width))
    light = embedding.dequantize_groups(packed, scales)
    np.testing.assert_array_equal(lookup(table, "int4", ids), light[ids])
    assert np.abs(dense - table).max() < np.abs(table).max() / 127
    assert np.sqrt(np.mean((light - table) ** 2)) < 0.15
    assert packed.shape == (40, width // 2)


def test_embedding_without_a_table_is_a_user_error(artifacts: dict[str, Path]) -> None:
    import onnx

    proto = onnx.load(artifacts["int8"] / "model.onnx")
    with pytest.raises(ShrinkError, match="embedding"):
        embedding.quantize_embedding(proto, "int4")


def pipeline(texts: list[str], labels: Any) -> Any:
    """The floor as scikit-learn has it, cutting the words itself."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    return make_pipeline(words, LogisticRegression(C=4.0, max_iter=1000)).fit(texts, labels)


def test_floor_reads_back_as_the_sklearn_pipeline(artifacts: dict[str, Path]) -> None:
    from safetensors.numpy import load_file

    rows = floor.read_rows(artifacts["data"] / "train.jsonl")
    texts, labels = [row["text"] for row in rows], np.array([row["label"] for row in rows])
    asked = [*(text for text, _ in sentences(20, 9)), "", "unheard-of words", "GOOD good Good, film! Übung x"]
    expected = pipeline(texts, labels).decision_function(asked)
    np.testing.assert_allclose(floor.scores(artifacts["floor"], asked), expected, atol=1e-5)
    held = load_file(artifacts["floor"] / "logits.safetensors")
    assert held["train"].shape == (60,) and held["transfer"].shape == (10,)
    assert metrics.accuracy(floor.predicted(held["train"]), labels) > 0.9
    assert np.abs(held["train"] - floor.scores(artifacts["floor"], texts)).max() > 1e-3


def test_floor_with_three_labels(tmp_path: Path) -> None:
    texts = [f"{word} thing" for word in ("red", "green", "blue") for _ in range(4)]
    labels = np.repeat([0, 1, 2], 4)
    floor.save(*floor.fit(texts, labels, floor.FloorConfig()), floor.FloorConfig(), ["r", "g", "b"], tmp_path)
    expected = pipeline(texts, labels).decision_function(texts)
    np.testing.assert_allclose(floor.scores(tmp_path, texts), expected, atol=1e-5)
    assert floor.out_of_fold(texts, labels, floor.FloorConfig(folds=2), 0).shape == (12, 3)


def test_metrics_agree_with_sklearn() -> None:
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    rng = np.random.default_rng(0)
    for count in (2, 3, 5):
        labels, guesses = rng.integers(0, count, 200), rng.integers(0, count, 200)
        assert metrics.accuracy(guesses, labels) == pytest.approx(accuracy_score(labels, guesses))
        assert metrics.measure("accuracy", guesses, labels) == pytest.approx(accuracy_score(labels, guesses))
        assert metrics.macro_f1(guesses, labels) == pytest.approx(f1_score(labels, guesses, average="macro"))
        assert metrics.measure("mcc", guesses, labels) == pytest.approx(matthews_corrcoef(labels, guesses))
    never = np.zeros(200, dtype=np.int64)
    assert metrics.macro_f1(never, rng.integers(0, 2, 200)) < 0.5
    assert metrics.measure("mcc", never, rng.integers(0, 2, 200)) == 0.0


@pytest.mark.parametrize("metric", ["macro_f1", "mcc"])
def test_bootstrap_of_other_metrics_agrees_with_a_slow_one(metric: Any) -> None:
    rng = np.random.default_rng(2)
    labels = rng.choice(3, 300, p=[0.8, 0.15, 0.05])
    teacher, student, plain = (np.where(rng.random(300) < p, labels, rng.integers(0, 3, 300)) for p in (0.9, 0.8, 0.5))
    guesses = (teacher, student, plain)
    found = metrics.resampled(metric, guesses, labels, 3000, 3)
    assert found.shape == (3001, 3)
    assert found[0] == pytest.approx([metrics.measure(metric, guess, labels) for guess in guesses])
    slow = []
    for _ in range(3000):
        rows = rng.integers(0, 300, 300)
        slow.append([metrics.measure(metric, guess[rows], labels[rows]) for guess in guesses])
    for quantile in (0.025, 0.5, 0.975):
        np.testing.assert_allclose(
            np.quantile(found[1:], quantile, axis=0), np.quantile(slow, quantile, axis=0), atol=0.02
        )
    retained = metrics.comparison(*guesses, labels, 3000, 3, metric)["retention"]
    assert retained.point == pytest.approx(found[0, 1] / found[0, 0]) and retained.low < retained.point < retained.high


def test_bootstrap_agrees_with_a_slow_one() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 400)
    teacher, student, plain = (np.where(rng.random(400) < p, labels, 1 - labels) for p in (0.9, 0.85, 0.7))
    found = metrics.comparison(teacher, student, plain, labels, 4000, 3)
    slow: dict[str, list[float]] = {"retention": [], "lift_retained": [], "win_over_floor": []}
    for _ in range(4000):
        pick = rng.integers(0, 400, 400)
        t, s, f = (metrics.accuracy(guess[pick], labels[pick]) for guess in (teacher, student, plain))
        slow["retention"].append(s / t)
        slow["lift_retained"].append((s - f) / (t - f))
        slow["win_over_floor"].append(s - f)
    for name, values in slow.items():
        low, high = np.quantile(values, [0.025, 0.975])
        width = high - low
        assert found[name].low == pytest.approx(low, abs=0.08 * width)
        assert found[name].high == pytest.approx(high, abs=0.08 * width)
    wrong = int(np.sum((teacher == labels) & (student != labels)))
    assert found["flips_to_wrong"] == wrong and found["agreement"] == np.mean(teacher == student)


def test_lift_counts_nothing_when_the_teacher_has_none() -> None:
    labels = np.array([0, 1] * 10)
    found = metrics.comparison(1 - labels, labels, labels, labels, 100, 0)
    assert found["lift_retained"].point == 0 and found["retention"].point == 0
    won = found["win_over_floor"]
    assert won.point == 0 and won.low == -won.high == pytest.approx(-metrics.unseen(20))


def test_counts_of_parameters_and_products(artifacts: dict[str, Path]) -> None:
    model = {name: bench.parameters(artifacts[name]) for name in ("onnx", "int8", "int4")}
    layer = 4 * (64 * 64 + 64) + 64 * 96 * 2 + 96 + 64 + 4 * 64
    exact = 30 * 64 + 32 * 64 + 2 * 64 + 2 * 64 + 2 * layer + 2 * 64 + 2
    for name, count in model.items():
        assert count == pytest.approx(exact, rel=0.03), name
    tokens = 16
    expected = 2 * (tokens * (4 * 64 * 64 + 2 * 64 * 96) + 2 * tokens * tokens * 64) + 2 * 64
    for name in ("onnx", "int8", "int4"):
        assert bench.macs(artifacts[name]) == pytest.approx(expected, rel=0.01), name
    assert bench.macs(artifacts["floor"]) is None


def test_evaluation_end_to_end(artifacts: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    roles = {"teacher": artifacts["onnx"], "student": artifacts["int8"]}
    roles |= {"floor": artifacts["floor"], "data": artifacts["data"]}
    out = tmp_path / "again"
    out.mkdir()
    found = Evaluation.model_validate(evaluate.run(roles, evaluate.EvaluateConfig(rounds=3, bootstrap=200), out, 0))
    assert found.serving and found.teacher.macs and found.serving.teacher.macs_per_inference
    assert 0 < found.serving.teacher.macs_per_inference <= found.teacher.macs, "texts are no longer than max_length"
    assert found.examples == 24 and (found.floor.accuracy or 0) > 0.9
    assert found.student.bytes < found.teacher.bytes
    assert 0 < found.student.p50_ms <= found.student.p95_ms and (found.student.peak_rss_mb or 0) > 20
    assert digest_directory(out) == digest_directory(artifacts["evaluation"])
    saved = json.loads((out / "evaluation.json").read_text())
    assert "p50_ms" not in saved["student"] and saved["retention"]["low"] <= saved["retention"]["high"]
    kept = load_file(out / "predictions.safetensors")
    assert metrics.accuracy(metrics.classes(kept["student"]), kept["labels"]) == found.student.accuracy


def test_reload_accepts_the_model_and_refuses_another(artifacts: dict[str, Path], tmp_path: Path) -> None:
    inputs = {"model": artifacts["int8"], "golden": artifacts["evaluation"]}
    assert (made(reload, reload.ReloadConfig(), inputs, tmp_path / "a") / "result.json").is_file()
    other = made(reload, reload.ReloadConfig(), {**inputs, "model": artifacts["int4"]}, tmp_path / "b")
    found = {one["name"]: one for one in json.loads((other / "result.json").read_text())["checks"]}
    assert not found["golden"]["passed"] and "differs" in found["golden"]["why"]
    assert found["graph"]["passed"] and found["scales"]["passed"]


def test_an_evaluation_tells_what_the_gate_asks_beyond_the_whole(artifacts: dict[str, Path], tmp_path: Path) -> None:
    roles = {"teacher": artifacts["onnx"], "student": artifacts["int8"], "floor": artifacts["floor"]}
    roles |= {"data": artifacts["data"], "champion": artifacts["int4"], "behaviour": tmp_path / "behaviour"}
    roles["behaviour"].mkdir()
    lines = [
        {"group": "plain", "kind": "minimum", "text": "good", "label": label} for label in ("negative", "positive")
    ]
    (roles["behaviour"] / "checks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "out").mkdir()
    config = evaluate.EvaluateConfig(rounds=1, bootstrap=100)
    found = Evaluation.model_validate(evaluate.run(roles, config, tmp_path / "out", 0))
    against, rival = found.against_teacher, found.champion
    assert against and (against.lost, against.won) == (found.flips_to_wrong, found.flips_to_right)
    assert rival and rival.digest == digest_directory(artifacts["int4"]) and rival.against
    assert rival.against.interval.low < rival.against.interval.point < rival.against.interval.high
    assert {one.by for one in found.slices} == {"length", "label"}
    assert sum(one.against.examples for one in found.slices if one.by == "label") == found.examples
    (group,) = found.behaviour
    assert (group.checks, group.teacher, group.student, len(group.failed)) == (2, 1, 1, 1), "one of two labels is right"
    assert found.leakage and found.leakage.texts == found.examples


def test_a_champion_that_answers_something_else_is_left_out(artifacts: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(artifacts["int4"], other)
    about = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**about, "labels": ["bad", "good"]}))
    roles = {"teacher": artifacts["onnx"], "student": artifacts["int8"], "floor": artifacts["floor"]}
    roles |= {"data": artifacts["data"], "champion": other}
    (tmp_path / "out").mkdir()
    config = evaluate.EvaluateConfig(rounds=1, bootstrap=100)
    rival = Evaluation.model_validate(evaluate.run(roles, config, tmp_path / "out", 0)).champion
    assert rival and rival.against is None and rival.left_out == "its labels are not those of the student"

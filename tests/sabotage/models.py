"""Tiny real ONNX models of words, with data, floor and evaluation by the real stages; nothing needs torch."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.records import Evaluation
from tasks import data, evaluate, floor, runtime
from tasks.embed import evaluate as embed_evaluate
from tasks.embed import floor as embed_floor
from tasks.kinds import AnyStageConfig, function_of

WORDS = ["[UNK]", *(f"{mood}{number}" for mood in ("bad", "good", "plain") for number in range(9))]
WIDTH = 32
PLAIN = {"multi_label": False, "pairs": False}


def word_values() -> NDArray[np.float32]:
    """What each word is worth: below zero, above it, nothing."""
    return np.array([0.0, *[-1.0] * 9, *[1.0] * 9, *[0.0] * 9], dtype=np.float32)


def texts(count: int, seed: int) -> list[str]:
    drawn = np.random.default_rng(seed)
    return [" ".join(drawn.choice(WORDS[1:], drawn.integers(3, 9))) for _ in range(count)]


def judged(text: str) -> int:
    return int(sum(word_values()[WORDS.index(word)] for word in text.split()) > 0)


def mood(text: str) -> int:
    """The same with a third answer, for texts as good as bad."""
    value = sum(word_values()[WORDS.index(word)] for word in text.split())
    return 2 if value == 0 else int(value > 0)


def weights(width: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """An embedding and two layers of random features, with a head that is fitted to what the words are worth."""
    drawn = np.random.default_rng(seed)
    held = {"table": drawn.normal(size=(len(WORDS), width)).astype(np.float32)}
    held["table"][:, 0] = word_values()
    for layer in ("layer0", "layer1"):
        held[layer] = (np.eye(width) + drawn.normal(size=(width, width)) / width).astype(np.float32)
    rows = texts(600, 99)
    sums = np.array([sum(held["table"][WORDS.index(word)] for word in text.split()) for text in rows])
    inner = features(sums, held)
    wanted = np.array([[1.0, -1.0] if judged(text) == 0 else [-1.0, 1.0] for text in rows])
    held["head"] = np.linalg.lstsq(inner, wanted, rcond=None)[0].astype(np.float32)
    return held


def features(sums: NDArray[Any], held: dict[str, NDArray[np.float32]]) -> NDArray[Any]:
    first = np.tanh(sums @ held["layer0"])
    return np.asarray(np.tanh(first @ held["layer1"]))


def graph(held: dict[str, NDArray[Any]], output: str = "logits") -> Any:
    """Summed word vectors through two layers and a head, as an ONNX proto."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["vectors", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sums"], keepdims=0),
        helper.make_node("MatMul", ["sums", "layer0"], ["one"]),
        helper.make_node("Tanh", ["one"], ["first"]),
        helper.make_node("MatMul", ["first", "layer1"], ["two"]),
        helper.make_node("Tanh", ["two"], ["second"]),
        helper.make_node("MatMul", ["second", "head"], [output]),
    ]
    constants = {**held, "last": np.array([2]), "middle": np.array([1])}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["b", held["head"].shape[1]])]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "words", inputs, outputs, stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write(
    folder: Path, proto: Any, labels: Sequence[str] = ("negative", "positive"), shift: int = 0, **config: Any
) -> Path:
    """A graph with its tokenizer (ids moved by `shift`) and config.json, as an export stage leaves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    tokenizer = Tokenizer(
        models.WordLevel({word: place + shift for place, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {"task": "classify", "labels": list(labels), "max_length": 16, **PLAIN, **config}
    text = json.dumps(said, sort_keys=True, indent=1, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    return folder


def ran(config: AnyStageConfig, inputs: dict[str, Path], out: Path) -> Path:
    """A real stage function's artifact."""
    out.mkdir(parents=True)
    function_of(config)(inputs, config, out, 0)
    return out


def rows(folder: Path, label: Callable[[str], Any], labels: Sequence[str], tests: int = 120, **kinds: bool) -> Path:
    """A data artifact; of pairs the two halves of a text."""
    folder.mkdir(parents=True)
    counts = {}
    for seed, (name, count) in enumerate((("train", 160), ("validation", 40), ("test", tests), ("transfer", 10))):
        found: list[data.Row] = []
        for place, text in enumerate(texts(count, seed)):
            given: Any = (text.partition(" ")[0], text.partition(" ")[2]) if kinds.get("pairs") else text
            found.append({"id": f"{name}{place}", "text": given, "label": label(text)})
        data.write_rows(folder / f"{name}.jsonl", found)
        counts[name] = count
    config = data.DataConfig(file="rows.csv", max_length=16)
    data.write_facts(folder, config, list(labels), counts)
    said = json.loads((folder / "data.json").read_text(encoding="utf-8")) | PLAIN | kinds
    (folder / "data.json").write_text(json.dumps(said, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    return folder


def evaluated(roles: dict[str, Path], out: Path, task: str = "classify") -> tuple[Evaluation, Path]:
    """The real evaluation of a student, and its artifact."""
    out.mkdir(parents=True)
    if task == "embed":
        found = embed_evaluate.run(roles, embed_evaluate.EmbedEvaluateConfig(rounds=20, bootstrap=100), out, 0)
    else:
        found = evaluate.run(roles, evaluate.EvaluateConfig(rounds=20, bootstrap=100), out, 0)
    return Evaluation.model_validate(found), out


def based(rows: Path, out: Path, task: str = "classify") -> Path:
    """The floor of a data artifact."""
    config = embed_floor.EmbedFloorConfig() if task == "embed" else floor.FloorConfig(folds=2)
    return ran(config, {"data": rows}, out)


def answers(model: Path) -> dict[str, Any]:
    """golden.json of a model, as an evaluation writes it."""
    given = list(evaluate.GOLDEN)
    return {"texts": given, "logits": runtime.predict(model, given, batch=1).tolist()}

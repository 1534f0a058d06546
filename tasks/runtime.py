"""Run an ONNX artifact: onnxruntime and tokenizers alone, so that what is served here needs no torch."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.records import Task
from tasks import pairs

OUTPUTS: dict[Task, str] = {"classify": "logits", "embed": "sentence_embedding"}  # what a graph's output is called


def session(directory: Path, threads: int = 1) -> Any:
    """An inference session on the CPU with this many threads and no spinning."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = str(directory / "model.onnx")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def settings(directory: Path) -> dict[str, Any]:
    """The artifact's config.json: task, labels, max_length, and whether it answers pairs, by several labels."""
    loaded: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return loaded


def task(directory: Path) -> Task:
    """What the artifact is for; one from before there was a choice classifies."""
    found: Task = settings(directory).get("task", "classify")
    return found


def golden(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """The texts of an evaluation's golden.json and the logits or embeddings that they must give [texts, width]."""
    held = json.loads((path / "golden.json" if path.is_dir() else path).read_text(encoding="utf-8"))
    answers = next(held[name] for name in OUTPUTS.values() if name in held)
    return list(held["texts"]), np.array(answers, dtype=np.float32)


@lru_cache(maxsize=8)
def _tokenizer(path: str, stamp: int, limit: int) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    return tokenizer


def tokenizer(directory: Path) -> Any:
    """The artifact's tokenizer, truncating at max_length, without padding."""
    path = directory / "tokenizer.json"
    return _tokenizer(str(path), path.stat().st_mtime_ns, int(settings(directory)["max_length"]))


def encode(directory: Path, texts: Sequence[pairs.Text]) -> list[list[int]]:
    """Token ids of each text, one text after the other in this thread; [0] for one of which nothing is left."""
    encoder = tokenizer(directory)
    return [encoder.encode(*pairs.parts(text)).ids or [0] for text in texts]


def feeds(ids: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
    """Token ids padded with 0 to the longest of them, and their mask."""
    length = max(2, *(len(row) for row in ids)) if len(ids) else 2
    tokens = np.zeros((len(ids), length), dtype=np.int64)
    mask = np.zeros((len(ids), length), dtype=np.int64)
    for place, row in enumerate(ids):
        tokens[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return {"input_ids": tokens, "attention_mask": mask}


def predict(
    directory: Path, texts: Sequence[pairs.Text], batch: int = 32, threads: int = 1, opened: Any = None
) -> NDArray[np.float32]:
    """Logits [texts, labels] or embeddings [texts, width] in the order of the texts; batches hold like lengths."""
    running = opened if opened is not None else session(directory, threads)
    ids = encode(directory, texts)
    order = sorted(range(len(ids)), key=lambda place: (len(ids[place]), place))
    output = running.get_outputs()[0]
    width = len(settings(directory)["labels"]) or int(output.shape[1])
    answers = np.zeros((len(ids), width), dtype=np.float32)
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        answers[places] = running.run([output.name], feeds([ids[place] for place in places]))[0]
    return answers


def answers(logits: NDArray[Any], config: dict[str, Any]) -> list[dict[str, Any]]:
    """For each row of logits [n, L] what a model of this config.json says: the likeliest label, its score and all.

    Scores are the softmax of the logits. Of a model of several labels a text: those above one half, and all sigmoids.
    """
    values = np.asarray(logits, dtype=np.float64)
    if config.get("multi_label"):
        return [several(row, config["labels"]) for row in 1 / (1 + np.exp(-np.clip(values, -500, 500)))]
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    found = []
    for row in powers / powers.sum(axis=1, keepdims=True):
        scores = dict(zip(config["labels"], row.tolist(), strict=True))
        best = config["labels"][int(row.argmax())]
        found.append({"label": best, "score": scores[best], "scores": scores})
    return found


def several(row: NDArray[Any], labels: Sequence[str]) -> dict[str, Any]:
    """One answer of a model of several labels: those with a probability above one half, likeliest first."""
    scores = dict(zip(labels, row.tolist(), strict=True))
    there = sorted((name for name in labels if scores[name] > 0.5), key=lambda name: -scores[name])
    return {"labels": there, "scores": scores}

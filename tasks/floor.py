"""The honest floor: TF-IDF of words and word pairs with logistic regression, what a student must clearly beat.

It is stored as JSON and safetensors and read back without scikit-learn. Its out-of-fold decision values on the
training rows and its values on the transfer rows can join the teacher's labels. Of pairs it sees the words of each text
and how far they overlap (tasks/overlap.py); of several labels a row it judges one after the other.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError
from tasks import multilabel, overlap, pairs, progress

Floats = NDArray[np.float32]
Weights = tuple[dict[str, int], dict[str, NDArray[Any]], int]


class FloorConfig(BaseModel):
    """Settings of the TF-IDF floor."""

    model_config = STRICT
    reads: ClassVar[dict[str, str]] = {"data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("floor", "floor")
    kind: Literal["floor"] = Field("floor", description="The stage's kind.")
    task: Literal["classify"] = Field("classify", description="What the recipe's models are for.")
    ngrams: int = Field(2, ge=1, le=3, description="Longest run of words that is one feature.")
    min_df: int = Field(2, ge=1, description="Training texts a feature must occur in.")
    inverse_penalty: float = Field(4.0, gt=0, description="C of the logistic regression (larger = less penalty).")
    folds: int = Field(5, ge=2, description="Folds of the out-of-fold decision values (not with multi_label).")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: rare labels count as much as frequent ones."
    )


def run(inputs: dict[str, Path], config: FloorConfig, out: Path, seed: int) -> dict[str, Any]:
    """Fit the floor on the training rows of inputs["data"] and write it with its values for training and transfer."""
    from safetensors.numpy import save_file

    data = inputs["data"]
    rows = read_rows(data / "train.jsonl")
    texts = [row["text"] for row in rows]
    labels = np.array([row["label"] for row in rows], dtype=np.int64)
    several = labels.ndim == 2
    names = json.loads((data / "data.json").read_text(encoding="utf-8"))["labels"]
    if not several and min(np.bincount(labels, minlength=len(names))) < config.folds:
        raise ShrinkError(
            f"floor.folds is {config.folds}, which needs as many training rows of each label; lower floor.folds."
        )
    held = None if several else out_of_fold(texts, labels, config, seed)
    vectorizer, coef, intercept = fit(texts, labels, config)
    save(vectorizer, coef, intercept, config, names, out)
    values = {"transfer": scores(out, [row["text"] for row in read_rows(data / "transfer.jsonl")])}
    save_file(values | ({} if held is None else {"train": held}), out / "logits.safetensors")
    progress.report(config.folds + 1, config.folds + 1, "fitted")
    check = read_rows(data / "validation.jsonl")
    found = scores(out, [row["text"] for row in check])
    return {
        "features": coef.shape[1],
        "train_rows": len(rows),
        "out_of_fold_accuracy": None if held is None else share(held, labels),
        "validation_accuracy": share(found, np.array([row["label"] for row in check])) if check else None,
    }


def share(values: NDArray[Any], labels: NDArray[Any]) -> float:
    """The part of the rows whose decision values name their label, or the whole set of their labels."""
    if labels.ndim == 2:
        return float(multilabel.exact(multilabel.decided(values), labels).mean())
    return float(np.mean(predicted(values) == labels))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; a file that is not there has none. `text` of a pair is a tuple of two."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as stream:
        return [pairs.joined(json.loads(line)) for line in stream if line.strip()]


def fit(texts: Sequence[pairs.Text], labels: NDArray[np.int64], config: FloorConfig) -> tuple[Any, Floats, Floats]:
    """The fitted scikit-learn vectorizer, and weights [k, features] and intercepts [k] of the classifier.

    k is 1 for two labels (the second is positive), else the number of labels.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    def terms(text: pairs.Text) -> list[str]:
        return overlap.terms(text, config.ngrams)

    vectorizer = TfidfVectorizer(analyzer=terms, sublinear_tf=True, min_df=config.min_df)
    try:
        vectorizer.fit(texts)
    except ValueError as error:
        raise ShrinkError(
            f"floor.min_df is {config.min_df} but no word occurs in so many training texts: lower floor.min_df."
        ) from error
    matrix = features(vectorizer, texts)
    weights = None if config.class_weights == "none" else config.class_weights
    columns = labels.T if labels.ndim == 2 else [labels]
    models = [
        LogisticRegression(C=config.inverse_penalty, max_iter=1000, class_weight=weights).fit(matrix, column)
        for column in columns
    ]
    return vectorizer, np.concatenate([m.coef_ for m in models]), np.concatenate([m.intercept_ for m in models])


def features(vectorizer: Any, texts: Sequence[pairs.Text]) -> Any:
    """The sparse matrix [texts, features]: TF-IDF, and of pairs their overlap behind it."""
    matrix = vectorizer.transform(texts)
    if isinstance(texts[0], str):
        return matrix
    from scipy.sparse import csr_matrix, hstack

    known = vectorizer.vocabulary_
    shared = [overlap.measures(text, known, vectorizer.idf_) for text in texts if not isinstance(text, str)]
    return hstack([matrix, csr_matrix(shared)]).tocsr()


def out_of_fold(texts: Sequence[pairs.Text], labels: NDArray[np.int64], config: FloorConfig, seed: int) -> Floats:
    """Decision values of each training row from a model that has not seen it: [n] for two labels, else [n, labels]."""
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(config.folds, shuffle=True, random_state=seed)
    values: Floats | None = None
    for done, (seen, held) in enumerate(folds.split(texts, labels)):
        vectorizer, coef, intercept = fit([texts[place] for place in seen], labels[seen], config)
        part = (features(vectorizer, [texts[place] for place in held]) @ coef.T + intercept).astype(np.float32)
        part = part[:, 0] if part.shape[1] == 1 else part
        if values is None:
            values = np.zeros((len(texts), *part.shape[1:]), dtype=np.float32)
        values[held] = part
        progress.report(done + 1, config.folds + 1, "fold")
    assert values is not None
    return values


def save(vectorizer: Any, coef: Floats, intercept: Floats, config: FloorConfig, names: list[str], out: Path) -> None:
    """Write floor.json, vocabulary.json (terms in the order of the weights) and weights.safetensors."""
    from safetensors.numpy import save_file

    terms = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
    about = {**config.model_dump(mode="json"), "labels": names}
    (out / "floor.json").write_text(json.dumps(about, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    (out / "vocabulary.json").write_text(json.dumps(terms, ensure_ascii=False) + "\n", encoding="utf-8")
    weights = {"idf": vectorizer.idf_, "coef": coef, "intercept": intercept}
    packed = {key: np.ascontiguousarray(value, dtype=np.float32) for key, value in weights.items()}
    save_file(packed, out / "weights.safetensors")


def load(directory: Path) -> Weights:
    """Vocabulary, weights and longest run of words of a stored floor."""
    from safetensors.numpy import load_file

    terms = json.loads((directory / "vocabulary.json").read_text(encoding="utf-8"))
    about = json.loads((directory / "floor.json").read_text(encoding="utf-8"))
    weights = load_file(directory / "weights.safetensors")
    return {term: place for place, term in enumerate(terms)}, weights, int(about["ngrams"])


def score(floor: Weights, text: pairs.Text) -> Floats:
    """Decision values [1] or [labels] of one text, or of a pair."""
    vocabulary = floor[0]
    weights, (places, entry) = floor[1], entries(floor, text)
    value = weights["intercept"].astype(np.float64)
    if len(places):
        value = value + weights["coef"][:, places] @ entry
    if not isinstance(text, str):
        value = value + weights["coef"][:, len(vocabulary) :] @ overlap.measures(text, vocabulary, weights["idf"])
    return np.asarray(value, dtype=np.float32)


def entries(floor: Weights, text: pairs.Text) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The features of a text [k] that the floor knows, and their TF-IDF values [k] at length 1."""
    vocabulary, weights, ngrams = floor
    counts = Counter(vocabulary[term] for term in overlap.terms(text, ngrams) if term in vocabulary)
    places = np.fromiter(counts, dtype=np.int64)
    times = np.array([1.0 + math.log(count) for count in counts.values()])
    entry = times * weights["idf"][places]
    return places, entry / np.linalg.norm(entry) if counts else entry


def scores(directory: Path, texts: Sequence[pairs.Text]) -> Floats:
    """Decision values of the texts: [n] for two labels (positive = second label), else [n, labels]."""
    floor = load(directory)
    width = floor[1]["intercept"].shape[0]
    values = np.array([score(floor, text) for text in texts], dtype=np.float32).reshape(len(texts), width)
    return values[:, 0] if width == 1 else values


def predicted(values: NDArray[Any]) -> NDArray[np.int64]:
    """The class that decision values name."""
    return np.asarray(values > 0 if values.ndim == 1 else values.argmax(axis=1), dtype=np.int64)

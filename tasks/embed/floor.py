"""The honest floor of an embedding recipe: TF-IDF vectors, compared by their cosine; no network, no labels.

Words are weighted by the training and transfer texts. Stored as JSON and safetensors, read back without scikit-learn.
Or, as an extra, static vectors of the teacher's own word pieces (tasks/embed/static.py).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError
from tasks import floor
from tasks.embed import static


class EmbedFloorConfig(BaseModel):
    """Settings of the floor's vectors."""

    model_config = STRICT
    writes: ClassVar[tuple[str, str]] = ("floor", "floor")
    kind: Literal["floor"] = Field("floor", description="The stage's kind.")
    task: Literal["embed"] = Field("embed", description="What the recipe's models are for.")
    ngrams: int = Field(2, ge=1, le=3, description="Longest run of words that is one feature.")
    min_df: int = Field(2, ge=1, description="Texts a feature must occur in.")
    vectors: Literal["tfidf", "model2vec"] = Field(
        "tfidf", description="tfidf: weighted words; model2vec: static vectors of the teacher's word pieces, an extra."
    )

    @property
    def reads(self) -> dict[str, str]:
        """The data, or the teacher's source alone."""
        return {"data": "rows"} if self.vectors == "tfidf" else {"teacher": "source"}

    @property
    def needs(self) -> tuple[str, ...]:
        """Libraries of the extra."""
        return () if self.vectors == "tfidf" else static.NEEDS


def run(inputs: dict[str, Path], config: EmbedFloorConfig, out: Path, seed: int) -> dict[str, Any]:
    """Weigh the words of the training and transfer texts; measured: features and texts. Or as tasks/embed/static.py."""
    if config.vectors == "model2vec":
        return static.distil(inputs["teacher"], out)
    from safetensors.numpy import save_file
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = [row for name in ("train", "transfer") for row in floor.read_rows(inputs["data"] / f"{name}.jsonl")]
    vectorizer = TfidfVectorizer(ngram_range=(1, config.ngrams), sublinear_tf=True, min_df=config.min_df)
    try:
        vectorizer.fit([str(row["text"]) for row in rows])
    except ValueError as error:
        raise ShrinkError(
            f"floor.min_df is {config.min_df} but no word occurs in so many texts: lower floor.min_df."
        ) from error
    terms = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
    about = json.dumps(config.model_dump(mode="json"), sort_keys=True, indent=1)
    (out / "floor.json").write_text(about + "\n", encoding="utf-8")
    (out / "vocabulary.json").write_text(json.dumps(terms, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file({"idf": np.ascontiguousarray(vectorizer.idf_, dtype=np.float32)}, out / "weights.safetensors")
    return {"features": len(terms), "texts": len(rows)}


def caller(directory: Path) -> Callable[[Sequence[str]], Any]:
    """A function from texts to a stored floor's vectors [texts, width]; loading happens here, not in the call."""
    if static.is_one(directory):
        model = static.load(directory)
        return lambda texts: static.vectors(model, texts)
    weights = floor.load(directory)
    return lambda texts: vectors(weights, texts)


def vectors(weights: floor.Weights, texts: Sequence[str]) -> Any:
    """The texts' TF-IDF vectors at length 1 as a sparse matrix [texts, features]; one of no known word is all 0."""
    from scipy.sparse import csr_matrix

    entries = [floor.entries(weights, text) for text in texts]
    ends = np.cumsum([0, *(len(places) for places, _ in entries)])
    columns = np.concatenate([np.empty(0, dtype=np.int64), *(places for places, _ in entries)])
    values = np.concatenate([np.empty(0), *(found for _, found in entries)])
    return csr_matrix((values, columns, ends), shape=(len(texts), len(weights[0])))

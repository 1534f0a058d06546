"""Static vectors of word pieces, made of the teacher by model2vec: an embedding recipe's floor that knows meanings.

Each piece goes through the teacher alone; the vectors are reduced to 256 principal components and weighted by how rare
a piece is likely to be, and a text's vector is the mean of those of its pieces (Tulkens and van Dongen 2024,
"Model2Vec: Fast state-of-the-art static embeddings"). No text is needed, and nothing is fetched.

An extra (`pip install 'shrinking-frontier[model2vec]'`). model2vec's own extra `distill` asks for an older transformers
than the pinned one, with which it works, as a test shows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from registry.records import ShrinkError
from tasks import extras

NEEDS = ("model2vec", "skeletoken")  # the second reads tokenizers for the first
INSTEAD = "take vectors: tfidf"


def distil(teacher: Path, out: Path) -> dict[str, Any]:
    """Write the teacher's static model; measured: pieces and the width of their vectors."""
    from transformers import PreTrainedTokenizerFast

    from tasks import layout, models

    require()
    from model2vec.distill import distill_from_model
    from model2vec.persistence import save_pretrained

    folder = layout.find_model(teacher)
    encoder = models.load_encoder(folder)
    encoder.config._name_or_path = encoder.name_or_path = str(folder)  # a name that is no folder it asks the hub about
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    try:
        made = distill_from_model(encoder, tokenizer, device="cpu")
    except (ValueError, NotImplementedError) as error:  # a kind of tokenizer that it does not know
        said = " ".join(str(error).split())[:200]
        raise ShrinkError(f"model2vec cannot be made of this teacher ({said}): {INSTEAD}.") from error
    about = {**made.config, "tokenizer_name": ""}  # else the folder's path
    save_pretrained(out, made.embedding, made.tokenizer, about, create_model_card=False)
    return {"pieces": len(made.embedding), "width": int(made.embedding.shape[1])}


def vectors(model: Any, texts: Sequence[str]) -> Any:
    """The texts' vectors at length 1, [texts, width]; one of no known piece is all 0."""
    return np.asarray(model.encode(list(texts), use_multiprocessing=False), dtype=np.float64)


def load(directory: Path) -> Any:
    """A stored static model."""
    require()
    from model2vec import StaticModel

    return StaticModel.from_pretrained(directory)


def is_one(directory: Path) -> bool:
    """Whether a floor's directory holds static vectors."""
    return (directory / "model.safetensors").is_file()


def require() -> None:
    """ShrinkError when the extra is not installed."""
    for library in NEEDS:
        extras.require(library, extra="model2vec", instead=INSTEAD)

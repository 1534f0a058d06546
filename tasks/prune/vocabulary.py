"""Drops the word pieces that the data does not use, from tokenizer and embedding alike.

Specials and single characters always stay, so that every word can still be spelled. WordPiece takes the longest
known piece first: a text whose pieces all stay is cut into the same pieces as before and gets the same logits.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError


class PruneVocabularyConfig(BaseModel):
    """Which word pieces stay."""

    model_config = STRICT
    kind: Literal["prune"] = "prune"
    method: Literal["vocabulary"] = "vocabulary"
    reads: ClassVar[dict[str, str]] = {"student": "torch", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("student", "torch")
    min_count: int = Field(default=1, ge=1, description="Keep pieces that occur at least so often in the texts.")
    transfer: bool = Field(default=False, description="Count the transfer texts too, not the train texts alone.")


def run(inputs: dict[str, Path], config: PruneVocabularyConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the student with the smaller vocabulary; measured: pieces and parameters before and after."""
    from tokenizers import Tokenizer

    from tasks import data, models, train

    model, tokenizer, head = models.load(inputs["student"])
    before, parameters = tokenizer.get_vocab_size(), models.count_parameters(model)
    names = ("train", "transfer") if config.transfer else ("train",)
    texts = [row["text"] for name in names for row in data.read_rows(inputs["data"], name)]
    description = json.loads(tokenizer.to_str())
    counts = Counter(piece for sequence in train.tokenize(tokenizer, texts) for piece in sequence)
    kept = sorted({*kept_pieces(description, counts, config.min_count), train.pad_of(model)})
    smaller, renumbered = reindex(description, kept)
    pad = renumbered[train.pad_of(model)]
    models.slice_vocabulary(model, kept, pad)
    models.save(out, model, Tokenizer.from_str(json.dumps(smaller, ensure_ascii=False)), head)
    sizes = {"pieces_before": before, "pieces": len(kept), "parameters_before": parameters}
    return {**sizes, "parameters": models.count_parameters(model)}


def kept_pieces(description: dict[str, Any], counts: Counter[int], min_count: int) -> list[int]:
    """Rising ids of the pieces that stay: frequent ones, specials, the unknown token and single characters."""
    model = description["model"]
    if model.get("type") != "WordPiece":
        raise ShrinkError(f"The tokenizer is {model.get('type')} but only WordPiece can be pruned: drop this stage.")
    prefix = model["continuing_subword_prefix"]
    added = {token["id"] for token in description["added_tokens"]}  # later ones stand outside of the vocabulary
    return sorted(
        added
        | {
            number
            for piece, number in model["vocab"].items()
            if counts[number] >= min_count or piece == model["unk_token"] or len(piece.removeprefix(prefix)) == 1
        }
    )


def reindex(description: dict[str, Any], kept: Iterable[int]) -> tuple[dict[str, Any], dict[int, int]]:
    """tokenizer.json with the kept pieces numbered from 0, and {old id: new id}."""
    new = {old: number for number, old in enumerate(kept)}
    result: dict[str, Any] = json.loads(json.dumps(description))
    vocabulary = {piece: new[old] for piece, old in result["model"]["vocab"].items() if old in new}
    result["model"]["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    for token in result["added_tokens"]:
        token["id"] = new[token["id"]]
    renumber(result.get("post_processor") or {}, new)
    return result, new


def renumber(post: dict[str, Any], new: dict[int, int]) -> None:
    """Give the special tokens of a post-processor, or of each in a sequence of them, their new ids in place."""
    for special in post.get("special_tokens", {}).values():
        special["ids"] = [new[old] for old in special["ids"]]
    for name in ("cls", "sep"):
        if isinstance(post.get(name), list):
            post[name][1] = new[post[name][1]]
    for part in post.get("processors", []):
        renumber(part, new)

"""Drops the pieces that the data does not use, from tokenizer and embedding alike.

Specials and single characters always stay, so that every word can still be spelled, and a text whose pieces all stay
is cut into the same pieces as before and gets the same logits. WordPiece takes the longest known piece first. BPE
(Sennrich et al. 2016) joins pairs in a fixed order: whatever a kept piece is joined from stays too, and the joins that
are left keep their order. Unigram (Kudo 2018) takes the cut of the highest score: scores stay, and the lowest of them,
which says what an unknown character costs.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError

KINDS = ("WordPiece", "BPE", "Unigram")
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a piece that stands for one byte


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

    from tasks import architectures, data, models, train

    model, tokenizer, head = models.load(inputs["student"])
    before, parameters = tokenizer.get_vocab_size(), models.count_parameters(model)
    names = ("train", "transfer") if config.transfer else ("train",)
    texts = [row["text"] for name in names for row in data.read_rows(inputs["data"], name)]
    description = json.loads(tokenizer.to_str())
    counts = Counter(piece for sequence in train.tokenize(tokenizer, texts) for piece in sequence)
    pad = train.pad_of(model)
    fixed = range(architectures.offset(model.config.to_dict()))  # positions are counted from padding: it stays put
    kept = sorted({*kept_pieces(description, counts, config.min_count), pad, *fixed})
    smaller, renumbered = reindex(description, kept)
    models.slice_vocabulary(model, kept, renumbered[pad])
    models.rename_tokens(model, renumbered)
    models.save(out, model, Tokenizer.from_str(json.dumps(smaller, ensure_ascii=False)), head)
    sizes = {"pieces_before": before, "pieces": len(kept), "parameters_before": parameters}
    return {**sizes, "parameters": models.count_parameters(model)}


def kept_pieces(description: dict[str, Any], counts: Counter[int], min_count: int) -> list[int]:
    """Rising ids of the pieces that stay: frequent ones, specials, the unknown token, what spells any other text."""
    model = description["model"]
    added = {token["id"] for token in description["added_tokens"]}  # later ones stand outside of the vocabulary
    vocabulary = numbered(model)
    frequent = {number for number in vocabulary.values() if counts[number] >= min_count}
    match model.get("type"):
        case "WordPiece":
            prefix, known = model["continuing_subword_prefix"], model["unk_token"]
            needed = {number for piece, number in vocabulary.items() if len(piece.removeprefix(prefix)) == 1}
        case "BPE":
            prefix, known = model.get("continuing_subword_prefix") or "", model.get("unk_token")
            end = model.get("end_of_word_suffix") or ""
            needed = {n for piece, n in vocabulary.items() if len(piece.removeprefix(prefix).removesuffix(end)) == 1}
            frequent = with_parents(model, frequent | added)
        case "Unigram":
            known = None if model.get("unk_id") is None else model["vocab"][model["unk_id"]][0]
            needed = {number for piece, number in vocabulary.items() if len(piece) == 1}
            needed.add(min(vocabulary.values(), key=lambda number: (model["vocab"][number][1], number)))
        case other:
            raise ShrinkError(f"The tokenizer is {other} but only {', '.join(KINDS)} can be pruned: drop this stage.")
    spelled = {number for piece, number in vocabulary.items() if BYTE.fullmatch(piece) or piece == known}
    return sorted(added | frequent | needed | spelled)


def numbered(model: dict[str, Any]) -> dict[str, int]:
    """{piece: its number} of a tokenizer.json's model."""
    vocabulary = model["vocab"]
    return vocabulary if isinstance(vocabulary, dict) else {piece: at for at, (piece, _) in enumerate(vocabulary)}


def joins(model: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The joins of a BPE in their order: left, right, and what they become."""
    prefix = model.get("continuing_subword_prefix") or ""
    pairs = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    return [(left, right, left + right.removeprefix(prefix)) for left, right in pairs]


def with_parents(model: dict[str, Any], kept: set[int]) -> set[int]:
    """Numbers of a BPE's pieces and of all that they are joined from, in whichever way."""
    vocabulary, result = numbered(model), set(kept)
    made: dict[int, set[int]] = {}
    for left, right, whole in joins(model):
        made.setdefault(vocabulary[whole], set()).update((vocabulary[left], vocabulary[right]))
    pending = list(kept)
    while pending:
        new = made.get(pending.pop(), set()) - result
        result |= new
        pending += new
    return result


def reindex(description: dict[str, Any], kept: Iterable[int]) -> tuple[dict[str, Any], dict[int, int]]:
    """tokenizer.json with the kept pieces numbered from 0, and {old id: new id}."""
    new = {old: number for number, old in enumerate(kept)}
    result: dict[str, Any] = json.loads(json.dumps(description))
    model = result["model"]
    if isinstance(model["vocab"], dict):
        vocabulary = {piece: new[old] for piece, old in model["vocab"].items() if old in new}
        model["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    else:
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new]
    if "merges" in model:
        known = model["vocab"]
        told = zip(model["merges"], joins(model), strict=True)
        model["merges"] = [pair for pair, pieces in told if all(piece in known for piece in pieces)]
    if model.get("unk_id") is not None:
        model["unk_id"] = new[model["unk_id"]]
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

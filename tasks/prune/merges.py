"""Drops the pieces of a byte-pair vocabulary that the text does not use, with the joins that make them.

Sennrich, Haddow and Birch 2016, "Neural machine translation of rare words with subword units", arXiv 1508.07909: a BPE
joins pairs in a fixed order. Whatever a kept piece is joined from stays as well, and the joins that are left keep their
order, so that a text whose pieces all stay is cut into the same pieces as before and gets the same predictions; any
other text is spelled by shorter ones, down to bytes, which stay with all special tokens. A tied embedding is cut once.
The perplexity of models with different vocabularies compares per byte alone.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError, Task
from tasks.prune import vocabulary

COPIED = ("chat_template.jinja",)


class PruneMergesConfig(BaseModel):
    """Which pieces stay."""

    model_config = STRICT
    tasks: ClassVar[tuple[Task, ...]] = ("generate",)
    reads: ClassVar[dict[str, str]] = {"student": "lm", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("student", "lm")
    kind: Literal["prune"] = Field("prune", description="The stage's kind.")
    method: Literal["merges"] = Field(
        "merges", description="Pieces of a byte-pair vocabulary that the text does not use."
    )
    min_count: int = Field(
        default=1, ge=1, description="Keep pieces that occur at least so often in the training text."
    )
    pieces: int | None = Field(
        default=None, ge=1, description="Keep at least so many, those that are joined first besides; none: used ones."
    )


def run(inputs: dict[str, Path], config: PruneMergesConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the student with the smaller vocabulary; measured: pieces and parameters before and after."""
    from tasks.generate import cut, lesson, lm

    lesson.check_whole(inputs["student"], "prune/merges")
    described = json.loads((inputs["student"] / "tokenizer.json").read_text(encoding="utf-8"))
    kind = described["model"].get("type")
    if kind != "BPE":
        raise ShrinkError(f"the tokenizer is {kind}, which has no joins: leave prune/merges out.")
    model, tokenizer = lm.load(inputs["student"]), lm.load_tokenizer(inputs["student"])
    before, parameters = model.config.vocab_size, sum(one.numel() for one in model.parameters())
    if config.pieces is not None and config.pieces > before:
        raise ShrinkError(f"pieces is {config.pieces} but the student has only {before}: give at most that.")
    counts = Counter[int]()
    for text in lesson.texts(inputs["data"], "train"):
        counts.update(tokenizer(text, add_special_tokens=False)["input_ids"])
    kept = chosen(described, counts, config, named(model.config.to_dict()))
    smaller, new = vocabulary.reindex(described, kept)
    made = cut.keep_pieces(model, kept, renamed(model.config.to_dict(), new))
    write(inputs["student"], out, smaller, new)
    lm.save(out, made, out, {}, {})
    sizes = {"pieces_before": before, "pieces": len(kept), "parameters_before": parameters}
    return sizes | {"parameters": sum(one.numel() for one in made.parameters())}


def chosen(described: dict[str, Any], counts: Counter[int], config: PruneMergesConfig, named: set[int]) -> list[int]:
    """Rising numbers of the pieces that stay, what they are joined from among them."""
    model = described["model"]
    known = vocabulary.numbered(model)
    kept = {*vocabulary.kept_pieces(described, counts, config.min_count), *named}
    for left, right, whole in vocabulary.joins(model):
        if len(kept) >= (config.pieces or 0):
            break
        kept |= {known[left], known[right], known[whole]}
    return sorted(vocabulary.with_parents(model, kept))


def named(settings: dict[str, Any]) -> set[int]:
    """The numbers of tokens that a configuration names."""
    found = (one for key, value in settings.items() if key.endswith("_token_id") for one in listed(value))
    return {one for one in found if isinstance(one, int) and one >= 0}


def renamed(settings: dict[str, Any], new: dict[int, int]) -> dict[str, Any]:
    """The tokens that a configuration names by their new numbers."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if key.endswith("_token_id") and value is not None:
            found[key] = [new[one] for one in value] if isinstance(value, list) else new.get(value, value)
    return found


def listed(value: Any) -> list[Any]:
    """A value, or several, as a list."""
    return value if isinstance(value, list) else [value]


def write(source: Path, out: Path, smaller: dict[str, Any], new: dict[int, int]) -> None:
    """Write the tokenizer's files with the new numbers, and those of the settings for generating."""
    from tokenizers import Tokenizer

    Tokenizer.from_str(json.dumps(smaller, ensure_ascii=False)).save(str(out / "tokenizer.json"))
    for name in COPIED:
        if (source / name).is_file():
            (out / name).write_bytes((source / name).read_bytes())
    for name in ("tokenizer_config.json", "generation_config.json"):
        if not (source / name).is_file():
            continue
        said = json.loads((source / name).read_text(encoding="utf-8"))
        if added := said.get("added_tokens_decoder"):
            said["added_tokens_decoder"] = {str(new[int(number)]): one for number, one in added.items()}
        said |= renamed(said, new)
        (out / name).write_text(json.dumps(said, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")

"""Whether a tokenizer.json is the one that its model was trained with, and of which texts it knows nothing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry.records import ShrinkError
from tasks import architectures
from tasks.pairs import Text

SPARE_ROWS = 1023  # an embedding may be padded to a round number of rows; more than that is another tokenizer
PROBES = ("", "word", "\u2603\u2603 \U0001f9ff")  # nothing, something common, something that hardly any knows
AGAIN = "use the tokenizer that was saved with this model."


def check(folder: Path, config: dict[str, Any]) -> str:
    """The kind of tokenizer.json; ShrinkError when it is missing or cannot be the one this model was trained with."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ShrinkError("tokenizer.json is missing in the model folder: save the fast tokenizer beside the weights.")
    rows = config["vocab_size"]
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        model, added = description["model"], description.get("added_tokens") or []
        pieces = model["vocab"]
        names = list(pieces) if isinstance(pieces, dict) else [piece for piece, _ in pieces]
        numbers = list(pieces.values()) if isinstance(pieces, dict) else list(range(len(pieces)))
        count = max([*numbers, *(token["id"] for token in added)], default=-1) + 1
        pads = {token["content"]: token["id"] for token in added if token["content"] in {"[PAD]", "<pad>"}}
        known = {*names, *(token["content"] for token in added)}
        kind = str(model.get("type"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ShrinkError(
            "tokenizer.json is no tokenizer of the tokenizers library: save the fast one again."
        ) from None
    if not rows - SPARE_ROWS <= count <= rows:
        raise ShrinkError(f"tokenizer.json has {count} pieces but the model's vocab_size is {rows}: {AGAIN}")
    pad = architectures.pad_of(config)
    for name, number in pads.items():
        if number != pad:
            raise ShrinkError(f"tokenizer.json numbers {name} {number} but the model's pad_token_id is {pad}: {AGAIN}")
    ends = ["<s>", "</s>"] if "<s>" in known and "[CLS]" not in known else ["[CLS]", "[SEP]"]  # MPNet has the former
    wanted = [str(model.get("unk_token")), *ends] if kind == "WordPiece" else []
    missing = next((token for token in wanted if token not in known), None)
    if missing is not None:
        raise ShrinkError(f"tokenizer.json lacks the piece {missing}, which its WordPiece needs: {AGAIN}")
    check_answers(path, rows)
    return kind


def check_answers(path: Path, rows: int) -> None:
    """ShrinkError when the tokenizers library cannot read the file, or its answers lead outside of the embedding."""
    tokenizer = opened(path)
    try:
        ids = [number for text in PROBES for number in tokenizer.encode(text).ids]
    except Exception as error:
        raise ShrinkError(f"tokenizer.json cannot cut a text into pieces ({said(error)}): {AGAIN}") from None
    if ids and max(ids) >= rows:
        raise ShrinkError(f"tokenizer.json gives the piece {max(ids)} but the model's vocab_size is {rows}: {AGAIN}")


def opened(path: Path) -> Any:
    """The tokenizer of a file, neither padding nor cutting; ShrinkError when the library cannot read it."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise ShrinkError(f"tokenizer.json cannot be read ({said(error)}): save the fast tokenizer again.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def said(error: Exception) -> str:
    """The first line of what a library says, not too long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def unknown(path: Path, texts: Sequence[Text]) -> list[int]:
    """The places of the texts of which the tokenizer knows nothing: only unknown pieces, or none at all."""
    tokenizer = opened(path)
    name = getattr(tokenizer.model, "unk_token", None)
    number = None if name is None else tokenizer.token_to_id(name)
    found = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [place for place, encoding in enumerate(found) if set(encoding.ids) <= {number}]

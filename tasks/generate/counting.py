"""How many tokens a model makes of texts, by its tokenizer alone: no torch, no weights."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from registry.records import ShrinkError
from tasks import layout
from tasks.generate import gguf_tokenizer
from tasks.generate.adopt import gguf_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SAMPLE = 1_000_000  # bytes of text that are cut into tokens; more is reckoned from these


def tokens(source: Path, texts: Sequence[str]) -> int:
    """Tokens of the texts by the tokenizer of a source folder; exact up to SAMPLE bytes of text."""
    tokenizer = tokenizer_of(source)
    size = sum(len(text.encode()) for text in texts)
    some = texts[:: max(1, -(-size // SAMPLE))]
    found = sum(len(one.ids) for one in tokenizer.encode_batch(list(some), add_special_tokens=False))
    return found * size // max(1, sum(len(text.encode()) for text in some))


def tokenizer_of(source: Path) -> "Tokenizer":
    """The tokenizer of a folder of transformers or of its one GGUF file; ShrinkError for one that cannot be read."""
    from tokenizers import Tokenizer

    file = gguf_of(source)
    if file is not None:
        from gguf import GGUFReader

        said = gguf_tokenizer.described(GGUFReader(file).fields, file.name)
    else:
        said = layout.read_json(source / "tokenizer.json")
    try:
        made = Tokenizer.from_str(json.dumps(said))
    except Exception as error:  # the library's own, with the part in the text
        where = "tokenizer.json" if file is None else f"the tokenizer of '{file.name}'"
        reason = " ".join(str(error).split())[:120]
        raise ShrinkError(f"{where} cannot be read ({reason}): save the tokenizer again.") from None
    made.no_padding()
    made.no_truncation()
    return made

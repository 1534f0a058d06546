"""Documents as what a language model reads: token ids in blocks, and the bytes of text that they stand for.

Quality is told per byte of UTF-8, so that models with different tokenizers can stand side by side.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from registry.records import ShrinkError


class Document(NamedTuple):
    """A document cut in windows [windows, length] (-1 behind its end), and the bytes that its predicted tokens are."""

    windows: Tensor
    size: int


def documents(tokenizer: Any, texts: Sequence[str], length: int) -> list[Document]:
    """Every text in windows of at most `length` tokens, each with one token of what comes before it.

    The first window begins with the token that starts a text (or ends the one before), so that every byte is predicted.
    """
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if begin is None:
        raise ShrinkError("the tokenizer names neither bos_token nor eos_token: name one in tokenizer_config.json.")
    found = []
    for text in texts:
        ids = [begin, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        step = length - 1  # a window's first token is the last one of the window before
        windows = [ids[at : at + length] for at in range(0, max(1, len(ids) - 1), step)]
        padded = [[*one, *[-1] * (length - len(one))] for one in windows]
        found.append(Document(torch.tensor(padded), len(text.encode())))
    return found


def blocks(tokenizer: Any, texts: Sequence[str], length: int, count: int, seed: int) -> Tensor:
    """Blocks [count, length] of running text, spread over all texts: for calibration, no padding, none twice.

    Raises ShrinkError when the texts do not have so many.
    """
    found = running(tokenizer, texts, length)
    if len(found) < count:
        raise ShrinkError(
            f"calibration asks for {count} blocks of {length} tokens but the training text has {len(found)}: lower it."
        )
    return drawn(found, count, seed)


def running(tokenizer: Any, texts: Sequence[str], length: int) -> Tensor:
    """All texts behind each other, each led in by the token that begins one, as blocks [n, length]; a rest is left."""
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if begin is None:
        raise ShrinkError("the tokenizer names neither bos_token nor eos_token: name one in tokenizer_config.json.")
    ids = [number for text in texts for number in (begin, *tokenizer(text, add_special_tokens=False)["input_ids"])]
    have = len(ids) // length
    return torch.tensor(ids[: have * length], dtype=torch.long).view(have, length)


def drawn(found: Tensor, count: int, seed: int) -> Tensor:
    """Some blocks [count, length] of many, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(found))[:count]
    return found[torch.as_tensor(np.sort(chosen))]

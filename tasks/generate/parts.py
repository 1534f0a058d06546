"""What a model that writes gives token by token, as the text of whole characters that people are shown."""

from collections.abc import Callable, Iterable, Iterator

from registry.records import ShrinkError

OVERLAP = 8  # tokens of a prompt that is gone on with: a tokenizer may write a word otherwise where a text begins
REPLACED = "\N{REPLACEMENT CHARACTER}"  # what a part of a character is decoded to


def fitting(ids: list[int], context: int) -> list[int]:
    """The same ids, if there is room behind them."""
    if len(ids) >= context:
        raise ShrinkError(
            f"the prompt has {len(ids)} tokens but the model reads {context}, its answer included: shorten it."
        )
    return ids


def parts(text: Callable[[list[int]], str], before: list[int], tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens behind others, piece by piece, in whole characters.

    New tokens are decoded together with those of the piece before, whose text is taken off: a word that began there
    goes on without a blank. A piece that ends within a character waits for the rest of it.
    """
    seen = list(before[-OVERLAP:])
    start, shown = 0, len(seen)
    for token in tokens:
        seen.append(token)
        new = text(seen[start:])[len(text(seen[start:shown])) :]
        if new and not new.endswith(REPLACED):
            yield new
            start, shown = shown, len(seen)
    if rest := text(seen[start:])[len(text(seen[start:shown])) :]:
        yield rest

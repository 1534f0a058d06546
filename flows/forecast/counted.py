"""What the data and the teacher's tokenizer hold, counted before a run: rows, pieces, bytes.

Lengths come from a sample; the pieces of training texts are all counted where a stage drops the unused ones, so that
its vocabulary is foretold exactly. Beyond MOST texts a sample stands for all, and what follows from it is only near.
"""

import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from flows.recipe import Recipe
from tasks import data, floor, overlap, pieces, splits
from tasks.pairs import Text

MOST = 30_000  # texts of which every piece is counted: a second
SAMPLE = 500  # texts of a split whose lengths stand for all


class Texts:
    """Texts of one split and their lengths in the teacher's pieces, looked at when asked for."""

    def __init__(self, texts: Sequence[Text], tokenizer: Any) -> None:
        self.texts, self.tokenizer = texts, tokenizer

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.texts)

    @cached_property
    def lengths(self) -> list[int]:
        """The lengths of a sample, in pieces, longer ones cut as the stages cut them."""
        sample = self.texts[:: max(1, self.rows // SAMPLE)]
        return [len(one.ids) for one in self.tokenizer.encode_batch_fast(list(sample))]

    def total(self, power: int = 1) -> float:
        """The sum over all texts of their lengths to this power, from the sample."""
        return self.rows * float(sum(length**power for length in self.lengths)) / max(1, len(self.lengths))

    @cached_property
    def pieces(self) -> Counter[int]:
        """How often each piece occurs; scaled from a sample when there are too many texts."""
        step = max(1, -(-self.rows // MOST))
        found: Counter[int] = Counter()
        for one in self.tokenizer.encode_batch_fast(list(self.texts[::step])):
            found.update(one.ids)
        return found if step == 1 else Counter({piece: count * step for piece, count in found.items()})


class Counted:
    """The data of a recipe as numbers, and the teacher's tokenizer."""

    def __init__(self, recipe: Recipe, model: Path, source: Path) -> None:
        rows, self.labels = data.labelled_rows(source, recipe.rows)
        parts: dict[str, list[data.Row]] = dict(splits.split_rows(rows, recipe.rows.split))
        parts["transfer"] = data.transfer_rows(source, recipe.rows, {splits.normalise(row["text"]) for row in rows})
        self.tokenizer, self.max_length = pieces.opened(model / "tokenizer.json"), recipe.rows.max_length
        self.tokenizer.enable_truncation(self.max_length)
        self.splits = {name: Texts([row["text"] for row in part], self.tokenizer) for name, part in parts.items()}
        self.bytes = 190 + sum(sampled_bytes(part) for part in parts.values())

    @cached_property
    def description(self) -> dict[str, Any]:
        """tokenizer.json as the stages write it."""
        described: dict[str, Any] = json.loads(self.tokenizer.to_str())
        return described

    @cached_property
    def tokenizer_bytes(self) -> int:
        """Bytes of tokenizer.json as the stages write it."""
        return len(self.tokenizer.to_str().encode())

    def of(self, *names: str) -> tuple[int, float, float]:
        """Rows, pieces and the sum of squared lengths of some splits together."""
        parts = [self.splits[name] for name in names]
        tokens, squares = (sum(part.total(power) for part in parts) for power in (1, 2))
        return sum(part.rows for part in parts), tokens, squares

    def features(self, config: floor.FloorConfig) -> tuple[int, int]:
        """Words and runs of words that occur in enough training texts, the columns of TF-IDF; and their bytes."""
        texts = self.splits["train"].texts
        found: Counter[str] = Counter()
        for text in texts[:: max(1, -(-len(texts) // MOST))]:
            found.update(set(overlap.terms(text, config.ngrams)))
        terms = [term for term, count in found.items() if count >= config.min_df]
        return len(terms), len(json.dumps(terms, ensure_ascii=False).encode())


def sampled_bytes(rows: list[data.Row]) -> int:
    """Bytes of rows as JSON lines, from a sample of them."""
    sample = rows[:: max(1, len(rows) // SAMPLE)]
    sizes = [len(json.dumps(row, sort_keys=True, ensure_ascii=False).encode()) + 1 for row in sample]
    return round(len(rows) * sum(sizes) / max(1, len(sizes)))

"""Rows split without leaks between near-duplicates, and made fewer; how labels and ids are ordered.

Texts that are equal after lowercasing and dropping everything but letters and digits form a cluster; a cluster goes
to one split by the MD5 of its smallest id, so that the split depends neither on the order of rows nor on a seed. Pairs
that share a text form one as far as tasks/pairs.py says.
"""

import hashlib
import re
import unicodedata

from registry.records import ShrinkError
from tasks import multilabel, pairs
from tasks.pairs import Row, Text

SPLITS = ("train", "validation", "test")
RARE = 10  # rows of each label that a limit leaves, so that every label still reaches the train split


def normalise(text: Text) -> str:
    """Lowercased words of letters and digits; the stripped text itself when it has none. Of a pair both, sorted.

    In one spelling of Unicode (NFKC): an accent may be part of a letter or stand behind it, a letter may be wide.
    """
    if not isinstance(text, str):
        return "\t".join(sorted(map(normalise, text)))
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return re.sub(r"[\W_]+", " ", text.lower()).strip() or text.strip()


def thin(rows: list[Row], limit: int) -> list[Row]:
    """About `limit` rows spread over the file (which may be sorted), at least RARE of every label where it has them."""
    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        for label in multilabel.held(row["label"]):
            places.setdefault(label, []).append(place)
    step = max(1, len(rows) // limit)
    kept = {place for found in places.values() for place in found[:: max(1, min(step, len(found) // RARE))]}
    return [row for place, row in enumerate(rows) if place in kept]


def split_rows(rows: list[Row], bounds: tuple[int, int]) -> dict[str, list[Row]]:
    """Rows by split; all rows of one cluster of near-duplicates, or of pairs that share a text, stand in one split."""
    names = clusters_of(rows)
    clusters: dict[str, list[str]] = {}
    for row, cluster in zip(rows, names, strict=True):
        clusters.setdefault(cluster, []).append(row["id"])
    smallest = {cluster: min(ids, key=id_order) for cluster, ids in clusters.items()}
    parts: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row, cluster in zip(rows, names, strict=True):
        bucket = int(hashlib.md5(smallest[cluster].encode(), usedforsecurity=False).hexdigest(), 16) % 100
        parts[SPLITS[sum(bucket >= bound for bound in bounds)]].append(row)
    return parts


def clusters_of(rows: list[Row]) -> list[str]:
    """For each row the name of the cluster that a split must not tear apart."""
    if rows and not isinstance(rows[0]["text"], str):
        return pairs.linked([(normalise(row["text"][0]), normalise(row["text"][1])) for row in rows])
    return [normalise(row["text"]) for row in rows]


def shared_texts(splits: dict[str, list[Row]]) -> int:
    """How many validation and test pairs have a text that a train pair has too."""
    seen = {normalise(text) for row in splits["train"] for text in row["text"]}
    held = (*splits["validation"], *splits["test"])
    return sum(any(normalise(text) in seen for text in row["text"]) for row in held)


def check_splits(splits: dict[str, list[Row]], labels: list[str], limit: int | None = None) -> None:
    """ShrinkError when a split is empty or, where there are labels, has one class, or train lacks one that exists.

    `limit` is what the rows were thinned to: then it may be that, not the file, which has too few.
    """
    raise_it = "" if limit is None else f"raise data.limit, which is {limit}, or "
    for name, rows in splits.items():
        if not rows:
            more = "labelled rows" if labels else "texts"
            raise ShrinkError(f"The {name} split is empty: {raise_it}give more {more} or change split.")
        if not labels:
            continue
        if isinstance(rows[0]["label"], list):
            multilabel.check_split(name, rows, labels)
            continue
        present = {row["label"] for row in rows}
        if len(present) < 2:
            held = labels[present.pop()]
            raise ShrinkError(f"The {name} split holds one class only ({held}): {raise_it}give rows of others.")
        if name == "train" and len(present) < len(labels):
            missing = next(label for index, label in enumerate(labels) if index not in present)
            raise ShrinkError(
                f"The train split has no row of label {missing!r}: {raise_it}give more rows of it or drop it."
            )


def id_order(value: str) -> tuple[int, int, str]:
    """Numbers by their size, before all others."""
    return (0, int(value), value) if value.isdecimal() else (1, 0, value)

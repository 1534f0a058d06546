"""Builds data for tasks that the shipped recipes do not have, from the rated sentences of the vaderSentiment package.

Run: python -m benchmarks.task_data FOLDER   (prints the teacher's folder for `shrink init`)
follows.jsonl: pairs of sentences of New York Times editorials; does the second follow the first in its article, or is
it from another one? Every sentence occurs once in all, so that no split shares a text with another.
several.jsonl: what a sentence is from (film, product, news; tweets are none of these) and whether it is positive or
negative (rated above 0.5, below -0.5), any number of labels a row, also none.
rare.jsonl: film reviews, 19 of 20 positive.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flows import sources
from flows.recipe import load
from tasks.splits import normalise

CORPORA = {
    "movieReviewSnippets": "film",
    "amazonReviewSnippets": "product",
    "nytEditorialSnippets": "news",
    "tweets": "",
}
MOST = 2_000  # sentences of each corpus in several.jsonl, spread over its file
BORDER = 0.5  # from which a mean rating counts as positive or negative
Row = dict[str, Any]


def rated(folder: Path, corpus: str) -> Iterator[tuple[str, float, str]]:
    """Id, mean rating and text of each sentence of a corpus, in the order of the file; of equal texts the first."""
    seen = set()
    lines = (folder / f"{corpus}_GroundTruth.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    for line in filter(str.strip, lines):
        number, mean, text = line.rstrip("\r").split("\t")[:3]
        if normalise(text) not in seen:
            seen.add(normalise(text))
            yield number, float(mean), text.strip()


def follows(folder: Path) -> list[Row]:
    """Neighbouring sentences of an article, every second pair with the second sentences of other articles instead."""
    articles: dict[str, list[tuple[int, str]]] = {}
    for number, _, text in rated(folder, "nytEditorialSnippets"):
        article, place = number.split("_")
        articles.setdefault(article, []).append((int(place), text))
    found = []
    for article, sentences in articles.items():
        placed, start = sorted(sentences), 0
        while start + 1 < len(placed):
            (one, text), (two, following) = placed[start : start + 2]
            if two == one + 1:
                found.append((article, text, following))
            start += 2 if two == one + 1 else 1
    rng = np.random.default_rng(0)
    order = rng.permutation(len(found))
    elsewhere = sorted(order[: len(found) // 2].tolist(), key=lambda place: (int(found[place][0]), place))
    half = len(elsewhere) // 2  # sorted by article: half a turn away stands another one
    turned = dict(zip(elsewhere, [*elsewhere[half:], *elsewhere[:half]], strict=True))
    rows = []
    for at, (article, text, following) in enumerate(found):
        other = turned.get(at, at)
        if other == at:
            rows.append({"text": text, "pair": following, "label": "follows"})
        elif found[other][0] != article:
            rows.append({"text": text, "pair": found[other][2], "label": "elsewhere"})
    return rows


def several(folder: Path) -> list[Row]:
    """Sentences of all corpora with where they are from and what they feel like."""
    rows = []
    for corpus, name in CORPORA.items():
        found = list(rated(folder, corpus))
        for _, mean, text in found[:: -(-len(found) // MOST)]:
            feeling = ["positive"] * (mean > BORDER) + ["negative"] * (mean < -BORDER)
            rows.append({"text": text, "label": [*filter(None, [name]), *feeling]})
    return rows


def rare(folder: Path) -> list[Row]:
    """Film reviews as the recipe `sentiment` reads them, but of the negative ones only so many that they are a 20th."""
    found = [(mean > 0, text) for _, mean, text in rated(folder, "movieReviewSnippets") if mean]
    good, bad = ([text for positive, text in found if positive is wanted] for wanted in (True, False))
    bad = bad[:: max(1, 19 * len(bad) // len(good))]
    rows = [{"text": text, "label": "positive"} for text in good]
    return rows + [{"text": text, "label": "negative"} for text in bad]


def main() -> None:
    """Write the files and say what is in them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    recipe = load("sentiment")
    source = sources.resolve(recipe.data_source, folder.absolute())
    for name, rows in (("follows", follows(source)), ("several", several(source)), ("rare", rare(source))):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{folder / name}.jsonl: {len(rows)} rows")
    print(f"teacher: {sources.resolve(recipe.teacher, folder.absolute())}")


if __name__ == "__main__":
    main()

"""benchmarks/architectures.md as text: what was tried, in tables that follow the recipe's order, every refusal once."""

import functools
from collections.abc import Sequence

from benchmarks.architectures_stages import COLUMNS, EXTRAS, TABLES

Said = dict[str, dict[str, str]]  # of an architecture: {kind of tokenizer: {column: ✓ or the sentence}}
WORKS = "✓"
ALONE = "○"  # the stage itself, but no recipe, which ends with a deployable
INTRODUCTION = """\
# Which encoders go through which stages

Look for the `model_type` of your model's config.json. {works} ran; a number is a refusal, in one sentence and before
anything is trained: the sentences are [below](#refusals).

Written by `python -m benchmarks.architectures`, which takes a tiny random encoder of each of {known} architectures, and
for each cell a recipe that has this stage behind those that it needs: a teacher, its answers, and what the table says.
All of the recipe ran; what each stage left was read back; every export answers as what it was made of, by its own
runtime, to {near}; every new shape of student was exported to ONNX and answers as in torch. Each recipe went through
`preflight`, with which `shrink plan` and `shrink run` begin: where that refuses, nothing was run. Quality is no subject
here: random encoders have none."""
NOTES = {
    "The teacher and its answers": "`adopt` is for `task: embed`, the others for `task: classify`.",
    "distill": "The student had lost the pieces that the data does not use, and spells otherwise than its teacher. "
    "`embeddings` is for `task: embed`. Behind `quantized` stood the quantisation that it trains for.",
    "export and quantize": "An asterisk marks an extra; what it is not installed for is refused with the command that "
    "installs it.",
}
TOKENIZERS = """\
## Tokenizers

All of the above ran with a WordPiece tokenizer. Which stages go with which tokenizer does not depend on the encoder,
except for `prune/vocabulary`, which takes the tokenizer apart: with it every encoder was tried, and the logits stay the
same to the last bit."""
FAMILIES = """\
Every stage with every kind of tokenizer, for two encoders: BERT pads with piece 0, RoBERTa with piece 1."""


def page(said: dict[str, Said], families: Sequence[str], near: float) -> str:
    """The page in Markdown."""
    sentences: list[str] = []
    mark = functools.partial(marked, sentences)
    parts = [INTRODUCTION.format(works=WORKS, known=len(said), near=near)]
    for title, columns in TABLES.items():
        names = [column.name for column in columns]
        rows = {f"`{kind}`": [mark(found["WordPiece"][name]) for name in names] for kind, found in said.items()}
        parts += [f"## {title}", *([NOTES[title]] if title in NOTES else []), table([*map(head, names)], rows)]
    tokenizers = list(next(iter(said.values())))
    rows = {f"`{kind}`": [mark(one["prune/vocabulary"]) for one in found.values()] for kind, found in said.items()}
    parts += [TOKENIZERS, table(tokenizers, rows)]
    crossed = [(kind, pieces) for kind in families if kind in said for pieces in tokenizers]
    rows = {column.name: [mark(said[kind][pieces][column.name]) for kind, pieces in crossed] for column in COLUMNS}
    parts += [FAMILIES, table([f"`{kind}`, {pieces}" for kind, pieces in crossed], rows)]
    return closed(parts, sentences)


def marked(sentences: list[str], one: str) -> str:
    """A cell: ✓ or ○ as it is, a sentence as its number among those that there are by then."""
    if one in {WORKS, ALONE}:
        return one
    if one not in sentences:
        sentences.append(one)
    return f"[{sentences.index(one) + 1}](#refusals)"


def closed(parts: list[str], sentences: list[str]) -> str:
    """A page of parts with its refusals at the end."""
    numbered = [f"{number}. {one}" for number, one in enumerate(sentences, start=1)]
    return "\n\n".join([*parts, "## Refusals", "\n".join(numbered)]) + "\n"


def head(name: str) -> str:
    """What stands over a column: its name without the kind, and whether it is an extra."""
    return name.rpartition("/")[2] + ("\\*" if name in EXTRAS else "")


def table(columns: list[str], rows: dict[str, list[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| | {' | '.join(columns)} |", "|---|" + ":-:|" * len(columns)]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])

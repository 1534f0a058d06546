"""A user's behaviour checks, after CheckList (Ribeiro et al. 2020): what a model must do, one check a line.

As JSON lines; texts of a model of pairs are lists of two:

    {"group": "negation", "kind": "minimum", "text": "not good at all", "label": "negative"}
    {"group": "names", "kind": "invariance", "texts": ["Anna loved it", "Maria loved it"]}
    {"group": "praise", "kind": "direction", "texts": ["It is long", "It is long and great"], "label": "positive",
     "score": "rises"}

Of a model that writes (`lacks` names what it must not say), and of one that embeds:

    {"group": "capitals", "kind": "minimum", "prompt": "The capital of France is", "contains": ["Paris"]}
    {"group": "names", "kind": "invariance", "texts": ["Anna loved it", "Maria loved it"], "cosine": 0.9}
    {"group": "topics", "kind": "order", "text": "My card is blocked", "nearer": "Unblock my card", "farther": "Hello"}

Or as a CSV file with these keys as its header; `text` and `other` are what `texts` holds, `|` parts what `contains` and
`lacks` hold, and a cell that does not go with the kind stays empty.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from registry.records import STRICT, ShrinkError, Task, has_text, is_unicode
from tasks import pairs

Text = str | tuple[str, str]
Group = Annotated[str, Field(min_length=1, max_length=60)]


class Minimum(BaseModel):
    """A text whose label is plain."""

    model_config = STRICT
    kind: Literal["minimum"]
    group: Group
    text: Text
    label: str


class Invariance(BaseModel):
    """Texts that must get the same answer."""

    model_config = STRICT
    kind: Literal["invariance"]
    group: Group
    texts: tuple[Text, Text]


class Direction(BaseModel):
    """A second text that must give a label a higher, or a lower, score than the first."""

    model_config = STRICT
    kind: Literal["direction"]
    group: Group
    texts: tuple[Text, Text]
    label: str
    score: Literal["rises", "falls"]


class Written(BaseModel):
    """A prompt, and what the answer must and must not contain (letters' case apart)."""

    model_config = STRICT
    kind: Literal["minimum"]
    group: Group
    prompt: str
    contains: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


class Alike(BaseModel):
    """Two texts whose vectors must lie at least so close."""

    model_config = STRICT
    kind: Literal["invariance"]
    group: Group
    texts: tuple[str, str]
    cosine: float = Field(gt=-1, le=1)


class Order(BaseModel):
    """A text whose vector must lie closer to that of one text than to that of another."""

    model_config = STRICT
    kind: Literal["order"]
    group: Group
    text: str
    nearer: str
    farther: str


Labelled = Minimum | Invariance | Direction
Placed = Alike | Order
Check = Labelled | Written | Placed
Checks = Mapping[int, Check]  # by the number of their line
KINDS: dict[str, type[BaseModel]] = {
    "minimum": Minimum,
    "invariance": Invariance,
    "direction": Direction,
    "order": Order,
}
ENDINGS = (".jsonl", ".csv")
ASKED: dict[Task, tuple[Any, str]] = {  # by task, its checks, and what they have
    "classify": (Labelled, "a label, or texts that get the same one"),
    "embed": (Placed, "a cosine, or the kind order"),
    "generate": (Written, "a prompt"),
}


def read(directory: Path) -> dict[int, Check]:
    """The checks of the one file in a directory; ShrinkError names the line that is wrong."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    if len(files) != 1 or files[0].suffix not in ENDINGS:
        raise ShrinkError(f"behaviour has {len(files)} files but must be one .jsonl or .csv: give it as file:PATH.")
    name = files[0].name
    try:
        text = files[0].read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ShrinkError(f"{name} is no UTF-8 at byte {error.start}: convert it to UTF-8.") from None
    lines = cells(text, name) if files[0].suffix == ".csv" else dict(enumerate(text.split("\n"), 1))
    found = {at: check_of(line, f"Line {at} of {name}") for at, line in lines.items() if line.strip()}
    if not found:
        raise ShrinkError(f"{name} has no checks: write one a line, or leave behaviour out.")
    return found


def cells(text: str, name: str) -> dict[int, str]:
    """The rows of a CSV file as JSON, by the line on which each ends."""
    found, at = {}, 1
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        for row in reader:
            at = reader.line_num
            if None in row:
                raise ShrinkError(f"Line {at} of {name} has more cells than the header: quote texts with commas.")
            held: dict[str, Any] = {key: value for key, value in row.items() if value}
            if "other" in held:
                held["texts"] = [held.pop("text", ""), held.pop("other")]
            found[at] = json.dumps(held | {key: held[key].split("|") for key in ("contains", "lacks") if key in held})
    except csv.Error as error:
        raise ShrinkError(f"{name} is no CSV behind line {at} ({error}): check its quotes.") from None
    return found


def check_of(line: str, where: str) -> Check:
    """One line's check."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        raise ShrinkError(f"{where} is no JSON object: put one check on each line.")
    marked: dict[str, type[BaseModel]] = {"prompt": Written, "cosine": Alike}
    kind = next((one for key, one in marked.items() if key in raw), KINDS.get(str(raw.get("kind"))))
    if kind is None:
        raise ShrinkError(f"{where} has the kind {raw.get('kind')!r:.40}: it may be {', '.join(KINDS)}.")
    try:
        found: Check = TypeAdapter[Any](kind).validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "it"
        known = ", ".join(name for name in kind.model_fields)
        raise ShrinkError(f"{where}: {key!r}: {first['msg']:.80}; a {raw.get('kind')} check has {known}.") from None
    for text in told(found):
        if not has_text(text) or not is_unicode(text):
            raise ShrinkError(f"{where} has a text without a visible character, or no UTF-8: mend it.")
    if isinstance(found, Written) and not (found.contains or found.lacks):
        raise ShrinkError(f"{where} asks nothing of the answer: give contains or lacks.")
    return found


def told(check: Check) -> list[str]:
    """Every text of a check."""
    if isinstance(check, Written):
        return [check.prompt, *check.contains, *check.lacks]
    return [part for text in texts_of(check) for part in pairs.parts(text)]


def texts_of(check: Labelled | Placed) -> tuple[Text, ...]:
    """The texts that a classifier, or a model that embeds, is asked."""
    if isinstance(check, Order):
        return check.text, check.nearer, check.farther
    return (check.text,) if isinstance(check, Minimum) else check.texts


def fit(checks: Checks, task: Task, labels: Sequence[str], paired: bool) -> None:
    """ShrinkError for a check that a model of this task, with these labels, cannot be asked."""
    kind, wanted = ASKED[task]
    for line, check in checks.items():
        where = f"Line {line} of the behaviour checks"
        if not isinstance(check, kind):
            raise ShrinkError(f"{where} is of another task than the recipe's, {task}: such a check has {wanted}.")
        if isinstance(check, Written | Placed):
            continue
        label = getattr(check, "label", None)
        if label is not None and label not in labels:
            raise ShrinkError(f"{where} has the label {label!r:.60}, which the data lacks: it has {', '.join(labels)}.")
        if any(isinstance(text, str) == paired for text in texts_of(check)):
            wanted = "lists of two texts" if paired else "single texts"
            raise ShrinkError(f"{where} has texts of the other kind: the data has {wanted}.")

"""Held-out documents read by teacher, student and floor together: nats, KL and top-1 agreement of each document.

One window of one document is held at a time, of the teacher and of one other model: logits of a whole split would
take terabytes. Models whose tokenizers cut a text alike are compared token by token; of others only the nats count.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from registry.records import ShrinkError
from tasks.generate.runtime import Opened

Floats = NDArray[np.float64]
Sums = tuple[float, float, int, int]  # nats, KL, tokens alike, tokens
TEACHER = "teacher"
SHARE = 10  # a document counts for at most one in so many of all bytes that are read


class Model(NamedTuple):
    """An opened model, and the token that it reads before a text's first."""

    opened: Opened
    begin: int


class Readings(NamedTuple):
    """Sums over the predicted tokens of each of n documents, by role; `alike` are cut into the teacher's tokens."""

    nats: dict[str, Floats]
    kl: dict[str, Floats]
    same: dict[str, Floats]
    tokens: Floats  # of the teacher
    sizes: Floats  # bytes of UTF-8
    alike: dict[str, bool]


def chosen(texts: Sequence[str], most: int) -> list[str]:
    """Documents spread over all texts, of about `most` bytes together; a long one ends at a blank after a tenth."""
    longest = max(1, most // SHARE)
    short = [shortened(text, longest) for text in texts]
    whole = sum(len(text.encode()) for text in short)
    return short[:: max(1, -(-whole // most))]


def shortened(text: str, most: int) -> str:
    """A text's beginning of at most about `most` bytes, whole words where it has any."""
    raw = text.encode()
    if len(raw) <= most:
        return text
    begin = raw[:most].decode(errors="ignore")
    return begin.rpartition(" ")[0] or begin


def first_token(directory: Path) -> int:
    """The token that begins a text, or that ends the one before where the tokenizer names none that begins.

    So every byte of a text is predicted from something. Raises ShrinkError where it names neither.
    """
    file, found = directory / "model.gguf", None
    if file.is_file():
        from gguf import GGUFReader

        fields = GGUFReader(file).fields
        keys = (f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos"))
        found = next((int(fields[key].contents()) for key in keys if key in fields), None)
    else:
        from tasks.generate import lm

        tokenizer = lm.load_tokenizer(directory)
        found = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if found is None:
        raise ShrinkError("the tokenizer names neither bos_token nor eos_token: name one in tokenizer_config.json.")
    return int(found)


def windows(model: Model, text: str, length: int) -> list[list[int]]:
    """A text's tokens in windows of at most `length`, each beginning with the last token of the one before."""
    found = model.opened.ids(text)
    ids = found if found[:1] == [model.begin] else [model.begin, *found]
    step = min(length, model.opened.context) - 1
    return [ids[at : at + step + 1] for at in range(0, max(1, len(ids) - 1), step)]


def read(models: Mapping[str, Model], texts: Sequence[str], length: int, told: Callable[[int], None]) -> Readings:
    """Read every text by every model (one is the teacher); `told` hears how many are done."""
    rows: dict[str, list[Sums]] = {role: [] for role in models}
    wide = {role: model.opened.logits([model.begin]).shape[-1] for role, model in models.items()}
    alike = {role: one == wide[TEACHER] for role, one in wide.items()}
    for place, text in enumerate(texts):
        told(place)
        cut = {role: windows(model, text, length) for role, model in models.items()}
        alone = {role for role, own in cut.items() if own != cut[TEACHER] or wide[role] != wide[TEACHER]}
        for role in models:
            if role != TEACHER and role in alone:
                rows[role].append(summed(models[role].opened, cut[role]))
        together = {role: model.opened for role, model in models.items() if role not in alone}
        for role, sums in side_by_side(together, cut[TEACHER]).items():
            rows[role].append(sums)
        alike = {role: kept and role not in alone for role, kept in alike.items()}
    columns = {role: np.array(sums, dtype=np.float64).reshape(-1, 4).T for role, sums in rows.items()}
    return Readings(
        nats={role: one[0] for role, one in columns.items()},
        kl={role: one[1] for role, one in columns.items()},
        same={role: one[2] for role, one in columns.items()},
        tokens=columns[TEACHER][3],
        sizes=np.array([len(text.encode()) for text in texts], dtype=np.float64),
        alike=alike,
    )


def summed(model: Opened, cut: Sequence[Sequence[int]]) -> Sums:
    """A document's sums by a model alone; what is compared with the teacher is not a number."""
    parts = [of_window(model.logits(list(ids)), ids, None) for ids in cut]
    return sum(one[0] for one in parts), float("nan"), 0, sum(one[3] for one in parts)


def side_by_side(models: Mapping[str, Opened], cut: Sequence[Sequence[int]]) -> dict[str, Sums]:
    """A document's sums by models that see the same tokens; the teacher's logits of a window are taken once."""
    totals = {role: np.zeros(4) for role in models}
    for ids in cut:
        theirs = models[TEACHER].logits(list(ids))
        totals[TEACHER] += of_window(theirs, ids, None)
        for role, model in models.items():
            if role != TEACHER:
                totals[role] += of_window(model.logits(list(ids)), ids, theirs)
    return {role: (float(one[0]), float(one[1]), int(one[2]), int(one[3])) for role, one in totals.items()}


def of_window(logits: Any, ids: Sequence[int], theirs: Any) -> Sums:
    """nats, KL, tokens alike and tokens of one window's logits [tokens, pieces], beside the teacher's."""
    import torch

    from tasks.generate import measures

    teacher = None if theirs is None else torch.from_numpy(theirs)[None]
    found = measures.read(torch.from_numpy(logits)[None], torch.tensor([list(ids)]), teacher)
    if not np.isfinite(found.nats):
        raise RuntimeError("a model gave logits that are not finite")
    return found

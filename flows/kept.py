"""What of a user's text may be kept with a version: nothing, a keyed hash of every judged text, or a few texts.

`keep_text: none` (the default), `hash` or `sample` in a recipe; what is kept is evidence/texts.json, and samples stand
on the card, too. A hash is HMAC-SHA-256 under a key that stays in .shrink/keys/text.key: who has the key finds a row
again, who has not can try no guesses (a plain SHA-256 of a short text is as good as the text).
"""

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from flows.recipe import Recipe
from registry.records import ShrinkError
from tasks import data, pairs

FILE = "texts.json"
KEY = "keys/text.key"  # in the home
SAMPLES, LONGEST = 6, 300  # texts, characters of each


def keep(recipe: Recipe, rows: Path, evaluated: Path, home: Path, evidence: Path) -> tuple[str, ...]:
    """Write what the recipe allows of the judged texts to the evidence; the samples, as lines of the card."""
    if recipe.keep_text == "none":
        return ()
    split = recipe.evaluate.split
    texts = [row["text"] for row in data.read_rows(rows, split)]
    held: dict[str, Any] = {"keep_text": recipe.keep_text, "split": split}
    if recipe.keep_text == "hash":
        held["hmac_sha256"] = [hashed(text, key(home)) for text in texts]
    else:
        held["samples"] = sampled(texts, rows, evaluated)
    (evidence / FILE).write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return tuple(line(one) for one in held.get("samples", ()))


def key(home: Path) -> bytes:
    """The key of this home's hashes, made when it is first needed; 64 hexadecimal digits, nobody else's to read."""
    path = home / KEY
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}.part")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(secrets.token_hex(32))
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):  # another run made it meanwhile: that one stays
            os.link(partial, path)
        partial.unlink()
    told = path.read_text().strip()
    if not re.fullmatch("[0-9a-f]{64}", told):
        raise ShrinkError(f"'{path}' does not hold 64 hexadecimal digits; restore it, or remove it for a new key.")
    return bytes.fromhex(told)


def hashed(text: pairs.Text, secret: bytes) -> str:
    """HMAC-SHA-256 of a text in UTF-8; of a pair its two texts with a line break between."""
    return hmac.new(secret, "\n".join(pairs.parts(text)).encode(), hashlib.sha256).hexdigest()


def sampled(texts: list[pairs.Text], rows: Path, evaluated: Path) -> list[dict[str, Any]]:
    """The first few texts, first those on which teacher and student differ; what each says of it."""
    stored = evaluated / "predictions.safetensors"
    names = data.read_facts(rows).get("labels", []) if (rows / "data.json").is_file() else []
    if not stored.is_file() or not names:
        return [{"text": clipped(text)} for text in texts[:SAMPLES]]
    from safetensors.numpy import load_file

    found = load_file(stored)
    if found["labels"].ndim != 1 or len(found["labels"]) != len(texts):
        return [{"text": clipped(text)} for text in texts[:SAMPLES]]
    said = {who: found[who].argmax(axis=1) for who in ("teacher", "student")} | {"label": found["labels"]}
    order = np.argsort(said["teacher"] == said["student"], kind="stable")[:SAMPLES]
    return [{"text": clipped(texts[at])} | {who: names[int(one[at])] for who, one in said.items()} for at in order]


def clipped(text: pairs.Text) -> str:
    """A text on one line, cut where it is long."""
    whole = " / ".join(" ".join(part.split()) for part in pairs.parts(text))
    return whole if len(whole) <= LONGEST else whole[: LONGEST - 1] + "…"


def line(sample: dict[str, Any]) -> str:
    """A sample as a line of the card."""
    if "label" not in sample:
        return str(sample["text"])
    return f"{sample['text']} (label {sample['label']}, teacher {sample['teacher']}, student {sample['student']})"

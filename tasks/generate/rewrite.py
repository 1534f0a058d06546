"""Lets a delivered model that writes go on with the golden prompts again: the same tokens, as likely as before."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from tasks.generate.runtime import Opened


def manner(directory: Path) -> dict[str, Any]:
    """What of a GGUF file no prompt shows: its chat template's SHA-256 (null without one), and its context."""
    from tasks.generate import gguf_check, runtime

    if not (directory / runtime.MODEL).is_file():
        return {}
    keys = gguf_check.check(directory / runtime.MODEL).keys
    template = keys.get("tokenizer.chat_template")
    return {
        "template": None if template is None else hashlib.sha256(str(template).encode()).hexdigest(),
        "context": keys.get(f"{keys.get('general.architecture')}.context_length"),
    }


def worst(model: Path, evidence: Path) -> tuple[float, int]:
    """Read the model in the runtime that wrote golden.json; `difference`, and how many prompts there are."""
    from tasks.generate import runtime

    golden = json.loads((evidence / "golden.json").read_text(encoding="utf-8"))
    return difference(runtime.open_model(model, golden["runtime"]), golden), len(golden["prompts"])


def difference(opened: Opened, golden: dict[str, Any]) -> float:
    """The largest difference of a token's log-probability from the golden one; another token raises RuntimeError.

    It is relative to the log-probability, or to one where that is smaller: sums in another order differ so. NaN stays.
    """
    from tasks.generate import multiple_choice

    worst = 0.0
    for text, ids, known in zip(golden["prompts"], golden["ids"], golden["logprobs"], strict=True):
        prompt = opened.ids(text)
        found = list(opened.stream(prompt, len(ids) + 1))[: len(ids)]
        if found != ids:
            raise RuntimeError(f"the reloaded model goes on with {found} behind {text!r}, the golden tokens are {ids}")
        if ids:
            logits = opened.logits(prompt + ids)[len(prompt) - 1 : -1]
            apart = np.abs(multiple_choice.log_probabilities(logits, ids) - np.array(known))
            worst = float(np.maximum(worst, (apart / np.maximum(1.0, np.abs(known))).max()))
    return worst

"""Lets a delivered model that writes go on with the golden prompts again: the same tokens, as likely as before."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tasks.generate.runtime import Opened


def run(inputs: dict[str, Path], tolerance: float, out: Path) -> dict[str, Any]:
    """Read the model in the runtime that wrote golden.json; another token, or one less likely, raises RuntimeError.

    Log-probabilities may differ by the tolerance times their size (at least one), as sums in another order do.
    """
    from tasks.generate import runtime

    golden = json.loads((inputs["golden"] / "golden.json").read_text(encoding="utf-8"))
    worst = difference(runtime.open_model(inputs["model"], golden["runtime"]), golden)
    if not worst <= tolerance:
        raise RuntimeError(f"the reloaded model's tokens differ in likelihood by {worst:.3g} > {tolerance:g}")
    result = {"max_difference": worst, "texts": len(golden["prompts"]), "tolerance": tolerance}
    (out / "result.json").write_text(json.dumps(result, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    return result


def difference(opened: Opened, golden: dict[str, Any]) -> float:
    """The largest difference of a token's log-probability from the golden one; another token raises RuntimeError."""
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
            worst = max(worst, float((apart / np.maximum(1.0, np.abs(known))).max()))
    return worst

"""Whether a delivered model that writes is what it says: its file, its tokenizer, its bits, what it wrote before."""

import json
from collections.abc import Iterator
from pathlib import Path

from registry.records import Check, Evaluation, ShrinkError
from tasks import sound
from tasks.generate import gguf_check, runtime

ROUNDED = 1e-3  # of bits a weight, which are declared with four decimals
TABLE = "token_embd.weight"


def checks(model: Path, evidence: Path, evaluation: Evaluation | None, tolerance: float) -> Iterator[Check]:
    """The checks one after the other; a file that cannot be whole is not opened."""
    file = model / runtime.MODEL
    try:
        header = gguf_check.check(file)
    except (ShrinkError, OSError) as error:
        yield sound.check("graph", False, f"{error}"[:200])
        return
    yield sound.check("graph", True, f"a whole GGUF file of {len(header.tensors)} tensors")
    pieces = tokenizer(file, header.tensors)
    yield pieces
    if not pieces.passed:
        return
    yield from sizes(model, file, header, evaluation)
    yield from manner(model, evidence)
    yield golden(model, evidence, tolerance)


def tokenizer(file: Path, tensors: dict[str, tuple[int, ...]]) -> Check:
    """As many pieces as the embedding has rows."""
    from gguf import GGUFReader

    field = GGUFReader(file).fields.get("tokenizer.ggml.tokens")
    pieces, rows = (0 if field is None else len(field.data)), tensors.get(TABLE, (0, 0))[-1]
    said = f"the tokenizer has {pieces} pieces and the embedding {rows} rows"
    return sound.check("tokenizer", 0 < pieces <= rows, said, float(pieces), float(rows))


def sizes(model: Path, file: Path, header: gguf_check.Header, evaluation: Evaluation | None) -> Iterator[Check]:
    """Weights and bits a weight are those that were declared when it was judged, and in config.json."""
    from math import prod

    from tasks.generate import gguf_fit

    count, bits = sum(map(prod, header.tensors.values())), gguf_fit.bits_per_weight(file)
    own = json.loads((model / "config.json").read_text(encoding="utf-8")).get("bits_per_weight")
    for told in {own, None if evaluation is None else evaluation.student.bits_per_weight} - {None}:
        fits = abs(bits - float(told)) <= ROUNDED
        yield sound.check("bits", fits, f"{bits:.4f} bits a weight, declared are {told}", bits, float(told))
    if evaluation is not None and (parameters := evaluation.student.parameters) is not None:
        said = f"{count} weights, declared are {parameters}"
        yield sound.check("parameters", count == parameters, said, float(count), float(parameters))


def manner(model: Path, evidence: Path) -> Iterator[Check]:
    """Chat template and context are those that it was judged with; evidence of before does not tell them."""
    from tasks.generate import rewrite

    told = json.loads((evidence / "golden.json").read_text(encoding="utf-8"))
    own = json.loads((model / "config.json").read_text(encoding="utf-8")).get("context")
    found = rewrite.manner(model)
    if "template" in told:
        same = found["template"] == told["template"]
        yield sound.check("template", same, f"its chat template is {'' if same else 'not '}the one it was judged with")
    declared = {"config.json has": own, "it was judged with": told.get("context")}
    wrong = next((where for where, other in declared.items() if other not in (None, found["context"])), None)
    said = f"its file reads {found['context']} tokens"
    said += f" and {wrong} {declared[wrong]}" if wrong else ", as is declared"
    yield sound.check("context", wrong is None, said)


def golden(model: Path, evidence: Path, tolerance: float) -> Check:
    """It goes on with the golden prompts as it did, in the runtime that it was judged in."""
    from tasks.generate import rewrite

    try:
        worst, texts = rewrite.worst(model, evidence)
    except (RuntimeError, ShrinkError) as error:
        return sound.check("golden", False, f"{error}"[:300])
    fits = worst <= tolerance  # never of NaN
    said = f"{texts} prompts go on as before, their tokens as likely to {worst:.3g}, allowed is {tolerance:g}"
    return sound.check("golden", fits, said, worst if worst == worst else None, tolerance)

"""The ways to a smaller `sentiment` that benchmarks/frontier.py compares, from its fine-tuned teacher on: data alone.

Each method that applies stands in the recipe's own chain, in the place of what it replaces. Those called "one pass"
learn for one pass over the texts, the recipe for three; they compare with each other and with "one pass: recipe".
"""

from typing import Any, NamedTuple


class Variant(NamedTuple):
    """A way to a smaller model: stages from the fine-tuned teacher on, then perhaps another library's quantiser."""

    name: str
    ours: bool
    stages: tuple[dict[str, Any], ...]
    rival: str = ""  # a function of benchmarks/rivals.py that makes the deployable of the ONNX model so far


ONNX = {"kind": "export", "method": "onnx"}
INT8 = {"kind": "quantize", "method": "int8_dynamic", "embedding": "int4"}
INT8_ROWS = {"kind": "quantize", "method": "int8_dynamic", "embedding": "int8"}
STATIC = {"kind": "quantize", "method": "int8_static", "embedding": "int4"}
SMOOTH = {"kind": "quantize", "method": "smooth"}
INT4 = {"kind": "quantize", "method": "int4_weight_only", "embedding": "int4"}
INT4_64 = {**INT4, "block_size": 64}
INT4_ALONE = {"kind": "quantize", "method": "int4_weight_only", "embedding": "none"}
PIECES = {"kind": "prune", "method": "vocabulary", "min_count": 2}
PIECES_FEW = {"kind": "prune", "method": "vocabulary", "min_count": 4}
CUT = {"kind": "prune", "method": "structured", "layers": [0, 2, 5], "ffn": 768}
CUT_LAYERS = {"kind": "prune", "method": "structured", "layers": [0, 2, 5]}
CUT_FFN = {"kind": "prune", "method": "structured", "ffn": 768}
CUT_HARD = {"kind": "prune", "method": "structured", "layers": [0, 5], "ffn": 512}
CUT_POSITIONS = {"kind": "prune", "method": "structured"}
HALF = {"kind": "prune", "method": "structured", "layers": [0, 2, 4], "positions": False}
LOW_RANK = {"kind": "prune", "method": "low_rank", "rank": 128}
TAUGHT = {"kind": "distill", "method": "logits", "epochs": 3}
ONCE = {**TAUGHT, "epochs": 1}
WANDA = {"kind": "prune", "method": "wanda"}
MAGNITUDE = {"kind": "prune", "method": "magnitude"}
STUDENT = (PIECES, CUT, TAUGHT)
SMALL = {"kind": "finetune", "teacher": "small", "keep_layers": 3, "epochs": 2, "lr": 1.5e-4}
BOTH = {"kind": "label", "teachers": {"teacher": 1.0, "small": 0.5}, "second_teacher": 0.5}
ITSELF = {"kind": "label", "teachers": {"student": 1.0}, "second_teacher": 0.5}
TINY = (
    {"kind": "prune", "method": "vocabulary", "min_count": 3},
    CUT,
    LOW_RANK,
    {"kind": "distill", "method": "quantized", "epochs": 3, "target": INT4_64},
)


def by(method: str, epochs: int = 1, **fields: Any) -> tuple[dict[str, Any], ...]:
    """The recipe's student, taught by another method."""
    return (PIECES, CUT, {"kind": "distill", "method": method, "epochs": epochs, **fields}, ONNX, INT8)


def cut(lesson: dict[str, Any] = ONCE, **fields: Any) -> tuple[dict[str, Any], ...]:
    """The recipe's student, cut in another way."""
    return (PIECES, {**CUT, **fields}, lesson, ONNX, INT8)


def fresh(method: str) -> tuple[dict[str, Any], ...]:
    """A student that begins with random weights."""
    return (PIECES, {"kind": "student", "method": method}, {**ONCE, "hidden_weight": 0.0}, ONNX, INT8)


def zeros(method: str) -> tuple[dict[str, Any], ...]:
    """Weights that become zero while the student learns, at 70 %."""
    return (PIECES, CUT, {"kind": "prune", "method": method, "epochs": 1, "sparsity": 0.7}, ONNX, INT8)


VARIANTS = (
    Variant("teacher", False, (ONNX,)),
    Variant("quantize_dynamic by default", False, (ONNX,), "default_dynamic"),
    Variant("careful int8", False, (ONNX, INT8_ROWS)),
    Variant("OpenVINO, NNCF int8", False, (ONNX,), "nncf_int8"),
    Variant("4-bit MatMulNBits", False, (ONNX, INT4_ALONE)),
    Variant("half the layers, KD", False, (HALF, TAUGHT, ONNX)),
    Variant("half the layers, KD, careful int8", False, (HALF, TAUGHT, ONNX, INT8_ROWS)),
    Variant("half the layers, KD, OpenVINO int8", False, (HALF, TAUGHT, ONNX), "nncf_int8"),
    Variant("pieces, int8", True, (PIECES, CUT_POSITIONS, ONNX, INT8)),
    Variant("pieces, 4-bit", True, (PIECES, CUT_POSITIONS, ONNX, INT4)),
    Variant("recipe, full precision", True, (*STUDENT, ONNX)),
    Variant("recipe", True, (*STUDENT, ONNX, INT8)),
    Variant("recipe, static int8", True, (*STUDENT, ONNX, STATIC)),
    Variant("recipe, smoothed, static int8", True, (*STUDENT, ONNX, SMOOTH, STATIC)),
    Variant("recipe, 4-bit", True, (*STUDENT, ONNX, INT4)),
    Variant("recipe, magnitude 50 %", True, (*STUDENT, MAGNITUDE, ONNX, INT8)),
    Variant("recipe, Wanda 50 %", True, (*STUDENT, WANDA, ONNX, INT8)),
    Variant("recipe, whole feed-forward part", True, (PIECES, CUT_LAYERS, TAUGHT, ONNX, INT8)),
    Variant("all hidden states", True, by("hidden", 3)),
    Variant("sentiment-tiny", True, (*TINY, ONNX, INT4_64)),
    Variant("one pass: recipe", True, cut()),
    Variant("one pass: all hidden states", True, by("hidden")),
    Variant("one pass: attention relations", True, by("relations")),
    Variant("one pass: triple loss", True, by("triple")),
    Variant("one pass: triple loss, masked words", True, by("triple", masked_weight=2.0)),
    Variant("one pass: own early layers", True, (PIECES, CUT_FFN, by("self", keep=3)[2], ONNX, INT8)),
    Variant("one pass: learnt rounding", True, by("quantized", target=INT8)),
    Variant("one pass: two teachers", True, (SMALL, BOTH, *cut())),
    Variant("one pass: two teachers, by confidence", True, (SMALL, {**BOTH, "confidence": True}, *cut())),
    Variant("one pass: born again", True, (PIECES, CUT, ONCE, ITSELF, {**ONCE, "afresh": True}, ONNX, INT8)),
    Variant("one pass: hidden width 256", True, cut({**ONCE, "hidden_weight": 0.0}, hidden=256)),
    Variant("one pass: 8 of 12 heads", True, cut(heads=8)),
    Variant("one pass: embedding of rank 128", True, (PIECES, CUT, LOW_RANK, ONCE, ONNX, INT8)),
    Variant("one pass: gradual zeros, 70 %", True, zeros("gradual")),
    Variant("one pass: movement zeros, 70 %", True, zeros("movement")),
    Variant("one pass: 2 layers, 4-bit", True, (PIECES_FEW, CUT_HARD, ONCE, ONNX, INT4)),
    Variant("one pass: 6 layers, int8", True, (PIECES, CUT_POSITIONS, ONCE, ONNX, INT8)),
    Variant("one pass: 6 layers, 4-bit", True, (PIECES, CUT_POSITIONS, ONCE, ONNX, INT4)),
    Variant("one pass: DistilBERT-style, fresh", True, fresh("distilbert")),
    Variant("one pass: MobileBERT, fresh", True, fresh("mobilebert")),
    Variant("one pass: SqueezeBERT, fresh", True, fresh("squeezebert")),
    Variant("one pass: narrow and deep, fresh", True, fresh("narrow")),
)

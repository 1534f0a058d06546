"""Every stage kind, once: the union of their configs (what a recipe may say) and where each one's function stands."""

import hashlib
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, TypeAdapter

from tasks.compare import CompareConfig
from tasks.data import DataConfig
from tasks.distill.embeddings import DistillEmbeddingsConfig
from tasks.distill.exits import DistillSelfConfig
from tasks.distill.hidden import DistillHiddenConfig
from tasks.distill.logits import DistillLogitsConfig
from tasks.distill.quantized import DistillQuantizedConfig
from tasks.distill.relations import DistillRelationsConfig
from tasks.distill.rounded import DistillRoundedConfig
from tasks.distill.tokens import DistillTokensConfig
from tasks.distill.triple import DistillTripleConfig
from tasks.embed.adopt import AdoptConfig
from tasks.embed.evaluate import EmbedEvaluateConfig
from tasks.embed.floor import EmbedFloorConfig
from tasks.evaluate import EvaluateConfig
from tasks.export.compressed_tensors import CompressedTensorsConfig
from tasks.export.executorch import ExecutorchConfig
from tasks.export.gguf import GgufConfig
from tasks.export.matmul_nbits import MatmulNbitsConfig
from tasks.export.onnx import OnnxConfig
from tasks.export.openvino import OpenvinoConfig
from tasks.export.packed import PackedConfig
from tasks.finetune import FinetuneConfig
from tasks.floor import FloorConfig
from tasks.generate.adopt import AdoptDecoderConfig
from tasks.generate.correct import CorrectConfig
from tasks.generate.documents import DocumentsConfig
from tasks.generate.evaluate import GenerateEvaluateConfig
from tasks.generate.floor import GenerateFloorConfig
from tasks.generate.top_k import LabelTopKConfig
from tasks.label import LabelConfig
from tasks.prune.decoder_width import PruneWidthConfig
from tasks.prune.depth import PruneDepthConfig
from tasks.prune.gradual import PruneGradualConfig
from tasks.prune.grouped import PruneGroupedConfig
from tasks.prune.low_rank import PruneLowRankConfig
from tasks.prune.magnitude import PruneMagnitudeConfig
from tasks.prune.merges import PruneMergesConfig
from tasks.prune.movement import PruneMovementConfig
from tasks.prune.sparse import PruneSparseConfig
from tasks.prune.structured import PruneStructuredConfig
from tasks.prune.vocabulary import PruneVocabularyConfig
from tasks.prune.wanda import PruneWandaConfig
from tasks.quantize.awq import AwqConfig
from tasks.quantize.gptq import GptqConfig
from tasks.quantize.int4_weight_only import Int4WeightOnlyConfig
from tasks.quantize.int8_dynamic import Int8DynamicConfig
from tasks.quantize.int8_static import Int8StaticConfig
from tasks.quantize.llama_cpp import LlamaCppConfig
from tasks.quantize.rtn import RtnConfig
from tasks.quantize.smooth import SmoothConfig
from tasks.quantize.w8a8 import W8a8Config
from tasks.reload import ReloadConfig
from tasks.students import StudentMethods


def as_onnx(raw: Any) -> Any:
    """An export that names no method is one to ONNX."""
    return {"method": "onnx"} | raw if isinstance(raw, dict) else raw


def as_logits(raw: Any) -> Any:
    """A distillation that names no method is from logits."""
    return {"method": "logits"} | raw if isinstance(raw, dict) else raw


def as_encoder(raw: Any) -> Any:
    """What is adopted is an encoder where nothing else is said."""
    return {"method": "encoder"} | raw if isinstance(raw, dict) else raw


def label_tag(raw: Any) -> str:
    """Which answers a label stage keeps: a classifier's where it names no method."""
    method = raw.get("method") if isinstance(raw, dict) else getattr(raw, "method", None)
    return "label" if method is None else "top_k"


def data_tag(raw: Any) -> str:
    """Which data a stage reads: whole documents for models that write, rows for all others."""
    task = raw.get("task") if isinstance(raw, dict) else getattr(raw, "task", None)
    return "documents" if task == "generate" else "rows"


def as_classify(raw: Any) -> Any:
    """A floor or an evaluation that names no task is a classifier's."""
    return {"task": "classify"} | raw if isinstance(raw, dict) else raw


DistillBeside = DistillRelationsConfig | DistillHiddenConfig | DistillTripleConfig  # a teacher runs along
DistillDecoders = DistillTokensConfig | DistillRoundedConfig
DistillEncoders = (
    DistillLogitsConfig | DistillBeside | DistillSelfConfig | DistillQuantizedConfig | DistillEmbeddingsConfig
)
DistillMethods = DistillEncoders | DistillDecoders
PruneZeros = PruneMagnitudeConfig | PruneWandaConfig | PruneGradualConfig | PruneMovementConfig | PruneSparseConfig
PruneDecoders = PruneDepthConfig | PruneWidthConfig | PruneGroupedConfig | PruneMergesConfig
PruneMethods = PruneStructuredConfig | PruneVocabularyConfig | PruneLowRankConfig | PruneZeros | PruneDecoders
ExportEncoders = OnnxConfig | PackedConfig | OpenvinoConfig | ExecutorchConfig
PackIntegers = CompressedTensorsConfig | MatmulNbitsConfig
ExportMethods = ExportEncoders | GgufConfig | PackIntegers
RoundDecoders = RtnConfig | GptqConfig | AwqConfig
QuantizeGraphs = Int8DynamicConfig | Int8StaticConfig | Int4WeightOnlyConfig | SmoothConfig
QuantizeMethods = QuantizeGraphs | RoundDecoders | LlamaCppConfig | W8a8Config
AdoptMethods = AdoptConfig | AdoptDecoderConfig
StartMethods = FinetuneConfig | AdoptMethods | LabelConfig
StartDecoders = CorrectConfig | LabelTopKConfig
AnyChainConfig = (
    StartMethods | StartDecoders | StudentMethods | DistillMethods | PruneMethods | ExportMethods | QuantizeMethods
)
DataTasks = DataConfig | DocumentsConfig
FloorTasks = FloorConfig | EmbedFloorConfig | GenerateFloorConfig
EvaluateTasks = EvaluateConfig | EmbedEvaluateConfig | GenerateEvaluateConfig
AnyStageConfig = AnyChainConfig | DataTasks | FloorTasks | CompareConfig | EvaluateTasks | ReloadConfig

AnyData = Annotated[
    Annotated[DataConfig, Tag("rows")] | Annotated[DocumentsConfig, Tag("documents")], Discriminator(data_tag)
]
AnyLabel = Annotated[
    Annotated[LabelConfig, Tag("label")] | Annotated[LabelTopKConfig, Tag("top_k")], Discriminator(label_tag)
]
AnyAdopt = Annotated[Annotated[AdoptMethods, Field(discriminator="method")], BeforeValidator(as_encoder)]
DistillConfig = Annotated[Annotated[DistillMethods, Field(discriminator="method")], BeforeValidator(as_logits)]
StudentConfig = Annotated[StudentMethods, Field(discriminator="method")]
PruneConfig = Annotated[PruneMethods, Field(discriminator="method")]
ExportConfig = Annotated[Annotated[ExportMethods, Field(discriminator="method")], BeforeValidator(as_onnx)]
QuantizeConfig = Annotated[QuantizeMethods, Field(discriminator="method")]
AnyFloor = Annotated[Annotated[FloorTasks, Field(discriminator="task")], BeforeValidator(as_classify)]
AnyEvaluate = Annotated[Annotated[EvaluateTasks, Field(discriminator="task")], BeforeValidator(as_classify)]
ChainStage = Annotated[
    FinetuneConfig
    | AnyAdopt
    | AnyLabel
    | CorrectConfig
    | StudentConfig
    | DistillConfig
    | ExportConfig
    | PruneConfig
    | QuantizeConfig,
    Field(discriminator="kind"),
]
EveryStage: TypeAdapter[AnyStageConfig] = TypeAdapter(
    Annotated[ChainStage | AnyData | AnyFloor | CompareConfig | AnyEvaluate | ReloadConfig, Field(discriminator="kind")]
)

ROOT = Path(__file__).parent.parent  # where `tasks` and `registry` lie
# their processes are forked from one that has imported it
USES_TORCH = {"finetune", "adopt", "correct", "label", "student", "distill", "prune", "export", "compare"}


def uses_torch(raw: dict[str, Any]) -> bool:
    """Whether the stage of this config, as a dict, computes with torch: by its kind, or by a language model it has."""
    config = EveryStage.validate_python(raw)
    formats = {config.writes[1], *(one for said in config.reads.values() for one in said.split("|"))}
    return config.kind in USES_TORCH or "lm" in formats


def module_of(config: AnyStageConfig) -> str:
    """The module whose `run` executes this config: the one it is declared in."""
    return type(config).__module__


def function_of(config: AnyStageConfig) -> Callable[..., dict[str, Any]]:
    """The stage function `run(inputs, config, out, seed)` of a config."""
    run: Callable[..., dict[str, Any]] = importlib.import_module(module_of(config)).run
    return run


def methods() -> dict[str, list[str]]:
    """{stage kind: its methods} of what a recipe's `stages` may name; a kind without methods has none."""
    found: dict[str, list[str]] = {}
    for config in get_args(AnyChainConfig):
        kind = str(get_args(config.model_fields["kind"].annotation)[0])
        method = config.model_fields.get("method")
        found.setdefault(kind, []).extend([str(get_args(method.annotation)[0])] if method else [])
    return found


def source_of(name: str) -> Path | None:
    """The file of one of our modules or packages, or None when the name is something inside one; imports nothing."""
    plain = ROOT.joinpath(*name.split("."))
    return next((path for path in (plain.with_suffix(".py"), plain / "__init__.py") if path.is_file()), None)


def data_of(path: Path) -> str:
    """What a package's own data files say (its prompts, its questions): they make a stage's result as its code does."""
    files = sorted(one for one in path.parent.iterdir() if one.suffix in {".yaml", ".jsonl"})
    return "".join(one.read_text(encoding="utf-8") for one in files) if path.name == "__init__.py" else ""


def code_digest(config: AnyStageConfig) -> str:
    """SHA-256 over the sources that a stage reaches inside `tasks` (and the records), found by their imports."""
    pending, seen = [module_of(config)], dict[str, str]()
    while pending:
        name = pending.pop()
        if name in seen or (path := source_of(name)) is None:
            continue
        source = path.read_text(encoding="utf-8")
        seen[name] = source + data_of(path)
        for package, names in re.findall(
            r"^\s*from (tasks[\w.]*|registry\.records[\w.]*) import (.+)$", source, re.MULTILINE
        ):
            pending += [package, *(f"{package}.{part.split()[0]}" for part in names.split(",") if part.split())]
    return hashlib.sha256("".join(f"{name}\0{seen[name]}\0" for name in sorted(seen)).encode()).hexdigest()

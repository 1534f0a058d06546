"""How the stages that train are carried out here (tasks/way.py), by the settings and by what this machine can do.

It changes numbers, so it is part of these stages' cache keys; other stages know nothing of it.
"""

from pathlib import Path

from flows.settings import Settings
from registry.records import ShrinkError
from tasks.distill.answers import LessonConfig
from tasks.distill.embeddings import DistillEmbeddingsConfig
from tasks.distill.quantized import DistillQuantizedConfig
from tasks.finetune import FinetuneConfig
from tasks.kinds import AnyStageConfig
from tasks.way import ALONE, Way

FAST = "amx_bf16"  # the processor's flag with which bf16 was measured to be faster (benchmarks/README.md)
ENOUGH = {FAST, "avx512_bf16"}  # one of them, or bf16 is emulated
DRIVER = Path("/proc/driver/nvidia/version")


def wanted(here: Settings) -> Way:
    """What the settings ask for; ShrinkError where this machine lacks it. `auto` is bf16 where that is faster."""
    flags = processor_flags()
    if here.device == "cuda" and not DRIVER.exists():
        raise ShrinkError("SHRINK_DEVICE is cuda but no NVIDIA driver is loaded on this machine; unset it.")
    precision = here.precision
    if precision == "auto":
        precision = "bf16" if here.device == "cuda" or FAST in flags else "fp32"
    if precision == "bf16" and here.device == "cpu" and not flags & ENOUGH:
        raise ShrinkError(
            f"SHRINK_PRECISION is bf16 but this processor lacks {' and '.join(sorted(ENOUGH))}, and would be many "
            "times slower than in fp32; unset it, or set it to auto."
        )
    return Way(processes=here.processes, precision=precision, device=here.device)


def of(config: AnyStageConfig, here: Settings) -> Way:
    """How this stage is carried out: as the settings want where it trains; on a grid of its own always in fp32.

    ShrinkError where its loss compares the rows of a whole batch, which no process sees alone.
    """
    if not isinstance(config, FinetuneConfig | LessonConfig | DistillEmbeddingsConfig):
        return ALONE
    way = wanted(here)
    if isinstance(config, DistillEmbeddingsConfig) and config.relations_weight and way.processes > 1:
        raise ShrinkError(
            f"SHRINK_PROCESSES is {way.processes} but relations_weight of distill/embeddings compares all texts of a "
            "step, which several processes share; unset it, or set relations_weight to 0."
        )
    return way.model_copy(update={"precision": "fp32"}) if isinstance(config, DistillQuantizedConfig) else way


def processor_flags() -> set[str]:
    """What the first processor says that it can do."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())

"""How trainings are carried out: what settings ask for, what a machine lacks, and which cache keys it changes."""

from pathlib import Path
from typing import Any

import pytest

from flows import cache, ways
from flows.settings import Settings, settings, worker_environment
from registry.records import ShrinkError
from tasks.kinds import EveryStage
from tasks.way import ALONE, Way

FINETUNE, LABEL = {"kind": "finetune"}, {"kind": "label"}
DISTILL, QUANTIZED = {"kind": "distill"}, {"kind": "distill", "method": "quantized", "target": "int8_dynamic"}
GRADUAL, CUT = {"kind": "prune", "method": "gradual"}, {"kind": "prune", "method": "structured", "layers": [0]}
EMBEDDINGS = {"kind": "distill", "method": "embeddings", "relations_weight": 1.0}


def of(stage: dict[str, Any], **asked: Any) -> Way:
    return ways.of(EveryStage.validate_python(stage), Settings(**asked))


def test_without_settings_all_is_one_process_in_fp32_on_the_cpu() -> None:
    assert all(of(stage) == ALONE for stage in (FINETUNE, LABEL, DISTILL, QUANTIZED, GRADUAL, CUT, EMBEDDINGS))


def test_only_what_trains_is_carried_out_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "processor_flags", lambda: {"avx2", "avx512_bf16"})
    many = Way(processes=2, precision="bf16")
    for stage in (FINETUNE, DISTILL, GRADUAL):
        assert of(stage, processes=2, precision="bf16") == many
    assert of(LABEL, processes=2, precision="bf16") == of(CUT, processes=2, precision="bf16") == ALONE
    assert of(QUANTIZED, processes=2, precision="bf16") == Way(processes=2), "a grid in bf16 is another grid"


@pytest.mark.parametrize(
    ("flags", "auto"), [({"amx_bf16", "avx512_bf16"}, "bf16"), ({"avx512_bf16"}, "fp32"), ({"avx2"}, "fp32")]
)
def test_auto_takes_bf16_where_it_was_measured_to_be_faster(
    flags: set[str], auto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "processor_flags", lambda: flags)
    assert of(DISTILL, precision="auto").precision == auto


def test_what_a_machine_lacks_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ways, "processor_flags", lambda: {"avx2"})
    monkeypatch.setattr(ways, "DRIVER", tmp_path / "none")
    with pytest.raises(ShrinkError, match=r"^SHRINK_PRECISION is bf16 but this processor lacks amx_bf16 and avx512"):
        of(DISTILL, precision="bf16")
    with pytest.raises(ShrinkError, match=r"^SHRINK_DEVICE is cuda but no NVIDIA driver is loaded on this machine; un"):
        of(DISTILL, device="cuda")
    with pytest.raises(ShrinkError, match=r"^SHRINK_PROCESSES is 3 but relations_weight of distill/embeddings comp"):
        of(EMBEDDINGS, processes=3)
    (tmp_path / "none").touch()
    assert of(DISTILL, device="cuda", precision="auto") == Way(device="cuda", precision="bf16")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [("PROCESSES", "0", "greater than"), ("PRECISION", "fp16", "'auto', 'fp32' or 'bf16'"), ("DEVICE", "gpu", "'cpu'")],
)
def test_bad_values_are_named(name: str, value: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SHRINK_{name}", value)
    with pytest.raises(ShrinkError, match=rf"^SHRINK_{name} is '{value}' but must be .*{wanted}"):
        settings()


def test_a_key_tells_ways_apart_and_the_default_one_is_as_ever() -> None:
    stage = EveryStage.validate_python(DISTILL)
    asked = (ALONE, Way(processes=2), Way(processes=3), Way(precision="bf16"), Way(device="cuda"))
    keys = [cache.key_of(stage, {"student": "d"}, 0, 1, way) for way in asked]
    assert len(set(keys)) == len(asked) and keys[0] == cache.key_of(stage, {"student": "d"}, 0, 1)


def test_a_stage_does_not_hear_of_another_launchers_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.setenv(name, "7")
    found = worker_environment(1)
    assert not {"RANK", "WORLD_SIZE", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION"} & found.keys()
    assert found["GLOO_SOCKET_IFNAME"] == "lo"


def test_an_extra_counts_by_the_version_of_what_it_is_installed_as(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that asks for llama.cpp failed behind an hour's stages: its module has another name than its package."""
    compared = {"kind": "compare", "method": "gguf", "source": "lm", "export": "llama_cpp", "exact": False}
    stage = EveryStage.validate_python(compared)
    asked: list[str] = []

    def version(name: str) -> str:
        asked.append(name)
        return f"{len(asked)}.0"

    monkeypatch.setattr("importlib.metadata.version", version)
    keys = {cache.key_of(stage, {"source": "d"}, 0, 1) for _ in range(2)}
    assert "llama-cpp-python" in asked and "llama_cpp" not in asked and len(keys) == 2

"""The export to ExecuTorch: read back by its own runtime, any length, the same bytes each time."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from registry.records import ShrinkError, digest_directory
from tasks import extras
from tasks.export import executorch
from tests.tasks.test_compare import compared
from tests.tasks.test_onnx_stages import artifacts, made

__all__ = ["artifacts"]  # the fixture
installed = pytest.mark.skipif(find_spec("executorch") is None, reason="the extra executorch is not installed")


@installed
def test_it_gives_the_same_answers_and_bytes(artifacts: dict[str, Path], tmp_path: Path) -> None:
    source = {"student": artifacts["torch"]}
    twice = [made(executorch, executorch.ExecutorchConfig(), source, tmp_path / name) for name in "ab"]
    assert digest_directory(twice[0]) == digest_directory(twice[1])
    assert str(Path(__file__).parents[2]).encode() not in (twice[0] / "model.pte").read_bytes()
    seen = compared(("torch", artifacts["torch"]), ("executorch", twice[0]), artifacts["data"], tmp_path / "out", True)
    assert seen["runtime"].startswith("executorch 1.") and seen["largest"] < 1e-4 and seen["agreement"] == 1.0


def test_without_the_extra_it_is_refused(
    artifacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ShrinkError, match=r"^executorch is not installed: `pip install 'shrinking-frontier\[execu"):
        made(executorch, executorch.ExecutorchConfig(), {"student": artifacts["torch"]}, tmp_path / "out")

"""The export to OpenVINO: read back by its own runtime, the same bytes each time, nothing reported to its makers."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from registry.records import ShrinkError, digest_directory
from tasks import extras
from tasks.export import openvino
from tests.tasks.test_compare import compared
from tests.tasks.test_onnx_stages import artifacts, made

__all__ = ["artifacts"]  # the fixture
installed = pytest.mark.skipif(find_spec("openvino") is None, reason="the extra openvino is not installed")
CONVERT = """
import sys
from pathlib import Path
from tasks.export import openvino
openvino.run({"student": Path(sys.argv[1])}, openvino.OpenvinoConfig(), Path(sys.argv[2]), 0)
"""
REPORTER = 'import pathlib, os; pathlib.Path(os.environ["SEEN"]).touch(); raise ImportError'


def in_a_process(source: Path, out: Path) -> Path:
    """As every stage runs: OpenVINO numbers its nodes through a process's life, and writes the numbers."""
    out.mkdir()
    subprocess.run([sys.executable, "-c", CONVERT, str(source), str(out)], check=True)
    return out


@installed
@pytest.mark.parametrize(("name", "limit"), [("onnx", 1e-4), ("int8", 1e-2), ("static", 1e-2), ("int4", 1e-1)])
def test_every_kind_of_student_gives_the_same_answers(
    name: str, limit: float, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    twice = [in_a_process(artifacts[name], tmp_path / folder) for folder in "ab"]
    assert digest_directory(twice[0]) == digest_directory(twice[1])
    assert str(tmp_path).encode() not in (twice[0] / "model.xml").read_bytes()
    seen = compared(("onnx", artifacts[name]), ("openvino", twice[0]), artifacts["data"], tmp_path / "out", True)
    assert seen["runtime"].startswith("openvino 20") and seen["largest"] < limit


@installed
def test_nothing_is_reported(artifacts: dict[str, Path], tmp_path: Path) -> None:
    """A module in the reporter's place leaves a trace when it is imported: by OpenVINO itself it is, by us not."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "openvino_telemetry.py").write_text(REPORTER)
    path = os.pathsep.join([str(tmp_path / "fake"), str(Path(__file__).parents[2])])
    for code, reports in (
        ("import openvino", True),
        ("from tasks.export import openvino; openvino.opened().convert_model", False),
    ):
        seen = tmp_path / f"seen-{reports}"
        environment = {**os.environ, "PYTHONPATH": path, "SEEN": str(seen)}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        assert seen.exists() is reports, code


def test_without_the_extra_it_is_refused(
    artifacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(
        ShrinkError, match=r"^openvino is not installed: `pip install 'shrinking-frontier\[openvino\]'`"
    ):
        made(openvino, openvino.OpenvinoConfig(), {"student": artifacts["onnx"]}, tmp_path / "out")

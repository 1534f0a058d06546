"""The benchmarks of models that write: each way's folders are its own, and speeds stand in one table."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import lessons, writing_speed
from registry.records import ShrinkError
from tasks.export import gguf
from tasks.generate.runtime import MODEL
from tasks.kinds import EveryStage, function_of
from tests.tasks.generate import decoders
from tests.tasks.generate.lessons import documents, folder_of


def test_every_way_is_a_chain_that_a_recipe_may_say() -> None:
    for stages in lessons.WAYS.values():
        assert [EveryStage.validate_python(stage).kind for stage in stages]
    assert "learn" not in lessons.ROUNDED


def test_ways_whose_names_have_dots_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"student": folder_of(tmp_path / "student"), "data": documents(tmp_path / "data")}
    stage, seen = {"kind": "quantize", "method": "rtn", "grid": "q4_0"}, list[Path]()
    run = function_of(EveryStage.validate_python(stage))

    def watched(*given: Any) -> dict[str, Any]:
        seen.append(given[2])
        return run(*given)

    monkeypatch.setattr(lessons, "function_of", lambda config: watched)
    for name in ("5.0-bits-0-24", "5.0-bits-1-24"):
        lessons.made(stage, inputs, tmp_path / name)
        assert (tmp_path / name / "model.safetensors").is_file()
    assert len(set(seen)) == 2
    assert lessons.made(stage, inputs, tmp_path / "5.0-bits-0-24") == 0 and len(seen) == 2


def test_files_and_the_teacher_stand_in_one_table(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    teacher, out = decoders.folder(tmp_path / "teacher"), tmp_path / "out"
    out.mkdir()
    gguf.run({"model": teacher}, gguf.GgufConfig(), out, 0)
    files = writing_speed.named([f"half={out / MODEL}", f"again={out / MODEL}"])
    (tmp_path / "scratch").mkdir()
    lines = writing_speed.table(writing_speed.subjects(teacher, files, tmp_path / "scratch"), 1)
    assert [line.split("|")[1].strip() for line in lines[2:]] == [writing_speed.FLOAT, "half", "again"]
    assert len({line.count("|") for line in lines}) == 1
    for line in lines[2:]:
        size, *speeds, peak = (float(cell) for cell in line.split("|")[2:-1])
        assert size > 0 and len(speeds) == 4 and min(speeds) > 0 and peak > 20
    for words, said in ((["x=none.gguf"], "names no file"), ([f"a={out / MODEL}"] * 2, "named twice")):
        with pytest.raises(ShrinkError, match=said):
            writing_speed.named(words)

"""Parts of the evaluated rows, each compared by itself, beside plain counts."""

import json
from pathlib import Path

import numpy as np
import pytest

from registry.records import ShrinkError
from tasks import data, paired, slices
from tasks.data import DataConfig

ROWS = [
    {"text": "a" * size, "label": size % 2, "columns": {"country": "FRA" if size < 40 else "(none)"}}
    for size in range(1, 91)
]


def test_every_row_stands_in_one_third_in_one_label_and_in_one_value() -> None:
    found = slices.parts_of(ROWS, ["no", "yes"], ["country"])
    assert [(part.by, part.value, len(part.places)) for part in found] == [
        ("length", "up to 30 characters", 30),
        ("length", "31 to 60 characters", 30),
        ("length", "61 characters and more", 30),
        ("label", "no", 45),
        ("label", "yes", 45),
        ("country", "(none)", 51),
        ("country", "FRA", 39),
    ]


def test_rows_of_one_length_are_one_part_and_rows_without_labels_have_none() -> None:
    same = [{"text": "abc", "label": -1}] * 7
    assert [(part.value, len(part.places)) for part in slices.parts_of(same, ())] == [("up to 3 characters", 7)]


def test_rows_of_several_labels_stand_in_each_of_them_or_in_none() -> None:
    rows = [{"text": "a", "label": label} for label in ([1, 1], [0, 1], [0, 0])]
    found = {part.value: part.places.tolist() for part in slices.parts_of(rows, ["x", "y"]) if part.by == "label"}
    assert found == {"(none)": [2], "x": [0], "y": [0, 1]}


def test_a_slice_is_compared_on_its_own_rows() -> None:
    teacher = np.ones(90, dtype=bool)
    student = np.array([len(str(row["text"])) <= 60 for row in ROWS])
    found = {one.value: one for one in slices.of_answers(slices.parts_of(ROWS, ()), teacher, student)}
    assert found["up to 30 characters"].against.interval.point == 0
    worst = found["61 characters and more"]
    assert (worst.teacher, worst.student, worst.against.lost) == (1.0, 0.0, 30)
    assert worst.against == paired.of_answers(teacher[60:], student[60:])


def test_sums_are_compared_as_ratios() -> None:
    sizes = np.arange(1.0, 91.0)
    found = slices.of_sums(slices.parts_of(ROWS, ()), -2 * sizes, -3 * sizes, sizes, 50, 0)
    assert [one.against.interval.point for one in found] == pytest.approx([-1.0] * 3)
    assert (found[0].teacher, found[0].student) == (-2.0, -3.0)


CSV = "text,label,country\n" + "".join(
    f"film number {n} was {'good' if n % 2 else 'bad'},{n % 2},{'FRA' if n % 3 else ''}\n" for n in range(300)
)


def config(**more: object) -> DataConfig:
    return DataConfig.model_validate({"file": "rows.csv", **more})


def test_the_data_keeps_the_columns_asked_for_where_they_are_judged_and_only_there(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(CSV)
    (tmp_path / "out").mkdir()
    data.run({"source": tmp_path}, config(kept=("country",)), tmp_path / "out", 0)
    for split, there in (("train", False), ("validation", True), ("test", True)):
        lines = [json.loads(line) for line in (tmp_path / "out" / f"{split}.jsonl").read_text().splitlines()]
        assert all(("columns" in row) == there for row in lines), split
    assert {row["columns"]["country"] for row in data.read_rows(tmp_path / "out", "test")} == {"FRA", "(none)"}
    (tmp_path / "plain").mkdir()
    data.run({"source": tmp_path}, config(), tmp_path / "plain", 0)
    assert "country" not in (tmp_path / "plain" / "test.jsonl").read_text()


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("contry", "evaluate.slices[0] is 'contry' but row 1 of rows.csv has no such column: did you mean 'country'?"),
        ("text", "evaluate.slices names 'text', which has 300 values, but at most 20 can be told apart"),
    ],
)
def test_a_column_that_cannot_part_rows_is_refused(tmp_path: Path, kept: str, said: str) -> None:
    (tmp_path / "rows.csv").write_text(CSV)
    with pytest.raises(ShrinkError) as refused:
        rows, _ = data.labelled_rows(tmp_path, config(kept=(kept,)))
        slices.check(rows, (kept,))
    assert str(refused.value).startswith(said)


def test_a_value_as_long_as_a_text_is_refused() -> None:
    rows = [{"columns": {"note": "x" * 41}}]
    with pytest.raises(ShrinkError, match="a value of 41 characters"):
        slices.check(rows, ["note"])


def test_rated_files_have_no_columns(tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match=r"evaluate\.slices is .* but format is 'rated'"):
        data.check_config(config(format="rated", kept=("country",)))

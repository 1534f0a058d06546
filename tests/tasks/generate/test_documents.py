"""Documents from files: gathered, split whole, and refused where they are none."""

import gzip
from pathlib import Path

import pytest

from registry.records import ShrinkError
from tasks.data import read_facts, read_rows
from tasks.generate import documents, forms
from tasks.generate.documents import DocumentsConfig

WORDS = "word " * 30


def articles(folder: Path, count: int = 40) -> None:
    """Articles of three sentences each, in the format of rated sentences."""
    lines = [f"{a}_{s}\t0.5\tArticle {a} says sentence {s}." for a in range(count) for s in range(3)]
    (folder / "news.txt").write_text("\n".join(lines) + "\n")


def test_articles_are_gathered_in_order_and_split_whole(tmp_path: Path) -> None:
    articles(tmp_path)
    (tmp_path / "book.txt.gz").write_bytes(
        gzip.compress(f"1. Title\n\n{WORDS}end.\n\n    list\n\n{WORDS}end.".encode())
    )
    (out := tmp_path / "out").mkdir()
    config = DocumentsConfig(file="news.txt", format="articles", second_file="book.txt.gz")
    seen = documents.run({"source": tmp_path, "second": tmp_path}, config, out, 0)
    rows = [row for name in ("train", "validation", "test") for row in read_rows(out, name)]
    assert sorted(row["id"] for row in rows) == sorted(str(number) for number in range(40))
    assert all(row["text"].count("sentence") == 3 and f"Article {row['id']} " in row["text"] for row in rows)
    assert seen["train_rows"] + seen["validation_rows"] + seen["test_rows"] == 40 and seen["second_rows"] == 1
    second = read_rows(out, "second")[0]["text"]
    assert second.count("end.") == 2 and "Title" not in second and "list" not in second
    assert read_facts(out)["task"] == "generate" and config.reads == {"source": "source", "second": "source"}


def test_prose_is_gathered_up_to_a_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "DOCUMENT", 200)
    found = forms.prose("\n\n".join(f"{WORDS}number {one}." for one in range(5)))
    assert [row["text"].count("number") for row in found] == [2, 2, 1]


def test_a_limit_takes_documents_from_everywhere(tmp_path: Path) -> None:
    articles(tmp_path, 100)
    config = DocumentsConfig(file="news.txt", format="articles", limit=20)
    rows = [row for part in documents.split_documents(tmp_path, config).values() for row in part]
    assert len(rows) == 20 and max(int(row["id"]) for row in rows) >= 90


@pytest.mark.parametrize(
    ("form", "text", "said"),
    [
        ("jsonl", '{"text": "one"}\nnothing', "Row 2 of x.txt is no JSON object"),
        ("jsonl", '{"body": "one"}', "Row 1 of x.txt has no 'text'"),
        ("jsonl", '{"text": ["one"]}', "Row 1 of x.txt has no 'text'"),
        ("jsonl", "\n", "has no document"),
        ("articles", "1\t0.5\tA sentence.", "Row 1 of x.txt is no sentence of an article"),
        ("articles", "1_1\t0.5", "Row 1 of x.txt is no sentence of an article"),
        ("prose", "Title\n\nToo short.", "has no document"),
    ],
)
def test_a_file_that_holds_no_documents_is_refused(tmp_path: Path, form: forms.Form, text: str, said: str) -> None:
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(ShrinkError, match=said):
        documents.read(tmp_path, "x.txt", form, "file")


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"text" * 100)[:20])
    with pytest.raises(ShrinkError, match=r"x\.gz cannot be unzipped"):
        documents.read(tmp_path, "x.gz", "prose", "file")


def test_a_folder_gives_each_of_its_texts_and_nothing_from_outside(tmp_path: Path) -> None:
    (tmp_path / "docs" / "in").mkdir(parents=True)
    (tmp_path / "docs" / ".git").mkdir()
    for name in ("a.md", "in/b.txt", "c.csv", ".git/d.txt", "../e.txt"):
        (tmp_path / "docs" / name).write_text(f"Text of {name}.\n")
    (tmp_path / "docs" / "empty.txt").write_text(" \n")
    (tmp_path / "docs" / "link.txt").symlink_to(tmp_path / "e.txt")
    rows = documents.read(tmp_path / "docs", ".", "files", "file")
    assert rows == [{"id": "a.md", "text": "Text of a.md."}, {"id": "in/b.txt", "text": "Text of in/b.txt."}]
    for folder in ("..", "none"):
        with pytest.raises(ShrinkError, match=r"file is '.*' but the source has no such folder"):
            documents.read(tmp_path / "docs", folder, "files", "file")
    (tmp_path / "docs" / "void").mkdir()
    with pytest.raises(ShrinkError, match=r"file is 'void' but it has no document: put text files there"):
        documents.read(tmp_path / "docs", "void", "files", "file")


def test_a_few_bytes_that_are_no_utf8_are_replaced_and_more_are_refused(tmp_path: Path) -> None:
    for count, bad in ((10, True), (1, False)):
        (tmp_path / "x.txt").write_bytes(b"a" * (1000 - count) + b"\xff" * count)
        if not bad:
            assert documents.unpacked(tmp_path / "x.txt").count("\N{REPLACEMENT CHARACTER}") == count
            continue
        with pytest.raises(ShrinkError, match=r"x\.txt is no UTF-8: 1\.0% of its characters cannot be read"):
            documents.unpacked(tmp_path / "x.txt")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("1_1\t0.5\tOne.\n1_2\t0.1\tTwo.\n", "articles"),
        ("\n".join([WORDS] * 5), "lines"),
        ("\n\n".join([WORDS] * 5), "prose"),
        ("\n".join(["a line of a text that was broken at some width"] * 50), "prose"),
        ("", "prose"),
    ],
)
def test_the_format_of_a_text_is_seen(text: str, form: str) -> None:
    assert forms.guessed(text) == form

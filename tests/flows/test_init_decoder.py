"""`shrink init --task generate`: what it writes goes through plan, smoke and run; what it refuses writes nothing."""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import init, init_decoder, init_decoder_fit, sources
from flows.preflight import preflight
from flows.recipe import load
from flows.smoke import smoke
from infra.addresses import Services
from registry.records import ShrinkError
from tasks.export import gguf
from tasks.generate import floor, gguf_check, header
from tests.flows.test_cli import Shrink, refused
from tests.flows.test_cli import shrink as shrink  # a fixture
from tests.flows.test_compress import shrink as command
from tests.flows.test_generate import text_of
from tests.flows.test_init import make_csv, make_model
from tests.tasks.generate import decoders


def prose(first: int, count: int, repeated: int = 8) -> str:
    """Paragraphs of many words, every one another."""
    texts = [" ".join(" ".join(text_of(at * 100 + n).split()) for n in range(repeated)) for at in range(count)]
    return "\n\n".join(f"Part {first + at} is {text}" for at, text in enumerate(texts))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoders.folder(tmp_path_factory.mktemp("tiny-init") / "llama")


@pytest.fixture(scope="module")
def plain(teacher: Path) -> Path:
    """The teacher as a GGUF file of 4-bit blocks, and in half precision beside it."""
    for name, stage in (("q4", "floor"), ("half", "export")):
        (out := teacher.parent / name).mkdir()
        if stage == "floor":
            floor.run({"teacher": teacher}, floor.GenerateFloorConfig(), out, 0)
        else:
            gguf.run({"model": teacher}, gguf.GgufConfig(), out, 0)
        shutil.copy(out / "model.gguf", teacher.parent / f"{name}.gguf")
    return teacher.parent


def documents(folder: Path) -> dict[str, Path]:
    """The same kind of text in every form that there is."""
    texts = [text_of(number) for number in range(60)]
    (folder / "docs" / "inner").mkdir(parents=True)
    for number, text in enumerate(texts):
        where = folder / "docs" / ("inner" if number % 2 else ".") / f"{number}.md"
        where.write_text(text)
    (folder / "docs" / "more.txt.gz").write_bytes(gzip.compress(text_of(60).encode()))
    (folder / "docs" / ".hidden.txt").write_text("\xff")
    (folder / "docs" / "picture.png").write_bytes(bytes(range(256)))
    rows = "\n".join(f'"{text}, said",{number}' for number, text in enumerate(texts))
    made = {
        "rows.csv": "body,n\n" + rows,
        "rows.jsonl": "\n".join(json.dumps({"body": text}) for text in texts),
        "lines.txt": "\n".join(texts),
        "prose.txt": prose(0, 40),
        "news.txt": "\n".join(f"{n // 3}_{n % 3}\t0.5\t{text}" for n, text in enumerate(texts * 3)),
    }
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "lines.txt.gz").write_bytes(gzip.compress(made["lines.txt"].encode()))
    return {name: folder / name for name in (*made, "lines.txt.gz", "docs")}


@pytest.mark.parametrize(
    ("name", "form", "column", "count"),
    [
        ("rows.csv", "csv", "body", 60),
        ("rows.jsonl", "jsonl", "body", 60),
        ("lines.txt", "lines", "text", 60),
        ("lines.txt.gz", "lines", "text", 60),
        ("prose.txt", "prose", "text", 40),
        ("news.txt", "articles", "text", 60),
        ("docs", "files", "text", 61),
    ],
)
def test_documents_in_every_form_make_a_recipe_that_passes_every_check(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str, column: str, count: int
) -> None:
    data = documents(tmp_path)[name]
    found = init_decoder.write("mine", data, teacher, column=column, licences=("MIT", "CC0-1.0"), folder=tmp_path)
    assert found["format"] == form and sum(found["documents"].values()) == count
    monkeypatch.chdir("/")
    recipe = load(found["recipe"])
    held = [sources.resolve(one, tmp_path / ".shrink") for one in (recipe.teacher, recipe.data_source)]
    preflight(recipe, held[0], held[1])
    preflight(smoke(recipe), held[0], held[1])
    assert [stage.kind for stage in recipe.stages] == ["adopt", "label", "quantize", "distill", "export"]
    assert recipe.teacher.licence == "MIT" and recipe.gate.retention_min_of == {"perplexity": 0.95}
    assert "{" not in "".join(line.partition("#")[2] for line in Path(found["recipe"]).read_text().splitlines())


def test_a_rounded_file_is_corrected_and_one_in_half_precision_is_not(plain: Path, tmp_path: Path) -> None:
    data = documents(tmp_path)["lines.txt"]
    for name, grid in (("q4", "Q4_0"), ("half", None)):
        found = init_decoder.write(name, data, plain / f"{name}.gguf", folder=tmp_path)
        recipe = load(found["recipe"])
        assert found["corrected"] == (grid is not None) == ("correct" in [stage.kind for stage in recipe.stages])
        assert (f"of its {grid} blocks" in Path(found["recipe"]).read_text()) == (grid is not None)
        assert recipe.teacher.uri == f"file:{plain / name}.gguf"
        looked = sources.peek(recipe.teacher, tmp_path)
        assert [one.name for one in looked.iterdir()] == [f"{name}.gguf"], "what lies beside it is not looked at"
        folder = load(init_decoder.write(f"{name}-folder", data, plain / name, folder=tmp_path)["recipe"])
        assert folder.stages == recipe.stages and folder.teacher.uri == f"dir:{plain / name}"


def test_a_link_keeps_its_name(plain: Path, tmp_path: Path) -> None:
    shutil.copy(plain / "q4.gguf", tmp_path / "blob")
    shutil.copy(documents(tmp_path)["lines.txt"], tmp_path / "other-blob")
    for link, to in (("model.gguf", "blob"), ("linked.txt", "other-blob")):
        (tmp_path / link).symlink_to(to)
    found = init_decoder.write("mine", tmp_path / "linked.txt", tmp_path / "model.gguf", folder=tmp_path)
    recipe = load(found["recipe"])
    for look in (sources.peek, sources.resolve):
        teacher, data = (look(one, tmp_path / ".shrink") for one in (recipe.teacher, recipe.data_source))
        preflight(recipe, teacher, data)


def test_what_is_written_walks_and_runs(servers: Services, servers_home: Path, plain: Path, tmp_path: Path) -> None:
    data = documents(tmp_path)
    (tmp_path / "other.txt").write_text(prose(100, 12))
    init_decoder.write("tiny-init", data["docs"], plain / "q4.gguf", tmp_path / "other.txt", folder=tmp_path)
    file = str(tmp_path / "tiny-init.yaml")
    said = yaml.safe_load(Path(file).read_text())
    planned = json.loads(command(servers_home, "plan", file, "--json").stdout)
    assert len(planned["stages"]) > len(said["stages"])
    walked = json.loads(command(servers_home, "run", file, "--smoke", "--json").stdout)
    assert walked["status"] == "passed" and walked["recipe"] == "tiny-init-smoke"
    command(servers_home, "run", file, check=None)
    seen = json.loads(command(servers_home, "show", "tiny-init@1", "--json").stdout)
    ran = [(one["kind"], one["method"]) for one in seen["stages"] if one["kind"] != "compare"]
    assert [(one["kind"], one.get("method")) for one in said["stages"]] == ran[2 : 2 + len(said["stages"])]
    bits = next(one for one in seen["verdict"]["checks"] if one["name"] == "bits_per_weight")
    assert bits["passed"] and bits["limit"] - bits["value"] < 0.2
    assert not {"perplexity", "perplexity_second"} & set(seen["writing"]["left_out"])


def test_bits_are_what_comes_and_odd_rows_stay_in_half_precision(tmp_path: Path) -> None:
    model = decoders.folder(tmp_path / "model")
    wide = init_decoder_fit.grids(header.look(model))
    assert wide.exceptions == {"gate_proj": "q4_0", "q_proj": "q4_0"} and wide.table == "q5_0"
    odd = header.look(model).model_copy(update={"neurons": 40})
    assert init_decoder_fit.grids(odd).exceptions["down_proj"] == "none"
    assert init_decoder_fit.grids(odd).bits > wide.bits
    with pytest.raises(ShrinkError, match="rows of 30 and 40 inputs are no whole blocks of 32"):
        init_decoder_fit.grids(odd.model_copy(update={"width": 30, "head": 6}))
    big = header.look(model).model_copy(
        update={"layers": 30, "width": 576, "neurons": 1536, "queries": 9, "groups": 3, "head": 64}
        | {"parameters": 134_515_008, "tables": 28_311_552}
    )
    assert init_decoder_fit.grids(big).bits == pytest.approx(4.98, abs=0.01) and init_decoder_fit.grids(big).most == 5.0


@pytest.mark.parametrize(("tokens", "context"), [(2048, 64), (2100, 2048), (9000, 512), (10**6, 8192)])
def test_lengths_are_within_the_text_and_the_context(tokens: int, context: int) -> None:
    found = init_decoder_fit.lengths(tokens, context)
    assert max(found.window, found.calibration, found.length) <= context
    assert found.blocks * found.calibration <= tokens and found.windows * found.length <= tokens
    assert found.steps * init_decoder_fit.BATCH <= found.windows
    assert found.blocks == 32


def set_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def encoder(folder: Path) -> None:
    shutil.rmtree(folder)
    make_model(folder)


def other(folder: Path) -> None:
    shutil.rmtree(folder)
    decoders.folder(folder, "gemma")


BAD_MODELS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "none": (shutil.rmtree, "model is 'llama' but there is no such folder or GGUF file; name one"),
    "encoder": (encoder, "model_type is 'bert', which has an encoder, and task generate takes a decoder alone"),
    "no config": (lambda f: (f / "config.json").unlink(), r"has neither a GGUF file nor config\.json"),
    "config": (lambda f: (f / "config.json").write_text("{"), r"config\.json in the model folder is no JSON object"),
    "tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), r"tokenizer\.json in the model folder is no JSON"),
    "odd tokenizer": (lambda f: set_json(f / "tokenizer.json", model={"type": "BPE"}), r"tokenizer\.json"),
    "settings": (
        lambda f: (f / "tokenizer_config.json").write_text("[1"),
        r"tokenizer_config\.json in the model folder",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json is missing in the model folder"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors is missing in the model folder"),
    "rope": (lambda f: set_json(f / "config.json", rope_parameters=[1]), r"config\.json.*cannot be read|rope"),
    "family": (other, "no GGUF is written of a 'gemma': known"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_bad_model_is_one_sentence_and_nothing_is_written(
    shrink: Shrink, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    spoil, message = BAD_MODELS[case]
    shutil.copytree(teacher, tmp_path / "llama")
    (tmp_path / "lines.txt").write_text("\n".join(map(text_of, range(60))))
    spoil(tmp_path / "llama")
    capsys.readouterr()  # what transformers says while it saves
    words = ("init", "mine", "--task", "generate", "--data", "lines.txt", "--model", "llama")
    assert_refused(shrink, tmp_path, words, message)


def assert_refused(shrink: Shrink, folder: Path, words: tuple[str, ...], message: str) -> None:
    before = sorted(one.name for one in folder.iterdir())
    plain, as_json = refused(shrink(*words)), refused(shrink(*words, "--json"))
    assert plain == as_json
    assert re.search(message, plain), plain
    assert sorted(one.name for one in folder.iterdir()) == before


FEW = "\n".join(map(text_of, range(3)))
BAD_DATA: dict[str, tuple[str | bytes, str]] = {
    "lines.txt": (
        FEW,
        r"have 937 B of text, about \d+ tokens to learn from, but 2048 are needed at least: give about \d",
    ),
    "empty.txt": ("", r"data is 'empty\.txt' but it has no document: a paragraph of 20 words"),
    "short.md": ("Title\n\nToo short.\n", r"data is 'short\.md' but it has no document: a paragraph of 20 words"),
    "wide.txt": (text_of(1).encode("utf-16"), r"wide\.txt is UTF-16 but UTF-8 is read: convert it"),
    "latin.txt": (
        ("d\xe9j\xe0 vu " * 300).encode("latin-1"),
        r"latin\.txt is no UTF-8: \d+\.\d% of its characters cannot",
    ),
    "zeros.txt": (b"\0w\0o\0r\0d" * 300, r"zeros\.txt is no UTF-8: 50\.0% of its characters"),
    "lost.gz": (b"no zip", r"data is 'lost\.gz' but must be a folder or end in \.txt"),
    "lost.txt.gz": (b"no zip", r"lost\.txt\.gz cannot be unzipped"),
    "rows.json": ("[]", r"data is 'rows\.json' but must be a folder or end in \.txt"),
    "rows.csv": (
        "body\nword\n",
        r"text_column is 'text' but row 1 of rows\.csv has no such column: name .*'body'",
    ),
    "rows.jsonl": ('{"body": "word"}', r"Row 1 of rows\.jsonl has no 'text'"),
    "half.jsonl": (r'{"text": "\ud800"}', r"Row 1 of half\.jsonl has half a surrogate pair"),
    "single.txt": (f"{'word ' * 9000}end.", r"of 1 documents . would be validation and . test|have .* of text"),
    "no.txt": (b"", "data is 'no.txt' but there is no such file or folder; name one with text"),
    "void": (b"", r"data is 'void', a folder without a text file \(\.txt, .*\); name another"),
    ".": (b"", r"data is '\.', in which the recipe would lie; name a folder of documents alone"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_documents_are_one_sentence_and_nothing_is_written(
    shrink: Shrink, teacher: Path, tmp_path: Path, name: str
) -> None:
    content, message = BAD_DATA[name]
    (tmp_path / "void").mkdir()
    if content or name == "empty.txt":
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    words = ("init", "mine", "--task", "generate", "--data", name, "--model", str(teacher))
    assert_refused(shrink, tmp_path, words, message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--second-data", "lines.txt"), r"second_data is 'lines\.txt', which the data 'lines\.txt' holds"),
        (("--second-data", "same.txt"), r"second_data is 'same\.txt', which the data 'lines\.txt' holds"),
        (("--data", "docs", "--second-data", "docs/0.md"), r"second_data is 'docs/0\.md', which the data 'docs' holds"),
        (("--second-data", "rows.csv"), r"second_data is 'rows\.csv' but must be a text file of another domain"),
        (("--second-data", "none.txt"), r"second_data is 'none\.txt' but must be a text file of another domain"),
        (("--second-data", "short.txt"), r"second_data is 'short\.txt' but it has no document"),
        (("--text-column", "body"), r"text_column is 'body' but 'lines\.txt' is no CSV or JSONL file; leave it out"),
        (("--label-column", "n"), "label_column is given but is not for task generate; leave it out"),
        (("--multi-label",), "multi_label is given but is not for task generate; leave it out"),
        (("--task", "classify", "--second-data", "x.txt"), "second_data is given but is not for task classify"),
        (("--task", "classify"), r"model is '.*q4\.gguf', a language model's file, but task is classify: give --task"),
        (("--model", "lines.txt"), r"model is 'lines\.txt' but a file must be a GGUF file"),
        (("--model", "half.gguf"), r"'half\.gguf' is no GGUF file: it begins with"),
    ],
)
def test_options_that_cannot_be_meant_are_one_sentence_and_nothing_is_written(
    shrink: Shrink, plain: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    documents(tmp_path)
    (tmp_path / "same.txt").symlink_to("lines.txt")
    (tmp_path / "short.txt").write_text("Too short.")
    (tmp_path / "half.gguf").write_text("no model at all, but long enough")
    given = ("--task", "generate", "--data", "lines.txt", "--model", str(plain / "q4.gguf"))
    assert_refused(shrink, tmp_path, ("init", "mine", *given, *words), message)


def test_an_encoders_task_refuses_a_decoder_and_names_its_own(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match=r"model_type is 'llama' but only .*, or task generate, for which it is\.$"):
        init.write("mine", make_csv(tmp_path / "rows.csv"), teacher, folder=tmp_path)


def test_names_are_a_recipes_and_targets_are_not_overwritten(teacher: Path, tmp_path: Path) -> None:
    data = documents(tmp_path)["lines.txt"]
    (tmp_path / "mine.yaml").write_text("mine")
    for name, said in (
        ("m" * 57, "a name has 1 to 56"),
        ("", "a name has 1 to 56"),
        ("mine", "exists; choose another"),
    ):
        with pytest.raises(ShrinkError, match=said):
            init_decoder.write(name, data, teacher, folder=tmp_path)
    assert (tmp_path / "mine.yaml").read_text() == "mine" and len(list(tmp_path.glob("*.yaml"))) == 1


def test_the_command_tells_what_it_saw(shrink: Shrink, teacher: Path, tmp_path: Path) -> None:
    documents(tmp_path)
    words = ("--task", "generate", "--data", "docs", "--model", str(teacher))
    status, out, err = shrink("init", "mine", *words)
    assert (status, err) == (0, "") and "mine.yaml written: " in out and "documents: train " in out
    assert out.splitlines()[-1] == "next:   shrink run mine.yaml --smoke  ·  shrink run mine.yaml"
    status, out, err = shrink("init", "other", *words, "--json")
    assert (status, err) == (0, "") and json.loads(out)["format"] == "files"


def test_rows_that_are_no_whole_blocks_are_kept_by_recipe_and_floor(teacher: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher, tmp_path / "odd")
    decoders.build(decoders.config_of("llama", vocab_size=288, intermediate_size=48)).save_pretrained(tmp_path / "odd")
    found = init_decoder.write("mine", documents(tmp_path)["lines.txt"], tmp_path / "odd", folder=tmp_path)
    stage = next(one for one in load(found["recipe"]).stages if one.kind == "quantize")
    assert stage.model_dump()["exceptions"] == {"gate_proj": "q4_0", "q_proj": "q4_0", "down_proj": "none"}
    (tmp_path / "floor").mkdir()
    floor.run({"teacher": tmp_path / "odd"}, floor.GenerateFloorConfig(), tmp_path / "floor", 0)
    kinds = gguf_check.check(tmp_path / "floor" / "model.gguf").types
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q4_0")
    assert kinds["token_embd.weight"] == "Q8_0"

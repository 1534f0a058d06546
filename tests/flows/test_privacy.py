"""Marked texts and secrets go through real runs; then every byte of every store is searched for them.

The stores: the S3 folder, MLflow's and Prefect's databases and artifacts, the servers' and our own logs, the index, the
versions that were fetched. Run directories, the stage cache and fetched sources lie on the user's own disk and hold the
data; they show that the search finds what is there.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from infra import services
from infra.addresses import Services
from tests.flows.test_compress import shrink
from tests.flows.test_generate import text_of
from tests.tasks.generate import decoders
from tests.tasks.test_torch_stages import make_texts

MARK = re.compile(rb"qzmark", re.IGNORECASE)
TOKEN = "qzsecret-5f1d0c"
OURS = ("runs", "cache", "sources")  # of the home: never sent


def searched(home: Path) -> Iterator[Path]:
    """Every file of a home but those that the data may lie in."""
    for path in sorted(home.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.relative_to(home).parts[0] not in OURS:
            yield path


def holding(paths: Iterator[Path], wanted: re.Pattern[bytes]) -> list[str]:
    """The files in which something stands."""
    return [str(path) for path in paths if wanted.search(path.read_bytes())]


def every_store_is_clean(home: Path, services: Services, more: re.Pattern[bytes] | None = None) -> None:
    """No marked text anywhere, no token, and the S3 secret in no place but the file that is for it."""
    assert holding(searched(home), MARK) == []
    assert more is None or holding(searched(home), more) == []
    assert holding(searched(home), re.compile(TOKEN.encode())) == []
    secret = re.compile(re.escape(services.secret_key.encode()))
    kept = {Path(path).name for path in holding(searched(home), secret)}
    assert kept <= {"credentials.json", "services.json"}, kept
    assert holding((path for path in home.rglob("*") if path.is_file()), secret) == [
        str(path) for path in searched(home) if path.name in kept
    ]


def run(home: Path, *words: str, check: int = 0) -> subprocess.CompletedProcess[str]:
    """`shrink` with a token in its environment."""
    environment = {**os.environ, "SHRINK_HOME": str(home), "SHRINK_THREADS": "1", "HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "flows.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == check, done.stdout + done.stderr
    return done


@pytest.fixture
def marked(tiny: Path, tmp_path: Path) -> dict[str, Any]:
    """The tiny recipe over rows that all carry a mark, the transfer texts too; labels are words that may be seen."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [f"{n},qzmark{n} {text} Qzmark,{'good' if mean > 0 else 'bad'}" for n, (text, mean) in _texts(300, 1)]
    (folder / "rows.csv").write_text("id,text,label\n" + "\n".join(rows), encoding="utf-8")
    more = [f"{n},qzmarktransfer{n} {text}" for n, (text, _) in _texts(60, 2)]
    (folder / "more.csv").write_text("id,text\n" + "\n".join(more), encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load((tiny / "tiny.yaml").read_text())
    content["name"] = "marked"
    content["data_source"] = {"uri": f"dir:{folder}"}
    content["data"] = {"kind": "data", "file": "rows.csv", "transfer": ["more.csv"], "max_length": 16}
    content["stages"] = [
        {"kind": "finetune", "epochs": 1, "lr": 1e-3},
        {"kind": "label"},
        {"kind": "prune", "method": "vocabulary"},
        {"kind": "distill", "method": "logits", "epochs": 2, "lr": 1e-3},
        {"kind": "export", "method": "onnx"},
        {"kind": "quantize", "method": "int8_static", "calibration_rows": 32},
    ]
    return content


def _texts(count: int, seed: int) -> list[tuple[int, tuple[str, float]]]:
    return list(enumerate(make_texts(count, seed)))


def test_no_text_of_a_classifying_run_leaves_the_machine(
    servers: Services, servers_home: Path, marked: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "marked.yaml"
    path.write_text(yaml.safe_dump(marked))
    run(servers_home, "run", str(path))
    names = {path.relative_to(servers_home).parts[0] for path in searched(servers_home)}
    assert {"s3", "logs", "index", "mlflow", "prefect"} <= names, names
    answer = json.loads(run(servers_home, "predict", "marked@champion", "a qzmarkasked film", "--json").stdout)
    assert answer[0]["label"] in {"good", "bad"}
    for words in (("show", "marked@champion"), ("logs",), ("report",)):
        assert not MARK.search(run(servers_home, *words).stdout.encode())
    every_store_is_clean(servers_home, servers)
    ours = [path for part in OURS for path in (servers_home / part).rglob("*.jsonl")]
    assert len(holding(iter(ours), MARK)) >= 4, "the search finds the rows where they may lie"
    assert holding(searched(servers_home), re.compile(b"macro_f1")), "and reads the stores"


def test_no_text_of_a_run_that_stops_leaves_the_machine(
    servers: Services, servers_home: Path, marked: dict[str, Any], tmp_path: Path
) -> None:
    """The person who typed reads what is wrong, with the cell; Prefect, which keeps the error, the row alone."""
    rows = [json.dumps({"text": f"fine {n}", "label": n % 2}) for n in range(100)]
    (tmp_path / "data" / "odd.jsonl").write_text("\n".join([*rows, '{"text": "x", "label": "qzmark wrong"}']))
    marked["data"] = {"kind": "data", "file": "odd.jsonl", "format": "jsonl", "max_length": 16}
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump(marked | {"name": "odd"}))
    said = run(servers_home, "run", str(path), check=2).stderr
    assert "Row 101 of odd.jsonl has the label 'qzmark wrong'" in said.replace("\n", " ")
    (tmp_path / "data" / "bare.csv").write_text("qzmark first text,good\nanother,bad\n", encoding="utf-8")
    marked["data"] = {"kind": "data", "file": "bare.csv", "max_length": 16}
    path.write_text(yaml.safe_dump(marked | {"name": "bare"}))
    assert "'qzmark first text'" in run(servers_home, "run", str(path), check=2).stderr.replace("\n", " ")
    fired = f"from flows.compress import compress; compress({str(path)!r})"  # as a schedule does, no command before it
    environment = {**os.environ, **services.environment(servers, servers_home), "SHRINK_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", fired], env=environment, capture_output=True, text=True, timeout=120)
    assert "row 1 of bare.csv has no such column: name one of: '…'" in done.stderr
    every_store_is_clean(servers_home, servers)
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as prefect:
        ended = [one.state.message or "" for one in prefect.read_flow_runs() if one.state]
    assert any("row 1 of bare.csv" in message for message in ended), ended


def test_no_text_of_a_run_that_writes_leaves_the_machine_not_even_as_tokens(
    servers: Services, servers_home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "writer"
    decoders.folder(folder / "teacher", head_dim=16)
    (folder / "data").mkdir()
    lines = [json.dumps({"text": f"qzmark {text_of(number)} the fox qzmark{number}"}) for number in range(60)]
    (folder / "data" / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    content = {
        "name": "marked-writer",
        "task": "generate",
        "teacher": {"uri": f"dir:{folder / 'teacher'}"},
        "data_source": {"uri": f"dir:{folder / 'data'}"},
        "data": {"file": "texts.jsonl", "max_length": 48},
        "stages": [
            {"kind": "adopt", "method": "decoder"},
            {"kind": "label", "method": "top_k", "k": 8},
            {"kind": "distill", "method": "tokens"},
            {
                "kind": "quantize",
                "method": "gptq",
                "grid": "q8_0",
                "calibration_blocks": 4,
                "calibration_length": 16,
            },
            {"kind": "export", "method": "gguf"},
        ],
        "evaluate": {"prompts": 2, "answer": 4, "rounds": 2, "questions": []},
        "gate": {"beat_floor": False, "bytes_ratio_min": 1.01, "retention_min_of": {"perplexity": 0.1}},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    run(servers_home, "run", str(folder / "tiny.yaml"))
    every_store_is_clean(servers_home, servers, tokens_of(folder / "teacher", "qzmark"))
    labels = list((servers_home / "cache").glob("*/top_k.safetensors"))
    assert labels and not [p for p in searched(servers_home) if p.read_bytes() == labels[0].read_bytes()]
    shrink(servers_home, "show", "marked-writer@champion")


def tokens_of(teacher: Path, text: str) -> re.Pattern[bytes]:
    """A text's token ids as they would stand in a file: whole numbers of 2, 4 or 8 bytes, or JSON's."""
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(teacher / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    assert len(ids) >= 3
    binary = [re.escape(np.array(ids, dtype=kind).tobytes()) for kind in ("<u2", "<i4", "<i8")]
    return re.compile(b"|".join([*binary, rb",\s*".join(str(one).encode() for one in ids)]))

"""The offline bundle: in a network namespace without any interface, on one core, in little memory, without a socket."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from flows import offline
from registry import signing
from registry.records import ShrinkError, manifest_of
from tasks import runtime
from tests import signatures
from tests.flows.test_deploy import TEXTS, make_golden, make_model

ALONE = ("numpy", "numpy.libs", "onnxruntime", "tokenizers")  # what requirements.txt names, and nothing else
NAMESPACE = ("unshare", "--net", "--map-root-user", "taskset", "--cpu-list", "0")  # not even loopback is up there
LIMIT_KB = 512_000
MEASURED = (
    "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(code)"
)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "version"
    model = make_model(folder / "model", 2.0)
    evidence = make_golden(folder / "evidence", model)
    sealed = signatures.sealed("tiny", model, evidence, tmp_path / "home")
    sealed.rename(folder / "signature")
    return folder


@pytest.fixture
def bundle(version: Path, tmp_path: Path) -> Path:
    made = offline.write("tiny", version, signatures.trust(tmp_path / "home"), tmp_path / "bundle")
    assert made["bytes"] > made["model"] > 0
    return tmp_path / "bundle"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with the needed packages alone."""
    folder = tmp_path / "packages"
    folder.mkdir()
    import numpy

    site = Path(numpy.__file__).parents[1]
    for name in ALONE:
        (folder / name).symlink_to(site / name)
    return folder


def ask(bundle: Path, *words: str, typed: str = "", before: tuple[str, ...] = (), alone: Path | None = None) -> Any:
    """The finished process, and the most memory in kB that it held."""
    options = ["-S", "-E"] if alone is None else ["-S"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere"} | ({"PYTHONPATH": str(alone)} if alone else {})
    command = [*before, sys.executable, *(options if alone else []), str(bundle / "run.py"), *words]
    measured = [sys.executable, "-c", MEASURED, *command]  # a large process's child would count its memory too
    done = subprocess.run(measured, env=environment, cwd="/", input=typed, capture_output=True, text=True)
    *err, most = done.stderr.splitlines(keepends=True)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout, "".join(err)), int(most)


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_answers_without_a_network_on_one_core_in_little_memory(bundle: Path, packages: Path) -> None:
    done, most = ask(bundle, *TEXTS, before=NAMESPACE, alone=packages)
    model = bundle / "version" / "model"
    answers = runtime.answers(runtime.predict(model, TEXTS), runtime.settings(model))
    assert lines(done) == [{"text": text} | answer for text, answer in zip(TEXTS, answers, strict=True)]
    assert "signature not verified: the package model-signing is not installed" in done.stderr
    assert most < LIMIT_KB, most
    typed, _ = ask(bundle, typed="\n".join(TEXTS) + "\n\n", alone=packages)
    assert typed.stdout == done.stdout
    needed = (bundle / "requirements.txt").read_text()
    assert re.findall(r"^(\w+)==", needed, re.MULTILINE) == ["numpy", "onnxruntime", "tokenizers"]


def test_it_opens_no_socket(bundle: Path, packages: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.txt"
    before = ("strace", "-f", "-e", "trace=%network", "-o", str(trace))
    for alone in (packages, None):  # also where the signature is verified
        lines(ask(bundle, "good film", before=before, alone=alone)[0])
        seen = trace.read_text()
        assert "exited with 0" in seen and not re.findall(r"\w+\(.*AF_\w+|connect\(|socket\(", seen), seen[:2000]
    code = f"import runpy, sys; sys.argv=['run.py', 'x']; m = runpy.run_path({str(bundle / 'run.py')!r}); "
    code += "sys.addaudithook(m['no_socket']); import socket; socket.socket()"
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "PermissionError: socket.__new__: this program opens no socket" in refused.stderr


def test_its_signature_is_verified_where_that_is_possible(bundle: Path, tmp_path: Path) -> None:
    done, _ = ask(bundle, "good film", before=NAMESPACE)
    assert lines(done)[0]["label"] == "positive" and done.stderr == ""
    other = signatures.key(tmp_path / "other").public.pem
    (tmp_path / "other.pub").write_text(other)
    foreign, _ = ask(bundle, "good film", "--key", str(tmp_path / "other.pub"))
    assert foreign.returncode == 2 and "the signature does not hold with the key" in foreign.stderr
    config = bundle / "version" / "model" / "config.json"  # changed, and the list made to fit
    config.write_text(config.read_text().replace("positive", "negativ2"))
    listed = {name: one for name, one in manifest_of(bundle).items() if name not in {"run.py", "files.json"}}
    (bundle / "files.json").write_text(json.dumps(listed))
    forged, _ = ask(bundle, "good film")
    assert forged.returncode == 2 and forged.stdout == "" and "the signature does not hold" in forged.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("version/model/model.onnx", "'version/model/model.onnx' was changed"),
        ("version/model/tokenizer.json", "'version/model/tokenizer.json' is missing"),
        ("version/model/more.json", "'version/model/more.json' is not of this folder"),
        ("version/evidence/golden.json", "'version/evidence/golden.json' was changed"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(bundle: Path, packages: Path, name: str, said: str) -> None:
    path = bundle / name
    if "missing" in said:
        path.unlink()
    elif "not of" in said:
        path.write_text("{}")
    else:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done, _ = ask(bundle, "good film", alone=packages)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"run.py: {said}")


def test_pairs_are_read_two_by_two(tmp_path: Path, packages: Path) -> None:
    model = make_model(tmp_path / "v" / "model", 1.0)
    about = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(about | {"pairs": True}))
    evidence = make_golden(tmp_path / "v" / "evidence", make_model(tmp_path / "plain", 1.0))
    signatures.sealed("tiny", model, evidence, tmp_path / "home").rename(tmp_path / "v" / "signature")
    offline.write("tiny", tmp_path / "v", signatures.trust(tmp_path / "home"), tmp_path / "bundle")
    given = lines(ask(tmp_path / "bundle", "good", "film", alone=packages)[0])
    assert given == lines(ask(tmp_path / "bundle", typed="good\tfilm\n", alone=packages)[0])
    assert (given[0]["text"], given[0]["pair"]) == ("good", "film")
    odd, _ = ask(tmp_path / "bundle", "good", alone=packages)
    assert odd.returncode == 2 and "give two texts for each" in odd.stderr


def test_a_taken_folder_and_an_unsigned_version_are_refused(bundle: Path, version: Path, tmp_path: Path) -> None:
    trust = signatures.trust(tmp_path / "home")
    with pytest.raises(ShrinkError, match=r"offline is '.*bundle' but that is there and not empty; name a new folder"):
        offline.write("tiny", version, trust, bundle)
    shutil.rmtree(version / "signature")
    with pytest.raises(signing.Unverified):
        offline.write("tiny", version, trust, tmp_path / "another")
    assert not (tmp_path / "another").exists()


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is an extra")
def test_a_model_that_writes_answers_as_it_does_here(tmp_path: Path) -> None:
    from flows import writer
    from tasks.generate.runtime import open_model
    from tests.tasks.generate import decoders
    from tests.tasks.generate.test_export import export

    decoders.folder(tmp_path / "lm", head_dim=16)
    (tmp_path / "v").mkdir()
    model, evidence = tmp_path / "v" / "model", tmp_path / "v" / "evidence"
    export(tmp_path / "lm", model)
    evidence.mkdir()
    (evidence / "show.json").write_text("{}")
    signatures.sealed("tiny", model, evidence, tmp_path / "home").rename(tmp_path / "v" / "signature")
    offline.write("tiny", tmp_path / "v", signatures.trust(tmp_path / "home"), tmp_path / "bundle")
    done, _ = ask(tmp_path / "bundle", "the quick fox", "--max-tokens", "12", before=NAMESPACE)
    opened = open_model(model, "llama_cpp")
    told = writer.answered(opened, writer.asked(opened, "the quick fox", raw=False), 12, writer.unseen)
    assert lines(done) == [{"text": told.text, "ids": told.ids}]

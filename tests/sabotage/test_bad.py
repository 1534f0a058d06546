"""Bad candidates, one case each: none is promoted, each is refused for the reason that is its own."""

import contextlib
import copy
import gzip
import json
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from flows import admit
from registry import promotion, signing, versions
from registry.records import Check, Interval, Leakage, Slice, Verdict, digest_directory
from tests.sabotage import harm, models
from tests.sabotage.factory import Candidate, Yard, edited
from tests.sabotage.harm import Desk, added, graph, revalued

PICKLE = b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
OLD_PICKLE = b"cposix\nsystem\n(S'true'\ntR."
PASSED = Verdict(passed=True, checks=(Check(name="retention", value=0.9, limit=0.5, passed=True, why="kept"),))


class Case(NamedTuple):
    """How a version comes to be registered, which demand refuses it, and what the reason says."""

    make: Callable[[Desk], str]
    demand: str
    said: str


def registered(make: Callable[[Desk], Candidate], tamper: Any = None) -> Callable[[Desk], str]:
    """Registered by somebody who holds a trusted key, whatever the candidate is."""
    return lambda desk: desk.yard.register(desk.name, make(desk), tamper)


def model(change: Callable[[Path], None], kind: str = "fp32", own: bool = False) -> Callable[[Desk], str]:
    return registered(lambda desk: desk.remade(kind, change, own))


def evidence(name: str, change: Callable[[Any], Any]) -> Callable[[Desk], str]:
    return registered(lambda desk: desk.sound["fp32"], edited(name, change))


def afterwards(change: Callable[[Desk, str], None], kind: str = "fp32") -> Callable[[Desk], str]:
    """A sound version, changed where it is stored."""

    def make(desk: Desk) -> str:
        version = desk.yard.register(desk.name, desk.sound[kind])
        change(desk, version)
        return version

    return make


def flipped(file: str, at: int = -9) -> Callable[[Desk], str]:
    def change(desk: Desk, version: str) -> None:
        path = desk.stored(version, file)
        raw = bytearray(path.read_bytes())
        raw[at] ^= 1
        path.write_bytes(bytes(raw))

    return afterwards(change)


def laid(name: str, content: bytes) -> Callable[[Desk, str], None]:
    """A file that a bare client of MLflow puts beside the model; registering itself would have refused it."""

    def change(desk: Desk, version: str) -> None:
        source = desk.yard.client.get_model_version(desk.name, version).source.removeprefix("models:/")
        (desk.place / "laid").mkdir()
        added(name, content)(desk.place / "laid")
        desk.yard.client.log_model_artifacts(source, str(desk.place / "laid"), "model")

    return change


def cut(desk: Desk, version: str) -> None:
    path = desk.stored(version, "model/model.onnx")
    path.write_bytes(path.read_bytes()[:-100])


def evidence_and_tag(desk: Desk, version: str) -> None:
    """Whoever may write to S3 and to MLflow makes digests agree; the key is not theirs."""
    path = desk.stored(version, "evidence/verdict.json")
    path.write_text(path.read_text().replace("retention", "retentiom", 1))
    folder = path.parent
    desk.yard.client.set_model_version_tag(desk.name, version, versions.EVIDENCE_TAG, digest_directory(folder))


def model_and_tag(desk: Desk, version: str) -> None:
    path = desk.stored(version, "model/config.json")
    path.write_text(path.read_text().replace('"negative"', '"negatjve"'))
    desk.yard.client.set_model_version_tag(desk.name, version, versions.DIGEST_TAG, digest_directory(path.parent))


def tagged(tag: str, value: str) -> Callable[[Desk, str], None]:
    return lambda desk, version: desk.yard.client.set_model_version_tag(desk.name, version, tag, value)


def unsigned(desk: Desk) -> str:
    real: Any = versions.register
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "register", lambda *given: real(*given[:9], None, *given[10:]))
        return desk.yard.register(desk.name, desk.sound["fp32"])


def by_another_key(desk: Desk) -> str:
    from infra import keys

    keys.ensure(desk.place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHRINK_SIGNING_KEY", str(keys.folder(desk.place) / keys.KEY))
        return desk.yard.register(desk.name, desk.sound["fp32"])


def signed_as(desk: Desk, sign: Callable[..., Any]) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing, "sign", sign)
        return desk.yard.register(desk.name, desk.sound["fp32"])


def with_a_signature_of_another(desk: Desk) -> str:
    desk.yard.register(desk.name, desk.sound["int4"])
    other = desk.yard.scratch / desk.name / "signature" / "model.sig"
    kept = shutil.copyfile(other, desk.place / "other.sig")
    real = signing.sign

    def sign(name: str, parts: Any, key: Any, target: Path) -> Any:
        seal = real(name, parts, key, target)
        shutil.copyfile(kept, target)
        return seal

    return signed_as(desk, sign)


def as_another_model(desk: Desk) -> str:
    real = signing.sign
    return signed_as(desk, lambda name, *given: real("somebody-else", *given))


def from_elsewhere(desk: Desk) -> str:
    """A version whose source is a bucket of somebody else's: MLflow refuses it, whoever has its database does not."""
    from mlflow.exceptions import MlflowException

    version, source = desk.yard.register(desk.name, desk.sound["fp32"]), "s3://elsewhere/model"
    with pytest.raises(MlflowException, match="Invalid model version source"):
        desk.yard.client.create_model_version(desk.name, source=source)
    with contextlib.closing(sqlite3.connect(desk.yard.home / "mlflow" / "mlflow.db")) as database, database:
        database.execute("UPDATE model_versions SET source = ? WHERE name = ?", (source, desk.name))
    return version


def golden_of(kind: str) -> Callable[[Desk], Candidate]:
    return lambda desk: desk.sound["fp32"].model_copy(update={"evaluated": desk.sound[kind].evaluated})


def verdict_of_a_pass(desk: Desk, candidate: Candidate) -> Candidate:
    return candidate.model_copy(update={"verdict": PASSED})


def failing(**gate: Any) -> Callable[[Desk], Candidate]:
    """A candidate that its gate rejects, with a verdict that says it passed."""

    def make(desk: Desk) -> Candidate:
        held = desk.sound["fp32"]
        return held.model_copy(update={"gate": {**held.gate, **gate}, "verdict": PASSED})

    return make


def leaking(desk: Desk) -> Candidate:
    return desk.told(leakage=Leakage(texts=120, learnt=160, exact=30, near=0))


def slice_flipped(desk: Desk) -> Candidate:
    """As good as its teacher on the whole, and wrong on the long texts."""
    held = desk.sound["fp32"]
    whole = held.evaluation.against_teacher
    assert whole is not None
    bad = whole.model_copy(
        update={"examples": 400, "interval": Interval(point=-0.4, low=-0.45, high=-0.35), "lost": 160, "won": 0}
    )
    fine = whole.model_copy(
        update={"examples": 400, "interval": Interval(point=0.1, low=0.05, high=0.15), "lost": 0, "won": 40}
    )
    slices = (
        Slice(by="length", value="long", teacher=0.95, student=0.55, against=bad),
        Slice(by="length", value="short", teacher=0.85, student=0.95, against=fine),
    )
    return desk.told(slices=slices).model_copy(update={"gate": {**held.gate, "slice_drop_max": 0.05}})


def nan(desk: Desk) -> Candidate:
    no = Interval(point=float("nan"), low=float("nan"), high=float("nan"))
    return desk.told(retention=no).model_copy(update={"verdict": PASSED})


def before_the_champion(desk: Desk) -> str:
    """Compared with no champion, and meanwhile another one reigns."""
    gate = {**desk.sound["fp32"].gate, "champion_margin": 0.5}
    first = desk.yard.register(desk.name, desk.sound["int8"])
    desk.yard.promote(desk.name, first)
    return desk.yard.register(desk.name, desk.sound["fp32"].model_copy(update={"gate": gate}))


def a_gguf_of_terabytes(folder: Path) -> None:
    """A file of a few bytes whose header tells of a tensor of terabytes."""
    for file in folder.iterdir():
        file.unlink()
    (folder / "config.json").write_text(json.dumps({"task": "generate"}))
    name = b"token_embd.weight"
    tensor = struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, 1 << 20, 1 << 21, 0, 0)
    (folder / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor + b"\0" * 64)


def off_by_one(desk: Desk) -> Callable[[Path], None]:
    """The tokenizer of a model of which every word is one row further."""
    other = models.write(desk.place / "off", models.graph(models.weights(8, 2)), shift=1)
    return added("tokenizer.json", (other / "tokenizer.json").read_bytes())


def dig(held: Any, *path: Any) -> Any:
    for one in path:
        held = held[one]
    return held


def statement(change: Callable[[Any], None]) -> Callable[[Desk], str]:
    """A statement of provenance that says something else."""

    def edit(said: Any) -> Any:
        held = copy.deepcopy(said)
        change(held)
        return held

    return evidence("provenance.json", edit)


def materials(said: Any) -> Any:
    return dig(said, "predicate", "buildDefinition", "resolvedDependencies")


def without(name: str) -> Callable[[Any], None]:
    def change(said: Any) -> None:
        materials(said)[:] = [one for one in materials(said) if one["name"] != name]

    return change


def unlicensed(desk: Desk) -> Candidate:
    teacher = {"uri": "pypi:teacher==1", "sha256": "0" * 64}
    return desk.sound["fp32"].model_copy(update={"recipe": {"teacher": teacher}})


CASES: dict[str, Case] = {
    # the model
    "wrong dtype": Case(model(graph(harm.doubled)), "dtype", "DOUBLE"),
    "shuffled layers": Case(model(graph(harm.swapped)), "golden", "differs from its golden logits"),
    "shuffled layer, golden answers its own": Case(
        model(graph(revalued("layer0", harm.permuted)), own=True), "score", "the evaluation says"
    ),
    "renamed weight": Case(
        model(graph(lambda proto: setattr(harm.tensor(proto, "layer0"), "name", "weights0"))),
        "graph",
        "layer0 is read and nowhere made",
    ),
    "weight of NaN": Case(
        model(graph(revalued("layer1", lambda value: value * np.nan))), "weights", "layer1 holds NaN"
    ),
    "answers of NaN": Case(model(graph(harm.undefined)), "golden", "nan"),
    "missing scale": Case(model(graph(harm.unscaled), "int8"), "scales", "_scale is missing"),
    "missing scale of 4 bits": Case(model(graph(harm.unscaled), "int4"), "scales", "_scale is missing"),
    "scale of zero": Case(model(graph(harm.zeroed), "int8"), "scales", "holds zeros"),
    "tokenizer off by one id": Case(
        registered(lambda desk: desk.remade(change=off_by_one(desk))),
        "tokenizer",
        f"id {len(models.WORDS)} of the tokenizer has no row",
    ),
    "labels in another order": Case(
        model(harm.said(lambda said: said["labels"].reverse())), "labels", "the data's are ['negative', 'positive']"
    ),
    "a label too many": Case(
        model(harm.said(lambda said: said["labels"].append("neutral"))), "labels", "answers 2 numbers"
    ),
    "external data": Case(model(graph(harm.outside)), "graph", "head lies in another file"),
    "custom operator": Case(model(graph(harm.foreign)), "graph", "evil.ops::RunShell is custom"),
    "endless operator": Case(model(graph(harm.endless)), "graph", "Loop may never end"),
    "auto_map": Case(
        model(harm.said(lambda said: said.update(auto_map={"AutoModel": "modeling.Evil"}))), "config", "auto_map"
    ),
    "trust_remote_code": Case(
        model(harm.said(lambda said: said.update(trust_remote_code=True))), "config", "trust_remote_code"
    ),
    "no graph": Case(model(added("model.onnx", b"\x08\x09 nothing")), "graph", "cannot be read"),
    "GGUF of terabytes": Case(model(a_gguf_of_terabytes), "graph", "does not fit into its"),
    "golden answers of another model": Case(registered(golden_of("int4")), "golden", "differs"),
    # what was declared
    "larger than declared": Case(
        registered(lambda desk: desk.student(bytes=9_000)), "bytes", "bytes, declared are 9000"
    ),
    "more weights than declared": Case(
        registered(lambda desk: desk.student(parameters=100)), "parameters", "weights, declared are 100"
    ),
    "more products than declared": Case(
        registered(lambda desk: desk.student(macs=100)), "macs", "multiply-adds a text, declared are 100"
    ),
    "slower than declared": Case(
        registered(lambda desk: desk.student(p50_ms=1e-5, p95_ms=1e-5)), "speed", "the declared median is 1e-05 ms"
    ),
    "better than it is": Case(
        registered(lambda desk: desk.student(accuracy=1.0, macro_f1=1.0)), "score", "the evaluation says 1.0000"
    ),
    # files
    "pickle beside the model": Case(afterwards(laid("head.pkl", PICKLE)), "files", "'model/head.pkl'"),
    "pickle in weights.bin": Case(model(added("weights.bin", PICKLE)), "files", "weights.bin', which is a pickle"),
    "pickle as external data": Case(model(added("model.onnx.data", PICKLE)), "files", "which is a pickle"),
    "pickle of an old protocol": Case(model(added("NOTICE.txt", OLD_PICKLE)), "pickle", "NOTICE.txt"),
    "raw weights that nothing reads": Case(model(added("weights.bin", b"\0" * 64)), "files", "none of the files"),
    "code beside the model": Case(afterwards(laid("modeling.py", b"import os\n")), "files", "'model/modeling.py'"),
    "hidden file": Case(afterwards(laid(".gitattributes", b"* -text\n")), "files", "'model/.gitattributes'"),
    "decompression bomb": Case(
        model(added("NOTICE.txt", gzip.compress(b"\0" * 20_000_000))), "files", "which is an archive"
    ),
    "safetensors of terabytes": Case(
        model(added("more.safetensors", struct.pack("<Q", 1 << 60) + b"{}")), "files", "more.safetensors"
    ),
    "JSON without a bottom": Case(
        registered(lambda desk: desk.sound["fp32"], lambda folder: added("show.json", b"[" * 200_000)(folder)),
        "contents",
        "show.json",
    ),
    # the registry
    "byte of the model changed": Case(flipped("model/model.onnx"), "digest", "does not hold the model"),
    "byte of the tokenizer changed": Case(flipped("model/tokenizer.json"), "digest", "does not hold the model"),
    "byte of the evidence changed": Case(flipped("evidence/report.html"), "digest", "does not hold the evidence"),
    "byte of the signature changed": Case(flipped("signature/model.sig", 400), "signature", "signature"),
    "truncated upload": Case(afterwards(cut), "files", "and it is registered with"),
    "digest tag edited": Case(afterwards(tagged(versions.DIGEST_TAG, "0" * 64)), "digest", "0000"),
    "evidence and its tag edited": Case(afterwards(evidence_and_tag), "signature", "evidence/verdict.json was changed"),
    "model and its tag edited": Case(afterwards(model_and_tag), "signature", "model/config.json was changed"),
    "verdict tag edited": Case(
        registered(
            lambda desk: desk.sound["fp32"].model_copy(
                update={"gate": {**desk.sound["fp32"].gate, "bytes_ratio_min": 1000.0}}
            )
        ),
        "verdict",
        "its gate rejected it: bytes_ratio",
    ),
    "source of elsewhere": Case(from_elsewhere, "digest", "a foreign source"),
    "unsigned": Case(unsigned, "signature", "is not signed"),
    "another key": Case(by_another_key, "signature", "which is not trusted"),
    "signature of another version": Case(with_a_signature_of_another, "signature", "does not hold what was signed"),
    "signed as another model": Case(as_another_model, "signature", "was signed as a version of 'somebody-else'"),
    # the evidence
    "evaluation edited": Case(
        evidence("evaluation.json", lambda said: said["evaluation"].update(flips_to_wrong=0) or said),
        "provenance",
        "of another evaluation than evaluation.json",
    ),
    "evaluation of another model": Case(
        evidence("evaluation.json", lambda said: {**said, "model": "f" * 64}), "evaluation", "it is of ffffffffffff"
    ),
    "stale evaluation": Case(
        registered(lambda desk: desk.sound["fp32"].model_copy(update={"started": "2026-01-01T00:00:00+00:00"})),
        "age",
        "run its recipe again",
    ),
    "evaluation of a time to come": Case(
        registered(lambda desk: desk.sound["fp32"].model_copy(update={"started": "2036-01-01T00:00:00+00:00"})),
        "age",
        "days from now",
    ),
    "verdict edited": Case(registered(failing(bytes_ratio_min=1000.0)), "verdict", "judged again it is rejected"),
    "gate loosened": Case(
        evidence("gate.json", lambda said: {**said, "retention_min": 0.1}), "gate", "retention_min is 0.1 in gate.json"
    ),
    "metric of NaN": Case(registered(nan), "numbers", "retention.point"),
    "metric of NaN, judged": Case(registered(nan), "verdict", "judged again it is rejected"),
    "leakage": Case(registered(leaking), "verdict", "leakage"),
    "leakage, verdict edited": Case(
        registered(lambda desk: verdict_of_a_pass(desk, leaking(desk))), "verdict", "judged again it is rejected"
    ),
    "flipped slice below a flat average": Case(registered(slice_flipped), "verdict", "slice"),
    "over the limit of latency": Case(registered(failing(p50_ms_max=1e-4)), "verdict", "p50_ms"),
    "over the limit of bytes": Case(registered(failing(bytes_max=1000)), "verdict", "exceeds the most 1000"),
    "another champion since": Case(before_the_champion, "champion", "it was compared with none"),
    "licence missing": Case(registered(unlicensed), "licence", "teacher is pypi:teacher==1"),
    "provenance of another student": Case(
        statement(lambda said: said["subject"][0]["digest"].update(sha256="e" * 64)), "provenance", "eeeeeeeeeeee"
    ),
    "provenance of another model": Case(
        statement(lambda said: said["subject"][0].update(name="other")), "provenance", "it is of other"
    ),
    "provenance without data": Case(statement(without("data")), "provenance", "no digest of data"),
    "provenance without code": Case(statement(without("code")), "provenance", "no digest of code"),
    "provenance with another key": Case(
        statement(lambda said: said["predicate"].update(signedWith="d" * 64)), "provenance", "it names the key dddd"
    ),
    "provenance with another recipe": Case(
        statement(
            lambda said: dig(said, "predicate", "buildDefinition", "externalParameters", "recipe").update(seed=7)
        ),
        "provenance",
        "the recipe in it has another digest",
    ),
    "provenance of nothing": Case(evidence("provenance.json", lambda said: {}), "provenance", "it is of nobody"),
    "no provenance": Case(
        registered(lambda desk: desk.sound["fp32"], lambda folder: (folder / "provenance.json").unlink()),
        "evidence",
        "no provenance.json",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_sabotage(yard: Yard, sound: dict[str, Candidate], tmp_path: Path, case: str) -> None:
    name = "bad-" + "".join(one if one.isalnum() else "-" for one in case.lower())[:40]
    desk = Desk(yard, sound, tmp_path, name)
    version = CASES[case].make(desk)
    if case == "verdict tag edited":
        yard.client.set_model_version_tag(name, version, versions.VERDICT_TAG, versions.PASSED)
    before = promotion.champion(yard.s3, yard.bucket, name)
    found = yard.promote(name, version)
    failed = {one.name: one.why for one in found.checks if not one.passed}
    assert CASES[case].demand in failed, failed or "it was promoted"
    assert CASES[case].said in failed[CASES[case].demand], failed
    assert promotion.champion(yard.s3, yard.bucket, name) == before != version
    tags = yard.client.get_model_version(name, version).tags
    assert (
        tags[versions.ADMISSION_TAG] == versions.REFUSED and failed[CASES[case].demand][:60] in tags[admit.REASON_TAG]
    )

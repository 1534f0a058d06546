"""Good candidates that differ in what does not matter: every one is promoted."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from flows import admit
from flows.named import describe
from flows.recipe import digest_of
from infra import keys
from registry import promotion, versions
from registry.records import sha256_json
from tests.sabotage import harm, models
from tests.sabotage.conftest import judged
from tests.sabotage.factory import Candidate, Tamper
from tests.sabotage.harm import Desk, added, graph

Make = Callable[[Desk], Candidate]


class Case(NamedTuple):
    """A candidate, what is done to its evidence, and the surroundings in which it is registered and promoted."""

    make: Make
    tamper: Tamper | None = None
    around: Callable[[Desk], Any] = lambda desk: nullcontext()


def as_it_is(kind: str = "fp32", **fields: Any) -> Case:
    return Case(lambda desk: desk.sound[kind].model_copy(update=fields))


def recipe(**fields: Any) -> Case:
    return as_it_is(recipe=fields)


def gated(**fields: Any) -> Case:
    return Case(lambda desk: desk.sound["int8"].model_copy(update={"gate": {**desk.sound["int8"].gate, **fields}}))


def model(change: Callable[[Path], None], kind: str = "fp32") -> Case:
    return Case(lambda desk: desk.remade(kind, change, own=True))


def fresh(labels: tuple[str, ...] = ("negative", "positive"), tests: int = 120, **kinds: bool) -> Case:
    """A candidate of its own data."""

    def make(desk: Desk) -> Candidate:
        task = "embed" if kinds.pop("embed", False) else "classify"
        output = {"classify": "logits", "embed": "sentence_embedding"}[task]
        named = labels if task == "classify" else ()
        width, several = max(2, len(named)), kinds.get("multi_label", False)
        made = {}
        for role, size in (("teacher", 96), ("student", models.WIDTH)):
            held = models.weights(size, size)
            held["head"] = np.concatenate([held["head"]] * width, axis=1)[:, :width]
            proto = models.graph(held, output)
            made[role] = models.write(desk.place / role, proto, named, task=task, **kinds)

        def label(text: str) -> Any:
            if several:
                return [1 - models.judged(text), models.judged(text)]
            return models.mood(text) if len(labels) == 3 else models.judged(text)

        data = models.rows(desk.place / "data", label, labels, tests, **kinds)
        floor = models.based(data, desk.place / "floor", task)
        found = judged(desk.place, "fresh", made["teacher"], made["student"], data, floor, task)
        if task == "classify":
            return found
        return found.model_copy(
            update={"recipe": {"floor": {"task": task}}, "gate": {**found.gate, "retention_min": 0.2}}
        )

    return Case(make)


def reordered(folder: Path) -> None:
    """The same files, made in another order and at another time."""
    for path in sorted(folder.iterdir(), reverse=True):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        os.utime(path, (1e9, 1e9))


def rewritten(name: str, **form: Any) -> Callable[[Path], None]:
    """The same JSON, written another way."""

    def change(folder: Path) -> None:
        held = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(held, **form), encoding="utf-8")

    return change


def shuffled(proto: Any) -> None:
    """Its weights in another order within the file."""
    held = list(proto.graph.initializer)[::-1]
    proto.graph.ClearField("initializer")
    proto.graph.initializer.extend(held)


def told(proto: Any) -> None:
    proto.producer_name, proto.doc_string = "another exporter", "of another hour"


def halved(proto: Any) -> None:
    """The table in half precision, widened where it is read."""
    from onnx import TensorProto, helper, numpy_helper

    held = harm.tensor(proto, "table")
    held.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(held).astype(np.float16), "table"))
    node = next(one for one in proto.graph.node if one.op_type == "Gather")
    node.output[0] = "narrow"
    proto.graph.node.insert(1, helper.make_node("Cast", ["narrow"], ["vectors"], to=TensorProto.FLOAT))


def padded(value: Any) -> Any:
    return np.concatenate([value, np.zeros((4, value.shape[1]), dtype=value.dtype)])


def older(evidence: Path) -> None:
    """Evidence as code wrote it that did not know all fields of today."""
    said = json.loads((evidence / "provenance.json").read_text(encoding="utf-8"))
    recipe = said["predicate"]["buildDefinition"]["externalParameters"]["recipe"]
    del recipe["second_source"]
    stored = {
        name: json.loads((evidence / f"{name}.json").read_text(encoding="utf-8")) for name in ("evaluation", "gate")
    }
    del stored["evaluation"]["evaluation"]["serving"], stored["gate"]["score_min"]
    digests = {"gate": sha256_json(stored["gate"]), "evaluation": sha256_json(stored["evaluation"]["evaluation"])}
    materials = said["predicate"]["buildDefinition"]["resolvedDependencies"]
    for one in [*materials, *said["predicate"]["runDetails"]["byproducts"]]:
        one["digest"] = {"sha256": {**digests, "recipe": digest_of(recipe)}.get(one["name"], one["digest"]["sha256"])}
    for name, value in {**stored, "provenance": said}.items():
        (evidence / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


def ago(days: float, zone: timezone = UTC) -> str:
    return (datetime.now(zone) - timedelta(days=days)).isoformat(timespec="seconds")


@contextmanager
def another_key(desk: Desk) -> Iterator[None]:
    """Signed with a second key that is trusted as well."""
    keys.ensure(desk.place)
    own = keys.folder(desk.place)
    both = os.pathsep.join(str(one / keys.PUBLIC) for one in (own, keys.folder(desk.yard.home)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHRINK_SIGNING_KEY", str(own / keys.KEY))
        patch.setenv("SHRINK_TRUSTED_KEYS", both)
        yield


@contextmanager
def another_home(desk: Desk) -> Iterator[None]:
    """Promoted from a place that has neither the rows nor a private key."""
    home = desk.place / "elsewhere"
    home.mkdir()
    for name in ("services.json", "credentials.json"):
        shutil.copyfile(desk.yard.home / name, home / name)
    (home / "keys").mkdir()
    shutil.copyfile(keys.folder(desk.yard.home) / keys.PUBLIC, home / "keys" / keys.PUBLIC)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHRINK_HOME", str(home))
        patch.setenv("SHRINK_SIGNING_KEY", str(keys.folder(desk.yard.home) / keys.KEY))
        patch.setenv("SHRINK_TRUSTED_KEYS", str(home / "keys" / keys.PUBLIC))
        yield


@contextmanager
def registered_twice(desk: Desk) -> Iterator[None]:
    first = desk.yard.register(desk.name, desk.sound["fp32"])
    assert desk.yard.register(desk.name, desk.sound["fp32"]) == first
    yield


def better_than_the_champion(desk: Desk) -> Candidate:
    """Compared with the champion that reigns, and not worse."""
    first = desk.sound["int8"]
    found = desk.yard.promote(desk.name, desk.yard.register(desk.name, first))
    assert found.passed, found.why
    held = desk.sound["fp32"]
    roles = {name: getattr(held, name) for name in ("teacher", "student", "data", "floor")}
    evaluation, evaluated = models.evaluated({**roles, "champion": first.student}, desk.place / "evaluated")
    assert evaluation.champion is not None
    update = {"evaluation": evaluation, "evaluated": evaluated, "gate": {**held.gate, "champion_margin": 0.3}}
    return held.model_copy(update=update)


CASES: dict[str, Case] = {
    "full precision": as_it_is("fp32"),
    "8 bits": as_it_is("int8"),
    "4 bits": as_it_is("int4"),
    "pairs": fresh(pairs=True),
    "several labels": fresh(multi_label=True),
    "embeddings": fresh(embed=True),
    "three labels": fresh(("negative", "positive", "unheard of")),
    "labels in Unicode": fresh(("négatif", "肯定的 👍")),
    "label with spaces": fresh(("not good at all", " good")),
    "more rows": fresh(tests=250),
    "fewer rows": fresh(tests=50),
    "another order of files": model(reordered),
    "another order of weights": model(graph(shuffled)),
    "another exporter": model(graph(told)),
    "half precision": model(graph(halved)),
    "rows to spare": model(graph(harm.revalued("table", padded))),
    "NOTICE": model(added("NOTICE", "Copyright © somebody\n".encode())),
    "LICENSE": model(added("LICENSE", b"Permission is hereby granted\n")),
    "README.md": model(added("README.md", "# Modèle\n".encode()), "int8"),
    "LICENSE.txt": model(added("LICENSE.txt", b"MIT\n"), "int4"),
    "config.json written another way": model(rewritten("config.json", indent=4, ensure_ascii=True)),
    "config.json that says more": model(harm.said(lambda said: said.update(note="of a Tuesday"))),
    "tokenizer.json written another way": model(rewritten("tokenizer.json", separators=(",", ":"))),
    "another seed": recipe(seed=11),
    "another evaluation's settings": recipe(evaluate={"rounds": 20, "bootstrap": 500, "batch": 4}),
    "own teacher and data": recipe(teacher={"uri": "dir:/teacher"}, data_source={"uri": "dir:/rows"}),
    "longer stages": recipe(stages=[{"kind": "finetune"}, {"kind": "label"}, {"kind": "distill"}, {"kind": "export"}]),
    "another gate": gated(retention_min=0.7, bytes_ratio_min=2.0),
    "a gate of limits": gated(p50_ms_max=1000.0, bytes_max=100_000, peak_rss_mb_max=4000.0),
    "two months ago": as_it_is(started=ago(60)),
    "another time zone": as_it_is(started=ago(0.1, timezone(timedelta(hours=14)))),
    "evidence that says more": Case(lambda desk: desk.sound["fp32"], added("NOTICE.txt", b"of the evidence\n")),
    "written before a field was there": as_it_is("int8")._replace(tamper=older),
    "another trusted key": as_it_is()._replace(around=another_key),
    "another home": as_it_is("int8")._replace(around=another_home),
    "registered twice": as_it_is()._replace(around=registered_twice),
    "better than the champion": Case(better_than_the_champion),
}


@pytest.mark.parametrize("case", CASES)
def test_sabotage_spares(yard: Any, sound: dict[str, Candidate], tmp_path: Path, case: str) -> None:
    name = "good-" + "".join(one if one.isascii() and one.isalnum() else "-" for one in case.lower())[:40]
    desk = Desk(yard, sound, tmp_path, name)
    with CASES[case].around(desk):
        version = yard.register(name, CASES[case].make(desk), CASES[case].tamper)
        yard.client.set_model_version_tag(name, version, versions.VERDICT_TAG, "said by anybody")
        found = yard.promote(name, version)
    assert found.passed, found.why
    assert promotion.champion(yard.s3, yard.bucket, name) == versions.alias(yard.client, name, "champion") == version
    demands = {one.name for one in found.checks}
    assert {"signature", "provenance", "verdict", "licence", "bytes", "tokenizer", "golden"} <= demands
    (score,) = [one for one in found.checks if one.name == "score"]
    if case == "another home":  # it is told, in the record that people see, and never silently left out
        assert score.why == "not recomputed: rows not on this machine" and score.value is None
        assert yard.client.get_model_version(name, version).tags[admit.REASON_TAG] == f"score: {score.why}"
        told = describe(f"{name}@{version}")["admission"]
        assert told == "admitted; score: not recomputed: rows not on this machine"
    else:
        assert "the evaluation says" in score.why, "where the rows are at hand the score is computed again"
        assert yard.client.get_model_version(name, version).tags[admit.REASON_TAG] == ""

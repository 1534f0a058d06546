"""The commands on a model's ledger, over versions that a real tiny run registered."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.addresses import Services
from tests.flows import test_compress
from tests.flows.test_cli import Shrink, refused
from tests.flows.test_cli import shrink as shrink_fixture  # noqa: F401  # pytest finds it by its name

NAME = "tiny-asks"
WHY = ("--reason", "the reviews of May are in")


@pytest.fixture
def recipes(tiny: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A recipe that asks for a person, and one of the same name that its gate rejects."""
    content: dict[str, Any] = yaml.safe_load((tiny / "tiny.yaml").read_text()) | {"name": NAME}
    paths = (tmp_path / "asks.yaml", tmp_path / "rejected.yaml")
    for path, gate in zip(paths, ({"approval": {"hours": 48}}, {"bytes_ratio_min": 1000.0}), strict=True):
        path.write_text(yaml.safe_dump(content | {"gate": content["gate"] | gate}))
    return paths


def run(home: Path, recipe: Path, status: int = 0) -> dict[str, Any]:
    printed = test_compress.shrink(home, "run", str(recipe), "--json", check=status).stdout
    journal: dict[str, Any] = json.loads(printed[printed.index("{\n") :])
    return journal


def test_a_version_waits_for_its_person_and_goes_back_and_forth(
    servers: Services,
    servers_home: Path,
    recipes: tuple[Path, Path],
    shrink_fixture: Shrink,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shrink = shrink_fixture
    monkeypatch.setenv("SHRINK_HOME", str(servers_home))

    def told(*words: str) -> Any:
        status, out, err = shrink(*words, "--json")
        assert status == 0, (out, err)
        return json.loads(out)

    asks, rejects = recipes
    first = run(servers_home, asks)
    assert first["status"] == "passed" and "waits for a person's approval" in first["waits"]
    assert told("show", f"{NAME}@challenger")["version"] == "1"
    assert "has no alias 'champion'" in refused(shrink("show", NAME))
    assert "waits for a person's approval; `shrink approve" in refused(shrink("promote", f"{NAME}@challenger", *WHY))
    approved = told("approve", f"{NAME}@1", *WHY)
    assert approved["digest"] == first["digest"] and approved["until"] > approved["when"]
    promoted = told("promote", f"{NAME}@1", *WHY)
    assert (promoted["former"], promoted["target"], promoted["forced"], promoted["why"]) == (None, "1", False, WHY[1])
    assert "@" in promoted["who"] and len(promoted["verdict"]) == 64 and promoted["digest"] == first["digest"]
    assert told("promote", f"{NAME}@1", *WHY) == promoted, "typed again, nothing is written"
    assert run(servers_home, rejects, status=3)["version"] == "2"
    assert "did not pass its gate; `shrink why" in refused(shrink("promote", f"{NAME}@2", *WHY))
    assert told("promote", f"{NAME}@2", *WHY, "--force")["forced"] is True
    assert told("promote", f"{NAME}@1", *WHY)["previous"] == "2"
    assert told("rollback", NAME, *WHY)["target"] == "2"
    assert "was rolled back from" in run(servers_home, asks)["waits"], "a run does not undo a rollback"
    assert told("rollback", NAME, *WHY)["target"] == "1"
    assert "has no earlier champion to roll back to" in refused(shrink("rollback", NAME, *WHY))
    assert told("reject", f"{NAME}@2", *WHY)["target"] == "2"
    assert told("reconcile", NAME) == {NAME: []}
    lines = shrink("history", NAME)[1].splitlines()
    assert [line.split("  ")[1].strip() for line in lines] == [
        one["action"] + " (forced)" * one["forced"] for one in told("history", NAME)
    ]
    assert told("promote", f"{NAME}@1", *WHY)["action"] == "rollback", "the entry that made it champion"
    assert "is champion already, since" in shrink("promote", f"{NAME}@1", *WHY)[1]
    withdrawn = shrink("reject", f"{NAME}@1", *WHY)[1]
    assert "version 1 is rejected and no champion any more: none is; `shrink approve`" in " ".join(withdrawn.split())
    assert "has no alias 'champion'" in refused(shrink("show", NAME))
    again = run(servers_home, asks, status=3)
    assert again["status"] == "rejected" and "version 1 of tiny-asks was rejected by" in again["refused"]
    found = json.loads(shrink("doctor", "--json")[1])  # other tests leave ledgers that are broken on purpose
    said = [one for one in found if one["name"].startswith("ledger")]
    assert said and not any(NAME in one["what"] for one in said), "its own ledger is signed and followed"
    assert len(lines) == 7 and "– → 1" in lines[1] and WHY[1] in lines[0]


def test_what_cannot_be_promoted_is_refused_in_a_sentence(
    servers: Services,
    servers_home: Path,
    shrink_fixture: Shrink,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shrink = shrink_fixture
    monkeypatch.setenv("SHRINK_HOME", str(servers_home))
    for words, message in (
        (["promote", f"{NAME}@1", "--reason", " "], "reason is ' '; say why in a sentence"),
        (["promote", f"{NAME}@1", "--reason", "x" * 501], "reason has 501 characters but at most 500"),
        (["promote", f"{NAME}@1"], "Missing option '--reason'"),
        (["approve", NAME, *WHY], "a version is needed; name one"),
        (["reject", f"{NAME}@17", *WHY], "has no version '17'; its versions are"),
        (["promote", f"{NAME}@chalenger", *WHY], "has no alias 'chalenger'"),
        (["promote", "tiny-aks@1", *WHY], "is not registered; did you mean"),
        (["rollback", f"{NAME}@1", *WHY], "no version is meant here"),
        (["predict", f"{NAME}@latest", "fine"], "'latest' is never an alias: name a version by its number, tiny-asks"),
        (["show", f"{NAME}@"], "behind '@' stands an alias"),
        (["show", f"{NAME}@v2"], "'v2' is never an alias"),
        (["promote", f"{NAME}@1@2", *WHY], "behind '@' stands an alias"),
        (["promote", "../x@1", *WHY], "a name has letters, digits"),
        (["history", "nobody"], "is not registered"),
        (["reconcile", "nobody"], "is not registered"),
    ):
        assert message in refused(shrink(*words)), words

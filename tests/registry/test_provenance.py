"""The statement of what a student was made of: complete, the same for the same run, and read back."""

from typing import Any

import pytest

from registry import provenance
from registry.records import sha256_json
from tests.registry.samples import record


def made(**more: Any) -> provenance.Made:
    said = {
        "model": "tiny",
        "digest": "d" * 64,
        "recipe": {"name": "tiny"},
        "recipe_digest": "e" * 64,
        "origins": {
            "teacher": provenance.Origin(uri="pypi:t==1", licence="MIT", digest="a" * 64),
            "data": provenance.Origin(uri="dir:d", licence="unknown", digest="b" * 64),
            "second": provenance.Origin(uri="dir:s", licence="unknown", digest=None),
        },
        "code": "c" * 64,
        "version": "0.1.0",
        "libraries": {"torch": "2", "numpy": "1"},
        "seed": 7,
        "run": "20261128-000000-tiny-0000",
        "key": "f" * 64,
        "when": "2026-11-28T02:00:00+00:00",
        "judged": {"gate": "1" * 64, "evaluation": "2" * 64, "verdict": "3" * 64},
    }
    return provenance.Made.model_validate(said | more)


def test_a_statement_names_all_that_a_student_came_of() -> None:
    stages = [record(), record().model_copy(update={"kind": "evaluate", "method": None, "digest": "9" * 64})]
    said = provenance.statement(made(), stages)
    assert said["_type"] == "https://in-toto.io/Statement/v1" and said["predicateType"].startswith("https://slsa.dev/")
    assert provenance.subject(said) == ("tiny", "d" * 64)
    found = {name: provenance.material(said, name) for name in ("teacher", "data", "recipe", "code", "constraints")}
    constraints = sha256_json({"numpy": "1", "torch": "2"})
    assert found == {"teacher": "a" * 64, "data": "b" * 64, "recipe": "e" * 64, "code": "c" * 64} | {
        "constraints": constraints
    }
    assert provenance.material(said, "second") is None, "no stage read it"
    teacher = next(
        one for one in said["predicate"]["buildDefinition"]["resolvedDependencies"] if one["name"] == "teacher"
    )
    assert teacher["uri"] == "pypi:t==1" and teacher["annotations"] == {"licence": "MIT"}
    products = {one["name"]: one for one in said["predicate"]["runDetails"]["byproducts"]}
    assert {"evaluation", "gate", "verdict"} <= products.keys() and len(products) == 5
    stage = products[f"evaluate/{record().role}"]
    assert stage["digest"] == {"sha256": "9" * 64} and stage["annotations"]["inputs"] == record().inputs
    assert provenance.signed(said) == ("f" * 64, "2026-11-28T02:00:00+00:00")


def test_a_statement_is_the_same_whatever_the_order_it_was_gathered_in() -> None:
    one = made()
    other = made(origins=dict(reversed(one.origins.items())), libraries={"numpy": "1", "torch": "2"})
    assert provenance.statement(one, [record()]) == provenance.statement(other, [record()])
    later = provenance.statement(made(when="2026-11-29T02:00:00+00:00", run="x"), [record()])
    same = provenance.statement(one, [record()])
    for said in (later, same):
        said["predicate"]["runDetails"].pop("metadata")
    assert later == same, "nothing but the times and the run"


@pytest.mark.parametrize("said", [{}, {"subject": []}, {"subject": [1], "predicate": []}, {"predicate": {"x": 1}}])
def test_statements_that_say_nothing_name_nothing(said: dict[str, Any]) -> None:
    assert provenance.subject(said) is None and provenance.material(said, "data") is None
    assert provenance.signed(said) == (None, None)

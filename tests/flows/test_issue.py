"""An issued report is frozen by its digest and restated, never edited; once a month by itself."""

import json
import uuid
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from flows import cli_report
from flows.reporting import issue
from flows.reporting.gather import Gathered
from flows.reporting.model import Report, Restated
from flows.reporting.monthly import composer, monthly
from flows.reporting.period import Period
from infra.addresses import Services
from registry import issued, store
from registry.records import ShrinkError
from tests.flows.test_reporting import footprint, home, kept, stage

__all__ = ["home"]
TODAY, OCTOBER = date(2026, 11, 20), Period(since=date(2026, 10, 1), until=date(2026, 10, 31))


@pytest.fixture
def place(servers: Services) -> tuple[Any, str]:
    """A bucket of its own on the real S3."""
    config = store.S3Config(
        endpoint=servers.s3_endpoint,
        bucket=f"reports-{uuid.uuid4().hex[:12]}",
        access_key=servers.access_key,
        secret_key=servers.secret_key,
        region=servers.region,
    )
    s3 = store.connect(config)
    store.ensure_bucket(s3, config.bucket)
    return s3, config.bucket


def test_an_issued_report_is_frozen_and_restated_with_a_reason(
    place: tuple[Any, str], home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    s3, bucket = place

    def issue_it(**more: Any) -> tuple[issued.Issued, Report]:
        return issue.issue(s3, bucket, home, composer(), OCTOBER, TODAY, **more)

    first, report = issue_it()
    assert first.number == 1 and first.restates is None and report.restates is None
    again, _ = issue_it()
    assert again == first and len(issued.entries(s3, bucket)) == 1  # the same inputs are the same bytes
    files = store.get(s3, bucket, first.digest, tmp_path_factory.mktemp("got") / "report")
    assert {one.name for one in files.iterdir()} == {"report.html", "report.json", "report.csv", "report.md"}
    assert Report.model_validate_json((files / "report.json").read_text()) == report
    kept(home, "late-eeee", stages=[stage("found-later", footprint(5.0))])
    with pytest.raises(ShrinkError) as refusal:
        issue_it()
    assert f"was issued as {first.digest[:12]} and would now be another; give --restates" in str(refusal.value)
    second, restated = issue_it(restates=first.digest[:12], reason="a run was\nleft out")
    assert (second.number, second.restates, second.reason) == (2, first.digest, "a run was left out")
    assert restated.restates == Restated(digest=first.digest, reason="a run was left out")
    assert issue_it()[0] == second  # and that one is frozen, too
    assert [one.digest for one in issued.entries(s3, bucket)] == [first.digest, second.digest]
    assert store.has(s3, bucket, first.digest), "what was restated is kept"
    assert issue.lines(issued.entries(s3, bucket))[1].endswith(f"restates {first.digest[:12]}: a run was left out")


@pytest.mark.parametrize(
    ("asked", "more", "said"),
    [
        (Period(), {}, "--until is not given but only days that are over are issued"),
        (Period(until=TODAY), {}, "--until is 2026-11-20 but only days that are over"),
        (OCTOBER, {"restates": "ab" * 32, "reason": "wrong"}, "none was issued; restate that one"),
        (OCTOBER, {"restates": "ab" * 32}, "no reason is given; say it with --reason"),
        (OCTOBER, {"reason": "wrong"}, "is given without the report that it is about"),
    ],
)
def test_what_may_not_be_issued(
    place: tuple[Any, str], home: Path, asked: Period, more: dict[str, str], said: str
) -> None:
    with pytest.raises(ShrinkError) as refusal:
        issue.issue(*place, home, composer(), asked, TODAY, **more)
    assert said in str(refusal.value)
    assert issued.entries(*place) == []


def test_an_edited_or_lost_entry_is_seen(place: tuple[Any, str], home: Path) -> None:
    s3, bucket = place
    first, _ = issue.issue(s3, bucket, home, composer(), OCTOBER, TODAY)
    key = f"reports/{first.scope}/000001.json"
    told = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(told | {"number": 2}).encode())
    with pytest.raises(RuntimeError, match="does not follow the one before"):
        issued.entries(s3, bucket)
    s3.put_object(Bucket=bucket, Key=key, Body=b"{}")
    with pytest.raises(RuntimeError, match="cannot be read"):
        issued.entries(s3, bucket)


def test_of_two_that_issue_at_once_one_is_believed(place: tuple[Any, str], home: Path) -> None:
    s3, bucket = place

    def overtaken(found: Gathered, instead: Restated | None) -> Report:
        """Another host issues while this one composes; locks do not reach it."""
        mine: Report = composer()(found, instead)
        folder = home / "other"
        folder.mkdir()
        digest = issue.write(folder, mine.model_copy(update={"title": "another"}))
        told = {"number": 1, "digest": digest, "model": None, "since": "2026-10-01", "until": "2026-10-31"}
        issued.issue(s3, bucket, folder, issued.Issued(**told, issued="2026-11-20", who="somebody"))
        return mine

    with pytest.raises(ShrinkError, match="meanwhile; restate that one"):
        issue.issue(s3, bucket, home, overtaken, OCTOBER, TODAY)
    assert len(issued.entries(s3, bucket)) == 1


def test_the_monthly_flow_issues_and_leaves_an_artifact(
    servers: Services, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    monkeypatch.setenv("SHRINK_HOME", str(home))
    monkeypatch.setattr("flows.servers.services", lambda _: servers)
    entry = monthly(since="2026-10-01", until="2026-10-31")
    with get_client(sync_client=True) as client:
        chosen = ArtifactFilter(key=ArtifactFilterKey(any_=["sustainability-report"]))
        (artifact,) = client.read_artifacts(artifact_filter=chosen)
    assert entry["digest"] in str(artifact.data) and "## Energy per stage" in str(artifact.data)


def test_the_command_issues_and_lists(
    servers: Services, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(home, "april-ffff", stages=[stage("early", footprint(1.0))], started="2026-04-03T00:00:00+00:00")
    monkeypatch.setenv("SHRINK_HOME", str(home))
    monkeypatch.setattr("flows.cli_report.connected", lambda: servers)
    cli_report.report(since="2026-04-01", until="2026-04-30", issue=True, as_json=True)
    entry = json.loads(capsys.readouterr().out)
    assert (entry["since"], entry["until"], entry["number"]) == ("2026-04-01", "2026-04-30", 1)
    cli_report.report(issued=True)
    assert f"{entry['digest'][:12]}  all models, 2026-04-01 to 2026-04-30\n" in capsys.readouterr().out

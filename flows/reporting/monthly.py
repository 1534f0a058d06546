"""The flow that issues the report of the month before, for a schedule (infra/prefect.yaml: `monthly-report`)."""

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows import servers
from flows.reporting import formats
from flows.reporting.issue import issue
from flows.reporting.period import Period, last_month, period
from flows.settings import settings
from registry import store


@flow(name="monthly-report", persist_result=False)
def monthly(model: str | None = None, since: str | None = None, until: str | None = None) -> dict[str, Any]:
    """Issue last month's report (or that of a period) to S3, and leave it as a Markdown artifact of this flow run."""
    here, today = settings(), datetime.now(UTC).date()
    asked: Period = period(since, until, today) if since or until else last_month(today)
    found = servers.services(here.home)
    s3 = store.connect(servers.s3_config(found))
    entry, report = issue(s3, found.bucket, here.home, composer(), asked, today, model)
    text = formats.markdown(report) + f"\nIssued {entry.issued} as `{entry.digest}`.\n"
    create_markdown_artifact(text, key="sustainability-report", description=f"{entry.since} to {entry.until}")
    return entry.model_dump()


def composer() -> Any:
    """What makes a report here: by the carbon inputs of the settings."""
    from flows.reporting.compose import compose
    from registry.carbon.inputs import basis

    here = settings()
    inputs = basis(here.carbon, here.country)
    return lambda found, instead: compose(found, inputs, instead)

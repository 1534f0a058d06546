"""What a report says: one `Report` of plain facts, which every format prints and nothing else.

Energy is in kWh before PUE, as doubles, never rounded; None is "not measured" or "not reported", never 0. Its JSON
Schema is published as flows/templates/report.schema.json.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, Band, Evaluation, Part, Verdict


class Scope(BaseModel):
    """Which runs a report is of; dates are UTC and both belong to it."""

    model_config = STRICT
    model: str | None
    since: str | None
    until: str | None
    first: str | None = Field(description="start of the earliest run in it")
    last: str | None = Field(description="start of the latest run in it")


class Restated(BaseModel):
    """The issued report that this one takes the place of."""

    model_config = STRICT
    digest: str
    reason: str


class Figure(BaseModel):
    """One of the three figures of the first screen, to two significant digits."""

    model_config = STRICT
    text: str
    says: str
    between: str


class Machine(BaseModel):
    """Hardware that runs were metered on, and by which method each of its parts."""

    model_config = STRICT
    about: dict[str, Any]
    method: dict[str, str]
    bands: dict[str, str] = Field(description="where low and high come from")
    runs: int


class Energy(BaseModel):
    """Energy of some executions; kwh is None when nothing of it was measured, a lower bound while unmeasured > 0."""

    model_config = STRICT
    name: str
    executions: int
    unmeasured: int
    seconds: float
    tier: str
    kwh: Band | None
    parts_kwh: dict[Part, float] = Field(description="central estimates of its components")


class Component(BaseModel):
    """Energy of one part of the machines over the whole report."""

    model_config = STRICT
    part: Part
    tier: str
    kwh: Band


class Spent(BaseModel):
    """The energy of the report: the total is the sum of its stages, of its runs and of its components."""

    model_config = STRICT
    total: Energy
    components: tuple[Component, ...]
    stages: tuple[Energy, ...]
    runs: tuple[Energy, ...]
    idle_kwh: Band | None = Field(description="what the machines draw in this time with nothing to do; part of kwh")
    shared_kwh: Band | None = Field(description="drawn while another run held the meter; in that run's total, not here")
    reused_kwh: Band | None = Field(description="first executions of re-used stages outside of the report; not here")
    unmeasured: dict[str, int] = Field(description="why executions were not measured, and how many")


class Intensity(BaseModel):
    """The carbon intensity that was applied, gCO2e per kWh, with its source."""

    model_config = STRICT
    country: str | None
    name: str
    low: float | None
    central: float | None
    high: float | None
    year: str
    source: str
    sha256: str | None = Field(default=None, description="of the file that the factors came from")


class Emissions(BaseModel):
    """gCO2e of the energy, PUE applied; what is None was not reported."""

    model_config = STRICT
    intensity: Intensity
    pue: float | None
    pue_source: str | None = None
    operator: Literal["own", "cloud"] | None = Field(default=None, description="whose machine it is, for the scopes")
    location_g: Band | None = Field(description="a lower bound with uncovered_kwh")
    uncovered_kwh: Band | None = Field(default=None, description="used in a time that the factors do not know")
    market_g: Band | None = None
    embodied_g: Band | None = None
    water_site_l: Band | None = Field(default=None, description="evaporated on the site")
    water_source_l: Band | None = Field(default=None, description="used to generate the electricity")
    scopes_g: dict[str, Band | None] = Field(default={}, description="by scope of the GHG Protocol")
    sci: dict[str, Band | None] = Field(default={}, description="gCO2e per 1,000 inferences (ISO/IEC 21031) by model")
    by_stage_g: dict[str, Band | None] = Field(default={}, description="location_g by stage; their sum is it")
    by_run_g: dict[str, Band | None] = Field(default={}, description="location_g by run; their sum is it")
    not_reported: dict[str, str] = Field(default={}, description="of figures that are null or lower bounds, why")


class Point(BaseModel):
    """Net energy saved after so many requests, kWh; below 0 it is not yet repaid."""

    model_config = STRICT
    requests: float
    low: float
    central: float
    high: float


class Benefit(BaseModel):
    """When what was spent is repaid; break_even is None where it never is, or is unknown (`why`)."""

    model_config = STRICT
    break_even: Band | None = Field(description="requests")
    unit: str = Field(description="what a request is")
    why: str
    sentence: str
    cost_kwh: Band | None = Field(description="of all runs of the recipe up to the report's end")
    request_wh: dict[str, Band | None]
    curve: tuple[Point, ...]
    said: tuple[str, ...] = Field(default=(), description="money, and share of the compute, in sentences")


class Counts(BaseModel):
    """How many runs and executions of which fate."""

    model_config = STRICT
    runs: int
    passed: int
    rejected: int
    failed: int
    cancelled: int
    stopped: int = Field(description="ended at a stage's boundary by a budget")
    running: int
    resumed: int
    smoke: int
    executions: int
    cached: int = Field(description="stages re-used, their energy not spent again")
    cut_off: int = Field(description="goes at a stage that were killed or failed")
    unmeasured: int
    unreadable: int


class TracedStage(BaseModel):
    """An execution, or the re-use of one; `samples` is the SHA-256 of its lines in the run's samples.jsonl."""

    model_config = STRICT
    name: str
    started: str
    cached: bool
    counted: bool
    ended: str
    seconds: float
    tier: str
    kwh: Band | None
    parts_kwh: dict[Part, float]
    digest: str | None
    samples: str | None


class TracedRun(BaseModel):
    """A run and what of the total came from its stages."""

    model_config = STRICT
    run_id: str
    recipe: str
    status: str
    started: str
    resumed: int
    smoke: bool
    version: str | None
    digest: str | None
    kwh: Band | None
    stages: tuple[TracedStage, ...]


class Quality(BaseModel):
    """The newest judged run of the report: what the energy bought."""

    model_config = STRICT
    run_id: str
    recipe: str
    smoke: bool
    version: str | None
    digest: str | None
    bytes_ratio: float | None
    speed_ratio: float | None
    evaluation: Evaluation
    verdict: Verdict | None
    licences: dict[str, str]


class Report(BaseModel):
    """All facts of a report; the same runs and inputs give the same report, byte for byte."""

    model_config = STRICT
    report_schema: Literal[1] = 1
    title: str
    scope: Scope
    restates: Restated | None = None
    figures: tuple[Figure, Figure, Figure]
    boundary: tuple[str, ...]
    functional_unit: str
    hardware: tuple[Machine, ...]
    energy: Spent
    emissions: Emissions
    benefit: Benefit
    quality: Quality | None
    counts: Counts
    actions: tuple[str, ...]
    limits: tuple[str, ...]
    trace: tuple[TracedRun, ...]
    unreadable: tuple[str, ...] = Field(description="runs whose journal cannot be read; they are in no total")

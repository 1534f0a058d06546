"""Where intensities come from: bundled, dated files and hourly profiles; a wrong file is refused in one sentence."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.carbon.factor_file import rate, read_factors
from registry.carbon.factors import Day, bundled, held, mean, steady
from registry.carbon.hourly import Profile
from registry.carbon.inputs import basis
from registry.carbon.profile_file import between, read_profile
from registry.records import ShrinkError

HEAD = "region,intensity,unit,since,until,source\n"
ROWS = "FRA,56,gCO2e/kWh,2025-01-01,2025-12-31,national\nFRA,0.040,kgCO2e/kWh,2026-01-01,,national\n"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def written(folder: Path, text: str, name: str = "factors.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_bundled_factors_of_a_country_and_of_no_country() -> None:
    france, world = bundled("fra"), bundled(None)
    one, many = held((france,), NOON), held((world,), NOON)
    assert one and many and many.grams_per_kwh.low < one.grams_per_kwh.central < many.grams_per_kwh.high
    assert france.name == "France" and "codecarbon 3." in one.source and len(france.sha256 or "") == 64
    assert world.year == "2021-2023" and world.country is None
    for unknown in ("XXX", "FRA-IDF"):
        with pytest.raises(ShrinkError, match=f"country = '{unknown}' has no grid intensity"):
            bundled(unknown)


def test_dated_factors_hold_in_their_period_only(tmp_path: Path) -> None:
    read = read_factors(written(tmp_path, HEAD + ROWS), None)
    eve = datetime(2025, 12, 31, 23, 30, tzinfo=UTC)
    before, after = held((read,), eve), held((read,), NOON)
    assert before and after and before.grams_per_kwh.central == 56 and math.isclose(after.grams_per_kwh.central, 40)
    assert held((read,), datetime(2024, 12, 31, 23, 59, tzinfo=UTC)) is None
    crossing = mean((read,), eve, 5400.0)
    assert crossing and math.isclose(crossing[0].central, (56 + 2 * 40) / 3)
    assert mean((read,), datetime(2024, 12, 31, 23, 59, tzinfo=UTC), 3600.0) is None
    assert steady((read,), NOON, NOON + timedelta(days=9)) and not steady((read,), eve, NOON)


def test_the_same_factors_in_every_format(tmp_path: Path) -> None:
    rows = [
        {
            "region": "FRA",
            "intensity": 56,
            "unit": "g/kWh",
            "since": "2025-01-01",
            "until": "2025-12-31",
            "source": "n",
        },
        {"region": "DEU", "intensity": 0.38, "unit": "t/MWh", "since": "2025-01-01", "source": "n"},
    ]
    listed = read_factors(written(tmp_path, json.dumps(rows), "a.json"), "deu")
    yaml = "- {region: DEU, intensity: 0.38, unit: t/MWh, since: 2025-01-01, source: n}\n"
    assert listed.periods == read_factors(written(tmp_path, yaml, "a.yaml"), None).periods
    assert listed.name == "Germany" and math.isclose(listed.periods[0].grams_per_kwh.central, 380)


@pytest.mark.parametrize(
    ("unit", "grams"),
    [("gCO2e/kWh", 1.0), ("g CO₂eq/kWh", 1.0), ("kgCO2e/MWh", 1.0), ("lbCO2e/MWh", 0.45359237), ("g/MJ", 3.6)],
)
def test_units(unit: str, grams: float) -> None:
    assert math.isclose(rate("file", 1.0, unit).central, grams)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("FRA,40,g/kWh,2026-01-05,,n", "line 3: since = 2026-01-05 leaves a gap: FRA is known until 2025-12-31"),
        ("FRA,40,g/kWh,2025-12-31,,n", "line 3: since = 2025-12-31 overlaps the period of FRA from 2025-01-01"),
        ("FRA,40,stone/kWh,2026-01-01,,n", "line 3: unit = 'stone/kWh' is not known"),
        ("FRA,40,gCO2/kWh,2026-01-01,,n", "CO2 alone leaves the other gases out"),
        ("XXX,40,g/kWh,2026-01-01,,n", "line 3: region = 'XXX' has no grid intensity"),
        ("FRA,-40,g/kWh,2026-01-01,,n", "line 3: intensity = '-40' must be greater than or equal to 0"),
        ("FRA,nan,g/kWh,2026-01-01,,n", "line 3: intensity = 'nan' must be a finite number"),
        ("FRA,40,g/kWh,yesterday,,n", "line 3: since = 'yesterday' must be a valid date"),
        ("FRA,40,g/kWh,2026-02-01,2026-01-01,n", "line 3: until = 2026-01-01 lies before since"),
        ("FRA,40,g/kWh,2026-01-01", "line 3: source is missing"),
        ("FRA,40,g/kWh,2026-01-01,,n,more", "line 3: (beyond the last column) is no column"),
    ],
)
def test_a_wrong_factor_file_is_refused_in_one_sentence(tmp_path: Path, row: str, said: str) -> None:
    path = written(tmp_path, HEAD + ROWS.splitlines()[0] + "\n" + row + "\n")
    with pytest.raises(ShrinkError) as refused:
        read_factors(path, "FRA")
    text = str(refused.value)
    assert said in text and str(path) in text and "\n" not in text and text.endswith(".")


def test_a_place_is_chosen_and_not_guessed(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + ROWS + "DEU,380,g/kWh,2025-01-01,,n\n")
    with pytest.raises(ShrinkError, match="has regions FRA, DEU; choose one"):
        read_factors(path, None)
    with pytest.raises(ShrinkError, match="region = 'ITA' is not in factor file"):
        read_factors(path, "ITA")
    with pytest.raises(ShrinkError, match="has no factors; add a row"):
        read_factors(written(tmp_path, HEAD, "empty.csv"), None)


def test_a_typical_day_is_told_in_local_time(tmp_path: Path) -> None:
    rows = "".join(f"{hour},{100 + hour},+02:00\n" for hour in range(24))
    day = read_profile(written(tmp_path, "hour,grams_per_kwh,utc_offset\n" + rows))
    assert isinstance(day, Day)
    found = held((day,), NOON + timedelta(minutes=20))
    assert found and found.grams_per_kwh.central == 114 and found.until == NOON + timedelta(hours=1)
    hours = mean((day,), NOON + timedelta(minutes=30), 3600.0)
    assert hours and math.isclose(hours[0].central, 114.5)
    unrolled = between(day, NOON, NOON + timedelta(days=2))
    assert unrolled.mean(NOON + timedelta(minutes=30), 3600.0) == pytest.approx(114.5)
    assert unrolled.end >= NOON + timedelta(days=2)


def test_a_profile_of_moments(tmp_path: Path) -> None:
    text = "timestamp,grams_per_kwh\n2026-06-01T12:00Z,10\n2026-06-01T15:00+02:00,30\n"
    profile = read_profile(written(tmp_path, text))
    assert isinstance(profile, Profile) and profile.mean(NOON, 7200.0) == 20
    found = held((profile,), NOON + timedelta(minutes=90))
    assert found and found.grams_per_kwh.central == 30
    assert held((profile,), profile.end) is None
    france = bundled("FRA")
    rate = france.periods[0].grams_per_kwh.central
    mixed = mean((profile, france), NOON - timedelta(hours=1), 4 * 3600.0)
    assert mixed and math.isclose(mixed[0].central, (rate + 10 + 30 + rate) / 4), "a later layer fills what is left out"
    assert len(mixed[1]) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hour,grams_per_kwh,utc_offset\n0,1,+01:00\n2,1,+01:00\n", "has a gap: hour 1 is missing"),
        ("hour,grams_per_kwh,utc_offset\n0,1,+01:00\n0,1,+01:00\n", "line 3: hour = 0 stands twice"),
        ("hour,grams_per_kwh,utc_offset\n24,1,+01:00\n", "line 2: hour = '24' must be a whole number from 0 to 23"),
        ("hour,grams_per_kwh,utc_offset\n0,1,\n", "line 2: utc_offset is empty"),
        ("hour,grams_per_kwh,utc_offset\n0,1,CET\n", "line 2: utc_offset = 'CET' must be like +01:00"),
        ("hour,grams_per_kwh,utc_offset\n0,1,+01:00\n1,1,+02:00\n", "line 3: utc_offset = '+02:00' differs"),
        ("hour,grams_per_kwh,utc_offset\n0,-1,+01:00\n", "line 2: grams_per_kwh = '-1' must be a finite number"),
        ("hour,grams_per_kwh,utc_offset\n0,nan,+01:00\n", "line 2: grams_per_kwh = 'nan' must be a finite number"),
        ("hour,grams_per_kwh\n0,1\n", "has columns grams_per_kwh, hour"),
        ("timestamp,grams_per_kwh\n2026-06-01T12:00,1\n", "line 2: timestamp = '2026-06-01T12:00' has no UTC offset"),
        ("timestamp,grams_per_kwh\nnoon,1\n", "line 2: timestamp = 'noon' must be like"),
        (
            "timestamp,grams_per_kwh\n2026-06-01T12:00Z,1\n2026-06-01T13:00Z,1\n2026-06-01T15:00Z,1\n",
            "line 4: timestamp = 2026-06-01T15:00Z leaves a gap",
        ),
        (
            "timestamp,grams_per_kwh\n2026-06-01T12:00Z,1\n2026-06-01T12:00Z,1\n",
            "line 3: timestamp = 2026-06-01T12:00Z does not lie behind the one before",
        ),
    ],
)
def test_a_wrong_profile_is_refused_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text, "profile.csv")
    with pytest.raises(ShrinkError) as refused:
        read_profile(path)
    sentence = str(refused.value)
    assert said in sentence and str(path) in sentence and "\n" not in sentence


def test_the_carbon_file_is_read_whole_or_refused(tmp_path: Path) -> None:
    written(tmp_path, HEAD + ROWS)
    text = (
        "operator: cloud\nregion: FRA\nfactors: factors.csv\npue: {value: 1.2, source: operator}\n"
        "market: {intensity: 0, unit: g/kWh, source: contract}\nprices: {currency: EUR, kwh: 0.2}\n"
    )
    read = basis(written(tmp_path, text, "carbon.yaml"), None)
    assert read.overhead == 1.2 and read.grid and len(read.grid.periods) == 2 and read.water is None
    assert basis(None, "FRA").grid == bundled("FRA") and basis(None, None).operator is None
    assert basis(written(tmp_path, "", "empty.yaml"), "FRA") == basis(None, "FRA")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pue: {value: 0.5, source: x}", "pue.value = 0.5 must be greater than or equal to 1"),
        ("pue: {value: 1.2}", "pue.source is missing"),
        ("poe: 1", "poe is no field of it"),
        ("operator: shared", "operator = 'shared' must be 'own' or 'cloud'"),
        ("embodied: {grams: .nan, lifetime_years: 4, share: 1, source: x}", "embodied.grams = nan must be"),
        ("market: {intensity: 3, unit: ell, source: x}", "market: unit = 'ell' is not known"),
        ("market: {intensity: 3, unit: g/kWh, since: 2026-02-01, until: 2026-01-01, source: x}", "lies before since"),
        ("region: XXX", "XXX"),
        ("factors: nowhere.csv", "cannot be read (No such file or directory)"),
        ("a: [", "is not YAML (line"),
        ("- 1", "the file = [1] must be"),
    ],
)
def test_a_wrong_carbon_file_is_refused_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ShrinkError) as refused:
        basis(written(tmp_path, text, "carbon.yaml"), None)
    assert said in str(refused.value) and "\n" not in str(refused.value)

"""What would lower the figures, or make them surer: sentences from the facts alone, the largest first."""

from flows.reporting import rounding
from flows.reporting.model import Benefit, Counts, Emissions, Energy, Spent, TracedRun

LOSS = {"failed", "crashed", "cancelled"}
LARGE = 0.25  # a share of the energy that is worth a sentence


def actions(
    energy: Spent, emissions: Emissions, benefit: Benefit, counts: Counts, runs: list[TracedRun]
) -> tuple[str, ...]:
    """Sentences for whoever can act on them."""
    total = energy.total.kwh.central if energy.total.kwh else 0.0
    lines = [*_where(energy, total), *_lost(runs, total), *_surer(energy, emissions, total), *_use(benefit, counts)]
    if counts.cached:
        lines.append(
            f"Keep the cache: {counts.cached} stages were re-used instead of being made again"
            + (f", of {rounding.energy(energy.reused_kwh.central)} made before." if energy.reused_kwh else ".")
        )
    if counts.unreadable:
        lines.append(f"{counts.unreadable} run folders cannot be read and are in no total: `shrink doctor` names them.")
    return tuple(lines)


def share(part: float, total: float) -> str:
    """A share to a whole per cent."""
    return f"{100 * part / total:.0f} %" if total else "0 %"


def _where(energy: Spent, total: float) -> list[str]:
    """The stage that takes most, and what shortens it."""
    measured = [stage for stage in energy.stages if stage.kwh]
    if not measured or not total:
        return []

    def central(stage: Energy) -> float:
        return stage.kwh.central if stage.kwh else 0.0

    most = max(measured, key=central)
    return [
        f"{most.name} takes {share(central(most), total)} of the energy ({rounding.energy(central(most))}): fewer "
        "epochs or a smaller set there lower the total most."
    ]


def _lost(runs: list[TracedRun], total: float) -> list[str]:
    lines = []
    broken = sum(run.kwh.central for run in runs if run.status in LOSS and run.kwh)
    if broken:
        lines.append(
            f"{rounding.energy(broken)} ({share(broken, total)}) went into runs that did not finish: `shrink resume` "
            "goes on from their finished stages, `shrink plan` says beforehand whether they fit."
        )
    rejected = sum(run.kwh.central for run in runs if run.status == "rejected" and not run.smoke and run.kwh)
    if rejected:
        lines.append(
            f"{rounding.energy(rejected)} ({share(rejected, total)}) went into students that their gate rejected: "
            "`shrink why` names the check; a milder recipe, or a first try with fewer rows, costs less."
        )
    return lines


def _surer(energy: Spent, emissions: Emissions, total: float) -> list[str]:
    lines = []
    tiers = {one.part: one for one in energy.components}
    if "cpu" in tiers and "counter" not in tiers["cpu"].tier:
        lines.append(
            "Let the meter read the processor's counter (RAPL: /sys/class/powercap readable for the account of the "
            "runs, on hardware or a virtual machine that shows it): its band narrows from a factor of 2.5 to 5 %."
        )
    if "ram" in tiers and tiers["ram"].tier == "constant" and total and tiers["ram"].kwh.central / total > LARGE:
        lines.append(
            f"{share(tiers['ram'].kwh.central, total)} of the energy is the memory's constant power times time: a "
            "machine with less memory, or a shorter run, lowers it; a saved processor cycle does not."
        )
    if energy.total.unmeasured:
        whys = "; ".join(f"{why} ({number})" for why, number in energy.unmeasured.items())
        lines.append(f"{energy.total.unmeasured} executions are unmeasured: {whys}.")
    if emissions.intensity.country is None:
        lines.append("Name the grid with SHRINK_COUNTRY (three letters, FRA): CO2e is a range over the world without.")
    if emissions.pue is None:
        lines.append("Report the site's PUE: losses of cooling and power conversion are left out until then.")
    return lines


def _use(benefit: Benefit, counts: Counts) -> list[str]:
    if benefit.break_even:
        return [
            f"Deploy it where more than {rounding.count(benefit.break_even.high)} {benefit.unit}s are to come: from "
            "there on it has saved energy by the least favourable estimate, too."
        ]
    if benefit.why.startswith("never"):
        return ["For energy alone, keep the teacher: a request to this student costs no less."]
    return (
        [] if counts.passed or counts.rejected else ["Let a run finish: nothing is there yet that could save energy."]
    )

"""What the figures of a report do not say, sentence by sentence, from its facts alone (flows/report.py)."""

from collections.abc import Sequence
from typing import Any

from flows.reporting.model import Machine, Spent
from flows.units import percent, size
from registry.records import METRICS

ENDED = ("passed", "rejected")  # a rejected student is a finished run
TIER_TEXT = {
    "cpu counter": "CPU energy was read from a hardware counter.",
    "cpu modelled": "CPU energy is modelled from the machine's load and an assumed maximum power, not read from a "
    "counter; the band allows a factor of 2.5 either way.",
    "cpu constant": "CPU energy is a constant power multiplied by time.",
    "ram constant": "Memory energy is a constant guessed from the amount of memory installed, multiplied by time.",
    "ram counter": "Memory energy was read from a hardware counter.",
    "gpu counter": "GPU energy was read from the device's own counter.",
}

SHORT: dict[str, dict[str, str]] = {
    "cpu": {"counter": "The CPU was read from RAPL", "modelled": "No RAPL: the CPU is modelled by load and TDP"},
    "ram": {"constant": "No counter of memory: it is a constant of its size", "counter": "Memory was read from RAPL"},
    "gpu": {"counter": "The GPU was read from its own counter (NVML)"},
}
WHOSE = {"cpu": "the processor’s", "ram": "the memory’s", "gpu": "the GPU’s"}


def limits(facts: dict[str, Any]) -> list[str]:
    """What these figures do not say, sentence by sentence; of CO2e where `grid` and `pue` are among the facts."""
    carbon = _limits_carbon(facts) if "grid" in facts else []
    return [*_limits_quality(facts), *_limits_sparsity(facts), *_limits_energy(facts), *carbon, *_limits_payback(facts)]


def energy_lines(energy: Spent, hardware: Sequence[Machine]) -> list[str]:
    """How well the energy is known, in short: which part stands behind which share of it, by which method."""
    total = energy.total.kwh.central if energy.total.kwh else 0.0
    lines = []
    for one in energy.components:
        share = f"{100 * one.kwh.central / total:.0f} % of the energy" if total else "It"
        lines.append(f"{SHORT[one.part].get(one.tier, one.tier)}; {share} is {WHOSE[one.part]}.")
    if energy.total.kwh and not hardware:
        lines.append("No samples of these runs are kept here: the machine they ran on is not known.")
    if energy.total.kwh and not any(one.part == "gpu" for one in energy.components):
        lines.append("No GPU was metered: none was found.")
    return lines


def _limits_energy(facts: dict[str, Any]) -> list[str]:
    spent, rows = facts["spent"], facts["stages"]
    lines = []
    if spent["unmeasured"]:
        lines.append(
            f"{spent['unmeasured']} of {spent['stages']} stages could not be measured; they are missing from every "
            "total, which is therefore a lower bound."
        )
    named = {part for tier in spent["tiers"] for part in tier.split(", ")}
    lines += [text for part, text in TIER_TEXT.items() if part in named]
    if spent["kwh"]:
        lines.append("The whole machine is counted: anything else that ran at the same time is in these figures.")
    if reused := sum(row["cached"] and row["counted"] for row in rows):
        lines.append(f"Re-used stages ({reused}) are charged once, with the energy of their first execution.")
    states, all_runs = [run["status"] for run in facts["runs"]], f"{len(facts['runs'])} runs"
    if going := states.count("running"):
        lines.append(f"{going} of {all_runs} still going on; the energy of stages finished so far is counted.")
    if broken := sum(state not in (*ENDED, "running", "waiting", "scheduled") for state in states):
        lines.append(f"{broken} of {all_runs} did not finish; the energy of stages they did finish is counted.")
    if resumed := sum(run["resumed"] > 0 for run in facts["runs"]):
        lines.append(
            f"{resumed} of {all_runs} went on after an interruption; of a stage that was cut off, what it drew behind "
            "its last reading is not counted."
        )
    lines.append("Training the original teacher, making the hardware and the network are not included.")
    return lines


def _limits_carbon(facts: dict[str, Any]) -> list[str]:
    grid, lines = facts["grid"], []
    if grid["country"] is None and "by the hour" not in grid["year"]:
        lines.append(f"No country was given, so CO2e is a {grid['name']} ({grid['year']}), not an estimate of one.")
    elif "by the hour" in grid["year"]:
        lines.append(f"CO2e follows the hour in which energy was drawn ({grid['source']}), not the contract.")
    else:
        lines.append(
            f"CO2e uses the mean of {grid['name']} in {grid['year']}, not the hour or the contract of this run."
        )
    if facts["pue"] == 1.0:
        lines.append("Cooling and power conversion of the site are not included (PUE 1).")
    return lines


def _limits_payback(facts: dict[str, Any]) -> list[str]:
    lines = []
    served = (facts["evaluation"] or {}).get("serving")
    if facts["payback"]["requests"] and served:
        lines.append(
            f"Pay-back takes the energy of a {facts['request']} from {len(served['student']['windows'])} windows of "
            "serving one after another on this machine; batching or another machine changes it."
            + (" No counter stands behind it: the energy ratio is the time ratio." if served["ratio_is_time"] else "")
        )
    elif facts["payback"]["requests"]:
        lines.append(
            f"Pay-back assumes that a {facts['request']} draws the mean power of the evaluation for its median "
            "latency, at one thread and batch 1; batching or another machine changes it."
        )
    return lines


def _limits_quality(facts: dict[str, Any]) -> list[str]:
    evaluation, lines = facts["evaluation"], []
    if evaluation is None:
        return ["No run has been evaluated: nothing is said about quality, size or speed."]
    kept, won = evaluation["retention"], evaluation["win_over_floor"]
    if facts["smoke"]:
        lines.append(
            "This is a smoke walk on a 2-layer clone and a few rows: it shows that the chain runs, and no figure of "
            "quality, size or speed here means anything."
        )
    lines.append(
        f"Quality rests on {evaluation['examples']:,} test examples: retention lies between {percent(kept['low'])} and "
        f"{percent(kept['high'])} with 95 % confidence, on this task and data alone."
    )
    if evaluation["task"] == "generate":
        lines += _limits_writing(evaluation)
    elif evaluation["measures"]:
        lines.append(
            f"Of {len(evaluation['measures'])} measures of the embeddings, retention is the one of "
            f"{METRICS[evaluation['metric']]}, which kept least. Neighbours and ranks are compared with the teacher's, "
            "not with what people find alike; the texts that a query is compared with stay the same in every resample."
        )
    if won["high"] < 0.0:
        lines.append("The student is worse than the simple floor: the whole interval of the difference lies below 0.")
    elif won["low"] <= 0.0:
        lines.append("The student is not shown to be better than the simple floor: its interval includes 0.")
    if shared := shared_texts(facts):
        lines.append(
            f"{shared:,} of the held-out pairs have a text that a training pair has too: they could not all be kept "
            "apart, so new texts may be answered less well."
        )
    if evaluation["flips_to_wrong"]:
        lines.append(
            f"{evaluation['flips_to_wrong']:,} examples that the teacher had right are wrong now "
            f"({evaluation['flips_to_right']:,} the other way); an average hides which."
        )
    if facts["verdict"] is None:
        lines.append("No gate has judged this student.")
    return lines


def _limits_writing(evaluation: dict[str, Any]) -> list[str]:
    """What perplexity, prompts and questions do not say of a model that writes."""
    left_out = [f"{METRICS[name]} was not measured: {why}." for name, why in evaluation["left_out"].items()]
    return [
        "Retention is the teacher's perplexity over the student's, on text that neither was trained on here; whether "
        "what they write is true, safe or helpful is not judged, and a teacher's faults are kept.",
        "Chat prompts and questions are a few dozen of our own, in English: they show that answers stay, not how good "
        "they are.",
        "Tokens a second are of one text at a time on this machine; a longer prompt takes longer to read, and each "
        "token behind it, too.",
        *left_out,
    ]


def shared_texts(facts: dict[str, Any]) -> int:
    """Held-out pairs of the judged run that share a text with a training pair."""
    own = [row["measured"] for row in facts["stages"] if row["run_id"] == facts["run_id"] and row["kind"] == "data"]
    return sum(int(measured.get("rows_sharing_a_text", 0)) for measured in own)


def _limits_sparsity(facts: dict[str, Any]) -> list[str]:
    """Of a judged student with single weights set to zero: that this makes nothing faster, and what it saves where."""
    own = [row for row in facts["stages"] if row["run_id"] == facts["run_id"]]
    places = [at for at, row in enumerate(own) if row["kind"] == "prune" and "sparsity" in row["measured"]]
    if not places:
        return []
    sparse, later = own[places[-1]], own[places[-1] :]
    packed = [row["measured"] for row in later if (row["kind"], row["method"]) == ("export", "packed")]
    saved = "its recipe has none, so nothing is gained"
    if packed:
        before, after = (size(packed[-1][name]) for name in ("dense_bytes", "packed_bytes"))
        saved = f"full-precision weights of {before} take {after} there, and are unpacked before they run"
    if sparse["method"] == "sparse":
        return [
            f"{percent(sparse['measured']['sparsity'])} of the weights of the model's linear layers were set to zero "
            f"({sparse['name']}); a quantize stage behind may have moved them again. On a CPU that makes it neither "
            "faster nor smaller: llama.cpp and transformers store and multiply zeros like other numbers. Bytes are "
            f"saved by a bitmask-packed export alone ({saved})."
        ]
    return [
        f"{percent(sparse['measured']['sparsity'])} of the weights of the encoder's linear layers are zero "
        f"({sparse['name']}). On a CPU that makes the student neither faster nor smaller: ONNX Runtime stores and "
        f"multiplies zeros like other numbers. Bytes are saved by a bitmask-packed export alone ({saved})."
    ]

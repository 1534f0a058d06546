"""What benchmarks/frontier.py found, as a table, as a picture, and as a verdict at every size and latency."""

from pathlib import Path
from typing import Any


def table(found: list[dict[str, Any]]) -> str:
    """Markdown, by size."""
    teacher = next(one for one in found if one["name"] == "teacher")
    lines = [
        "| model | MB | × | accuracy | retention | processor ms a text, p50 | × | processor s | Wh |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in sorted(found, key=lambda one: -int(one["bytes"])):
        kept, name = one["retention"], f"**{one['name']}**" if one["ours"] else one["name"]
        lines.append(
            f"| {name} | {one['bytes'] / 1e6:.2f} | {teacher['bytes'] / one['bytes']:.1f} | {one['accuracy']:.1%} | "
            f"{kept['point']:.1%} [{kept['low']:.1%}, {kept['high']:.1%}] | {one['processor_ms']:.2f} | "
            f"{teacher['processor_ms'] / one['processor_ms']:.1f} | {one['cpu_seconds']:.0f} | {one['wh']:.2f} |"
        )
    return "\n".join(lines)


def frontier(found: list[dict[str, Any]], axis: str) -> list[dict[str, Any]]:
    """Those that none beats in both: from the smallest (or fastest) on, each that keeps more than all before it."""
    best: list[dict[str, Any]] = []
    for one in sorted(found, key=lambda one: (one[axis], -one["accuracy"])):
        if not best or one["accuracy"] > best[-1]["accuracy"]:
            best.append(one)
    return best


def below(found: list[dict[str, Any]], axis: str) -> list[str]:
    """For each point of the others' frontier: the best of ours that is as small (as fast), or that none is."""
    ours, theirs = ([one for one in found if one["ours"] is mine] for mine in (True, False))
    lines = []
    for one in frontier(theirs, axis):
        best = max((own for own in ours if own[axis] <= one[axis]), key=lambda own: own["accuracy"], default=None)
        if best is None:
            lines.append(f"{axis}: {one['name']}: none of ours is as small")
            continue
        apart = 100 * (best["accuracy"] - one["accuracy"])
        lines.append(
            f"{axis}: {one['name']}: {best['name']} is {'on or above' if apart >= 0 else 'BELOW'} ({apart:+.2f} points)"
        )
    return lines


def picture(found: list[dict[str, Any]], path: Path) -> None:
    """Bytes and latency beside retention with its interval, and both sides' frontiers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, plots = pyplot.subplots(1, 2, figsize=(15, 7), sharey=True)
    for plot, axis, title in zip(
        plots, ("bytes", "processor_ms"), ("bytes of all files", "processor ms for one text, p50"), strict=True
    ):
        for ours, colour, label in ((True, "tab:blue", "ours"), (False, "tab:red", "what a user would pick instead")):
            side = [one for one in found if one["ours"] is ours]
            edge = frontier(side, axis)
            for one in side:
                kept = one["retention"]
                low, high = kept["point"] - kept["low"], kept["high"] - kept["point"]
                plot.errorbar(one[axis], kept["point"], [[low], [high]], fmt="o", color=colour, alpha=0.5, capsize=2)
                if one in edge:  # names of all would hide each other
                    place = (one[axis], kept["point"])
                    plot.annotate(one["name"], place, (4, 4), textcoords="offset points", fontsize=7)
            heights = [one["retention"]["point"] for one in edge]
            plot.step([one[axis] for one in edge], heights, where="post", color=colour, label=label)
        plot.set(xscale="log", xlabel=title, ylabel="retention")
        plot.grid(alpha=0.3, which="both")
        plot.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)

"""What was found, in three sentences for a person."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu_check.steps import PHASES, TARGET_RATIO, ratios

_WORTH_SAYING = 0.05
"""Share of the time under which a loss is not what limits."""


def sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Does it train, how fast beside plain eager, what limits it now.

    Args:
        rows: what `run_parts` left.
    """
    by_key = {row["part"]: row for row in rows}
    figures = {key: row["figures"] for key, row in by_key.items()}
    return [_trains(by_key), _speed(figures), _limit(figures)]


def _trains(rows: Mapping[str, Mapping[str, Any]]) -> str:
    row = rows.get("7")
    if row is None or not row["checks"]:
        reason = (row and (row["error"] or row["state"])) or "part 7 was not run"
        return f"Whether it trains is not known: {reason}."
    failed = [name for name, is_met in row["checks"].items() if is_met is False]
    facts = rows.get("0", {}).get("figures", {})
    device = facts.get("device", "this device")
    if failed:
        return f"It does not train as it should on {device}: {', '.join(failed)} failed."
    if row["state"] != "done":
        return f"It trains on {device}, but part 7 did not end: {row['error'] or row['state']}."
    losses = row["figures"]["losses"]  # a part that ended told them
    return (
        f"It trains on {device}: the loss went from {losses[0]:.4f} to {losses[-1]:.4f}, resuming "
        "and evaluation ended well."
    )


def _speed(figures: Mapping[str, Mapping[str, Any]]) -> str:
    found = ratios(figures)
    if figures.get("0", {}).get("small"):
        return "How fast it is cannot be seen at the small size; no figure of time here counts."
    if not found:
        return "How fast it is beside plain eager is not known: part 4 did not measure both."
    ours = figures["4"]["c"]["images_per_second"]
    best = max(found, key=found.__getitem__)
    compiled = f", compiled {found['g']:.2f} times" if "g" in found else ""
    verdict = "reached" if found[best] >= TARGET_RATIO else "missed"
    return (
        f"A training step does {ours:.0f} images/s, {found['c']:.2f} times plain eager{compiled}; "
        f"the best way is {best} with {found[best]:.2f}, so that {TARGET_RATIO} is {verdict}."
    )


def _limit(figures: Mapping[str, Mapping[str, Any]]) -> str:
    if figures.get("0", {}).get("small"):
        return "What limits it cannot be seen at the small size either."
    step = figures.get("4", {}).get("c", {})
    speed = step.get("images_per_second")
    searched = figures.get("4f", {}).get("f", {}).get("images_per_second", speed)
    product = figures.get("7", {}).get("images_per_second")
    busy = figures.get("5", {}).get("gpu_busy_share")
    loader = figures.get("6", {})
    too_few = loader.get("too_few_workers")
    lost = {
        "photos come too slowly: the network waits for the loader"
        + (f" ({too_few})" if too_few else ""): loader.get("gpu_wait_share", 0.0),
        "the GPU waits for the host within a step (kernel launches, syncs)": 1 - (busy or 1.0),
        "the epoch around the steps (Lightning, counting, loader, validation)": (
            1 - max(product) / searched if product and searched else 0.0
        ),
    }
    reason = max(lost, key=lost.__getitem__)
    if lost[reason] > _WORTH_SAYING:
        return f"What limits it now: {reason}, {lost[reason]:.0%} of the time."
    if not speed:
        return "What limits it is not known: part 4 did not measure the step."
    whole = step["device_ms"]
    shares = ", ".join(f"{phase} {step[f'{phase}_ms'] / whole:.0%}" for phase in PHASES)
    return f"What limits it now is the step's own work: {shares}."

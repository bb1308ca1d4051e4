"""Seconds of each stage as a recorded run had them."""

from collections.abc import Sequence
from pathlib import Path

from sea_agent.config import RunConfig
from sea_agent.config.files import flat, load_tree, parse_config
from sea_agent.config.oracle import RemoteOracleConfig
from sea_agent.errors import UserError
from sea_agent.lab.records import read_json
from sea_agent.persistence.rounds import RoundMetrics, read_rows
from sea_agent.plan.planned import Costs, Planned

_FREE = (
    *("seed", "budget", "evaluation.every", "checkpoint.keep", "tracking", "deadline_seconds"),
    *("sampler.actors", "sampler.ahead", "learner.max_staleness"),
    *("imagination.rounds", "imagination.start", "imagination.max_kl"),
)
"""Keys in which a plan may differ from the recorded run: its stages take the same, or it is known how they change. How
much is imagined depends on the posterior, and is taken to be as there."""


def recorded(directory: Path, planned: Planned) -> Costs:
    """What the stages took in a run, in the mean over its rounds; the first round of a kind is left out.

    Raises:
        UserError: it is no run, has too few rounds, sampled ahead, so that sampling is hidden behind learning, or
            differs from what is ``planned`` in something that changes what a stage takes.
    """
    there = _config_of(directory)
    if there.sampler.ahead:
        raise UserError(
            f"--run {directory}: it sampled ahead, so that its stages say how long the run waited for samples and not "
            "what they took. Record a run with sampler.ahead=0"
        )
    theirs, ours = flat(there.model_dump(mode="json")), flat(planned.config.model_dump(mode="json"))
    free = (*_FREE, "oracle") if planned.machine.workers else _FREE
    other = {key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)}
    if other := {key for key in other if not any(key == one or key.startswith(f"{one}.") for one in free)}:
        raise UserError(f"--run {directory}: it has another {', '.join(sorted(other))}. Record a short run of CONFIG")
    if there.needs_posterior != planned.config.needs_posterior:
        raise UserError(f"--run {directory}: only one of it and CONFIG has a posterior. Record a short run of CONFIG")
    if not planned.machine.workers and isinstance(there.oracle, RemoteOracleConfig) and not there.oracle.wait:
        raise UserError(
            f"--run {directory}: it did not wait for answers, so that nothing tells what they take. Give people or "
            "judge in --machine"
        )
    rows = read_rows(directory / "metrics.jsonl")
    asked = [row for row in rows if row.round and not row.is_imagined]
    imagined = [row for row in rows if row.is_imagined]
    if len(asked) < 3:
        raise UserError(f"--run {directory}: {len(asked)} rounds that asked; a plan needs 3 or more")
    if planned.config.imagination.rounds and len(imagined) < 2:
        raise UserError(
            f"--run {directory}: nothing was imagined there, and CONFIG has imagination.rounds above 0. Record a run "
            "that is long enough for its posterior to be trusted"
        )
    evaluations = [row.seconds["evaluate"].wall for row in rows if "evaluate" in row.seconds]
    spent = sum(seconds.wall for row in rows for seconds in row.seconds.values())
    allowed = there.imagination.rounds * sum(row.oracle_queries >= there.imagination.start for row in asked)
    return Costs(
        asked=_means(asked[1:]),
        imagined=_means(imagined[1:]) if imagined else {},
        evaluation=sum(evaluations) / len(evaluations) if evaluations else 0.0,
        once=max(_wall_seconds(directory, spent) - spent, 0.0),
        actors=there.sampler.actors,
        imagined_share=len(imagined) / allowed if allowed else 1.0,
        source="recorded",
    )


def _means(rows: Sequence[RoundMetrics]) -> dict[str, float]:
    stages = {stage for row in rows for stage in row.seconds} - {"evaluate"}
    return {
        stage: sum(row.seconds[stage].wall for row in rows if stage in row.seconds) / len(rows)
        for stage in sorted(stages)
    }


def _config_of(directory: Path) -> RunConfig:
    file = directory / "config.yaml"
    if not file.is_file():
        raise UserError(f"--run {directory}: not the directory of a run: there is no config.yaml")
    return parse_config(load_tree(str(file)), str(file))


def _wall_seconds(directory: Path, otherwise: float) -> float:
    """Of the whole run; ``otherwise`` where it has not ended."""
    file = directory / "summary.json"
    if not file.exists():
        return otherwise
    seconds = read_json(file).get("wall_seconds")
    if not isinstance(seconds, (int, float)):
        raise UserError(f"{file}: not the summary of a run; there are no wall_seconds")
    return float(seconds)

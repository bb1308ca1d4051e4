"""The command ``sea-agent plan``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sea_agent.config.files import load_config
from sea_agent.config.world_settings import parameters
from sea_agent.doctor import INSTALL_AGENT, missing
from sea_agent.errors import UserError
from sea_agent.plan.estimate import Estimate, estimate, layouts, memory
from sea_agent.plan.machine import Shape, load_machine
from sea_agent.plan.modelled import modelled
from sea_agent.plan.planned import Costs, Planned
from sea_agent.plan.recorded import recorded
from sea_agent.terminal import announce, console

_BYTES_IN_CHECKPOINT = 12  # of a weight that is trained: itself and AdamW's two moments, in float32
_LACK = ", which is more than there is"
_GUESS = "Stages without a recorded run are guesses by operations, bytes and latencies: docs/plan.md."


def plan(
    source: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file or the name of a preset.")],
    machine: Annotated[
        Path, typer.Option("--machine", metavar="FILE", help="YAML file: GPUs, prices, who answers (docs/plan.md).")
    ],
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="A short run of CONFIG, whose stages are then taken.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a configuration key.")
    ] = None,
) -> None:
    """Foretell hours, money, memory and the bottleneck of a run of CONFIG."""
    if missing("agent"):
        raise UserError(f"plan reads the policy's configuration: {INSTALL_AGENT}")
    config, there = load_config(source, overrides or []), load_machine(machine)
    shape = there.policy or (_shape_of(config.policy.path) if run is None else None)
    planned = Planned(config, there, shape)
    costs = modelled(planned) if run is None else recorded(run, planned)
    foretold = estimate(planned, costs)
    console.print(_stages(costs))
    console.print(_outcome(planned, foretold))
    if costs.source == "recorded":
        return
    announce(_GUESS)
    table = Table("settings", "GPUs", "hours", "$", title="Layouts that no other beats in both", title_justify="left")
    for settings, one in layouts(planned):
        table.add_row(" ".join(settings), f"{one.gpus:g}", f"{one.hours[0]:.3g}", f"{sum(one.dollars):,.0f}")
    if table.row_count:
        console.print(table)


def _shape_of(path: str) -> Shape:
    from sea_agent.pretrained import model_config
    from sea_agent.worlds import resolve

    weights = parameters(resolve(path))
    if weights is None:
        raise UserError(f"plan: policy.path={path} has no weights here that tell its size; give policy in --machine")
    model = model_config(path).get_text_config()
    return Shape(weights=weights, layers=model.num_hidden_layers, width=model.hidden_size, vocabulary=model.vocab_size)


def _stages(costs: Costs) -> Table:
    table = Table("stage", "asking round, s", "imagined, s", title=f"Stages ({costs.source})", title_justify="left")
    for stage in dict.fromkeys([*costs.asked, *costs.imagined]):
        table.add_row(stage, *(f"{kind[stage]:.3g}" if stage in kind else "" for kind in (costs.asked, costs.imagined)))
    return table


def _outcome(planned: Planned, foretold: Estimate) -> Table:
    config, there = planned.config, planned.machine
    table = Table(show_header=False, title=f"{config.budget.limit} answers", title_justify="left")
    middle, low, high = foretold.hours
    table.add_row("hours", f"{middle:.3g} [{low:.3g}, {high:.3g}]")
    table.add_row("rounds", f"{foretold.played.rounds}")
    for part, share in sorted(foretold.shares.items(), key=lambda one: -one[1]):
        table.add_row(f"{part} at work", f"{share:.0%}")
    table.add_row("the most at work", foretold.bottleneck)
    table.add_row("the loop waits for answers", f"{foretold.played.waited / foretold.played.wall:.0%}")
    table.add_row("duels open after a round", f"{foretold.played.open_duels:.0f}")
    lack = _LACK if foretold.gpus > there.gpus * there.nodes else ""
    table.add_row("GPUs", f"{foretold.gpus:g}{lack}")
    table.add_row("$ for GPUs and for answers", " and ".join(f"{amount:,.0f}" for amount in foretold.dollars))
    for one in memory(planned):
        lack = "" if there.gpu is None or one.fits(there.gpu) else _LACK
        table.add_row(f"memory of a GPU: {one.part}", f"{one.bytes / 1e9:.1f} GB{lack}")
    if planned.shape is not None and config.learner.lora is None:
        kept = config.checkpoint.keep + config.checkpoint.keep_best
        table.add_row("disk for checkpoints", f"{planned.shape.weights * _BYTES_IN_CHECKPOINT * kept / 1e9:.3g} GB")
    return table

"""The command line; `sea-agent --help` lists the commands."""

import json
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sea_agent.config.files import describe_keys, load_config
from sea_agent.doctor import INSTALL_AGENT, missing
from sea_agent.errors import RunFailure, UserError
from sea_agent.live.command import live
from sea_agent.plan.command import plan
from sea_agent.terminal import announce, closing_table, complain, console, samples_table, watched

if TYPE_CHECKING:
    from sea_agent.run.session import Watch

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Online alignment of language models from few preference labels.",
)
world = typer.Typer(no_args_is_help=True, help="The built-in worlds.")
app.add_typer(world, name="world")
ServiceUrl = Annotated[
    str, typer.Option(metavar="URL", help="Address of the feedback service; SEA_AGENT_KEY holds a key for it.")
]
LOCAL_SERVICE = "http://127.0.0.1:8400"

duels = typer.Typer(no_args_is_help=True, help="Duels in a running feedback service.")
app.add_typer(duels, name="duels")
app.command()(plan)
app.command()(live)

Source = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file or the name of a preset.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a configuration key, e.g. learner.beta=0.2."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Output directory of the run; new or empty.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished run.")]
Count = Annotated[int, typer.Option(min=1, help="Number of prompts.")]


class Labels(StrEnum):
    """Which labels of a run to export."""

    ORACLE = "oracle"
    POSTERIOR = "posterior"
    ALL = "all"


class Erasable(StrEnum):
    """What can be erased on a feedback service."""

    PERSON = "person"
    QUERY = "query"
    RUN = "run"


@app.command("run")
def run_command(
    source: Source,
    out: Out,
    overrides: Overrides = None,
    resuming: Annotated[
        bool, typer.Option("--resume", help="Resume the run in DIR if it has this CONFIG; otherwise start it.")
    ] = False,
) -> None:
    """Align a policy with the configuration CONFIG."""
    _require_agent()
    from sea_agent.run import lifecycle
    from sea_agent.run.resumption import finished, holds

    config = load_config(source, overrides or [])
    if not (resuming and holds(out, config)):
        _follow(partial(lifecycle.run, config, out), out, config.selection.rule, config.budget.limit)
    elif (summary := finished(config.budget, out)) is not None:
        console.print(closing_table(summary))
    else:
        _follow(partial(lifecycle.resume, config, out, None), out, out.name, config.budget.limit)


@app.command()
def resume(
    out: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a stopped, killed or failed run.")],
    checkpoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="Resume from this checkpoint instead of the newest.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Resume an interrupted run without asking the oracle again."""
    _require_agent()
    from sea_agent.run import lifecycle
    from sea_agent.run.resumption import resumed_config

    config = resumed_config(out, overrides or [])
    _follow(partial(lifecycle.resume, config, out, checkpoint), out, out.name, config.budget.limit)


@app.command()
def submit(
    source: Source,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Absolute path of the run on the cluster.")],
    address: Annotated[
        str,
        typer.Option(
            metavar="URL", envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"], help="Address of the Ray dashboard."
        ),
    ] = "http://127.0.0.1:8265",
    overrides: Overrides = None,
    working_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory to upload, without the files that git ignores.")
    ] = Path(),
    names: Annotated[
        list[str] | None, typer.Option("--env", metavar="NAME", help="Environment variable to pass to the job.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Follow the job to its end and exit with its code.")] = True,
) -> None:
    """Run CONFIG as a job on a Ray cluster; the same command again resumes it."""
    _require_agent()
    from sea_agent.jobs.submit import Cluster, prepare

    prepared = prepare(source, out, overrides or [], working_dir, names or [])
    cluster = Cluster(address)
    announce(prepared.packing.describe())
    job = cluster.submit(prepared)
    announce(f"job {job} submitted\n{cluster.hints(job)}")
    if not wait:
        return
    try:
        code = cluster.follow(job, partial(print, end="", flush=True))
    except KeyboardInterrupt:
        complain(f"no longer watching; job {job} continues\n{cluster.hints(job)}", style="yellow")
        code = 130
    raise typer.Exit(code)


@app.command()
def demo(out: Out = Path("runs/demo"), overrides: Overrides = None) -> None:
    """Align a policy on real English with three methods, and show how many labels each needed."""
    _require_agent()
    from sea_agent.lab.comparison import compare as compare_runs
    from sea_agent.lab.demo import ARMS, LEVEL, WORLD, needed
    from sea_agent.lab.figures import draw_runs
    from sea_agent.lab.reading import read_run
    from sea_agent.lab.tables import terminal_tables
    from sea_agent.run import lifecycle
    from sea_agent.run.inspection import sample_run
    from sea_agent.run.resumption import require_unused

    configs = {arm: load_config(arm.preset, [*WORLD, *arm.settings, *(overrides or [])]) for arm in ARMS}
    for arm, config in configs.items():
        require_unused(out / arm.name)
        if config.evaluation.prompts_path is None:
            raise UserError("demo: the comparison needs evaluation.prompts_path; do not set it to null")
    for arm, config in configs.items():
        console.rule(arm.title)
        directory = out / arm.name
        _follow(partial(lifecycle.run, config, directory), directory, arm.name, config.budget.limit)
    records = [read_run(out / arm.name, arm.name) for arm in ARMS]
    figure = out / "figures" / "win_rate.png"
    draw_runs(records, figure)
    for table in terminal_tables(compare_runs(records, level=LEVEL, baseline=ARMS[0].name)):
        console.print(table)
    console.print(samples_table(sample_run(out / ARMS[-1].name, 5)))
    for arm, record in zip(ARMS, records, strict=True):
        console.print(f"Labels to a win rate of {LEVEL:g}: [bold]{needed(record)}[/bold] with {arm.title} (one seed)")
    console.print(f"Curves: {figure}. More responses: sea-agent sample {out / ARMS[-1].name}")


@app.command()
def check(
    source: Annotated[str | None, typer.Argument(metavar="[CONFIG]")] = None,
    overrides: Overrides = None,
    keys: Annotated[bool, typer.Option("--keys", help="List every configuration key with its meaning.")] = False,
    foretell: Annotated[
        bool,
        typer.Option("--foretell", help="Train a posterior on half of the imported preferences, and ask it the rest."),
    ] = False,
) -> None:
    """Check a configuration and its inputs without starting a run; loads the models that it names."""
    if keys:
        table = Table("key", "default", "meaning")
        for row in describe_keys():
            table.add_row(*row)
        console.print(table)
        return
    if source is None:
        raise UserError("check: give a CONFIG, or --keys")
    config = load_config(source, overrides or [])
    if missing("agent"):
        console.print(f"{source}: a valid configuration. To check its inputs too: {INSTALL_AGENT}", markup=False)
        return
    from actors.placement import describe
    from actors.samplers import try_sampler
    from sea_agent.run.preflight import check as preflight

    inputs = preflight(config)
    if inputs.compute.ray_address is None:
        try_sampler(config.policy, config.sampler, config.device)
    console.print(f"{source}: valid. {inputs.told_prompts}, oracle {inputs.oracle.name}.")
    for line in describe([*inputs.needs, *inputs.engines]):
        console.print(line, markup=False, highlight=False)
    if inputs.imported is not None:
        count, skipped = len(inputs.imported.duels), inputs.imported.skipped
        console.print(f"{count} imported preferences; {skipped} skipped, because both responses are identical.")
    if foretell:
        from sea_agent.run import learnable

        console.print(str(learnable.foretell(inputs.make_selector(), inputs.imported)), markup=False)


@app.command()
def experiment(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="YAML file: worlds, losses, methods and seeds.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Directory of the experiment; the same command resumes it.")
    ],
    jobs: Annotated[int | None, typer.Option(min=1, help="Concurrent runs; default: the number of cores.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Execute the runs as tasks on this Ray cluster.")] = None,
) -> None:
    """Run every unfinished combination of world, loss, method and seed in SPEC."""
    _require_agent()
    from sea_agent.lab.experiment import Status, run_experiment

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs done, {task.fields[running]} running, {task.fields[failed]} failed"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(spec.stem, visible=False, running=0, failed=0)

        def on_change(status: Status) -> None:
            progress.update(task, visible=True, total=status.total, completed=status.done)
            progress.update(task, running=status.running, failed=len(status.failed))

        status = run_experiment(spec, out, jobs=jobs, ray_address=ray_address, on_change=on_change)
    if status.failed:
        failures = "\n".join(f"  {out / cell}: {reason}" for cell, reason in status.failed.items())
        raise RunFailure(
            f"{len(status.failed)} of {status.total} runs failed; see error.txt in their directories\n{failures}"
            "\nFix the cause and repeat the command: finished runs are kept."
        )
    console.print(f"{status.done} runs in {out}. To compare them: sea-agent compare {out}")


@app.command()
def compare(
    sources: Annotated[
        list[Path], typer.Argument(metavar="DIR_OR_JSON...", help="Experiments, runs or records.json files.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Directory for tables, records and figures.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Baseline of the label savings; default: passive, if there is one.")
    ] = None,
    level: Annotated[float, typer.Option(min=0.0, max=1.0, help="Target win rate.")] = 0.8,
    max_kl: Annotated[
        float | None, typer.Option(min=0.0, help="A win rate counts only at this many nats per response, or fewer.")
    ] = None,
    min_distinct: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="… and at this share of prompts with two distinct samples.")
    ] = None,
    min_judge: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="… and at this win rate by the judge, or more.")
    ] = None,
    horizon: Annotated[
        int | None,
        typer.Option(min=1, help="Oracle queries over which to average the win rate; default: the shortest run's."),
    ] = None,
) -> None:
    """Compare methods: queries to a target win rate, labels saved and resources used, with intervals over seeds."""
    from sea_agent.lab.comparison import compare as compare_runs
    from sea_agent.lab.figures import draw_comparison
    from sea_agent.lab.reading import load_records
    from sea_agent.lab.records import Bounds, write_records
    from sea_agent.lab.tables import terminal_tables, write_csv, write_json

    loaded = load_records(sources)
    for problem in loaded.problems:
        complain(f"skipped: {problem}", style="yellow")
    bounds = Bounds(max_kl, min_distinct, min_judge)
    comparison = compare_runs(loaded.records, level=level, bounds=bounds, baseline=baseline, horizon=horizon)
    for table in terminal_tables(comparison):
        console.print(table)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {out}: cannot be created ({error.strerror}); choose another directory") from None
        write_csv(comparison, out / "comparison.csv")
        write_json(comparison, out / "comparison.json")
        write_records(loaded.records, out / "records.json")
        draw_comparison(comparison, loaded.records, out / "figures")
        console.print(f"Tables, records and figures: {out}")


@app.command("eval")
def eval_command(run: Run, overrides: Overrides = None) -> None:
    """Evaluate the policy of a finished run against the reference again."""
    _require_agent()
    from sea_agent.run.inspection import evaluate_run

    console.print_json(json.dumps(evaluate_run(run, overrides or [])))


@app.command()
def sample(run: Run, prompts: Count = 5) -> None:
    """Show responses before and after training, side by side."""
    _require_agent()
    from sea_agent.run.inspection import sample_run

    console.print(samples_table(sample_run(run, prompts)))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run, finished or not.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The .jsonl or .parquet file to write.")],
    source: Annotated[Labels, typer.Option(help="Labels to export; all includes imported ones.")] = Labels.ORACLE,
) -> None:
    """Export a run's preferences in the format of TRL and datasets."""
    _require_agent()
    from sea_agent.data.export import export_run
    from sea_agent.types import LabelSource

    sources = list(LabelSource) if source is Labels.ALL else [LabelSource(source.value)]
    done = export_run(run, out, sources)
    console.print(f"{out}: {done.preferences} preferences; {done.undecided} answers without a winner skipped.")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8400,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="sqlite:///FILE or postgresql://…; default: an SQLite file in --data."),
    ] = None,
    data: Annotated[Path, typer.Option(metavar="DIR", help="Directory of the database.")] = Path("sea-agent-data"),
    runs: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also serve a dashboard of the runs in DIR, to keys with read access."),
    ] = None,
    root_path: Annotated[
        str, typer.Option(metavar="PATH", help="Path of the host below which a proxy shows everything: /feedback.")
    ] = "",
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address or network of a proxy on another machine, whose X-Forwarded-Proto is believed. Repeatable.",
        ),
    ] = None,
    live: Annotated[Path | None, typer.Option(metavar="FILE", help="Also be the gateway of live mode.")] = None,
) -> None:
    """Run the feedback service, where people and judges answer duels."""
    from sea_agent.service.chat.settings import read_live_settings
    from sea_agent.service.serve import serve as run_service
    from sea_agent.service.settings import Settings
    from sea_agent.web.listening import proxy_network
    from sea_agent.web.subpath import sub_path

    settings = Settings(
        data=data,
        database=database,
        host=host,
        port=port,
        root_path=sub_path(root_path),
        proxies=tuple(map(proxy_network, proxy or ())),
        runs=runs,
        live=None if live is None else read_live_settings(live),
    )
    run_service(settings, announce)


@duels.command("import")
def duels_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .jsonl, .json or .csv file of duels.")],
    run: Annotated[str, typer.Option(metavar="RUN", help="The run in the service that gets them.")],
    service: ServiceUrl = LOCAL_SERVICE,
    make: Annotated[bool, typer.Option("--make", help="Make the run if it is missing.")] = False,
    gold: Annotated[bool, typer.Option("--gold", help="The chosen response is the right answer to each duel.")] = False,
) -> None:
    """Have the duels of a file answered by the people and judges of a feedback service."""
    from sea_agent.service.client import import_duels

    announce(import_duels(file, run, service, make=make, gold=gold))


@app.command()
def erase(
    kind: Annotated[Erasable, typer.Argument(metavar="person|query|run", help="What to erase.")],
    name: Annotated[str, typer.Argument(metavar="NAME_OR_ID", help="Name of the person; id of the query or the run.")],
    service: ServiceUrl = LOCAL_SERVICE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")] = False,
) -> None:
    """Erase a person, or the texts of a query or run, on a feedback service."""
    from sea_agent.service.client import erase as erase_there

    if not yes:
        typer.confirm(f"Erase {kind} {name} on {service}? It cannot be undone.", abort=True)
    announce(erase_there(service, kind, name))


@app.command()
def dashboard(
    runs: Annotated[Path, typer.Argument(metavar="RUNS_DIR", help="Directory of runs and experiments.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8401,
) -> None:
    """Serve a read-only page of live and finished runs: labels saved, win rates, duels."""
    from sea_agent.dashboard.app import serve as show

    show(runs, host, port, announce)


@app.command()
def doctor(
    address: Annotated[str | None, typer.Option(help="Also check the Ray cluster at this address.")] = None,
) -> None:
    """Report what this machine provides and what is missing."""
    from sea_agent.doctor import diagnose

    table = Table("part", "", "found", "remedy")
    if address is not None:
        _require_agent()
    findings = diagnose(address)
    for finding in findings:
        mark = "[green]ok[/green]" if finding.ok else "[red]no[/red]"
        table.add_row(finding.name, mark, Text(finding.detail), Text(finding.remedy))
    console.print(table)


@world.command("make")
def world_make(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Output directory.")],
    name: Annotated[str, typer.Option(help="Name of the world.")] = "lexicon",
    seed: Annotated[int, typer.Option(min=0, help="Seed of data and training.")] = 0,
    packages: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory of the packages that the world reviews is made from.")
    ] = Path(),
) -> None:
    """Generate the files of a built-in world, such as its prompts and its policy."""
    _require_agent()
    from sea_agent.worlds.make import make_world

    make_world(name, out, seed=seed, packages=packages)
    console.print(f"World {name} written to {out}.")


def main() -> NoReturn:
    """Entry point. Exit codes: 0 done, 1 failure, 2 bad input; typer handles usage errors and Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except UserError as error:
        complain(error)
        sys.exit(2)
    except RunFailure as error:
        complain(error)
        sys.exit(1)
    sys.exit(0)


def _require_agent() -> None:
    """Refuse a command that needs the extra ``agent`` if it is not installed."""
    if lacking := missing("agent"):
        raise UserError(f"this command needs packages that are not installed ({', '.join(lacking)}): {INSTALL_AGENT}")


def _follow(act: Callable[["Watch"], dict[str, Any]], out: Path, label: str, budget: int) -> None:
    """Run or resume what ``out`` will hold while its progress is shown, then show its figures."""
    from sea_agent.lab.figures import draw_runs
    from sea_agent.lab.reading import read_run

    with watched(out, label, budget) as watch:
        summary = act(watch)
    if summary["win_rate"] is not None or summary["judge_win_rate"] is not None:
        draw_runs([read_run(out, label)], out / "figures" / "win_rate.png")
    console.print(closing_table(summary))


if __name__ == "__main__":
    main()

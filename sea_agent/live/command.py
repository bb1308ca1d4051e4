"""The command ``sea-agent live``."""

from pathlib import Path
from typing import Annotated

import typer

from sea_agent.doctor import INSTALL_AGENT, missing
from sea_agent.errors import UserError
from sea_agent.terminal import announce


def live(
    source: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="A YAML file or the name of a preset; not with --resume.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory of live mode; new or empty.")] = Path(
        "live"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8400,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="sqlite:///FILE or postgresql://…; default: an SQLite file in --out."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a configuration key.")
    ] = None,
    users: Annotated[
        int, typer.Option(min=0, help="Also start so many simulated users; for policies of a built-in world.")
    ] = 0,
) -> None:
    """Serve a policy at an OpenAI-compatible endpoint and learn from its users' choices."""
    if missing("agent"):
        raise UserError(f"live mode samples and trains a policy: {INSTALL_AGENT}")
    from sea_agent.live.launch import Launch, Place, live_config

    config = live_config(source, out, overrides or [], resume)
    Launch(config, Place(out.resolve(), host, port, database), announce, users).run()

"""The command ``sea-agent live``."""

from pathlib import Path
from typing import Annotated

import typer

from sea_agent.doctor import INSTALL_AGENT, missing
from sea_agent.errors import UserError
from sea_agent.terminal import announce


def live(
    source: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="A YAML file or the name of a preset; --resume has it.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory of live mode; new or empty.")] = Path(
        "live"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what is in --out; with CONFIG, begin if nothing is there yet.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8400,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="sqlite:///FILE or postgresql://…; default: an SQLite file in --out."),
    ] = None,
    root_path: Annotated[
        str, typer.Option(metavar="PATH", help="Path of the host below which a proxy shows everything: /assistant.")
    ] = "",
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address or network of a proxy on another machine, whose X-Forwarded-Proto is believed. Repeatable.",
        ),
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
    from sea_agent.web.listening import proxy_network
    from sea_agent.web.subpath import sub_path

    proxies = tuple(map(proxy_network, proxy or ()))
    place = Place(out.resolve(), host, port, database, sub_path(root_path), proxies)
    Launch(live_config(source, out, overrides or [], resume), place, announce, users).run()

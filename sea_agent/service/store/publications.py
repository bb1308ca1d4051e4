"""Weights that were published, and which of them serve.

A publication is ``offered``, perhaps tried as ``canary`` on the last engine, and goes ``live`` or is ``rejected``. One
is live at a time; the one before is ``retired`` then. A live one that is taken back is ``withdrawn``, and the newest
retired one goes live again. Operators may let any go live whose weights are still there.
"""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from sea_agent.service.store import live_runs as live
from sea_agent.service.store.faults import Conflict, found
from sea_agent.service.store.live_tables import live_runs, publications

Values = dict[str, Any]

_NEXT = {"offered": ("canary", "live", "rejected"), "canary": ("live", "rejected"), "live": ("withdrawn",)}
"""What the agent may make of a publication, by its state."""
_SERVING = ("canary", "live")
_SUPERSEDED = "another publication came before it was decided"


@dataclass(frozen=True, slots=True)
class Status:
    """Which versions of a run serve, and who may change that."""

    run: str
    live: int | None
    canary: int | None
    frozen: bool
    forced: int | None
    erasures: int


def offer(connection: Connection, run: str, given: Values, now: float) -> tuple[Row, bool]:
    """Publish weights, and whether they are new: the same checksum and round again have the version they had.

    Raises:
        Missing: for a run that is not live.
    """
    live.get(connection, run)
    of_run = publications.c.run == run
    same = (publications.c.checksum == given["checksum"], publications.c.round == given["round"])
    before = connection.execute(select(publications).where(of_run, *same)).first()
    if before is not None:
        return before, False
    row = given | {"run": run, "state": "offered", "reason": "", "report": "{}", "created_at": now}
    return connection.execute(insert(publications).values(row).returning(*publications.c)).one(), True


def change(connection: Connection, run: str, version: int, given: Values, now: float) -> Row:
    """Let the agent decide on a publication: its ``state``, ``reason`` and ``report``, or that its weights are
    ``deleted``. Saying again what holds changes nothing.

    Raises:
        Missing: for an unknown run or version.
        Conflict: for a state that may not follow, or one that serves while the run is frozen.
    """
    row = get(connection, run, version)
    state = given.get("state") or row.state
    if state != row.state:
        _require_next(connection, run, row, state)
        if state == "withdrawn":
            _fall_back(connection, run, row, "", now)
        else:
            _set(connection, run, row, state, now)
    told = {name: given[name] for name in ("reason", "report") if given.get(name) is not None}
    if "report" in told:
        told["report"] = json.dumps(told["report"])
    if given.get("deleted"):
        if state in ("offered", *_SERVING):
            raise Conflict(f"Version {version} is {state}: it needs its weights.")
        told["path"] = ""
    if told:
        connection.execute(update(publications).where(publications.c.version == version).values(told))
    return get(connection, run, version)


def promote(connection: Connection, run: str, version: int, now: float) -> None:
    """Let any version go live, frozen or not. It is ``forced`` until another goes live. A canary is over then, also
    where the version was live all along.

    Raises:
        Missing: for an unknown run or version.
        Conflict: for a version whose weights are gone.
    """
    row = get(connection, run, version)
    _require_weights(row)
    if row.state == "live":
        _end(connection, run, "canary", "rejected", version, now, _SUPERSEDED)
    else:
        _set(connection, run, row, "live", now)
        _say(connection, version, "an operator let it go live")
    _force(connection, run, version)


def rollback(connection: Connection, run: str, now: float) -> None:
    """Take back what is live; what was live before goes live again, frozen or not.

    Raises:
        Missing: for an unknown run.
        Conflict: when nothing is live, or nothing was before whose weights are still there.
    """
    live.get(connection, run)
    of_run = (publications.c.run == run, publications.c.state == "live")
    row = connection.execute(select(publications).where(*of_run)).first()
    if row is None:
        raise Conflict(f"Nothing is live in run {run} that could be taken back.")
    _fall_back(connection, run, row, "an operator took it back", now)


def freeze(connection: Connection, run: str, frozen: bool) -> None:
    """Let nothing go live but by operators, or let it again. Raises: Missing."""
    live.get(connection, run)
    connection.execute(update(live_runs).where(live_runs.c.run == run).values(frozen=frozen))


def get(connection: Connection, run: str, version: int) -> Row:
    """One publication. Raises: Missing."""
    live.get(connection, run)
    wanted = select(publications).where(publications.c.run == run, publications.c.version == version)
    return found(connection.execute(wanted).first(), f"version {version} in run {run}")


def listed(connection: Connection, run: str, before: int | None, limit: int) -> list[Row]:
    """The newest publications, or those before a version. Raises: Missing for a run that is not live."""
    live.get(connection, run)
    older = () if before is None else (publications.c.version < before,)
    newest = select(publications).where(publications.c.run == run, *older).order_by(publications.c.version.desc())
    return list(connection.execute(newest.limit(limit)))


def serving(connection: Connection, run: str) -> dict[str, Row]:
    """The publications that are to serve, by their state: ``live`` and perhaps ``canary``."""
    theirs = (publications.c.run == run, publications.c.state.in_(_SERVING))
    return {row.state: row for row in connection.execute(select(publications).where(*theirs))}


def initial(connection: Connection, run: str) -> frozenset[int]:
    """The versions that are the initial policy: the one that engines begin with, and what was published of it."""
    before_rounds = (publications.c.run == run, publications.c.round == 0)
    return frozenset({0, *connection.execute(select(publications.c.version).where(*before_rounds)).scalars()})


def status(connection: Connection, run: str) -> Status:
    """What serves in a run. Raises: Missing for a run that is not live."""
    row, theirs = live.get(connection, run), serving(connection, run)
    versions = {state: theirs[state].version if state in theirs else None for state in _SERVING}
    return Status(run, versions["live"], versions["canary"], row.frozen, row.forced, row.erasures)


def _require_next(connection: Connection, run: str, row: Row, state: str) -> None:
    if state not in _NEXT.get(row.state, ()):
        raise Conflict(f"Version {row.version} is {row.state} and cannot be {state} next.")
    if state in _SERVING and live.get(connection, run).frozen:
        raise Conflict(f"Run {run} is frozen: only an operator lets anything go live.")


def _require_weights(row: Row) -> None:
    if not row.path:
        raise Conflict(f"The weights of version {row.version} are gone from the disk.")


def _set(connection: Connection, run: str, row: Row, state: str, now: float) -> None:
    """Give a publication its state. What it takes the place of ends first: one is live, and one a canary."""
    if state in _SERVING:
        _end(connection, run, "canary", "rejected", row.version, now, _SUPERSEDED)
    if state == "live":
        _end(connection, run, "live", "retired", row.version, now)
        _force(connection, run, None)
    changed = {"state": state, "decided_at": now}
    connection.execute(update(publications).where(publications.c.version == row.version).values(changed))


def _end(connection: Connection, run: str, state: str, after: str, but: int, now: float, reason: str = "") -> None:
    others = (publications.c.run == run, publications.c.state == state, publications.c.version != but)
    changed = {"state": after, "decided_at": now} | ({"reason": reason} if reason else {})
    connection.execute(update(publications).where(*others).values(changed))


def _fall_back(connection: Connection, run: str, row: Row, reason: str, now: float) -> None:
    """Withdraw what is live, and let what was live last before it serve again."""
    retired = (publications.c.run == run, publications.c.state == "retired", publications.c.path != "")
    newest = (publications.c.decided_at.desc(), publications.c.version.desc())
    before = connection.execute(select(publications).where(*retired).order_by(*newest).limit(1)).first()
    if before is None:
        raise Conflict(f"Nothing was live before version {row.version} whose weights are still there.")
    _set(connection, run, row, "withdrawn", now)
    if reason:
        _say(connection, row.version, reason)
    _set(connection, run, before, "live", now)


def _say(connection: Connection, version: int, reason: str) -> None:
    connection.execute(update(publications).where(publications.c.version == version).values(reason=reason))


def _force(connection: Connection, run: str, version: int | None) -> None:
    connection.execute(update(live_runs).where(live_runs.c.run == run).values(forced=version))

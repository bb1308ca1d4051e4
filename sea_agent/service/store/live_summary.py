"""What happened to the requests of a live run since a time, counted by the database.

It looks at the requests of that time alone, and reads none of their texts.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, false, func, select

from sea_agent.service.store.feedback import IS_CURRENT, NOBODY
from sea_agent.service.store.live_tables import PUBLICATION_STATES, completions, feedback, publications
from sea_agent.service.store.tables import OUTCOMES, labels, own_answer

Values = dict[str, Any]

MOST_LATENCIES = 10_000
MOST_USERS = 10
_OTHER_SIDE = {"first": "second", "second": "first"}
_NORMAL = 1.959964
"""Standard errors on each side of a mean that hold 95 %."""

_FIRST_TOKEN = completions.c.first_token_at - completions.c.created_at
_ASKED = completions.c.asked.is_not(None)
_FAILED = completions.c.state == "failed"
_CURRENT = and_(feedback.c.completion_id == completions.c.id, IS_CURRENT)
_CHOICE = and_(_CURRENT, feedback.c.kind == "choice")
# Of a choice, the entry of the label log that it made first: corrections have its order and its lateness.
_VOTE = and_(*own_answer(completions.c.query_id, func.coalesce(completions.c.user_hash, NOBODY)))


@dataclass(slots=True)
class Choices:
    """Answers of users: by outcome in the order shown, how many were late, and what audits said."""

    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    late: int = 0
    wins: int = 0
    losses: int = 0
    ties: int = 0

    @property
    def answered(self) -> int:
        """How many there are."""
        return sum(self.outcomes.values())


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its interval."""

    n: int
    mean: float | None
    low: float | None
    high: float | None


def counts(connection: Connection, run: str, since: float) -> Values:
    """Requests of a run since a time, in one pass: how many, what became of them, their tokens and their regret."""
    regret = completions.c.regret
    one_pass = select(
        func.count().label("requests"),
        func.count().filter(_FAILED).label("failed"),
        func.count().filter(completions.c.state == "begun").label("unfinished"),
        func.count().filter(completions.c.eligible).label("eligible"),
        func.count().filter(_ASKED).label("asked"),
        func.count().filter(completions.c.asked == "audit").label("audits"),
        func.count(completions.c.user_hash.distinct()).label("users"),
        func.coalesce(func.sum(completions.c.prompt_tokens), 0).label("prompt_tokens"),
        func.coalesce(func.sum(completions.c.completion_tokens), 0).label("completion_tokens"),
        func.count(regret).label("regrets"),
        func.avg(regret).label("regret"),
        func.avg(regret * regret).label("regret_squared"),
    ).where(*_since(run, since))
    row = connection.execute(one_pass).one()._asdict()
    return row | {"regret": mean(row.pop("regrets"), row.pop("regret"), row.pop("regret_squared"))}


def choices(connection: Connection, run: str, since: float) -> Choices:
    """The answers to requests since a time, corrections applied. Audits of the initial policy, which was shown beside
    itself while it was live, tell nothing and are no wins, losses or ties."""
    of_initial = func.coalesce(publications.c.round == 0, false()).label("of_initial")
    grouped = (completions.c.asked, feedback.c.value, labels.c.swapped, labels.c.late, of_initial)
    counted = (
        select(*grouped, func.count().label("n"))
        .select_from(completions)
        .join(feedback, _CHOICE)
        .join(labels, _VOTE)
        .outerjoin(publications, publications.c.version == completions.c.policy_version)
        .where(*_since(run, since), _ASKED)
        .group_by(*grouped)
    )
    found = Choices()
    for row in connection.execute(counted):
        _count(found, row)
    return found


def others(connection: Connection, run: str, since: float) -> dict[str, int]:
    """Feedback of other kinds on requests since a time: thumbs up and down, edits, and what was used."""
    grouped = (feedback.c.kind, feedback.c.value)
    is_flag = feedback.c.kind.in_(("thumbs", "used"))
    flags = (
        select(*grouped, func.count().label("n"))
        .select_from(completions)
        .join(feedback, and_(_CURRENT, is_flag))
        .where(*_since(run, since))
        .group_by(*grouped)
    )
    edits = select(func.count()).select_from(completions).join(feedback, and_(_CURRENT, feedback.c.kind == "edit"))
    said = {(row.kind, next(iter(json.loads(row.value).values()))): row.n for row in connection.execute(flags)}
    return {
        "thumbs_up": said.get(("thumbs", True), 0),
        "thumbs_down": said.get(("thumbs", False), 0),
        "used": said.get(("used", True), 0),
        "edits": connection.execute(edits.where(*_since(run, since))).scalar_one(),
    }


def users(connection: Connection, run: str, since: float) -> tuple[int, list[tuple[str, int]]]:
    """How many users answered, and who answered most, with how many answers."""
    answers = func.count().label("answers")
    by_user = (
        select(completions.c.user_hash, answers)
        .join(feedback, _CHOICE)
        .where(*_since(run, since), _ASKED, completions.c.user_hash.is_not(None))
        .group_by(completions.c.user_hash)
    )
    counted = by_user.subquery()
    total = connection.execute(select(func.count()).select_from(counted)).scalar_one()
    most = by_user.order_by(answers.desc(), completions.c.user_hash).limit(MOST_USERS)
    return total, [(row.user_hash, row.answers) for row in connection.execute(most)]


def latencies(connection: Connection, run: str, since: float) -> list[float]:
    """Seconds until the first token of the newest requests since a time."""
    newest = select(_FIRST_TOKEN).where(*_since(run, since), completions.c.first_token_at.is_not(None))
    in_order = newest.order_by(completions.c.created_at.desc()).limit(MOST_LATENCIES)
    return list(connection.execute(in_order).scalars())


def published(connection: Connection, run: str) -> dict[str, int]:
    """How many publications are in each state."""
    by_state = select(publications.c.state, func.count().label("n")).where(publications.c.run == run)
    rows = connection.execute(by_state.group_by(publications.c.state))
    return dict.fromkeys(PUBLICATION_STATES, 0) | {row.state: row.n for row in rows}


def series(connection: Connection, run: str, since: float, until: float, bins: int) -> list[Values]:
    """The same time in parts of one length, each with its requests; parts without any are there too."""
    if bins == 0 or until <= since:
        return []
    width = (until - since) / bins
    part = func.floor((completions.c.created_at - since) / width).label("part")
    counted = (
        select(
            part,
            func.count().label("requests"),
            func.count().filter(_FAILED).label("failed"),
            func.count().filter(_ASKED).label("asked"),
            func.count(feedback.c.number).label("answered"),
            func.avg(completions.c.regret).label("regret"),
            func.avg(_FIRST_TOKEN).label("first_token"),
        )
        .select_from(completions)
        .outerjoin(feedback, _CHOICE)
        .where(*_since(run, since), completions.c.created_at < until)
        .group_by(part)
    )
    found = {min(int(row.part), bins - 1): row._asdict() for row in connection.execute(counted)}
    nothing = {"requests": 0, "failed": 0, "asked": 0, "answered": 0, "regret": None, "first_token": None}
    return [found.get(number, nothing) | {"at": since + number * width} for number in range(bins)]


def mean(n: int, average: float | None, average_of_squares: float | None) -> Mean:
    """A mean with its 95 % normal interval, from the averages of the values and of their squares."""
    if not n or average is None or average_of_squares is None:
        return Mean(0, None, None, None)
    variance = max(average_of_squares - average * average, 0.0) * n / max(n - 1, 1)
    half = _NORMAL * sqrt(variance / n)
    return Mean(n, average, average - half, average + half)


def _since(run: str, since: float) -> Iterable[ColumnElement[bool]]:
    return (completions.c.run == run, completions.c.created_at >= since)


def _count(found: Choices, row: Row) -> None:
    shown = json.loads(row.value)["outcome"]
    found.outcomes[shown] += row.n
    found.late += row.n if row.late else 0
    if row.asked == "audit" and not row.of_initial:
        own = _OTHER_SIDE.get(shown, shown) if row.swapped else shown
        said = {"first": "wins", "second": "losses"}.get(own, "ties")
        setattr(found, said, getattr(found, said) + row.n)

"""Views of one run: throughput, duels, and its configuration beside another's."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from sea_agent.config.files import flat
from sea_agent.dashboard import ledgers
from sea_agent.dashboard.ledgers import Filter, Sort, open_ledger
from sea_agent.dashboard.run import Run
from sea_agent.errors import UserError
from sea_agent.lab.records import four_digits

BUCKETS = 120
"""Points that the rounds of a run are averaged into."""

COUNTS = ("policy_samples", "oracle_queries", "posterior_labels", "imagined_pairs", "gradient_steps")
"""What is shown of the last row of a run."""

MOST_KEYS = 2000
MOST_DUELS_OF_A_TABLE = 20_000

Table = list[dict[str, Any]]


def throughput_view(run: Run) -> dict[str, Any]:
    """Wall seconds of each stage by round, staleness, and how many responses, duels and labels came of it."""
    rounds = run.rounds()
    numbers = [number or 0 for number in rounds.get("round", [])]
    chunks = [chunk for chunk in np.array_split(np.arange(len(numbers)), min(BUCKETS, len(numbers) or 1)) if len(chunk)]
    seconds = {
        name.split("/")[1]: [value or 0.0 for value in column]
        for name, column in rounds.items()
        if name.startswith("seconds/") and name.endswith("/wall")
    }
    totals = dict(sorted(((stage, sum(values)) for stage, values in seconds.items()), key=lambda one: -one[1]))
    view: dict[str, Any] = {
        "run": run.id,
        "rounds": len(numbers),
        "round": [numbers[chunk[-1]] for chunk in chunks],
        "seconds": {
            stage: [four_digits(sum(seconds[stage][place] for place in chunk) / len(chunk)) for chunk in chunks]
            for stage in totals
        },
        "totals": totals,
        "counts": {name: _last(rounds.get(name, [])) for name in COUNTS},
        # What the oracle itself counts, such as the requests, flips and money of a judge.
        "oracle": {
            name: _last(rounds[name]) for name in rounds if name.startswith("oracle_") and name != "oracle_queries"
        },
    }
    return view | _from_ledger(run)


def _from_ledger(run: Run) -> dict[str, Any]:
    try:
        counts = run.counts()
    except UserError as error:
        return {"staleness": None, "duels": None, "trouble": str(error)}
    rows = list(counts.staleness.items())
    chunks = [rows[chunk[0] : chunk[-1] + 1] for chunk in np.array_split(np.arange(len(rows)), BUCKETS) if len(chunk)]
    return {
        "staleness": {
            "round": [chunk[-1][0] for chunk in chunks],
            "mean": [sum(total / responses for _, (responses, total, _) in chunk) / len(chunk) for chunk in chunks],
            "largest": [max(largest for _, (_, _, largest) in chunk) for chunk in chunks],
        },
        # All from one reading: the metrics are as old as the last round.
        "duels": {
            "asked": counts.tally.asked,
            "answered": counts.tally.answers,
            "skipped": counts.tally.outcomes["skip"],
            "waiting": counts.tally.waiting,
        },
        "trouble": None,
    }


def throughput_table(view: dict[str, Any]) -> Table:
    """A row for each point of the rounds."""
    return [
        {"round": number, **{stage: values[place] for stage, values in view["seconds"].items()}}
        for place, number in enumerate(view["round"])
    ]


def duels_view(run: Run, wanted: Filter, sort: Sort, offset: int, limit: int) -> dict[str, Any]:
    """A page of the duels, and how many there are. Raises: UserError when the ledger cannot be read."""
    with open_ledger(run.root, run.place.path) as ledger:
        return {
            "run": run.id,
            "offset": offset,
            "total": ledgers.count(ledger, wanted),
            "duels": ledgers.page(ledger, wanted, sort, offset, limit),
        }


def duels_table(run: Run, wanted: Filter, sort: Sort, *page: int) -> Table:
    """All of the duels with whole texts, whatever the page. Raises: UserError when they are too many."""
    with open_ledger(run.root, run.place.path) as ledger:
        number = ledgers.count(ledger, wanted)
        if number > MOST_DUELS_OF_A_TABLE:
            limit = f"{MOST_DUELS_OF_A_TABLE:,}"
            raise UserError(f"{number:,} duels, more than the {limit} of one table; narrow the range of rounds")
        return list(ledgers.every(ledger, wanted, sort))


def duel_view(run: Run, id_: str) -> dict[str, Any] | None:
    """One duel with whole texts; None when there is none of this id."""
    with open_ledger(run.root, run.place.path) as ledger:
        return ledgers.duel(ledger, id_)


def configuration_view(runs: Sequence[Run]) -> dict[str, Any]:
    """Every key of a run's configuration, and the value of the second run where there is one."""
    run, other = runs[0], runs[1] if len(runs) > 1 else None
    ours = _flat(run)
    theirs = None if other is None else _flat(other)
    keys = list(ours) if theirs is None else list(dict.fromkeys([*ours, *theirs]))
    summary = _summary(run)
    return {
        "run": run.id,
        "against": None if other is None else other.id,
        "state": run.place.state,
        "error": run.error(),
        "trouble": list(run.place.trouble),
        "summary": {key: value for key, value in summary.items() if isinstance(value, str | int | float)},
        "versions": summary.get("versions") if isinstance(summary.get("versions"), Mapping) else None,
        "keys": [
            {"key": key, "value": ours.get(key)}
            if theirs is None
            else {"key": key, "value": ours.get(key), "other": theirs.get(key), "same": _same(key, ours, theirs)}
            for key in keys
        ],
    }


def _summary(run: Run) -> dict[str, Any]:
    try:
        return run.summary()
    except UserError:
        return {}


def _same(key: str, ours: Mapping[str, str], theirs: Mapping[str, str]) -> bool:
    return key in ours and key in theirs and ours[key] == theirs[key]


def _flat(run: Run) -> dict[str, str]:
    """At most ``MOST_KEYS`` of the configuration's keys, with their values as text."""
    return {key: _text(value) for key, value in islice(flat(run.config()).items(), MOST_KEYS)}


def _text(value: object) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 500 else f"{text[:500]}…"


def _last(column: list[float | None]) -> float | None:
    return next((value for value in reversed(column) if value is not None), None)

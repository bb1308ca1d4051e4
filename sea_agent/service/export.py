"""The labelled duels of a run as preference data, read a page at a time, as they stood when the export began."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Row

from sea_agent.data.encoders import Columns, Encoder
from sea_agent.data.rows import Record
from sea_agent.service.quality import majority
from sea_agent.service.schemas.base import iso
from sea_agent.service.schemas.files import ExportIn
from sea_agent.service.store import answers
from sea_agent.service.store.answers import Labelled
from sea_agent.service.store.database import Database
from sea_agent.service.store.tables import OUTCOMES

PAGE = 200
"""Duels held in memory at once."""

COLUMNS: Columns = {
    "run": "text",
    "query_id": "text",
    "client_key": "text",
    "outcome": "text",
    "votes": "counts",
    "agreement": "number",
    "annotators": "texts",
    "label_ids": "texts",
    "rule": "text",
    "policy_version": "integer",
    "score": "number",
    "posted_at": "text",
    "answered_at": "text",
}


async def export(
    database: Database, run: str, up_to_seq: int, wanted: ExportIn, encoder: Encoder
) -> AsyncIterator[bytes]:
    """The bytes of an export, of the label log up to ``up_to_seq``. No page is read before the last one is sent."""
    after_seq = 0
    while True:
        read = partial(answers.page, run=run, after_seq=after_seq, up_to_seq=up_to_seq, at_most=PAGE)
        page = await database.read(read)
        if not page:
            break
        yield await asyncio.to_thread(_encoded, page, wanted, encoder)
        after_seq = page[-1].seq
    yield encoder.close()


def _encoded(page: Sequence[Labelled], wanted: ExportIn, encoder: Encoder) -> bytes:
    voted = ((duel.query, [given.holds for given in duel.votes if _counts(given.holds, wanted)]) for duel in page)
    rows = [preference(query, entries) for query, entries in voted if entries]
    return encoder.encode([row for row in rows if _is_wanted(row, wanted)])


def preference(query: Row[Any], entries: Sequence[Row[Any]]) -> Record:
    """A duel with votes as a row. Its outcome is the most frequent one; None when two are equally frequent."""
    counts = Counter(entry.outcome for entry in entries)
    outcome = majority(entry.outcome for entry in entries)
    sides = {"first": (query.first, query.second), "second": (query.second, query.first)}
    chosen, rejected = sides.get(outcome or "", (None, None))
    return {
        "prompt": query.prompt,
        "chosen": chosen,
        "rejected": rejected,
        "run": query.run,
        "query_id": query.id,
        "client_key": query.client_key,
        "outcome": outcome,
        "votes": {name: counts[name] for name in OUTCOMES},
        "agreement": max(counts.values()) / len(entries),
        "annotators": [entry.annotator for entry in entries],
        "label_ids": [entry.id for entry in entries],
        "rule": query.rule,
        "policy_version": query.policy_version,
        "score": query.score,
        "posted_at": iso(query.created_at),
        "answered_at": iso(max(entry.at for entry in entries)),
    }


def _counts(vote: Row[Any], wanted: ExportIn) -> bool:
    return (
        (not wanted.annotator or vote.annotator in wanted.annotator)
        and (wanted.since is None or vote.at >= wanted.since)
        and (wanted.until is None or vote.at < wanted.until)
    )


def _is_wanted(row: Record, wanted: ExportIn) -> bool:
    is_outcome = wanted.ties == "keep" or row["chosen"] is not None
    if wanted.outcome is not None:
        is_outcome = row["outcome"] == wanted.outcome
    return is_outcome and row["agreement"] >= wanted.min_agreement and len(row["annotators"]) >= wanted.min_votes

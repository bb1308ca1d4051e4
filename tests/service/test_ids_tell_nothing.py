"""No id that an annotator sees follows from what they know: the texts, in either order, and the name of the run."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import permutations
from typing import Any

import pytest
from service.conftest import Running, claim, label

from sea_agent.seeding import id_for
from sea_agent.service.store import queries

pytestmark = pytest.mark.anyio

RUN, ANNOTATOR = "run", "ann"
DUELS = [{"prompt": f"prompt {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(4)]
HASHES = ("md5", "sha1", "sha256", "sha512", "sha3_256", "blake2b", "blake2s")
DIGITS = 20  # of an id


def spellings(texts: Iterable[str]) -> Iterator[str]:
    """Ways to write texts as one."""
    texts = list(texts)
    yield from (separator.join(texts) for separator in ("", " ", "\n", "\x00", "\x1f", "|"))
    yield from (json.dumps(texts), json.dumps(texts, separators=(",", ":")))


def guesses(shown: dict[str, Any]) -> set[str]:
    """What somebody who was shown a duel can compute, with the names of the run and of themselves: hashes of its texts
    in every order, ids of the project's own kind over them, and over those."""
    found: set[str] = set()
    for texts in permutations((shown["prompt"], shown["first"], shown["second"])):
        words = {*texts, *spellings(texts), *spellings((RUN, *texts)), *spellings((RUN, ANNOTATOR, *texts))}
        hashed = {hashlib.new(name, word.encode()).hexdigest() for name in HASHES for word in words}
        hashed |= {hashlib.blake2b(word.encode(), digest_size=size).hexdigest() for size in (10, 16) for word in words}
        found |= hashed
        for key in words | hashed:
            found |= {id_for("", *parts).lstrip("-") for parts in ((key,), (RUN, key), ("query", RUN, key))}
        found.add(id_for("", RUN, *texts).lstrip("-"))
    return {guess[:DIGITS] for guess in found}


async def seen(service: Running) -> list[tuple[dict[str, Any], set[str]]]:
    """Imported duels as an annotator is shown them, each with the hexadecimal part of every id that they saw of it."""
    await service.run()
    rows = "".join(json.dumps(row) + "\n" for row in DUELS)
    path, media_type = f"/v1/runs/{RUN}/queries:import", {"Content-Type": "application/jsonl"}
    assert (await service.admin.post(path, content=rows, headers=media_type)).json()["created"] == len(DUELS)
    again = (await service.admin.post(path, content=rows, headers=media_type)).json()
    assert again["known"] == len(DUELS)  # the key still follows from the texts: a file is imported once
    ann, found = await service.annotator(ANNOTATOR), []
    for _ in DUELS:
        lease = await claim(ann, RUN)
        given = (await label(ann, lease)).json()
        ids = (lease["lease_id"], lease["query_id"], given["query_id"], given["label_id"])
        found.append((lease, {id_.partition("-")[2] for id_ in ids}))
    return found


async def test_no_id_of_an_imported_duel_follows_from_its_texts(service: Running) -> None:
    for lease, ids in await seen(service):
        assert all(len(id_) == DIGITS for id_ in ids)
        assert ids.isdisjoint(guesses(lease))


def of_texts(item: dict[str, Any]) -> str:
    """An id that is a hash of the texts of a duel."""
    texts = "\n".join((item["prompt"], item["first"], item["second"]))
    return f"query-{hashlib.sha256(texts.encode()).hexdigest()[:DIGITS]}"


def of_key(item: dict[str, Any]) -> str:
    """An id that follows from the key of a duel, which follows from its texts."""
    return id_for("query", RUN, item["client_key"])


@pytest.mark.parametrize("id_of", [of_texts, of_key])
async def test_an_id_that_follows_from_the_texts_is_found(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch, id_of: Callable[[dict[str, Any]], str]
) -> None:
    """The deliberate faults: ids that are a function of the duel's key, which is one of its texts, or of the texts."""
    draw = queries.addressed
    monkeypatch.setattr(queries, "addressed", lambda items: [row | {"id": id_of(row)} for row in draw(items)])
    for lease, ids in await seen(sqlite_service):
        assert not ids.isdisjoint(guesses(lease))

"""The keys in memory: as one process writes them, what is here is what is stored."""

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Self

from sqlalchemy import Connection

from sea_agent.service.store import keys as store
from sea_agent.service.store import roster
from sea_agent.service.store.database import Database
from sea_agent.service.store.erasure import is_erased
from sea_agent.service.store.keys import Key
from sea_agent.service.store.people import Staff
from sea_agent.web.problems import Problem
from sea_agent.web.signals import Topic, work


class KeyRing:
    """Finds, makes and ends keys and page sessions."""

    def __init__(self, database: Database, clock: Callable[[], float], loaded: list[Key]) -> None:
        self._database = database
        self._clock = clock
        self._barred: Counter[str] = Counter()
        self.replace(loaded)

    @classmethod
    async def load(cls, database: Database, clock: Callable[[], float]) -> Self:
        """The keys of a database."""
        return cls(database, clock, await database.read(store.load))

    def find(self, secret: str) -> Key | None:
        """The valid key with this secret."""
        return self._find(secret, session=False)

    def find_session(self, token: str) -> Key | None:
        """The valid session with this token."""
        return self._find(token, session=True)

    def holds(self, key_id: str) -> bool:
        """Whether the key or session with this id is valid now."""
        key = self._by_id.get(key_id)
        return key is not None and self._valid(key)

    def knows(self, secret: str) -> bool:
        """Whether there is such a key, or was."""
        return store.digest_of(secret) in self._by_digest

    @property
    def keys(self) -> list[Key]:
        """Every key, the ended ones too, without sessions."""
        return [key for key in self._by_id.values() if key.parent is None]

    def staff(self, run: str) -> Staff:
        """Who can annotate in a run now."""
        reach = [key for key in self.keys if self._valid(key) and (key.runs is None or run in key.runs)]
        return Staff(
            annotators=frozenset(key.annotator for key in reach if "annotate" in key.scopes),
            admins=frozenset(key.annotator for key in reach if "admin" in key.scopes),
        )

    def has_admin(self) -> bool:
        """Whether some valid key may make others."""
        return bool(self._admins())

    def _admins(self) -> list[Key]:
        return [key for key in self.keys if "admin" in key.scopes and key.runs is None and self._valid(key)]

    async def make(
        self,
        name: str,
        scopes: frozenset[str],
        annotator: str | None = None,
        runs: frozenset[str] | None = None,
        expires_at: float | None = None,
        secret: str | None = None,
    ) -> tuple[Key, str]:
        """Store a new key; its secret is not kept anywhere.

        Raises:
            Problem: 409 for the name of somebody who was erased.
        """
        if taken := next(filter(is_erased, (name, annotator or name)), None):
            raise Problem(409, f"{taken} stands for somebody who was erased; choose another name.")
        secret, now = secret or "sea_" + secrets.token_urlsafe(32), self._clock()
        digest = store.digest_of(secret)
        key = Key(store.new_id(), name, annotator or name, scopes, runs, digest, None, now, expires_at, None)
        await self._write(lambda connection: store.add(connection, key), lambda: self._remember(key))
        return key, secret

    async def revoke(self, key_id: str) -> None:
        """End a key and its sessions, and give back the duels that only it let its annotator answer.

        Ending it twice is no error.

        Raises:
            Problem: 404 for an unknown key, 409 for the last one that may make others.
        """
        key = self._by_id.get(key_id)
        if key is None or key.parent is not None:
            raise Problem(404, f"There is no key {key_id}.")
        if key.revoked_at is not None:
            return
        if self._admins() == [key]:
            raise Problem(409, "This is the last admin key; make another one first.")
        now = self._clock()

        def committed(freed: list[str]) -> Sequence[Topic]:
            held = self._by_id[key_id]
            self._remember(store.replace(held, revoked_at=held.revoked_at or now))
            return [work(run) for run in freed]

        with self._kept_out(key_id):
            await self._database.write(partial(roster.end_key, key=key, now=now), wake=committed)

    def replace(self, stored: Iterable[Key]) -> None:
        """Hold these keys and sessions, which are all that are stored."""
        self._by_id = {key.id: key for key in stored}
        self._by_digest = {key.digest: key for key in self._by_id.values()}

    @contextmanager
    def barred(self, annotator: str) -> Iterator[None]:
        """Let nobody in as this annotator while their keys are ended: what they sent before is written before that,
        and nothing of theirs after it.

        Raises:
            Problem: 409 when nobody else could make keys.
        """
        admins = self._admins()
        if admins and all(key.annotator == annotator for key in admins):
            raise Problem(409, "They hold the last admin key; make another one for somebody else first.")
        with self._kept_out(annotator):
            yield

    @contextmanager
    def _kept_out(self, who: str) -> Iterator[None]:
        """Let in neither this annotator nor this key."""
        self._barred += Counter([who])
        try:
            yield
        finally:
            self._barred -= Counter([who])  # somebody else may be ending them too

    async def sign_in(self, secret: str) -> str:
        """Start a page session of a key; the token for its cookie.

        Raises:
            Problem: 401 for an unknown or ended key.
        """
        parent = self.find(secret)
        if parent is None:
            raise Problem(401, "This key is unknown or has ended.")
        now = self._clock()
        child, token = store.make_session(parent, now)

        def write(connection: Connection) -> None:
            store.remove_sessions(connection, now)
            store.add(connection, child)

        def follow() -> None:
            self._forget(lambda key: key.parent is not None and not self._valid(key))
            self._remember(child)

        await self._write(write, follow)
        return token

    async def sign_out(self, token: str) -> None:
        """End a page session; an unknown one is no error."""
        digest, now = store.digest_of(token), self._clock()
        await self._write(
            lambda connection: store.remove_sessions(connection, now, digest),
            lambda: self._forget(lambda key: key.parent is not None and key.digest == digest),
        )

    def _find(self, secret: str, *, session: bool) -> Key | None:
        key = self._by_digest.get(store.digest_of(secret))
        return key if key is not None and (key.parent is not None) == session and self._valid(key) else None

    def _valid(self, key: Key) -> bool:
        now = self._clock()
        parent = None if key.parent is None else self._by_id.get(key.parent)
        barred = self._barred.keys() & {key.annotator, key.id, key.parent}
        return key.valid(now) and (parent is None or parent.valid(now)) and not barred

    async def _write(self, change: Callable[[Connection], None], follow: Callable[[], None]) -> None:
        """Change what is stored, and once it is, what is held: in the order of the commits, whoever still waits."""

        def committed(_: None) -> Sequence[Topic]:
            follow()
            return ()

        await self._database.write(change, wake=committed)

    def _remember(self, key: Key) -> None:
        self._by_id[key.id] = key
        self._by_digest[key.digest] = key

    def _forget(self, unwanted: Callable[[Key], bool]) -> None:
        for key in [key for key in self._by_id.values() if unwanted(key)]:
            del self._by_id[key.id]
            del self._by_digest[key.digest]

"""What leases and labels should do, in plain Python: lists that are counted anew each time, no counters, no database.

It says what the answer to each call must be. Where the service draws, it says what may be drawn.
"""

from dataclasses import dataclass, field
from typing import Any

from sea_agent.service.store.faults import Conflict

Values = dict[str, Any]
Refusal = type[Conflict]

OTHER_SIDE = {"first": "second", "second": "first"}
LONGEST_LEASE, AFTER_CLOCK = 3600, 300


@dataclass(eq=False)
class Duel:
    id: str
    number: int
    votes_needed: int
    priority: int
    expires_at: float | None
    gold: str | None
    state: str = "open"
    assigned: frozenset[str] = frozenset()  # everybody if empty


@dataclass(eq=False)
class Lease:
    id: str
    duel: Duel
    annotator: str
    kind: str
    number: int
    swapped: bool
    expires_at: float
    state: str = "live"
    instead_of: Duel | None = None  # in whose stead a repeat or gold duel is shown

    @property
    def place(self) -> Duel | None:
        """The duel of which it takes a place."""
        return self.duel if self.kind == "vote" else self.instead_of


@dataclass(eq=False)
class Entry:
    id: str
    duel: Duel
    lease: Lease | None
    annotator: str
    kind: str
    outcome: str  # in the duel's own order
    body: Values
    late: bool
    revises: "Entry | None" = None


@dataclass
class Model:
    """A run with repeats after ``repeat_after`` leases, of the kinds that are drawn at all."""

    repeat_after: int
    drawn: frozenset[str] = frozenset()
    state: str = "open"
    now: float = 1_800_000_000.0
    duels: list[Duel] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    log: list[Entry] = field(default_factory=list)

    # --- what follows from the lists ---------------------------------------------------------------------------------

    def votes(self, duel: Duel) -> int:
        return sum(entry.duel is duel and entry.kind == "vote" and entry.revises is None for entry in self.log)

    def holders(self, duel: Duel) -> int:
        return sum(lease.place is duel and lease.state == "live" for lease in self.leases)

    def places(self, duel: Duel) -> int:
        return duel.votes_needed - self.votes(duel) - self.holders(duel)

    def of(self, annotator: str) -> list[Lease]:
        return [lease for lease in self.leases if lease.annotator == annotator]

    def vote_of(self, annotator: str, duel: Duel) -> Entry | None:
        for entry in self.log:
            own = entry.annotator == annotator and entry.duel is duel
            if own and entry.kind != "repeat" and entry.revises is None:
                return entry
        return None

    def done_with(self, annotator: str, duel: Duel, kind: str) -> bool:
        return any(
            lease.duel is duel and lease.kind == kind and lease.state in ("labelled", "skipped")
            for lease in self.of(annotator)
        )

    def is_for(self, annotator: str, duel: Duel) -> bool:
        return not duel.assigned or annotator in duel.assigned

    def unanswered(self, annotator: str, kind: str) -> list[Duel]:
        """Open duels that the annotator may still meet, the oldest first."""
        return [
            duel
            for duel in self.duels
            if (duel.gold is not None) == (kind == "gold")
            and duel.state == "open"
            and self.is_for(annotator, duel)
            and not self.done_with(annotator, duel, kind)
            and not any(entry.duel is duel and entry.annotator == annotator for entry in self.log)
        ]

    # --- what a claim may give ---------------------------------------------------------------------------------------

    def held(self, annotator: str) -> Lease | None:
        """The lease that a claim gives again; one whose duel needs nobody any more is ended by the claim."""
        for lease in self.of(annotator):
            if lease.state == "live":
                if lease.kind == "repeat" or lease.duel.state == "open":
                    return lease
                lease.state = "released"
        return None

    def begun(self, annotator: str) -> Lease | None:
        """The latest lease, if it ended without an answer and its duel can be had again: that comes next."""
        last = max(self.of(annotator), key=lambda lease: lease.number, default=None)
        return last if last is not None and self.can_be_had_again(last) else None

    def begun_instead_of(self, annotator: str, duel: Duel) -> Lease | None:
        """The latest lease that ended without an answer to what was shown in a duel's stead, if it can be had again."""
        ended = [lease for lease in self.of(annotator) if lease.instead_of is duel and self.has_ended(lease)]
        last = max(ended, key=lambda lease: lease.number, default=None)
        return last if last is not None and self.can_be_had_again(last) else None

    def has_ended(self, lease: Lease) -> bool:
        return lease.state in ("released", "expired")

    def can_be_had_again(self, lease: Lease) -> bool:
        """Whatever it shows: when the duel of which it takes a place can be had."""
        annotator, place = lease.annotator, lease.place
        if not self.has_ended(lease) or place is None or not self.can_be_had(annotator, place):
            return False
        if lease.kind == "repeat":
            return self.is_for(annotator, lease.duel)
        return lease.kind == "vote" or lease.duel in self.unanswered(annotator, "gold")

    def can_be_had(self, annotator: str, duel: Duel) -> bool:
        return duel in self.unanswered(annotator, "vote") and self.places(duel) > 0

    def next_vote(self, annotator: str) -> Duel | None:
        waiting = [duel for duel in self.duels if self.can_be_had(annotator, duel)]
        return min(waiting, key=lambda duel: (-duel.priority, self.places(duel), duel.number), default=None)

    def draws(self, annotator: str, expected: Duel) -> set[tuple[str, str]]:
        """Gold duel and repeats that may come instead of the expected duel, each with its kind: of what was begun, none
        comes by being drawn again, and nothing comes instead of it."""
        number, own = self.next_number(annotator), self.of(annotator)
        if any(lease.duel is expected and lease.kind == "vote" for lease in own):
            return set()
        begun = {(lease.duel.id, lease.kind) for lease in own if lease.instead_of is not None}
        found = {
            (lease.duel.id, "repeat")
            for lease in own
            if lease.kind == "vote" and lease.state == "labelled" and lease.number <= number - self.repeat_after
            if not self.done_with(annotator, lease.duel, "repeat") and self.is_for(annotator, lease.duel)
        }
        gold = [duel for duel in self.unanswered(annotator, "gold") if (duel.id, "gold") not in begun]
        found |= {(duel.id, "gold") for duel in gold[:1]}
        return {(duel, kind) for duel, kind in found - begun if kind in self.drawn}

    def next_number(self, annotator: str) -> int:
        return max((lease.number for lease in self.of(annotator)), default=0) + 1

    # --- what happens ------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        for lease in self.leases:
            if lease.state == "live" and lease.expires_at <= self.now:
                lease.state = "expired"
            elif lease.state == "live" and lease.expires_at > self.now + LONGEST_LEASE:
                lease.expires_at = self.now + AFTER_CLOCK
        for duel in self.duels:
            if duel.state == "open" and duel.expires_at is not None and duel.expires_at <= self.now:
                duel.state = "expired"

    def extend(self, lease: Lease, ttl_s: float) -> float | Refusal:
        if lease.state != "live" or lease.expires_at <= self.now:
            return Conflict
        lease.expires_at = self.now + ttl_s
        return lease.expires_at

    def release(self, lease: Lease) -> None:
        if lease.state == "live":
            lease.state = "released"

    def skip(self, lease: Lease) -> Refusal | None:
        if lease.state == "labelled":
            return Conflict
        lease.state = "skipped"
        return None

    def answer(self, lease: Lease, body: Values) -> tuple[Entry, bool] | Refusal:
        given = next((entry for entry in self.log if entry.lease is lease and entry.revises is None), None)
        if given is not None:
            return (given, False) if given.body == body else Conflict
        if lease.kind != "repeat" and self.vote_of(lease.annotator, lease.duel) is not None:
            return Conflict
        if lease.state == "live" and lease.expires_at <= self.now:
            self.sweep()
        late, lease.state = lease.state != "live", "labelled"
        return self._append(lease.duel, lease, lease.annotator, lease.kind, body, lease.swapped, late), True

    def revise(self, entry: Entry, body: Values) -> tuple[Entry, bool]:
        root = entry.revises or entry
        latest = [other for other in self.log if other is root or other.revises is root][-1]
        if latest.body == body:
            return latest, False
        swapped = root.lease is not None and root.lease.swapped
        return self._append(root.duel, root.lease, root.annotator, root.kind, body, swapped, root.late, root), True

    def bring(self, duel: Duel, annotator: str, outcome: str) -> tuple[Entry, bool] | Refusal:
        """An import of one answer."""
        given = self.vote_of(annotator, duel)
        if given is not None:
            return (given, False) if given.outcome == outcome else Conflict
        body = {"outcome": outcome, "strength": None, "comment": None, "elapsed_ms": None}
        return self._append(duel, None, annotator, "gold" if duel.gold else "vote", body, False, False), True

    def cancel(self, duel: Duel) -> None:
        if duel.state == "open":
            duel.state = "cancelled"
            self.take_back(duel)

    def take_back(self, duel: Duel, spared: frozenset[str] = frozenset()) -> list[Lease]:
        taken = [lease for lease in self.leases if lease.duel is duel and lease.state == "live"]
        taken = [lease for lease in taken if lease.annotator not in spared]
        for lease in taken:
            lease.state = "released"
        return taken

    def assign(self, duel: Duel, annotators: frozenset[str]) -> list[Lease]:
        duel.assigned = annotators
        return self.take_back(duel, spared=annotators) if annotators else []

    def need(self, duel: Duel, votes: int) -> None:
        duel.votes_needed = votes
        if duel.state in ("open", "answered"):
            duel.state = self._state_by_votes(duel)

    def reopen(self, duel: Duel) -> Refusal | None:
        if duel.state == "answered":
            return Conflict
        if duel.state == "expired" or (duel.expires_at is not None and duel.expires_at <= self.now):
            duel.expires_at = None
        duel.state = self._state_by_votes(duel)
        for lease in self.leases:
            if lease.duel is duel and lease.state == "skipped":
                lease.state, lease.instead_of = "released", None
        return None

    def _state_by_votes(self, duel: Duel) -> str:
        return "answered" if self.votes(duel) >= duel.votes_needed else "open"

    def _append(
        self,
        duel: Duel,
        lease: Lease | None,
        annotator: str,
        kind: str,
        body: Values,
        swapped: bool,
        late: bool,
        revises: Entry | None = None,
    ) -> Entry:
        outcome = OTHER_SIDE.get(body["outcome"], body["outcome"]) if swapped else body["outcome"]
        entry = Entry("", duel, lease, annotator, kind, outcome, body, late, revises)
        self.log.append(entry)
        if duel.state == "open" and self.votes(duel) >= duel.votes_needed:
            duel.state = "answered"
        return entry

"""What annotators, experiments and the clock may do, in whatever order: each step in the store and the plain model."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)
from service.model import Duel, Entry, Lease, Model
from sqlalchemy import select

from sea_agent.service.store import assignments, labels, leases, queries, runs, tables
from sea_agent.service.store.database import Pool
from sea_agent.service.store.faults import Conflict, Missing
from sea_agent.service.store.leases import Author, Claim

RUN = "run"
ANNOTATORS = ("ann", "bob", "cem")
REPEAT_AFTER = 2  # leases between a vote and its repetition; few, so that it is reached
SECONDS = st.sampled_from([1, 60, 299, 301, 3600, 86_400])
BODIES = st.builds(
    lambda outcome, strength: {"outcome": outcome, "strength": strength, "comment": None, "elapsed_ms": None},
    st.sampled_from(tables.OUTCOMES),
    st.sampled_from([None, 3]),
)


class Annotating(RuleBasedStateMachine):
    """Every step is one function of the store in a savepoint, as in the writer; a whole example is rolled back."""

    duels = Bundle("duels")
    leases = Bundle("leases")
    entries = Bundle("entries")

    def __init__(self, writer: Pool, reached: Counter[str]) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.connection = self.stack.enter_context(writer.transaction())
        self.model = Model(REPEAT_AFTER)
        self.reached = reached
        self.needed: dict[str, int] = {}  # the most votes that a duel ever needed

    def teardown(self) -> None:
        self.stack.close()

    def do(self, function: Callable[..., Any], **arguments: Any) -> Any:
        """The function's result, or the kind of its refusal."""
        try:
            with self.connection.begin_nested():
                return function(self.connection, **arguments)
        except (Conflict, Missing) as refusal:
            return type(refusal)

    # --- experiments -------------------------------------------------------------------------------------------------

    @initialize(
        target=duels,
        gold_share=st.sampled_from([0.0, 0.4]),
        repeat_share=st.sampled_from([0.0, 0.6]),
        votes_needed=st.integers(1, 3),
        gold=st.sampled_from([None, "first"]),
    )
    def begin(self, gold_share: float, repeat_share: float, votes_needed: int, gold: str | None) -> Any:
        given = {"gold_share": gold_share, "repeat_share": repeat_share}
        self.do(runs.put, run=RUN, given=given, now=self.model.now)
        self.model.drawn = frozenset(kind for kind in ("gold", "repeat") if given[f"{kind}_share"])
        self.post(1, priority=0, ends_in=None, gold=gold, count=2)
        return self.post(votes_needed, priority=0, ends_in=None, gold=None, count=5)

    @rule(
        target=duels,
        votes_needed=st.integers(1, 3),
        priority=st.integers(0, 1),
        ends_in=st.sampled_from([None, None, None, -1, 60, 4000]),
        gold=st.sampled_from([None, None, None, "first"]),
        count=st.integers(1, 3),
    )
    def post(self, votes_needed: int, priority: int, ends_in: int | None, gold: str | None, count: int) -> Any:
        expires_at = None if ends_in is None else self.model.now + ends_in
        items = []
        for number in range(len(self.model.duels), len(self.model.duels) + count):
            texts = {"prompt": f"p{number}", "first": f"first {number}", "second": f"second {number}"}
            unused = dict.fromkeys(("policy_version", "rule", "score"))
            asked = {"votes_needed": votes_needed, "priority": priority, "expires_at": expires_at, "gold": gold}
            items.append({"client_key": f"k{number}", **texts, **unused, **asked})
        if self.model.state in runs.FINISHED:
            self.reached["post refused"] += 1
            assert self.do(queries.post, run=RUN, items=queries.addressed(items), now=self.model.now) is Conflict
            return multiple()
        new = []
        for _ in range(2):  # the second time it is there already
            posted = self.do(queries.post, run=RUN, items=queries.addressed(items), now=self.model.now)
            new.append([answer["created"] for answer in posted])
        assert new == [[True] * count, [False] * count]
        first = len(self.model.duels)
        self.model.duels += [
            Duel(answer["id"], first + index, votes_needed, priority, expires_at, gold)
            for index, answer in enumerate(posted)
        ]
        return multiple(*self.model.duels[first:])

    @rule(duel=duels)
    def cancel(self, duel: Duel) -> None:
        assert self.do(queries.cancel, query_id=duel.id, now=self.model.now) is None
        self.model.cancel(duel)

    @rule(duel=duels)
    def take_back(self, duel: Duel) -> None:
        assert self.do(queries.take_back, query_id=duel.id) is None
        self.reached["taken back"] += bool(self.model.take_back(duel))

    @rule(lease=leases)
    def take_back_what_is_leased(self, lease: Lease) -> None:
        self.take_back(lease.duel)

    @rule(duel=duels)
    def reopen(self, duel: Duel) -> None:
        was = duel.state
        expected = self.model.reopen(duel)
        assert self.do(queries.reopen, query_id=duel.id, now=self.model.now) is expected
        self.reached["reopen of an answered"] += expected is Conflict
        self.reached["reopened"] += was in ("cancelled", "expired")

    @rule(duel=duels, votes_needed=st.integers(1, 3))
    def need(self, duel: Duel, votes_needed: int) -> None:
        was = duel.state
        self.model.need(duel, votes_needed)
        given = {"votes_needed": votes_needed}
        assert self.do(queries.change, query_id=duel.id, given=given, now=self.model.now) is None
        self.reached["more votes"] += (was, duel.state) == ("answered", "open")
        self.reached["fewer votes"] += (was, duel.state) == ("open", "answered")

    @rule(duel=duels, annotators=st.sets(st.sampled_from(ANNOTATORS), max_size=2))
    def assign(self, duel: Duel, annotators: set[str]) -> None:
        assert self.do(assignments.assign, query_id=duel.id, annotators=sorted(annotators)) is None
        self.reached["lost to others"] += bool(self.model.assign(duel, frozenset(annotators)))

    @rule(duels=st.lists(duels, min_size=2, max_size=4), annotator=st.sampled_from(ANNOTATORS))
    def assign_some(self, duels: list[Duel], annotator: str) -> None:
        for duel in duels:
            self.assign(duel, {annotator})

    @rule(state=st.sampled_from(["open", "open", *tables.RUN_STATES]))
    def turn(self, state: str) -> None:
        self.do(runs.put, run=RUN, given={"state": state}, now=self.model.now)
        self.model.state = state

    @rule(target=entries, duel=duels, annotator=st.sampled_from(ANNOTATORS), outcome=st.sampled_from(tables.OUTCOMES))
    def bring(self, duel: Duel, annotator: str, outcome: str) -> Any:
        """An answer from elsewhere, each time under a new idempotency key."""
        expected = self.model.bring(duel, annotator, outcome)
        self.imports = getattr(self, "imports", 0) + 1
        item = {"query_id": duel.id, "outcome": outcome, "annotator": annotator, "at": None}
        store = partial(self.do, labels.import_batch, run=RUN, author=Author("judge", "key"), key=f"i{self.imports}")
        done = store(items=[item], now=self.model.now)
        if expected is Conflict:
            assert done is Conflict
            return multiple()
        entry, created = expected
        self.reached["import"] += created
        ((answer,), new) = done
        assert new
        assert store(items=[item], now=self.model.now) == ([answer], False)
        return self.appended(entry, created, answer["label_id"], answer["seq"], created == answer["created"])

    @rule(target=entries, lease=leases, outcome=st.sampled_from(tables.OUTCOMES))
    def bring_what_is_leased(self, lease: Lease, outcome: str) -> Any:
        return self.bring(lease.duel, lease.annotator, outcome)

    # --- annotators --------------------------------------------------------------------------------------------------

    @rule(target=leases, annotator=st.sampled_from(ANNOTATORS), ttl_s=SECONDS.filter(lambda s: s <= 3600))
    def claim(self, annotator: str, ttl_s: int) -> Any:
        model = self.model
        given = self.do(leases.claim, wanted=Claim(RUN, annotator, ttl_s, seed=7), now=model.now)
        model.sweep()
        if model.state != "open":
            self.reached["not open"] += 1
            assert given is None
            return multiple()
        held = model.held(annotator)
        begun, expected = model.begun(annotator), model.next_vote(annotator)
        if held is not None:
            self.reached["again"] += 1
            assert (given["lease_id"], given["query_id"]) == (held.id, held.duel.id)
            held.expires_at = model.now + ttl_s
            assert given["expires_at"] == held.expires_at
            return multiple()
        self.reached["lost with its place"] += begun is None and self.would_have_come_again(annotator)
        if begun is None and expected is not None:
            begun = model.begun_instead_of(annotator, expected)
            self.reached["begun instead"] += begun is not None
        if begun is not None:
            self.reached[f"begun {begun.kind}"] += 1
            assert given["lease_id"] == begun.id
            return self.granted(given, begun.duel, annotator, begun.kind, begun.instead_of, model.now + ttl_s)
        if expected is None:
            self.reached["nothing"] += 1
            self.reached["not theirs"] += any(duel.state == "open" and model.places(duel) > 0 for duel in model.duels)
            assert given is None
            return multiple()
        (duel,) = [duel for duel in model.duels if duel.id == given["query_id"]]
        kind = "vote" if duel is expected else "gold" if duel.gold else "repeat"
        assert kind == "vote" or (duel.id, kind) in model.draws(annotator, expected)
        self.reached[kind] += 1
        instead_of = None if kind == "vote" else expected
        return self.granted(given, duel, annotator, kind, instead_of, model.now + ttl_s)

    def would_have_come_again(self, annotator: str) -> bool:
        """Whether a gold duel that was begun last could be had, if it did not stand for a duel that others have."""
        last = max(self.model.of(annotator), key=lambda lease: lease.number, default=None)
        if last is None or last.kind != "gold" or not self.model.has_ended(last):
            return False
        return last.duel in self.model.unanswered(annotator, "gold")

    def granted(
        self,
        given: dict[str, Any],
        duel: Duel,
        annotator: str,
        kind: str,
        instead_of: Duel | None,
        expires_at: float,
    ) -> Any:
        """A new lease, or one that ended without an answer and is the same again."""
        swapped = given["first"] == f"second {duel.number}"
        shown = [given["first"], given["second"]][:: -1 if swapped else 1]
        assert shown == [f"first {duel.number}", f"second {duel.number}"]
        assert given["expires_at"] == expires_at
        before = [lease for lease in self.model.of(annotator) if lease.duel is duel and lease.kind == kind]
        for lease in before:
            self.reached["revived"] += 1
            assert (lease.id, lease.swapped) == (given["lease_id"], swapped)
            assert lease.state in ("released", "expired")
            lease.state, lease.expires_at, lease.instead_of = "live", expires_at, instead_of
            return multiple()
        number = self.model.next_number(annotator)
        lease = Lease(given["lease_id"], duel, annotator, kind, number, swapped, expires_at, instead_of=instead_of)
        self.model.leases.append(lease)
        return lease

    @rule(target=entries, annotator=st.sampled_from(ANNOTATORS), body=BODIES)
    def work(self, annotator: str, body: dict[str, Any]) -> Any:
        """What annotators mostly do: take a duel and answer it."""
        self.claim(annotator, 300)
        held = self.model.held(annotator) if self.model.state == "open" else None
        return multiple() if held is None else self.answer(held, body)

    @rule(lease=leases, ttl_s=SECONDS.filter(lambda s: s <= 3600))
    def heartbeat(self, lease: Lease, ttl_s: int) -> None:
        expected = self.model.extend(lease, ttl_s)
        self.reached["ended heartbeat"] += expected is Conflict
        assert self.own(leases.extend, lease, ttl_s=ttl_s, now=self.model.now) == expected

    @rule(lease=leases)
    def release(self, lease: Lease) -> None:
        self.model.release(lease)
        assert self.own(leases.release, lease) == RUN

    @rule(lease=leases, other=st.sampled_from([None, *ANNOTATORS]))
    def release_and_claim(self, lease: Lease, other: str | None) -> None:
        """Somebody leaves and comes back; meanwhile somebody else may have come."""
        self.release(lease)
        if other is not None:
            self.claim(other, 300)
        self.claim(lease.annotator, 60)

    @rule(lease=leases, other=st.sampled_from(ANNOTATORS))
    def lose_and_regain(self, lease: Lease, other: str) -> None:
        """Who comes back finds another duel, as somebody has theirs; then that is given back too."""
        self.release_and_claim(lease, other)
        for annotator, end in ((other, self.release), (lease.annotator, self.skip)):
            for held in [held for held in self.model.of(annotator) if held.state == "live"]:
                end(held)
        self.claim(lease.annotator, 60)

    @rule(lease=leases)
    def skip(self, lease: Lease) -> None:
        refused = self.model.skip(lease) is Conflict
        self.reached["skip of an answer"] += refused
        assert self.own(leases.skip, lease) == (Conflict if refused else RUN)

    @rule(target=entries, lease=leases, body=BODIES)
    def answer(self, lease: Lease, body: dict[str, Any]) -> Any:
        labelled = lease.state == "labelled"
        expected = self.model.answer(lease, body)
        done = self.own(labels.put, lease, body=body, now=self.model.now)
        if expected is Conflict:
            self.reached["other body" if labelled else "answered elsewhere"] += 1
            assert done is Conflict
            return multiple()
        entry, new = expected
        self.reached["late"] += new and entry.late
        self.reached["replay"] += not new
        return self.answered(entry, new, done, body)

    @rule(lease=leases)
    def replay(self, lease: Lease) -> None:
        """The same answer again, as after an answer that was lost on its way."""
        for entry in [entry for entry in self.model.log if entry.lease is lease][:1]:
            self.answer(lease, entry.body)

    @rule(target=entries, entry=entries, body=BODIES)
    def revise(self, entry: Entry, body: dict[str, Any]) -> Any:
        revised, new = self.model.revise(entry, body)
        self.reached["revision" if new else "same revision"] += 1
        author = Author(entry.annotator, "key")
        done = self.do(labels.revise, label_id=entry.id, author=author, body=body, now=self.model.now)
        return self.answered(revised, new, done, body)

    @rule(lease=leases, body=BODIES, stranger=st.sampled_from(ANNOTATORS))
    def meddle(self, lease: Lease, body: dict[str, Any], stranger: str) -> None:
        """Somebody else's lease does not exist."""
        if stranger != lease.annotator:
            self.reached["foreign"] += 1
            author = Author(stranger, "key")
            put = partial(labels.put, body=body, now=self.model.now)
            extend = partial(leases.extend, ttl_s=60, now=self.model.now)
            for function in (put, extend, leases.release, leases.skip):
                assert self.do(function, lease_id=lease.id, author=author) is Missing

    # --- the clock ---------------------------------------------------------------------------------------------------

    @rule(seconds=SECONDS, direction=st.sampled_from([1, 1, -1]))
    def jump(self, seconds: int, direction: int) -> None:
        self.model.now += direction * seconds

    @rule(annotator=st.sampled_from(ANNOTATORS), seconds=st.sampled_from([3600, 86_400]))
    def claim_before_the_clock_is_set_back(self, annotator: str, seconds: int) -> None:
        """The lease then ends later than any that could be given now."""
        self.claim(annotator, 300)
        self.model.now -= seconds
        self.reached["from the future"] += any(
            lease.state == "live" and lease.expires_at > self.model.now + 3600 for lease in self.model.leases
        )

    # --- what must hold after every step -----------------------------------------------------------------------------

    @invariant()
    def the_store_holds_what_the_model_does(self) -> None:
        model = self.model
        stored = self.connection.execute(select(tables.queries).order_by(tables.queries.c.number))
        assert [(row.id, row.state, row.votes, row.places) for row in stored] == [
            (duel.id, duel.state, model.votes(duel), model.places(duel)) for duel in model.duels
        ]
        held = {row.id: (row.state, row.expires_at) for row in self.connection.execute(select(tables.leases))}
        assert held == {lease.id: (lease.state, lease.expires_at) for lease in model.leases}
        log = self.connection.execute(select(tables.labels).order_by(tables.labels.c.seq)).all()
        assert [row.seq for row in log] == list(range(1, len(model.log) + 1))
        assert [(row.id, row.annotator, row.kind, row.outcome, row.late, row.revises) for row in log] == [
            (e.id, e.annotator, e.kind, e.outcome, e.late, e.revises and e.revises.id) for e in model.log
        ]

    @invariant()
    def nobody_is_asked_in_vain(self) -> None:
        """From the rows alone: what holds whatever the model says."""
        rows = self.connection.execute(select(tables.leases).where(tables.leases.c.state == "live")).all()
        for query, needed_now in self.connection.execute(select(tables.queries.c.id, tables.queries.c.votes_needed)):
            self.needed[query] = max(needed_now, self.needed.get(query, 0))  # leases outlast a change to fewer votes
        holding = Counter(row.query_id if row.kind == "vote" else row.instead_of for row in rows)
        assert all(count <= self.needed[query] for query, count in holding.items() if query is not None)
        assert max(Counter(row.annotator for row in rows).values(), default=0) <= 1
        votes = self.connection.execute(select(tables.labels).where(tables.labels.c.kind == "vote")).all()
        given = Counter((row.query_id, row.annotator) for row in votes if row.revises is None)
        assert max(given.values(), default=0) <= 1

    def own(self, function: Callable[..., Any], lease: Lease, **arguments: Any) -> Any:
        return self.do(function, lease_id=lease.id, author=Author(lease.annotator, "key"), **arguments)

    def answered(self, entry: Entry, new: bool, done: Any, body: dict[str, Any]) -> Any:
        label, is_new = done
        assert (label["outcome"], label["late"]) == (body["outcome"], entry.late)
        return self.appended(entry, new, label["label_id"], label["seq"], is_new == new)

    def appended(self, entry: Entry, new: bool, label_id: str, seq: int, agreed: bool) -> Any:
        """What was acknowledged stands in the log, where it was said to stand."""
        assert agreed
        if new:
            entry.id = label_id
            self.reached[entry.duel.state] += 1
        assert (entry.id, self.model.log[seq - 1]) == (label_id, entry)
        return entry if new else multiple()

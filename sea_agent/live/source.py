"""Where the rounds of live mode get their prompts and duels: the gateway's log, read from a cursor on.

A duel enters the run with its answer: those that nobody answers stay where they are. Of one user's answers a round
takes ``live.max_weight_share`` of all at most, and the others wait for later rounds. Audits and held-out conversations
are kept apart; nothing learns from them. What a round took is in the ledger, so that a round that is lived again takes
nothing anew, and no duel is taken twice. The state holds ids and no texts, which are erased when users ask for it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from oracle.live import LiveOracle
from sea_agent.config import LiveConfig
from sea_agent.live.audits import outcome_of
from sea_agent.live.log import LiveLog
from sea_agent.loop.candidates import CandidateSource, Draw
from sea_agent.persistence.ledger import Ledger
from sea_agent.saved_state import require
from sea_agent.seeding import generator_for, id_for
from sea_agent.types import Candidates, Duel, LabelSource, Prompt, Response, Verdict

_MOST = 8
"""Answers of a round at most, as a multiple of ``batch_size``: after a long pause there may be very many."""


class LivePrompts:
    """The newest conversations of users, in an order drawn anew for each round; held-out ones are left out.

    Args:
        recent: how many of the newest.
        longest: tokens that a prompt may have.
    """

    def __init__(self, log: LiveLog, *, seed: int, recent: int, longest: int) -> None:
        self._log, self._seed, self._recent, self._longest = log, seed, recent, longest
        self._found: list[Prompt] = []
        self._drawn = 0

    def refresh(self) -> None:
        """Read the newest conversations."""
        rows = (row for row in self._log.prompts(heldout=False, limit=self._recent) if not row.get("heldout"))
        self._found = self.fitting(rows)

    def heldout(self, count: int) -> list[Prompt]:
        """The newest held-out conversations, the newest last."""
        return self.fitting(self._log.prompts(heldout=True, limit=count))

    def fitting(self, rows: Iterable[Mapping[str, Any]]) -> list[Prompt]:
        """The prompts in these rows that leave room for a response."""
        return [prompt_of(row["completion"], row) for row in rows if 0 < len(row["token_ids"]) <= self._longest]

    def __len__(self) -> int:
        return len(self._found)

    def next(self, count: int) -> list[Prompt]:
        """``count`` of the newest conversations."""
        self._drawn += 1
        order = generator_for(self._seed, "live prompts", self._drawn).permutation(len(self._found))
        return [self._found[place] for place in order[:count].tolist()]

    def state(self) -> dict[str, Any]:
        """How often prompts were drawn."""
        return {"drawn": self._drawn}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``. Raises: UnfitState when it is none."""
        require(state, {"drawn": int}, "source.prompts")
        self._drawn = state["drawn"]


class LiveSource:
    """Duels that users answered, and prompts like theirs. ``poll`` reads, ``draw`` takes.

    Args:
        imagined: samples candidates of ``prompts``.
    """

    def __init__(
        self,
        live: LiveConfig,
        log: LiveLog,
        oracle: LiveOracle,
        ledger: Ledger,
        prompts: LivePrompts,
        imagined: CandidateSource,
        *,
        batch_size: int,
        rule: str,
    ) -> None:
        self._live, self._log, self._oracle, self._ledger = live, log, oracle, ledger
        self.prompts, self._imagined, self._batch_size, self._rule = prompts, imagined, batch_size, rule
        self._cursor = 0  # number of the last duel that was read
        self._numbers: dict[str, int] = {}  # of duels that are read and not answered, by completion
        self._audited: dict[str, int] = {}  # version of the live response of such audits
        self.audits: dict[int, list[float]] = {}
        """Outcomes of audits for the live weights, by version, in the order of the answers."""
        self.erased = 0
        """Erasures that were carried out."""
        self._scaled = False
        self._rows: dict[str, dict[str, Any]] = {}  # texts that were read on the way

    # --- between rounds

    def poll(self, wait_s: int) -> bool:
        """Read what users said meanwhile, waiting for the next answer if there is none; whether there was one.

        Raises:
            Unavailable: the gateway stays unavailable.
        """
        grown = self._oracle.read(wait_s)
        choices = self._oracle.choices
        written = self._ledger.written(list(choices))
        for id_ in [id_ for id_, answered in written.items() if answered]:
            del choices[id_]
        self._find([id_ for id_ in choices if not (self._is_known(id_) or id_ in written)])
        for id_ in [id_ for id_ in choices if id_ in self._audited]:
            version, outcome = self._audited.pop(id_), outcome_of(choices.pop(id_).outcome)
            if outcome is not None and version > 0:
                self.audits.setdefault(version, []).append(outcome)
        return grown

    def is_ready(self, number: int, seconds: float) -> bool:
        """Whether round ``number`` may begin after so many seconds of waiting."""
        found = len(self._usable())
        return self._ledger.comes_back(number) or found >= (
            1 if seconds >= self._live.round_seconds else self._batch_size
        )

    def forget(self, ids: Iterable[str]) -> None:
        """Leave out what was erased."""
        for id_ in ids:
            self._oracle.choices.pop(id_, None)
            for known in (self._numbers, self._audited, self._rows):
                known.pop(id_, None)

    def _is_known(self, id_: str) -> bool:
        return id_ in self._numbers or id_ in self._audited

    def _find(self, ids: Sequence[str]) -> None:
        """Read the duels after the cursor, and earlier ones if those that were answered are not among them."""
        missing = set(ids)
        for start in (self._cursor, 0):
            if not missing:
                return
            for row in self._log.duels(start):
                self._note(row)
                missing.discard(row["completion"])
        for id_ in missing:  # erased since
            del self._oracle.choices[id_]

    def _note(self, row: dict[str, Any]) -> None:
        id_, number = row["completion"], row["number"]
        self._cursor = max(self._cursor, number)
        if row.get("heldout"):
            self._oracle.choices.pop(id_, None)
        elif self._ledger.written([id_]):
            return
        elif row["audit"]:
            self._audited[id_] = row["first"]["policy_version"]
        else:
            self._numbers[id_] = number
            if id_ in self._oracle.choices:
                self._rows[id_] = row

    # --- rounds

    def draw(self, number: int, *, asks: bool) -> Draw:
        """A round that asks takes the duels that were answered; any other samples candidates of recent prompts."""
        if not asks:
            return self._sample(number)
        chosen = [] if self._ledger.comes_back(number) else self._take(number)
        draw = Draw([], 1, {}, 0) if self._scaled else self._sample(number)
        self._scaled = self._scaled or bool(draw.candidates)
        return replace(draw, chosen=chosen)

    def scale(self, number: int) -> list[Candidates]:
        """Candidates that set the scale of a posterior's features."""
        candidates = self._sample(number).candidates
        self._scaled = bool(candidates)
        return candidates

    def sample_ahead(self, number: int, coming: Iterable[bool]) -> None:
        """Nothing is sampled ahead: users choose the prompts."""

    def _sample(self, number: int) -> Draw:
        self.prompts.refresh()
        return self._imagined.draw(number, asks=False) if len(self.prompts) else Draw([], 1, {}, 0)

    def _take(self, number: int) -> list[Duel]:
        """The duels of round ``number``: all that were answered, as far as no user has too large a share of them."""
        duels = []
        for verdict in self._usable():
            id_ = verdict.duel_id
            place = self._numbers.pop(id_)
            row = self._rows.pop(id_, None) or self._log.duel(place)
            if row is None or not _is_sound(row):
                del self._oracle.choices[id_]
                continue
            duels.append(self._duel(row, number))
        self._rows.clear()
        return duels

    def _usable(self) -> list[Verdict]:
        """The answers that a round may take now, in the order of the log."""
        waiting = [verdict for id_, verdict in self._oracle.choices.items() if id_ in self._numbers]
        written = self._ledger.written([verdict.duel_id for verdict in waiting])
        waiting = [verdict for verdict in waiting if verdict.duel_id not in written]
        share = self._live.max_weight_share
        return within_share(within_share(waiting, share)[: _MOST * self._batch_size], share)

    def _duel(self, row: Mapping[str, Any], number: int) -> Duel:
        """The learner counts versions by rounds. The latest counts as one round older, because the gate, and not the
        learner, compares the log-probabilities of engines with its own."""
        prompt = prompt_of(row["completion"], row["prompt"])

        def side(one: Mapping[str, Any]) -> Response:
            version = max(0, min(self._log.round_of(one["policy_version"]), number - 2))
            tokens, logprobs = tuple(one["token_ids"]), tuple(one["logprobs"])
            return Response(one["id"], prompt.id, one["text"], tokens, logprobs, version)

        first, second = side(row["first"]), side(row["second"])
        return Duel(
            id=row["completion"],
            round=number,
            prompt=prompt,
            first=first,
            second=second,
            rule=self._rule,
            policy_version=min(first.policy_version, second.policy_version),
            posterior_version=0,
            label_source=LabelSource.ORACLE,
            by_chance=row["by_chance"],
        )

    # --- later lives

    def state(self) -> dict[str, Any]:
        """Cursors, ids and outcomes, as plain values."""
        return {
            "oracle": self._oracle.state(),
            "prompts": self.prompts.state(),
            "cursor": self._cursor,
            "numbers": dict(self._numbers),
            "audited": dict(self._audited),
            "audits": {version: list(outcomes) for version, outcomes in self.audits.items()},
            "erased": self.erased,
            "scaled": self._scaled,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``. Raises: UnfitState when it is none."""
        form = dict.fromkeys(("oracle", "prompts", "numbers", "audited", "audits"), dict)
        require(state, form | {"cursor": int, "erased": int, "scaled": bool}, "source")
        self._oracle.load_state(state["oracle"])
        self.prompts.load_state(state["prompts"])
        self._cursor, self.erased, self._scaled = state["cursor"], state["erased"], state["scaled"]
        self._numbers, self._audited = dict(state["numbers"]), dict(state["audited"])
        self.audits = {version: list(outcomes) for version, outcomes in state["audits"].items()}
        self._rows.clear()

    def revive(self) -> None:
        """Replace the samplers that have died."""
        self._imagined.revive()


def largest_cap(answers: Mapping[str, int], share: float) -> int:
    """The most answers that each user may have in a round, so that nobody has more than ``share`` of all it takes.

    1 at least: otherwise few users would never be heard.
    """
    cap, found = 1, 1
    while cap < max(answers.values(), default=0):
        cap += 1
        if cap <= share * sum(min(count, cap) for count in answers.values()):
            found = cap
    return found


def within_share(verdicts: Sequence[Verdict], share: float) -> list[Verdict]:
    """The first of each user's, as many as ``largest_cap`` allows."""
    most = largest_cap(Counter(verdict.annotator for verdict in verdicts), share)
    taken = Counter[str]()
    kept = []
    for verdict in verdicts:
        taken[verdict.annotator] += 1
        if taken[verdict.annotator] <= most:
            kept.append(verdict)
    return kept


def prompt_of(completion: str, row: Mapping[str, Any]) -> Prompt:
    """A conversation as the policy got it with the request for a completion."""
    messages = tuple((message["role"], message["content"]) for message in row.get("messages") or ())
    return Prompt(id_for("live prompt", completion), row["text"], tuple(row["token_ids"]), messages or None)


def _is_sound(row: Mapping[str, Any]) -> bool:
    """Whether something can be learnt from a duel: its responses differ and have tokens, whose number is right."""
    first, second = row["first"], row["second"]
    whole = all(side["token_ids"] and len(side["token_ids"]) == len(side["logprobs"]) for side in (first, second))
    return whole and bool(row["prompt"]["token_ids"]) and first["text"] != second["text"]

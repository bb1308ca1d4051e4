"""People as the oracle: posts duels to the feedback service and reads votes from its label log.

A duel's id is its key in the service, so posting is idempotent, and a resumed run finds the answers given meanwhile.
Each process reads the log once from the start, then from its cursor.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from oracle.base import Oracle, Question
from oracle.service_client import POLL_SECONDS, RETRY_SECONDS, Refused, ServiceClient, Unavailable, service_key
from sea_agent.config import FeedbackServiceOracleConfig
from sea_agent.errors import RunFailure, UserError
from sea_agent.types import QUESTION_TEXTS, Answer, Duel, Outcome, Verdict

_POST_ITEMS = 500
_POST_BYTES = 1_000_000  # half of the service's limit
_PAGE = 1000
_NAMES = 8  # that a line says
_POLL_SECONDS = POLL_SECONDS
_RETRY_SECONDS: float = RETRY_SECONDS
_OVER = ("closed", "archived", "deleted")
"""The states of a run in the service in which no duel is answered any more."""


_CONFLICT = (
    "holds other duels under the keys of this run ({detail}). Another run used the same oracle.run; give this one "
    "a name of its own."
)


class FeedbackServiceOracle(Oracle):
    """Posts duels and reads votes. The majority decides a duel once it has all its votes."""

    evaluates = False

    def __init__(self, config: FeedbackServiceOracleConfig) -> None:
        super().__init__(f"feedback service {config.url}, run {config.run}")
        self._config = config
        self._service = ServiceClient(
            config.url,
            service_key(config.kind, config.url),
            self.name,
            conflict=_CONFLICT,
            retry_seconds=_RETRY_SECONDS,
        )
        self._announced = False
        self._posted: dict[str, str] = {}  # our id of a duel: the service's
        self._needed: dict[str, int] = {}  # our id of a duel: the votes that it needed when it was posted
        self._votes: dict[str, dict[str, dict[str, Any]]] = {}  # duel: label: its latest entry in the log
        self._seq = 0
        self._path = f"/v1/runs/{config.run}"
        self._state = "open"  # of the run in the service, and its progress, as last seen
        self._progress: dict[str, Any] = {}
        try:
            self._service.check()
        except Unavailable as error:  # nothing has begun, and most often the address is wrong
            raise UserError(str(error)) from None

    def verdicts(self, duels: Sequence[Duel]) -> list[Verdict]:
        """Post new duels, wait briefly for votes, and return the decided verdicts."""
        try:
            self._post(duels)
            decided = self._answered(duels)
        except Unavailable:
            return []  # the run decides how long to wait
        return decided

    def evaluate(self, questions: Sequence[Question]) -> list[float]:
        """Raises ValueError: people's time is reserved for training."""
        raise ValueError("people are not asked to evaluate")

    def _post(self, duels: Sequence[Duel]) -> None:
        if not self._announced:
            self._announce()
            self._announced = True
        for batch in _batches([_query(duel) for duel in duels if duel.id not in self._posted]):
            try:
                answer = self._service.call("POST", f"{self._path}/queries:batch", json={"queries": batch})
            except Refused as refused:
                self._look()
                raise self._over() if self._state in _OVER else refused from None
            self._posted |= {row["client_key"]: row["id"] for row in answer["queries"]}
            self._needed |= {row["client_key"]: row["votes_needed"] for row in answer["queries"]}

    def _announce(self) -> None:
        """Make the run in the service. Of one that is there, what an operator may have written stays: without duels it
        takes what the configuration sets, with duels nothing."""
        there = self._run()
        given: dict[str, Any] = {}
        if self._config.votes is not None and not (there and there["queries"]):
            given["votes_needed"] = self._config.votes
        if self._config.instructions and not (there and (there["queries"] or there["instructions"])):
            given["instructions"] = self._config.instructions
        if given or there is None:
            self._service.call("PUT", self._path, json=given)

    def _answered(self, duels: Sequence[Duel]) -> list[Verdict]:
        """What is decided now or soon; skips where nothing will be."""
        try:
            self._read(wait_s=0)
            decided = self._decided(duels)
            if duels and not decided:
                self._read(wait_s=_POLL_SECONDS)
                decided = self._decided(duels) or self._withdrawn(duels)
        except Refused as refused:
            if refused.status != 404:
                raise
            self._look()
            if self._state not in _OVER:
                raise
            return self._skips(duels)
        return decided

    def _read(self, wait_s: int) -> None:
        """Read the log from the cursor to its end."""
        while True:
            parameters = {"after_seq": self._seq, "limit": _PAGE, "wait_s": wait_s}
            page = self._service.call("GET", f"{self._path}/labels", params=parameters)
            for entry in page["labels"]:
                if entry["kind"] == "vote":
                    vote = entry["revises"] or entry["label_id"]  # not who gave it: names change when they are erased
                    self._votes.setdefault(entry["client_key"], {})[vote] = entry
            self._seq, wait_s = page["next_seq"], 0
            if len(page["labels"]) < _PAGE:
                return

    def _decided(self, duels: Sequence[Duel], needed: int | None = None) -> list[Verdict]:
        """Verdicts on the duels that have the votes ``needed``; None: as many as each needed when it was posted."""
        votes = ((duel.id, list(self._votes.get(duel.id, {}).values())) for duel in duels)
        return [
            _verdict(id_, given, self._config.min_agreement)
            for id_, given in votes
            if len(given) >= (needed or self._needed[id_])
        ]

    def waiting(self) -> str:
        """See ``Oracle.waiting``: whether anybody is asked, and who can still answer."""
        if self._state == "paused":
            return "The run is paused in the service: nobody gets a duel until it is opened again."
        if not self._progress:
            return ""
        people, stuck = self._progress["people"], self._progress["stuck"]
        if not people:
            return "Nobody has a key to annotate this run: make one, and send it to somebody."
        if not stuck:
            return f"With a key for this run: {_names(people)}."
        return (
            f"{stuck} of them need more votes than annotators are left who have neither answered nor skipped them "
            f"(votes a duel: {max(self._needed.values())}; with a key for this run: {_names(people)}): make a key for "
            "somebody else, take back what was handed out, or cancel them."
        )

    def _withdrawn(self, duels: Sequence[Duel]) -> list[Verdict]:
        """Skips for duels that were cancelled, have expired or were skipped by everybody in the service, and for all of
        a run that is over; verdicts for those that somebody let need fewer votes."""
        self._look()
        if self._state in _OVER:
            return self._skips(duels)
        self._progress = self._service.call("GET", f"{self._path}/progress")
        if self._progress["stuck"]:
            self._progress = self._service.call("POST", f"{self._path}/settle")
        if self._progress["open"] >= len(duels) and not self._progress["cancelled"]:
            return []
        states = {duel.id: self._service.call("GET", f"/v1/queries/{self._posted[duel.id]}")["state"] for duel in duels}
        self._read(wait_s=0)  # the votes of what was answered meanwhile
        answered = self._decided([duel for duel in duels if states[duel.id] == "answered"], needed=1)
        gone = self._skips([duel for duel in duels if states[duel.id] in ("cancelled", "expired")])
        found = {verdict.duel_id: verdict for verdict in answered + gone}
        return [found[duel.id] for duel in duels if duel.id in found]

    def _look(self) -> None:
        """Note the state of the run in the service; without such a run it is deleted."""
        there = self._run()
        self._state = "deleted" if there is None else there["state"]

    def _run(self) -> dict[str, Any] | None:
        """The run in the service; None where there is none."""
        try:
            run: dict[str, Any] = self._service.call("GET", self._path)
        except Refused as refused:
            if refused.status != 404:
                raise
            return None
        return run

    def _over(self) -> RunFailure:
        """Why no duel can be posted."""
        remedy = "To make it anew" if self._state == "deleted" else "Open it again there, and"
        return RunFailure(
            f"{self.name}: was {self._state} in the service and takes no more duels; those that waited for an answer "
            f"when this was seen are skipped. {remedy} go on with `sea-agent resume`."
        )

    def _skips(self, duels: Sequence[Duel]) -> list[Verdict]:
        return [Verdict(duel.id, Outcome.SKIP, self.name, time.time()) for duel in duels]


def _names(people: Sequence[str]) -> str:
    """The people, or the first of many and how many others there are."""
    if len(people) <= _NAMES:
        return ", ".join(people)
    return f"{', '.join(people[: _NAMES - 1])} and {len(people) - _NAMES + 1} others"


def _query(duel: Duel) -> dict[str, Any]:
    public = duel.public()
    shown = {name: public[name] for name in QUESTION_TEXTS}
    return {
        "client_key": shown.pop("id"),
        **shown,
        "rule": duel.rule,
        "policy_version": max(0, duel.policy_version),
        "score": duel.disagreement,
    }


def _batches(queries: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for query in queries:
        length = len(json.dumps(query))
        if batch and (len(batch) == _POST_ITEMS or size + length > _POST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(query)
        size += length
    if batch:
        yield batch


def _verdict(duel_id: str, votes: Sequence[dict[str, Any]], min_agreement: float) -> Verdict:
    """The most frequent outcome if it is unique and enough votes agree on it, else a tie."""
    (leader, most), *others = Counter(vote["outcome"] for vote in votes).most_common(2)
    agreed = most / len(votes) >= min_agreement and all(count < most for _, count in others)
    return Verdict(
        duel_id=duel_id,
        outcome=Outcome(leader) if agreed else Outcome.TIE,
        annotator=", ".join(sorted(vote["annotator"] for vote in votes)),
        at=max(datetime.fromisoformat(vote["at"]).timestamp() for vote in votes),
        votes=len(votes),
        answers=tuple(Answer(vote["annotator"], Outcome(vote["outcome"])) for vote in votes) if votes[1:] else (),
    )

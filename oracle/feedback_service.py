"""People as the oracle: duels go to the feedback service, answers come out of its label log.

A duel's id is its key in the service, so that posting it again changes nothing, and a run that starts anew finds what
was answered meanwhile. The log is read from its beginning by each process and by cursor after that.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from oracle.base import Oracle, Question
from sea_agent.config import FeedbackServiceOracleConfig
from sea_agent.errors import RunFailure, UserError
from sea_agent.types import Duel, Outcome, Verdict

KEY = "SEA_AGENT_KEY"
_POST_ITEMS = 500
_POST_BYTES = 1_000_000  # half of what the service accepts
_PAGE = 1000
_POLL_SECONDS = 20
_RETRY_SECONDS = 45


class _Unavailable(Exception):
    """The service does not answer, or says that it cannot now."""


class FeedbackServiceOracle(Oracle):
    """Posts duels, and reads the votes on them. A duel with all its votes has a verdict: that of the majority."""

    evaluates = False

    def __init__(self, config: FeedbackServiceOracleConfig) -> None:
        super().__init__(f"feedback service {config.url}, run {config.run}")
        self._config = config
        self._retrying = Retrying(
            retry=retry_if_exception_type(_Unavailable),
            wait=wait_exponential_jitter(multiplier=0.2, max=5.0),
            stop=stop_after_delay(_RETRY_SECONDS),
            reraise=True,
        )
        self._client = httpx.Client(
            base_url=config.url,
            headers={"Authorization": f"Bearer {_key(config)}"},
            timeout=httpx.Timeout(10.0, read=_POLL_SECONDS + 10.0),
        )
        self._announced = False
        self._posted: dict[str, str] = {}  # the service's id of a duel by ours
        self._votes: dict[str, dict[str, dict[str, Any]]] = {}  # the latest entry of each annotator by duel
        self._seq = 0
        self._check()

    def verdicts(self, duels: Sequence[Duel]) -> list[Verdict]:
        """Post what is new, wait a little for the log to grow, and say what is decided."""
        try:
            self._post(duels)
            self._read(wait_s=0)
            decided = self._decided(duels)
            if duels and not decided:
                self._read(wait_s=_POLL_SECONDS)
                decided = self._decided(duels) or self._withdrawn(duels)
        except _Unavailable:
            return []  # the run decides how long it waits
        return decided

    def evaluate(self, questions: Sequence[Question]) -> list[float]:
        """Never: people's time is for training. Raises: ValueError."""
        raise ValueError("people are not asked to evaluate")

    def _check(self) -> None:
        """Raises: UserError when the service cannot be reached, or does not know the key or the run's name."""
        try:
            response = self._client.get("/v1/runs")
        except httpx.HTTPError as error:
            raise UserError(
                f"oracle.url={self._config.url}: no feedback service answers there ({error}). Start one with "
                "`sea-agent serve`, or correct the address."
            ) from None
        if response.status_code in (401, 403):
            raise UserError(
                f"{KEY}: the feedback service refuses this key ({_detail(response)}). Give one with the scope "
                "experiment."
            )
        if response.status_code != 200:
            raise UserError(
                f"oracle.url={self._config.url}: answered {response.status_code}; is this a feedback service?"
            )

    def _post(self, duels: Sequence[Duel]) -> None:
        if not self._announced:
            metadata = {"instructions": self._config.instructions, "votes_needed": self._config.votes}
            self._call("PUT", f"/v1/runs/{self._config.run}", json=metadata)
            self._announced = True
        for batch in _batches([_query(duel) for duel in duels if duel.id not in self._posted]):
            answer = self._call("POST", f"/v1/runs/{self._config.run}/queries:batch", json={"queries": batch})
            self._posted |= {row["client_key"]: row["id"] for row in answer["queries"]}

    def _read(self, wait_s: int) -> None:
        """Take in the log from where it was read last, to its end."""
        while True:
            parameters = {"after_seq": self._seq, "limit": _PAGE, "wait_s": wait_s}
            page = self._call("GET", f"/v1/runs/{self._config.run}/labels", params=parameters)
            for entry in page["labels"]:
                if entry["kind"] == "vote":
                    self._votes.setdefault(entry["client_key"], {})[entry["annotator"]] = entry
            self._seq, wait_s = page["next_seq"], 0
            if len(page["labels"]) < _PAGE:
                return

    def _decided(self, duels: Sequence[Duel]) -> list[Verdict]:
        needed = self._config.votes
        votes = ((duel.id, list(self._votes.get(duel.id, {}).values())) for duel in duels)
        return [_verdict(id_, given, self._config.min_agreement) for id_, given in votes if len(given) >= needed]

    def _withdrawn(self, duels: Sequence[Duel]) -> list[Verdict]:
        """Skips for duels that somebody cancelled in the service: they would be waited for in vain."""
        if self._call("GET", f"/v1/runs/{self._config.run}/progress")["open"]:
            return []
        skips = []
        for duel in duels:
            query = self._call("GET", f"/v1/queries/{self._posted[duel.id]}")
            if query["state"] in ("cancelled", "expired"):
                skips.append(Verdict(duel.id, Outcome.SKIP, self.name, time.time()))
        return skips

    def _call(self, method: str, path: str, **options: Any) -> Any:
        """The JSON answer to a request.

        Raises:
            _Unavailable: when the service does not answer for a while.
            RunFailure: when it refuses the key, or the run's duels clash with what it holds.
        """
        return self._retrying(self._once, method, path, **options)

    def _once(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._client.request(method, path, **options)
        except httpx.TransportError as error:
            raise _Unavailable(str(error)) from None
        if response.status_code == 429 or response.status_code >= 500:
            raise _Unavailable(_detail(response))
        if response.status_code == 409:
            raise RunFailure(
                f"{self.name}: holds other duels under the keys of this run ({_detail(response)}). Another run used "
                "the same oracle.run; give this one a name of its own."
            )
        if response.status_code >= 400:
            raise RunFailure(f"{self.name}: refused {method} {path} with {response.status_code}: {_detail(response)}")
        return response.json()


def _key(config: FeedbackServiceOracleConfig) -> str:
    key = os.environ.get(KEY, "")
    if not key:
        raise UserError(
            f"oracle.kind=feedback_service: {KEY} is not set. Put a key with the scope experiment of the service at "
            f"{config.url} into the environment."
        )
    return key


def _query(duel: Duel) -> dict[str, Any]:
    public = duel.public()
    return {
        "client_key": public["id"],
        "prompt": public["prompt"],
        "first": public["first"],
        "second": public["second"],
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
    """What the votes say together: the one outcome with most of them, if enough agree on it, else a tie."""
    counts = Counter(vote["outcome"] for vote in votes).most_common()
    (leader, most), others = counts[0], counts[1:]
    agreed = most / len(votes) >= min_agreement and not (others and others[0][1] == most)
    return Verdict(
        duel_id=duel_id,
        outcome=Outcome(leader) if agreed else Outcome.TIE,
        annotator=", ".join(sorted(vote["annotator"] for vote in votes)),
        at=max(_seconds(vote["at"]) for vote in votes),
        votes=len(votes),
    )


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _detail(response: httpx.Response) -> str:
    """What a problem document says."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"

"""A language model as the judge. Each duel is asked in both orders, and counts only when the order changes nothing.

A judge that prefers what it reads first therefore says nothing but ties. A reply that is not exactly of the form asked
for is asked for again, a few times, and never guessed at. What an endpoint did not answer stays open.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from oracle.base import Oracle, Question
from oracle.llm_endpoint import Complete, Endpoint, Late, Refused, Rejected, Unavailable
from oracle.llm_question import Better, Unusable, digest, messages, read
from sea_agent.config import LlmJudgeOracleConfig
from sea_agent.errors import RunFailure, UserError
from sea_agent.types import Duel, Outcome, Verdict

CALL_SECONDS = 45.0
TRIAL_SECONDS = 10.0
# A duel that found the endpoint well, but no usable reply, in so many calls will not find one in the next.
_CALLS_IN_VAIN = 3
# With so many duels without a usable reply, and fewer with one, the fault is not the duels'.
_HOPELESS = 8

_PROBABILITY = {Better.A: 1.0, Better.TIE: 0.5, Better.B: 0.0}
_OUTCOME = {1.0: Outcome.FIRST, 0.5: Outcome.TIE, 0.0: Outcome.SECOND}
_SEEN_FROM_BEHIND = {Better.A: Better.B, Better.B: Better.A, Better.TIE: Better.TIE}

_log = logging.getLogger(__name__)


@dataclass
class _Call:
    """One round of asking, and why questions stayed open in it."""

    complete: Complete
    slots: asyncio.Semaphore
    failures: Counter[str]


class LlmJudgeOracle(Oracle):
    """Asks a model behind an OpenAI-compatible endpoint.

    Replies are remembered by what was asked while the process lives. ``metrics`` counts requests, tokens, money, and
    how often the order of the answers decided.
    """

    def __init__(self, config: LlmJudgeOracleConfig) -> None:
        """Ask a trial question. Raises: UserError when the endpoint, the key, the model or its reply is no good."""
        super().__init__(f"judge {config.model} at {config.url}")
        self.evaluates = config.evaluates
        self._config = config
        self._endpoint = Endpoint(config)
        self._replies: dict[str, Better] = {}
        self._in_vain: Counter[str] = Counter()  # calls without a usable reply, by question
        self._failed: Counter[str] = Counter()  # calls without any, or without a usable one
        self._ended: RunFailure | None = None
        self._malformed = self._judged = self._flips = self._given_up = 0
        self._try_out()

    def verdicts(self, duels: Sequence[Duel]) -> list[Verdict]:
        """Those that both orders agree on within a minute or so, and ties where they do not; a skip where the judge
        has none to give after several calls.

        Raises: RunFailure when the endpoint refuses all that is asked, the money is spent, or no reply can be used.
        """
        questions = [duel.public() for duel in duels]
        self._ask(questions)
        found = [verdict for question in questions if (verdict := self._verdict(question)) is not None]
        if self._ended is not None and questions and not found:
            raise self._ended  # not before what was answered is kept
        return found

    def evaluate(self, questions: Sequence[Question]) -> list[float]:
        """1, ½ or 0 for each question; ½ where the order decides.

        Raises: RunFailure as ``verdicts`` does, when one question finds no usable reply, and when nothing was answered
            for ``oracle.wait_hours``. ValueError: when it is not to evaluate.
        """
        if not self.evaluates:
            raise ValueError(f"{self.name} is not asked to evaluate")
        left, progress = list(questions), time.monotonic()
        while left:
            self._ask(left)
            still = [question for question in left if self._probability(question) is None]
            if len(still) < len(left):
                progress = time.monotonic()
            self._refuse_to_wait_on(still, progress)
            left = still
        self.evaluation_queries += len(questions)
        return [probability for question in questions if (probability := self._probability(question)) is not None]

    def metrics(self) -> dict[str, float]:
        """Sums since this process started; the trial question is in them."""
        endpoint = self._endpoint
        figures: dict[str, float] = {
            "requests": endpoint.requests,
            "retries": endpoint.retries,
            "malformed": self._malformed,
            "judged": self._judged,
            "flips": self._flips,
            "given_up": self._given_up,
            "tokens_in": endpoint.tokens_in,
            "tokens_out": endpoint.tokens_out,
        }
        if self._judged:
            figures["flip_rate"] = self._flips / self._judged
        if endpoint.spend is not None:
            figures["spend"] = endpoint.spend
        return figures

    def _try_out(self) -> None:
        config = self._config
        try:
            asyncio.run(self._trial())
        except Unavailable as error:
            raise UserError(
                f"oracle.url={config.url}: no judge answers there: {error}. Start it, or correct the address."
            ) from None
        except Unusable as error:
            detail = f" ({error.detail})" if isinstance(error, Rejected) and error.detail else ""
            raise UserError(
                f"oracle.model={config.model}: gives no usable reply to a trial question: {error}{detail}. Change "
                "what is sent, oracle.response_format, max_tokens, temperature or seed, or name another model."
            ) from None
        except Refused as error:
            raise UserError(str(error)) from None

    async def _trial(self) -> None:
        async with self._endpoint.open(TRIAL_SECONDS) as complete:
            await self._better(complete, "What is two and two?", "It is four.", "It is five.")

    def _ask(self, questions: Sequence[Question]) -> None:
        """Have as many questions answered as time allows, and tell once what went wrong with the others."""
        failures = asyncio.run(self._ask_all(questions))
        if failures:
            reasons = ", ".join(f"{reason} ({times})" for reason, times in failures.most_common())
            open_, of = sum(failures.values()), len(questions)
            _log.warning("%s: %d of %d duels stay open: %s", self.name, open_, of, reasons)

    async def _ask_all(self, questions: Sequence[Question]) -> Counter[str]:
        async with self._endpoint.open(CALL_SECONDS) as complete:
            call = _Call(complete, asyncio.Semaphore(self._config.concurrency), Counter())
            # What failed before comes last, so that it never keeps the others waiting.
            ordered = sorted(questions, key=lambda question: self._failed[question["id"]])
            await asyncio.gather(*(self._settle(question, call) for question in ordered))
        return call.failures

    async def _settle(self, question: Question, call: _Call) -> None:
        """Ask in both orders, one after the other: an endpoint that fails is asked once."""
        prompt, first, second = question["prompt"], question["first"], question["second"]
        async with call.slots:
            if self._ended is not None:
                return
            try:
                straight = await self._better(call.complete, prompt, first, second)
                reverse = await self._better(call.complete, prompt, second, first)
            except Late:
                return
            except Refused as refused:
                self._ended = RunFailure(f"{refused} The run can be resumed.")
                return
            except (Unavailable, Unusable) as failure:
                call.failures[str(failure)] += 1
                self._failed[question["id"]] += 1
                if isinstance(failure, Unusable):
                    self._note_vain(question, failure)
                return
        self._in_vain.pop(question["id"], None)
        self._judged += 1
        self._flips += reverse is not _SEEN_FROM_BEHIND[straight]

    async def _better(self, complete: Complete, prompt: str, a: str, b: str) -> Better:
        """The reply to one order, asked for again while it cannot be used. Raises: as ``complete`` does."""
        asked = digest(prompt, a, b)
        attempt = 0
        while asked not in self._replies:
            attempt += 1
            try:
                reply = await complete(messages(self._config.rubric, prompt, a, b, again=attempt > 1))
                self._replies[asked] = read(reply)
            except Unusable:
                self._malformed += 1
                if attempt == self._config.attempts:
                    raise
        return self._replies[asked]

    def _note_vain(self, question: Question, failure: Unusable) -> None:
        self._in_vain[question["id"]] += 1
        vain = len(self._in_vain)
        if vain >= _HOPELESS and vain > self._judged:
            self._ended = RunFailure(
                f"{self.name}: no usable reply to {vain} duels, against {self._judged} judged; the last time because "
                f"{failure}. Resume the run with another oracle.response_format or oracle.max_tokens, or start one "
                "with another oracle.model."
            )

    def _probability(self, question: Question) -> float | None:
        """That ``first`` is better, by both orders; None while one has no reply."""
        prompt, first, second = question["prompt"], question["first"], question["second"]
        straight = self._replies.get(digest(prompt, first, second))
        reverse = self._replies.get(digest(prompt, second, first))
        if straight is None or reverse is None:
            return None
        return _PROBABILITY[straight] if reverse is _SEEN_FROM_BEHIND[straight] else 0.5

    def _verdict(self, question: Question) -> Verdict | None:
        name, probability = question["id"], self._probability(question)
        if probability is not None:
            return Verdict(name, _OUTCOME[probability], self._config.model, time.time(), probability)
        if self._in_vain[name] < _CALLS_IN_VAIN:
            return None
        self._given_up += 1
        _log.warning("%s: duel %s is given up, as nothing that the judge replies can be used", self.name, name)
        return Verdict(name, Outcome.SKIP, self._config.model, time.time())

    def _refuse_to_wait_on(self, left: Sequence[Question], progress: float) -> None:
        """Evaluation is of all questions or none. Raises: RunFailure when ``left`` will not be answered."""
        if self._ended is not None and left:
            raise self._ended
        vain = sum(self._in_vain[question["id"]] >= _CALLS_IN_VAIN for question in left)
        if vain:
            raise RunFailure(
                f"{self.name}: no usable reply to {vain} questions of an evaluation. Raise oracle.max_tokens, or set "
                "oracle.evaluates=false; the run can be resumed."
            )
        if left and time.monotonic() - progress > self._config.wait_hours * 3600:
            raise RunFailure(
                f"{self.name}: no answer for {self._config.wait_hours:g} hours (oracle.wait_hours). Start the "
                "judge again; the run can be resumed."
            )

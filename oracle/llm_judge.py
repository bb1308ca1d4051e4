"""A language model as the judge. Each duel is asked in both orders; replies that depend on the order make a tie.

A judge with a pure position bias thus yields only ties. A malformed reply is requested again a few times and never
guessed at. Duels that the endpoint did not answer stay open.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence

from oracle.base import Oracle, Question
from oracle.llm_endpoint import Complete, Endpoint, Late, Refused, Rejected, Unavailable
from oracle.llm_question import Better, Unusable, digest, messages, read
from sea_agent.config import LlmJudgeOracleConfig
from sea_agent.errors import RunFailure, UserError
from sea_agent.types import Duel, Outcome, Verdict

CALL_SECONDS = 45.0
TRIAL_SECONDS = 10.0
# After this many calls with unusable replies a duel is given up.
_CALLS_IN_VAIN = 3
# With at least this many unusable duels, and fewer judged ones, the judge itself is at fault.
_HOPELESS = 8

_PROBABILITY = {Better.A: 1.0, Better.TIE: 0.5, Better.B: 0.0}
_OUTCOME = {1.0: Outcome.FIRST, 0.5: Outcome.TIE, 0.0: Outcome.SECOND}
_SWAPPED = {Better.A: Better.B, Better.B: Better.A, Better.TIE: Better.TIE}

_log = logging.getLogger(__name__)


class LlmJudgeOracle(Oracle):
    """Asks a model behind an OpenAI-compatible endpoint.

    Replies are cached by question within the process. ``metrics`` reports requests, tokens, money, and how often the
    order of the answers changed the reply.
    """

    def __init__(self, config: LlmJudgeOracleConfig) -> None:
        """Ask a trial question. Raises: UserError when the endpoint, the key, the model or its reply is invalid."""
        super().__init__(f"judge {config.model} at {config.url}")
        self.evaluates = config.evaluates
        self._config = config
        self._endpoint = Endpoint(config)
        self._replies: dict[str, Better] = {}
        self._in_vain: Counter[str] = Counter()  # calls with unusable replies, by question
        self._failed: Counter[str] = Counter()  # calls with no reply or an unusable one, by question
        self._ended: RunFailure | None = None
        self._malformed = self._judged = self._flips = self._given_up = 0
        self._try_out()

    def verdicts(self, duels: Sequence[Duel]) -> list[Verdict]:
        """The verdicts available within about a minute: the outcome on which both orders agree, otherwise a tie; a
        skip after several calls with unusable replies.

        Raises: RunFailure when the endpoint refuses all requests, the budget is spent, or no reply is usable.
        """
        questions = [duel.public() for duel in duels]
        self._ask(questions)
        found = [verdict for question in questions if (verdict := self._verdict(question)) is not None]
        if self._ended is not None and questions and not found:
            raise self._ended  # only once all verdicts have been returned
        return found

    def evaluate(self, questions: Sequence[Question]) -> list[float]:
        """1, ½ or 0 for each question; ½ where the order changes the reply.

        Raises: RunFailure as ``verdicts`` does, when a question gets no usable reply, and when nothing was answered for
            ``oracle.wait_hours``. ValueError: ``oracle.evaluates`` is false.
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
        """Totals since this process started, including the trial question."""
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
                "oracle.response_format, max_tokens, temperature or seed, or choose another model."
            ) from None
        except Refused as error:
            raise UserError(str(error)) from None

    async def _trial(self) -> None:
        async with self._endpoint.open(TRIAL_SECONDS) as complete:
            await self._better(complete, "What is two and two?", "It is four.", "It is five.")

    def _ask(self, questions: Sequence[Question]) -> None:
        """Ask as many questions as time allows, and log once why others stay open."""
        failures = asyncio.run(self._ask_all(questions))
        if failures:
            reasons = ", ".join(f"{reason} ({times})" for reason, times in failures.most_common())
            _log.warning("%s: %d of %d duels stay open: %s", self.name, failures.total(), len(questions), reasons)

    async def _ask_all(self, questions: Sequence[Question]) -> Counter[str]:
        slots, failures = asyncio.Semaphore(self._config.concurrency), Counter[str]()

        async def settle(question: Question) -> None:
            async with slots:
                if self._ended is None:
                    await self._settle(complete, question, failures)

        async with self._endpoint.open(CALL_SECONDS) as complete:
            # Questions that failed before come last, so that they never delay the others.
            await asyncio.gather(*map(settle, sorted(questions, key=lambda question: self._failed[question["id"]])))
        return failures

    async def _settle(self, complete: Complete, question: Question, failures: Counter[str]) -> None:
        """Ask in both orders, sequentially, so that a failing endpoint is asked once. Counts ``failures`` by reason."""
        prompt, first, second = question["prompt"], question["first"], question["second"]
        try:
            straight = await self._better(complete, prompt, first, second)
            reverse = await self._better(complete, prompt, second, first)
        except Late:
            return
        except Refused as refused:
            self._ended = RunFailure(f"{refused} The run can be resumed.")
            return
        except (Unavailable, Unusable) as failure:
            failures[str(failure)] += 1
            self._failed[question["id"]] += 1
            if isinstance(failure, Unusable):
                self._note_unusable(question, failure)
            return
        self._in_vain.pop(question["id"], None)
        self._judged += 1
        self._flips += reverse is not _SWAPPED[straight]

    async def _better(self, complete: Complete, prompt: str, a: str, b: str) -> Better:
        """The reply to one order, requested again while it is unusable. Raises: as ``complete`` does."""
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

    def _note_unusable(self, question: Question, failure: Unusable) -> None:
        self._in_vain[question["id"]] += 1
        vain = len(self._in_vain)
        if vain >= _HOPELESS and vain > self._judged:
            self._ended = RunFailure(
                f"{self.name}: no usable reply to {vain} duels, against {self._judged} judged; the last time because "
                f"{failure}. Resume the run with another oracle.response_format or oracle.max_tokens, or start one "
                "with another oracle.model."
            )

    def _probability(self, question: Question) -> float | None:
        """The probability that ``first`` is better, from both orders; None while a reply is missing."""
        prompt, first, second = question["prompt"], question["first"], question["second"]
        straight = self._replies.get(digest(prompt, first, second))
        reverse = self._replies.get(digest(prompt, second, first))
        if straight is None or reverse is None:
            return None
        return _PROBABILITY[straight] if reverse is _SWAPPED[straight] else 0.5

    def _verdict(self, question: Question) -> Verdict | None:
        name, probability = question["id"], self._probability(question)
        if probability is not None:
            return Verdict(name, _OUTCOME[probability], self._config.model, time.time(), probability)
        if self._in_vain[name] < _CALLS_IN_VAIN:
            return None
        self._given_up += 1
        _log.warning("%s: duel %s is given up: the judge gives no usable reply", self.name, name)
        return Verdict(name, Outcome.SKIP, self._config.model, time.time())

    def _refuse_to_wait_on(self, left: Sequence[Question], progress: float) -> None:
        """Evaluation needs all questions. Raises: RunFailure when those ``left`` will not be answered."""
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

"""What fixtures of the language model judge give."""

import time
from collections.abc import Callable

from oracle.llm_judge import LlmJudgeOracle

MakeJudge = Callable[..., LlmJudgeOracle]


class Clock:
    """Runs ahead of the real one by what is slept on it, and by what it is moved."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def time(self) -> float:
        return time.time() + self.ahead

    async def sleep(self, seconds: float) -> None:
        self.ahead += seconds

"""The duels that wait for an answer, and how long the run waits with them."""

import time
from collections.abc import Callable, Mapping, Sequence

from oracle import Oracle
from sea_agent.config import RemoteOracleConfig
from sea_agent.errors import RunFailure, Stopped
from sea_agent.persistence.ledger import Ledger
from sea_agent.types import Duel, LabelSource, Verdict


class OpenDuels:
    """Asks the oracle, and keeps what it has not answered for the next time.

    ``patience`` says whether a round waits for all of its answers; None for oracles that answer at once. ``tell`` gets
    a line for the user while the run waits, and ``stopping`` says whether it should stop instead.
    """

    def __init__(
        self,
        oracle: Oracle,
        ledger: Ledger,
        patience: RemoteOracleConfig | None,
        *,
        tell: Callable[[str], None] = lambda line: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._oracle, self._ledger, self._patience = oracle, ledger, patience
        self._tell, self._stopping = tell, stopping
        self._open: dict[str, Duel] = {}

    def __len__(self) -> int:
        """Number of duels without an answer."""
        return len(self._open)

    def oracle_counts(self) -> dict[str, float]:
        """What the oracle counts beside its answers, by name."""
        return self._oracle.metrics()

    def restore(self, duels: Sequence[Duel]) -> None:
        """Wait for the answers to these duels, and no others."""
        self._open = {duel.id: duel for duel in duels if not duel.is_erased}

    def ask(self, duels: Sequence[Duel], number: int, budget_left: int) -> list[tuple[Duel, Verdict]]:
        """The answers of round ``number``, to its own duels or to earlier ones, in the order of the duels.

        Each is in the ledger before it is returned. What the round was answered before the run was interrupted is not
        asked again. ``budget_left`` says how many answers the run still wants, those to open duels included.

        Raises:
            RunFailure: when the oracle is silent for longer than the patience allows.
            Stopped: when the run should stop while it waits.
        """
        self._open |= {duel.id: duel for duel in duels if duel.label_source is LabelSource.ORACLE}
        asked = list(self._open.values())
        given = {verdict.duel_id: verdict for verdict in self._ledger.recorded(asked, number)}
        since = time.monotonic()
        while unanswered := self._ledger.unanswered(duel for duel in asked if _is_asked(duel, given)):
            verdicts = self._oracle.ask(unanswered)
            self._ledger.add_verdicts(unanswered, verdicts, number)
            given |= {verdict.duel_id: verdict for verdict in verdicts}
            if not self._waits(len(asked) - len(given), budget_left):
                break
            since = time.monotonic() if verdicts else since
            self._wait(len(asked) - len(given), since)
        answered = [(self._open.pop(duel.id), given[duel.id]) for duel in asked if duel.id in given]
        self._open = {id_: duel for id_, duel in self._open.items() if not duel.is_erased}  # nobody can answer those
        return [(duel, verdict) for duel, verdict in answered if not duel.is_erased]

    def _waits(self, open_: int, budget_left: int) -> bool:
        """Whether the round may not end with so many duels open."""
        if self._patience is None or not open_:
            return False
        return self._patience.wait or open_ >= min(self._patience.pending, budget_left)

    def _wait(self, open_: int, since: float) -> None:
        assert self._patience is not None  # nobody else waits
        silent = time.monotonic() - since
        line, more = f"waiting for {open_} answers of {self._oracle.name}", self._oracle.waiting()
        self._tell(f"{line}. {more}" if more else line)
        if self._stopping():
            raise Stopped
        if silent > self._patience.wait_hours * 3600:
            raise RunFailure(
                f"{self._oracle.name} gave no answer for {self._patience.wait_hours:g} hours; {open_} duels are open. "
                "See to it that somebody answers, then go on with `sea-agent resume`; raise oracle.wait_hours to wait "
                "for longer."
            )


def _is_asked(duel: Duel, given: Mapping[str, Verdict]) -> bool:
    return duel.id not in given and not duel.is_erased

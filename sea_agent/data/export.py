"""Exports the answers in a run's ledger as preference data with their provenance (``sea-agent export``)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from sea_agent.config.files import load_tree
from sea_agent.data.encoders import Columns, Kind, sides, write_preferences
from sea_agent.data.rows import Record
from sea_agent.errors import UserError
from sea_agent.persistence.ledger import read_ledger
from sea_agent.pretrained import load_tokenizer
from sea_agent.types import Duel, LabelSource, Outcome, Prompt, Response, Verdict, winner_first

# Each column of provenance: its kind, and its value from duel and verdict, the winner first, and the verdict as given.
_PROVENANCE: dict[str, tuple[Kind, Callable[[Duel, Verdict, Verdict], Any]]] = {
    "duel_id": ("text", lambda won, said, verdict: won.id),
    "round": ("integer", lambda won, said, verdict: won.round),
    "outcome": ("text", lambda won, said, verdict: verdict.outcome.value),
    "n_votes": ("integer", lambda won, said, verdict: verdict.votes),
    "annotator": ("text", lambda won, said, verdict: verdict.annotator),
    "probability": ("number", lambda won, said, verdict: said.probability),
    "answered_at": ("text", lambda won, said, verdict: _iso(verdict.at)),
    "source": ("text", lambda won, said, verdict: won.label_source.value),
    "rule": ("text", lambda won, said, verdict: won.rule),
    "policy_version": ("integer", lambda won, said, verdict: won.policy_version),
    "posterior_version": ("integer", lambda won, said, verdict: won.posterior_version),
    "belief": ("number", lambda won, said, verdict: won.belief),
    "disagreement": ("number", lambda won, said, verdict: won.disagreement),
    "prompt_id": ("text", lambda won, said, verdict: won.prompt.id),
    "chosen_id": ("text", lambda won, said, verdict: won.first.id),
    "chosen_policy_version": ("integer", lambda won, said, verdict: won.first.policy_version),
    "rejected_id": ("text", lambda won, said, verdict: won.second.id),
    "rejected_policy_version": ("integer", lambda won, said, verdict: won.second.policy_version),
}
COLUMNS: Columns = {"run": "text", **{name: kind for name, (kind, _) in _PROVENANCE.items()}}


@dataclass(frozen=True)
class Exported:
    """The number of preferences written, and of answers left out because they name no winner."""

    preferences: int
    undecided: int


def export_run(run: Path, out: Path, sources: Iterable[LabelSource]) -> Exported:
    """Write the preferences of a run, finished or not, whose label source is one of ``sources``.

    Raises:
        UserError: there is no run, it mixes plain and chat prompts, or the file cannot be written.
    """
    ledger = run / "ledger.sqlite"
    if not ledger.is_file():
        raise UserError(f"{run}: not the directory of a run (it has no ledger.sqlite)")
    wanted, undecided = frozenset(sources), 0

    def answered() -> Iterator[tuple[Duel, Verdict]]:
        nonlocal undecided
        for duel, verdict in read_ledger(ledger):
            if verdict is not None and duel.label_source in wanted:
                undecided += verdict.outcome in (Outcome.TIE, Outcome.BOTH_BAD)
                if verdict.outcome.names_winner:
                    yield duel, verdict

    answers = answered()
    first = next(answers, None)
    chat = first is not None and _is_chat(first[0])
    tokenizer = None if chat or first is None else load_tokenizer(_policy(run))

    def rows() -> Iterator[Record]:
        for duel, verdict in answers if first is None else chain([first], answers):
            if _is_chat(duel) != chat:
                raise UserError(
                    f"{ledger}: holds plain prompts and chats, and a file of preferences holds one kind. Give them to "
                    "runs of their own."
                )
            yield _row(duel, verdict, run.resolve().name, tokenizer)

    return Exported(write_preferences(out, rows(), COLUMNS, chat=chat), undecided)


def _is_chat(duel: Duel) -> bool:
    return duel.prompt.messages is not None


def _policy(run: Path) -> str:
    """The directory of the run's policy with its tokenizer: the saved one, or else the initial one."""
    saved = run / "policy"
    return str(saved if saved.is_dir() else load_tree(str(run / "config.yaml"))["policy"]["path"])


def _row(duel: Duel, verdict: Verdict, run: str, tokenizer: Any) -> Record:
    turned = winner_first(duel, verdict)
    assert turned is not None  # verdicts without a winner are left out
    won, said = turned
    texts = (_continuation(duel.prompt, response, tokenizer) for response in (won.first, won.second))
    provenance = {name: value(won, said, verdict) for name, (_, value) in _PROVENANCE.items()}
    return {**sides(duel.prompt, *texts), "run": run, **provenance}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _continuation(prompt: Prompt, response: Response, tokenizer: Any) -> str:
    """The text of the response as a continuation of the prompt.

    Training concatenates the two texts, and some tokenizers drop the space between them when they decode a response
    alone.
    """
    if tokenizer is None:
        return response.text
    before, whole = (
        tokenizer.decode(ids, skip_special_tokens=True)
        for ids in (prompt.token_ids, prompt.token_ids + response.token_ids)
    )
    return whole.removeprefix(before) if whole.startswith(before) else response.text

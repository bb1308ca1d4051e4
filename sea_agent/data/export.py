"""The answers in a run's ledger as preference data, with where each comes from (``sea-agent export``)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from sea_agent.config.files import load_tree
from sea_agent.data.encoders import Columns, sides, write_preferences
from sea_agent.data.rows import Record
from sea_agent.errors import UserError
from sea_agent.persistence.ledger import read_ledger
from sea_agent.pretrained import load_tokenizer
from sea_agent.types import Duel, LabelSource, Outcome, Prompt, Response, Verdict, winner_first

COLUMNS: Columns = {
    "run": "text",
    "duel_id": "text",
    "round": "integer",
    "outcome": "text",
    "n_votes": "integer",
    "annotator": "text",
    "probability": "number",
    "answered_at": "text",
    "source": "text",
    "rule": "text",
    "policy_version": "integer",
    "posterior_version": "integer",
    "belief": "number",
    "disagreement": "number",
    "prompt_id": "text",
    "chosen_id": "text",
    "chosen_policy_version": "integer",
    "rejected_id": "text",
    "rejected_policy_version": "integer",
}


@dataclass(frozen=True)
class Exported:
    """How many preferences were written, and how many answers were left out because they name no winner."""

    preferences: int
    undecided: int


def export_run(run: Path, out: Path, sources: Iterable[LabelSource]) -> Exported:
    """Write the preferences of a run, finished or not, that were labelled by one of the sources.

    Raises:
        UserError: when there is no run, its prompts are of two kinds, or the file cannot be written.
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
    """Where the tokenizer of a run's policy is: in what the run left behind, or where it began."""
    left = run / "policy"
    return str(left if left.is_dir() else load_tree(str(run / "config.yaml"))["policy"]["path"])


def _row(duel: Duel, verdict: Verdict, run: str, tokenizer: Any) -> Record:
    turned = winner_first(duel, verdict)
    assert turned is not None  # the others are left out
    winner, said = turned
    chosen, rejected = winner.first, winner.second
    texts = (_continuation(duel.prompt, response, tokenizer) for response in (chosen, rejected))
    return sides(duel.prompt, *texts) | {
        "run": run,
        "duel_id": duel.id,
        "round": duel.round,
        "outcome": verdict.outcome.value,
        "n_votes": verdict.votes,
        "annotator": verdict.annotator,
        "probability": said.probability,
        "answered_at": datetime.fromtimestamp(verdict.at, UTC).isoformat(timespec="milliseconds"),
        "source": duel.label_source.value,
        "rule": duel.rule,
        "policy_version": duel.policy_version,
        "posterior_version": duel.posterior_version,
        "belief": winner.belief,
        "disagreement": duel.disagreement,
        "prompt_id": duel.prompt.id,
        "chosen_id": chosen.id,
        "chosen_policy_version": chosen.policy_version,
        "rejected_id": rejected.id,
        "rejected_policy_version": rejected.policy_version,
    }


def _continuation(prompt: Prompt, response: Response, tokenizer: Any) -> str:
    """The response as it goes on from the prompt.

    Whoever trains on it puts the two texts together, and some tokenizers drop the space between them when they decode
    a response by itself.
    """
    if tokenizer is None:
        return response.text
    before, whole = (
        tokenizer.decode(ids, skip_special_tokens=True)
        for ids in (prompt.token_ids, prompt.token_ids + response.token_ids)
    )
    return whole.removeprefix(before) if whole.startswith(before) else response.text

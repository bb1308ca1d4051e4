"""A run's ledger as preference data: who won, who said so, and that TRL trains on the tokens that were sampled."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from user_policies import make_tokenizer

from sea_agent.data.export import COLUMNS, export_run
from sea_agent.errors import UserError
from sea_agent.persistence.ledger import Ledger, read_ledger
from sea_agent.pretrained import load_tokenizer
from sea_agent.types import Duel, LabelSource, Outcome, Prompt, Response, Verdict

ORACLE = (LabelSource.ORACLE,)
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}w27 {{ m.content }} <end> {% else %}w28 {{ m.content }} "
    "{% endif %}{% endfor %}{% if add_generation_prompt %}w27{% endif %}"
)


def duel(name: str, source: LabelSource = LabelSource.ORACLE, *, chat: bool = False, number: int = 1) -> Duel:
    """``w1 w2`` goes on with ``w3 w4`` or ``w5``, each ended."""
    tokenizer = make_tokenizer()
    asked = "w28 w1 w2 w27" if chat else "w1 w2"
    prompt = Prompt("prompt", "w1 w2", tuple(tokenizer(asked).input_ids), (("user", "w1 w2"),) if chat else None)
    first, second = (
        Response(f"{name}-{index}", prompt.id, text, (*tokenizer(text).input_ids, tokenizer.eos_token_id), (), index)
        for index, text in enumerate(("w3 w4", "w5"))
    )
    return Duel(name, number, prompt, first, second, "sea_ee", 0, 2, source, belief=0.25, disagreement=0.125)


def verdict(name: str, outcome: Outcome, probability: float | None = 0.9) -> Verdict:
    return Verdict(name, outcome, "somebody", 1_800_000_000.25, probability, votes=3)


@pytest.fixture
def run(tmp_path: Path, policy_dir: Callable[[str], Path]) -> Callable[..., Path]:
    """The directory of a run with these duels and verdicts."""

    def make(duels: Iterable[Duel], verdicts: Iterable[Verdict]) -> Path:
        folder = tmp_path / "mine"
        folder.mkdir()
        (folder / "config.yaml").write_text(json.dumps({"policy": {"path": str(policy_dir("llama"))}}))
        with Ledger(folder / "ledger.sqlite") as ledger:
            ledger.add_verdicts(ledger.add_duels(list(duels), 1), list(verdicts), 1)
        return folder

    return make


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def both(run: Path, sources: Sequence[LabelSource] = ORACLE) -> list[dict[str, Any]]:
    """The rows of an export, which are the same in either form."""
    export_run(run, run / "x.jsonl", sources)
    export_run(run, run / "x.parquet", sources)
    assert pyarrow.parquet.read_table(run / "x.parquet").to_pylist() == rows(run / "x.jsonl")
    return rows(run / "x.jsonl")


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_row_holds_the_winner_and_where_it_comes_from(run: Callable[..., Path]) -> None:
    folder = run([duel("one"), duel("two")], [verdict("one", Outcome.FIRST), verdict("two", Outcome.SECOND, 0.125)])
    one, two = both(folder)
    assert one == {
        "prompt": "w1 w2",
        "chosen": " w3 w4",
        "rejected": " w5",
        "run": "mine",
        "duel_id": "one",
        "round": 1,
        "outcome": "first",
        "n_votes": 3,
        "annotator": "somebody",
        "probability": 0.9,
        "answered_at": "2027-01-15T08:00:00.250+00:00",
        "source": "oracle",
        "rule": "sea_ee",
        "policy_version": 0,
        "posterior_version": 2,
        "belief": 0.25,
        "disagreement": 0.125,
        "prompt_id": "prompt",
        "chosen_id": "one-0",
        "chosen_policy_version": 0,
        "rejected_id": "one-1",
        "rejected_policy_version": 1,
    }
    assert list(one) == ["prompt", "chosen", "rejected", *COLUMNS]
    assert (two["chosen"], two["rejected"], two["outcome"]) == (" w5", " w3 w4", "second")
    assert (two["probability"], two["belief"]) == (0.875, 0.75), "of the chosen response"
    assert (two["chosen_policy_version"], two["rejected_policy_version"]) == (1, 0)


def test_answers_without_a_winner_are_counted_and_left_out(run: Callable[..., Path]) -> None:
    outcomes = dict(zip("abcde", Outcome, strict=True))
    folder = run([*map(duel, outcomes), duel("open")], [verdict(name, outcome) for name, outcome in outcomes.items()])
    done = export_run(folder, folder / "x.jsonl", ORACLE)
    assert (done.preferences, done.undecided) == (2, 2), "a skip is no answer"
    assert [row["outcome"] for row in rows(folder / "x.jsonl")] == ["first", "second"]


def test_the_sources_that_are_asked_for_are_exported(run: Callable[..., Path]) -> None:
    sources = (LabelSource.ORACLE, LabelSource.POSTERIOR, LabelSource.DEMO)
    folder = run([duel(source.value, source) for source in sources], [verdict(s.value, Outcome.FIRST) for s in sources])
    assert [row["source"] for row in both(folder)] == ["oracle"]
    assert [row["source"] for row in both(folder, [LabelSource.POSTERIOR])] == ["posterior"]
    assert [row["source"] for row in both(folder, list(LabelSource))] == ["oracle", "posterior", "demo"]


def test_chats_are_exported_as_messages(run: Callable[..., Path]) -> None:
    (row,) = both(run([duel("one", chat=True)], [verdict("one", Outcome.SECOND)]))
    assert row["prompt"] == [{"role": "user", "content": "w1 w2"}]
    assert row["chosen"] == [{"role": "assistant", "content": "w5"}]
    assert row["rejected"] == [{"role": "assistant", "content": "w3 w4"}]


def test_a_ledger_of_plain_prompts_and_chats_is_refused(run: Callable[..., Path]) -> None:
    duels = [duel("one"), duel("two", chat=True)]
    folder = run(duels, [verdict(one.id, Outcome.FIRST) for one in duels])
    with pytest.raises(UserError, match="holds plain prompts and chats"):
        export_run(folder, folder / "x.jsonl", ORACLE)
    assert not (folder / "x.jsonl").exists()


# --- the ledger ------------------------------------------------------------------------------------------------------


def test_a_ledger_is_read_to_its_end_in_the_order_it_was_written(tmp_path: Path) -> None:
    duels = [replace(duel("x"), id=f"{index * 7919 % 1201:04d}") for index in range(1201)]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_duels(duels, 1)
        ledger.add_verdicts(duels, [verdict(one.id, Outcome.TIE) for one in duels[:600]], 1)
    found = list(read_ledger(tmp_path / "ledger.sqlite"))
    assert [one for one, _ in found] == duels
    assert [answer is not None for _, answer in found] == [True] * 600 + [False] * 601


def test_a_reader_neither_changes_a_ledger_nor_keeps_its_run_waiting(run: Callable[..., Path]) -> None:
    folder = run([duel("one")], [verdict("one", Outcome.FIRST)])
    reading = read_ledger(folder / "ledger.sqlite")
    assert next(reading)[0].id == "one"
    with Ledger(folder / "ledger.sqlite") as ledger:
        ledger._db.execute("PRAGMA busy_timeout = 0")  # a lock that the reader held would be an error at once
        ledger.add_duels([duel("two", number=2)], 2)
    assert [one.id for one, _ in reading] == ["two"], "what a run writes meanwhile is read too"
    before = (folder / "ledger.sqlite").read_bytes()
    assert len(both(folder)) == 1
    assert (folder / "ledger.sqlite").read_bytes() == before


def test_a_lock_that_a_reader_holds_would_be_noticed(run: Callable[..., Path]) -> None:
    """The control of the test above."""
    folder = run([duel("one")], [])
    holder = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)
    holder.execute("BEGIN")
    holder.execute("SELECT * FROM duels").fetchone()
    with Ledger(folder / "ledger.sqlite") as ledger:
        ledger._db.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            ledger.add_duels([duel("two", number=2)], 2)
    holder.close()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: not the directory of a run \(it has no ledger\.sqlite\)"):
        export_run(tmp_path / "nowhere", tmp_path / "x.jsonl", ORACLE)
    (tmp_path / "ledger.sqlite").write_text("no database, but long enough to be looked at as one" * 20)
    with pytest.raises(UserError, match=r"ledger\.sqlite: cannot be read as the ledger of a run"):
        export_run(tmp_path, tmp_path / "x.jsonl", ORACLE)


# --- TRL -------------------------------------------------------------------------------------------------------------

Tokens = list[tuple[list[int], list[int], list[int]]]


def seen_by_trl(path: Path, policy: Path, folder: Path, template: str | None = None) -> Tokens:
    """Prompt, chosen and rejected tokens that TRL's DPO trainer makes of a file, loaded by datasets."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    tokenizer = load_tokenizer(str(policy))
    tokenizer.chat_template = template
    kind = {".jsonl": "json", ".parquet": "parquet"}[path.suffix]
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(policy),
        ref_model=AutoModelForCausalLM.from_pretrained(policy),
        args=DPOConfig(output_dir=str(folder / "trl"), use_cpu=True, bf16=False, report_to="none", max_steps=1),
        train_dataset=load_dataset(kind, data_files=str(path), split="train", cache_dir=str(folder / "cache")),
        processing_class=tokenizer,
    )
    loss = trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[0]]))
    assert loss.isfinite()
    return [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in trainer.train_dataset]


def sampled(duels: Iterable[Duel]) -> Tokens:
    """The tokens of duels whose first response won."""
    return [(list(d.prompt.token_ids), list(d.first.token_ids), list(d.second.token_ids)) for d in duels]


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
@pytest.mark.parametrize("chat", [False, True])
def test_trl_trains_on_the_tokens_that_were_sampled(
    name: str, chat: bool, run: Callable[..., Path], policy_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    duels = [duel(f"d{index}", chat=chat) for index in range(3)]
    folder = run(duels, [verdict(one.id, Outcome.FIRST) for one in duels])
    export_run(folder, folder / name, ORACLE)
    seen = seen_by_trl(folder / name, policy_dir("llama"), tmp_path, CHAT_TEMPLATE if chat else None)
    assert seen == sampled(duels)


def test_without_the_space_between_prompt_and_response_trl_would_see_other_tokens(
    run: Callable[..., Path], policy_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    """The control: a response that was decoded by itself is not the continuation of its prompt."""
    duels = [duel("d")]
    folder = run(duels, [verdict("d", Outcome.FIRST)])
    export_run(folder, folder / "x.jsonl", ORACLE)
    (row,) = rows(folder / "x.jsonl")
    bare = row | {side: row[side].strip() for side in ("chosen", "rejected")}
    (folder / "bare.jsonl").write_text(json.dumps(bare) + "\n")
    assert seen_by_trl(folder / "bare.jsonl", policy_dir("llama"), tmp_path) != sampled(duels)

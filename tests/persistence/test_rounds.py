"""The row of a round: its file format stays, what is unknown is told, and the documentation names every figure."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sea_agent.dashboard.comparing import BELIEFS
from sea_agent.dashboard.single import COUNTS
from sea_agent.errors import UserError
from sea_agent.lab.comparison import FINAL, SPENT
from sea_agent.persistence.rounds import Evaluation, RoundMetrics, Seconds, meanings

FILE = Path("runs/a/metrics.jsonl")
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "dashboard.md"
# Of runs as they have always been written: one that asks and is evaluated, and one that imagines.
ASKS = (
    '{"round": 1, "oracle_queries": 16, "open_duels": 0, "posterior_labels": 0, "imagined_pairs": 0, '
    '"policy_samples": 256, "gradient_steps": 1, "oracle_requests": 32, "oracle_flip_rate": 0.125, "pairs": 16.0, '
    '"logprob_gap": 2.9258194444992114e-07, "learning_rate": 0.002, "loss": 0.6931471824645996, "accuracy": 0.0, '
    '"margin": 0.0, "grad_norm": 2.5799388885498047, "posterior_loss": 0.46315755335310094, '
    '"posterior_log_evidence_per_label": -0.6974022347100491, "posterior_prior_deviation": 0.9699433965153269, '
    '"foresight_accuracy": 0.5, "foresight_brier": 0.2666592299938202, "disagreement": 0.2336279572919011, '
    '"typical_disagreement": 0.2213666532188654, "distinct_candidates": 1.0, "win_rate": 0.5381460857843591, '
    '"win_rate_ci": [0.505815474836602, 0.5723032516193515], "kl_to_reference": null, "distinct_share": 1.0, '
    '"response_tokens": 7.10546875, "evaluation_queries": 1024, '
    '"seconds": {"ask": {"wall": 0.002, "cpu": 0.001}, "evaluate": {"wall": 0.93, "cpu": 0.94}}}'
)
IMAGINES = (
    '{"round": 2, "oracle_queries": 16, "open_duels": 0, "posterior_labels": 0, "imagined_pairs": 94, '
    '"policy_samples": 512, "gradient_steps": 2, "pairs": 94.0, "loss": NaN, "distinct_candidates": 0.75, '
    '"seconds": {"imagine": {"wall": 0.09, "cpu": 0.08}}}'
)


@pytest.mark.parametrize("line", [ASKS, IMAGINES])
def test_a_line_that_was_read_is_written_as_it_was(line: str) -> None:
    assert json.dumps(RoundMetrics.parse(line, FILE).flat()) == line


def test_rounds_that_imagine_are_told_from_those_that_ask() -> None:
    assert [RoundMetrics.parse(line, FILE).is_imagined for line in (ASKS, IMAGINES)] == [False, True]


def test_names_that_are_not_known_are_left_out_when_read_and_refused_when_written() -> None:
    tree = json.loads(IMAGINES) | {"win_rat": 0.5, "oracle": 1, "evaluation": 2}
    assert RoundMetrics.parse(json.dumps(tree), FILE).flat().keys() == json.loads(IMAGINES).keys()
    with pytest.raises(ValidationError, match="grad_norms"):
        RoundMetrics(round=1, oracle_queries=0, grad_norms=1.0, seconds={})  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("x", "not JSON"),
        ("[1]", "not a JSON object"),
        (b"\xff", "decode"),
        ('{"round": 1}', "oracle_queries: Field required"),
        ('{"round": 1, "oracle_queries": 0, "seconds": {"ask": {"wall": 1.0}}}', r"seconds\.ask\.cpu: Field required"),
        ('{"round": 1, "oracle_queries": 0, "seconds": {}, "win_rate": "high"}', r"evaluation\.win_rate: Input"),
    ],
)
def test_what_is_no_row_is_refused_with_the_file_and_the_reason(line: str | bytes, why: str) -> None:
    with pytest.raises(UserError, match=f"{FILE}: not the metrics of a run .*{why}"):
        RoundMetrics.parse(line, FILE)


def test_the_numbers_of_a_row_are_named() -> None:
    row = RoundMetrics(
        round=2,
        oracle_queries=16,
        oracle={"spend": 0.5},
        evaluation=Evaluation(win_rate_ci=(0.4, 0.6), kl_to_reference=None),
        seconds={"learn": Seconds(wall=0.5, cpu=0.25)},
    )
    assert row.numbers() == {
        "round": 2.0,
        "oracle_queries": 16.0,
        "oracle_spend": 0.5,
        "win_rate_ci/low": 0.4,
        "win_rate_ci/high": 0.6,
        "seconds/learn/wall": 0.5,
        "seconds/learn/cpu": 0.25,
    }


def test_an_evaluation_is_told_as_json_holds_it() -> None:
    told = Evaluation(win_rate_ci=(0.25, 0.5), kl_to_reference=None).measured()
    assert told == json.loads(json.dumps(told)) == {"win_rate_ci": [0.25, 0.5], "kl_to_reference": None}


SHOWN = {*FINAL, *BELIEFS, *COUNTS, *SPENT} - {"cpu_seconds"}  # which is summed over rows


def test_what_the_lab_and_the_dashboard_show_is_in_a_row() -> None:
    assert meanings().keys() >= SHOWN
    assert not SHOWN | {"winrate"} <= meanings().keys(), "the control: a name that no row has"


# --- the documentation -----------------------------------------------------------------------------------------------


def documented(text: str) -> dict[str, Any]:
    """Names and meanings in the table of metrics."""
    table = text.partition("## Metrics of a round")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE))


def test_the_documentation_says_what_every_name_means() -> None:
    assert documented(DOCUMENTATION.read_text()) == meanings()


def test_a_name_that_the_documentation_lacks_or_makes_up_is_found() -> None:
    text = DOCUMENTATION.read_text()
    assert documented(text.replace("`grad_norm`", "`gradient_norm`")) != meanings()
    assert documented(text.replace("| `loss` |", "")) != meanings()

"""The examples run as they are, and what they print is so."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = {"bandit_alone.py": 30, "own_loop.py": 45, "own_rule.py": 60}


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[str], list[float]]:
    """Run an example; the numbers with a point that it printed."""

    def go(name: str) -> list[float]:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return [float(number) for number in re.findall(r"-?\d+\.\d+", capsys.readouterr().out)]

    return go


def test_each_example_is_short_and_has_its_place_here() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert lengths.keys() == LONGEST.keys()
    assert [name for name, length in lengths.items() if length > LONGEST[name]] == []


def test_thompson_sampling_loses_less_than_chance(printed: Callable[[str], list[float]]) -> None:
    thompson, chance = printed("bandit_alone.py")
    assert 0 < thompson < chance / 2


def test_a_loop_of_ones_own_raises_the_reward(printed: Callable[[str], list[float]]) -> None:
    means = printed("own_loop.py")
    assert len(means) == 10
    assert sum(means[-3:]) / 3 > means[0] + 0.3


def test_parts_of_ones_own_run(printed: Callable[[str], list[float]]) -> None:
    (win_rate,) = printed("own_rule.py")
    assert 0.5 < win_rate < 1


def test_the_command_of_the_example_is_accepted(sea_agent: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    text = (EXAMPLES / "own_rule.py").read_text()
    words = text.partition("    sea-agent run ")[2].partition("\n\n")[0].replace("\\\n", " ").split()
    assert words.count("--set") == 3
    monkeypatch.chdir(EXAMPLES.parent)
    where = words.index("--out")
    done = sea_agent("check", *words[:where], *words[where + 2 :])
    assert done.code == 0, done.err

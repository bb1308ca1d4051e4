"""What `benchmarks/passive.py` makes of its measurements."""

import numpy as np
import pytest

from benchmarks.passive import LOOPS, SHAPES, Shape, compare, markdown, ratio


def test_a_shape_is_a_policy_with_pairs_and_tokens() -> None:
    assert Shape.of("10M:32x128") == Shape("10M", 32, 128)
    for wrong in ("10M", "10M:32", "7B:8x32", "10M:8x32x2"):
        with pytest.raises(ValueError, match=f"^{wrong}: not like"):
            Shape.of(wrong)


@pytest.mark.parametrize("truth", [1.0, 1.3])
def test_a_loop_that_is_dearer_is_told_from_one_that_is_not_though_the_machine_drifts(truth: float) -> None:
    random = np.random.default_rng(0)
    drift = np.linspace(1, 3, 40)  # of the machine, the same for both
    ours, theirs = (cost * drift * random.normal(1, 0.1, 40) for cost in (truth, 1.0))
    found = ratio(ours, theirs)
    assert found.low < truth < found.high
    assert (found.low > 1.1) == (truth > 1.1)


def test_the_response_with_more_even_words_is_preferred_and_equals_are_not() -> None:
    duels = [{"first": "w2 w4", "second": "w2 w3"}, {"first": "w3", "second": "w3"}, {"first": "", "second": "w8"}]
    assert compare(duels) == [1.0, 0.0, 0.0]


def test_the_table_has_a_line_for_each_shape() -> None:
    cost, memory = dict.fromkeys(LOOPS, 12.3), dict.fromkeys(LOOPS, 1234.5)
    one = {"median": 1.05, "low": 0.9, "high": 1.2}
    result = {"blocks": 7, "ms_per_pair": cost, "peak_mb": memory, "to_bare": one, "to_trl": one}
    table = markdown(dict.fromkeys(SHAPES, result)).splitlines()
    assert len(table) == 2 + len(SHAPES)
    assert (
        "| 10M, 32 × 128 | 7 | 12.3, 12.3, 12.3 | 1.05 [0.90, 1.20] | 1.05 [0.90, 1.20] | 1234, 1234, 1234 |"
        in table[-1]
    )

"""Descriptions of experiments: what they expand to, and clear refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sea_agent.errors import UserError
from sea_agent.lab.spec import Cell, plan, read_spec

WriteSpec = Callable[..., Path]


def cells(spec: Path) -> dict[str, Cell]:
    return {cell.path: cell for cell in plan(read_spec(spec), str(spec))}


def test_levels_that_are_not_described_are_left_out_of_the_path(write_spec: WriteSpec) -> None:
    assert list(cells(write_spec())) == ["passive/seed-0", "passive/seed-1"]
    assert list(cells(write_spec(losses={"ipo": {"learner.loss": "ipo"}}, seeds=[3]))) == ["ipo/passive/seed-3"]
    both = write_spec(worlds={"kitchen": {}}, losses={"ipo": {}}, seeds=[3])
    assert list(cells(both)) == ["kitchen/ipo/passive/seed-3"]


def test_cells_are_worlds_by_losses_by_methods_by_seeds_but_for_restrictions(write_spec: WriteSpec) -> None:
    spec = write_spec(
        worlds={"one": {}, "two": {}},
        losses={"dpo": {}, "ipo": {}},
        methods={"all": {}, "few": {"worlds": ["two"], "losses": ["ipo"], "seeds": [1]}},
    )
    paths = list(cells(spec))
    assert len(paths) == len(set(paths)) == 2 * 2 * 2 + 1
    assert [path for path in paths if "/few/" in path] == ["two/ipo/few/seed-1"]


def test_the_more_particular_setting_wins(write_spec: WriteSpec) -> None:
    layers: dict[str, Any] = {
        "set": {"threads": 2, "learner.beta": 1.0, "budget.oracle_queries": 1, "batch_size": 1, "sampler.chunk": 1},
        "worlds": {
            "w": {"set": {"learner.beta": 2.0, "budget.oracle_queries": 2, "batch_size": 2, "sampler.chunk": 2}}
        },
        "models": [{"budget.oracle_queries": 3, "batch_size": 3, "sampler.chunk": 3}],
        "losses": {"l": {"batch_size": 4, "sampler.chunk": 4}},
        "methods": {"m": {"set": {"sampler.chunk": 5}}},
        "seeds": [7],
    }
    (cell,) = cells(write_spec(**layers)).values()
    config = cell.config
    values = (config.threads, config.learner.beta, config.budget.oracle_queries, config.batch_size)
    assert (*values, config.sampler.chunk, config.seed) == (2, 2.0, 3, 4, 5, 7)


def test_a_seed_means_the_same_model_for_every_method(write_spec: WriteSpec) -> None:
    spec = write_spec(
        models=[{"policy.path": "world://a"}, {"policy.path": "world://b"}],
        worlds={"one": {}, "two": {"models": [{"policy.path": "world://c"}]}},
        methods={"all": {}, "late": {"seeds": [9, 5]}},
        seeds=[4, 5, 9],
    )
    policies = {path: cell.config.policy.path.removeprefix("world://") for path, cell in cells(spec).items()}
    assert [policies[f"one/all/seed-{seed}"] for seed in (4, 5, 9)] == ["a", "b", "a"]
    assert [policies[f"one/late/seed-{seed}"] for seed in (5, 9)] == ["b", "a"]
    assert {policy for path, policy in policies.items() if path.startswith("two/")} == {"c"}
    assert [cells(spec)[f"one/all/seed-{seed}"].model for seed in (4, 5, 9)] == [0, 1, 0]


def test_a_method_may_start_from_another_base_and_still_has_the_settings_of_all(write_spec: WriteSpec) -> None:
    found = cells(write_spec(methods={"passive": {}, "sea": {"base": "sea", "set": {"learner.beta": 0.7}}}))
    assert found["sea/seed-0"].config.selection.rule == "sea_ee"
    assert found["sea/seed-0"].config.learner.beta == 0.7
    assert found["sea/seed-0"].config.batch_size == found["passive/seed-0"].config.batch_size == 8


def test_a_cell_belongs_to_its_levels_and_else_to_what_all_start_from(write_spec: WriteSpec) -> None:
    """A method that sets a loss of its own stays beside the baseline when the experiment has no losses."""
    methods = {"passive": {}, "mine": {"set": {"learner.loss": "ipo"}}}
    assert {(cell.world, cell.loss) for cell in cells(write_spec(methods=methods)).values()} == {("lexicon", "dpo")}
    named = cells(write_spec(worlds={"w": {}}, losses={"l": {}}, methods=methods))
    assert {(cell.world, cell.loss) for cell in named.values()} == {("w", "l")}


def test_switching_the_kind_of_a_section_drops_the_other_kinds_keys(write_spec: WriteSpec) -> None:
    mine = {"oracle.target": "mine.py:compare", "oracle.kind": "python"}
    (cell,) = cells(write_spec(methods={"mine": {"set": mine}}, seeds=[0])).values()
    others = {"returns": "probability", "labels": "threshold"}
    assert cell.config.oracle.model_dump() == {"kind": "python", "target": "mine.py:compare"} | others


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sede": [0]}, ["sede", "did you mean seeds"]),
        ({"methods": {"sea": {"sed": [0]}}}, ["methods.sea.sed", "methods.sea.seeds"]),
        ({"worlds": {"w": {"model": []}}}, ["worlds.w.model", "worlds.w.models"]),
        ({"methods": None}, ["methods", "required"]),
        ({"methods": {}}, ["methods"]),
        ({"seeds": [0, 0]}, ["seeds", "twice"]),
        ({"seeds": [-1]}, ["seeds.0"]),
        ({"methods": {"a/b": {}}}, ["methods.a/b"]),
        ({"methods": {"..": {}}}, ["methods..."]),
        ({"methods": {"sea": {"losses": ["dpo"]}}}, ["methods.sea.losses", "dpo", "nothing"]),
        ({"methods": {"sea": {"seeds": [2]}}}, ["methods.sea.seeds names 2", "0, 1"]),
        ({"set": {"learner.betta": 1.0}}, ["passive/seed-0", "learner.betta", "learner.beta"]),
        ({"methods": {"sea": {"set": {"learner.beta": -1}}}}, ["sea/seed-0", "learner.beta", "-1"]),
        ({"base": "pasive"}, ["base: pasive", "passive"]),
        ({"methods": {"sea": {"base": "nowhere.yaml"}}}, ["methods.sea.base: nowhere.yaml", "no such file"]),
    ],
)
def test_a_bad_description_is_refused_with_its_file_and_key(
    changes: dict[str, Any], words: list[str], write_spec: WriteSpec
) -> None:
    spec = write_spec(**changes)
    with pytest.raises(UserError) as refusal:
        cells(spec)
    for word in [str(spec), *words]:
        assert word in str(refusal.value)


def test_a_description_that_is_no_file_or_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_spec(tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(UserError, match=r"list\.yaml"):
        read_spec(tmp_path / "list.yaml")

"""The description of an experiment: worlds × losses × methods × seeds, and the run behind each combination.

Settings are dotted keys of a run's configuration, such as ``learner.beta: 0.3``. They are applied to the base in the
order experiment, world, model, loss, method, seed; a later one wins.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, NonNegativeInt, StringConstraints, model_validator

from sea_agent.config import LearnerConfig, RunConfig, WorldOracleConfig
from sea_agent.config.files import Layers, apply_settings, configure, load_layers, load_tree, validate
from sea_agent.config.section import Section
from sea_agent.errors import UserError


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("names something twice")
    return values


# Names are folders of the experiment's directory.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Names = Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(_distinct)]
Seeds = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1), AfterValidator(_distinct)]
Settings = dict[str, Any]


class WorldSpec(Section):
    """One setting in which every method is run."""

    set: Settings = Field(default_factory=dict)
    """Settings of this world."""
    models: tuple[Settings, ...] = ()
    """Initial policies of this world; the experiment's ``models`` when not given."""


class MethodSpec(Section):
    """One of the methods that are compared."""

    base: str | None = None
    """Preset or configuration file that this method starts from; the experiment's ``base`` when not given."""
    set: Settings = Field(default_factory=dict)
    """Settings of this method."""
    worlds: Names | None = None
    """Only these of the experiment's worlds."""
    losses: Names | None = None
    """Only these of the experiment's losses."""
    seeds: Seeds | None = None
    """Only these of the experiment's seeds."""


class ExperimentSpec(Section):
    """What ``sea-agent experiment`` reads."""

    name: Name
    """Name of the experiment."""
    base: str
    """Preset or configuration file that every run starts from."""
    set: Settings = Field(default_factory=dict)
    """Settings of every run."""
    models: tuple[Settings, ...] = ()
    """Initial policies: the run of the i-th seed uses the (i mod n)-th of these n settings."""
    worlds: dict[Name, WorldSpec] = Field(default_factory=dict)
    """Worlds by name; the one of ``base`` when not given."""
    losses: dict[Name, Settings] = Field(default_factory=dict)
    """Settings by loss; the one of ``base`` when not given."""
    methods: Annotated[dict[Name, MethodSpec], Field(min_length=1)]
    """Methods by name."""
    seeds: Seeds
    """Seeds of the runs. Methods are paired by seed, so that a seed means the same initial policy for all."""

    @model_validator(mode="after")
    def _restrictions_name_what_exists(self) -> "ExperimentSpec":
        for method, spec in self.methods.items():
            wanted: tuple[tuple[str, Collection[Any] | None, Collection[Any]], ...] = (
                ("worlds", spec.worlds, self.worlds),
                ("losses", spec.losses, self.losses),
                ("seeds", spec.seeds, self.seeds),
            )
            for key, some, known in wanted:
                unknown = [value for value in some or () if value not in known]
                if unknown:
                    there = ", ".join(map(str, known)) or "nothing"
                    raise ValueError(f"methods.{method}.{key} names {unknown[0]}, but {key} of the experiment: {there}")
        return self


@dataclass(frozen=True)
class Cell:
    """One run of an experiment. ``path`` is its directory below the experiment's, without levels it does not have."""

    path: str
    world: str
    loss: str
    method: str
    seed: int
    model: int
    config: RunConfig

    @property
    def facts(self) -> dict[str, Any]:
        """What ``cell.json`` says."""
        return {key: getattr(self, key) for key in ("world", "loss", "method", "seed", "model")}


def read_spec(path: Path) -> ExperimentSpec:
    """Read and validate the description of an experiment.

    Raises:
        UserError: naming the file, every bad key, and the nearest valid one of unknown keys.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the YAML description of an experiment")
    tree = load_tree(str(path))
    keys = list(_valid_keys(tree))
    otherwise = f"there is {', '.join(keys)}"
    return validate(ExperimentSpec, tree, f"{path}: the description of the experiment is not valid", keys, otherwise)


def plan(spec: ExperimentSpec, where: str) -> list[Cell]:
    """Every run of the experiment with its validated configuration.

    Raises:
        UserError: naming ``where``, the cell and the key of a bad setting.
    """
    bases = {spec.base: _base(spec.base, f"{where}: base")}
    bases |= {m.base: _base(m.base, f"{where}: methods.{name}.base") for name, m in spec.methods.items() if m.base}
    return [
        cell
        for world in spec.worlds or (None,)
        for loss in spec.losses or (None,)
        for method, chosen in spec.methods.items()
        if (chosen.worlds is None or world in chosen.worlds) and (chosen.losses is None or loss in chosen.losses)
        for cell in _cells(spec, bases, world, loss, method, where)
    ]


def _cells(
    spec: ExperimentSpec,
    bases: Mapping[str, Layers],
    world: str | None,
    loss: str | None,
    method: str,
    where: str,
) -> Iterator[Cell]:
    """The runs of one method in one world with one loss, one for each of its seeds."""
    chosen, world_spec = spec.methods[method], spec.worlds[world] if world else WorldSpec()
    models = world_spec.models or spec.models or ({},)
    for index, seed in enumerate(spec.seeds):
        if chosen.seeds is not None and seed not in chosen.seeds:
            continue
        model = index % len(models)
        shared = (spec.set, world_spec.set, models[model], spec.losses[loss] if loss else {})
        path = "/".join(part for part in (world, loss, method, f"seed-{seed}") if part)
        common = _tree(bases[spec.base], *shared)
        yield Cell(
            path=path,
            # Without a level of its own, what a cell belongs to is read before the method's own settings.
            world=world or _world_of(common),
            loss=loss or _section(common, "learner").get("loss", LearnerConfig().loss),
            method=method,
            seed=seed,
            model=model,
            config=configure(
                bases[chosen.base or spec.base], [*shared, chosen.set, {"seed": seed}], where=f"{where}: {path}"
            ),
        )


def _base(source: str, where: str) -> Layers:
    try:
        return load_layers(source)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _tree(base: Layers, *layers: Settings) -> dict[str, Any]:
    tree = base.tree()
    for layer in layers:
        apply_settings(tree, layer)
    return tree


def _section(tree: Mapping[str, Any], key: str) -> dict[str, Any]:
    section = tree.get(key)
    return section if isinstance(section, dict) else {}


def _world_of(tree: Mapping[str, Any]) -> str:
    oracle = _section(tree, "oracle")
    kind = oracle.get("kind", "world")
    return oracle.get("world", WorldOracleConfig().world) if kind == "world" else kind


def _valid_keys(tree: Mapping[str, Any]) -> Iterator[str]:
    """Dotted keys of a description that has the worlds and methods of ``tree``."""
    yield from ExperimentSpec.model_fields
    for level, section in (("worlds", WorldSpec), ("methods", MethodSpec)):
        for name in _section(tree, level):
            yield from (f"{level}.{name}.{key}" for key in section.model_fields)

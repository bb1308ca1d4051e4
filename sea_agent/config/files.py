"""Reading, overriding, explaining and writing run configurations.

Importing this module loads none of torch, ray, vllm and deepspeed. For an unknown key the error names the nearest
valid key.
"""

import copy
import difflib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sea_agent.config import RunConfig
from sea_agent.config.section import Model
from sea_agent.config.world_settings import refuse_world_settings
from sea_agent.errors import UserError


def presets() -> list[str]:
    """Names of the configurations that ship with the package."""
    folder = resources.files("sea_agent") / "presets"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file or a preset, apply ``key.path=value`` overrides, and validate.

    Raises:
        UserError: names the file, the key and the remedy.
    """
    settings = dict(_setting(override) for override in overrides)
    return configure(load_layers(source), [settings], where=source)


def parse_config(tree: Mapping[str, Any], where: str) -> RunConfig:
    """Validate a mapping. The error reports every problem with its key and ``where``."""
    keys, otherwise = list(valid_keys(RunConfig, tree)), "see `sea-agent check --keys`"
    return validate(RunConfig, tree, f"{where}: the configuration is not valid", keys, otherwise)


def validate(model: type[Model], tree: Mapping[str, Any], complaint: str, keys: Sequence[str], otherwise: str) -> Model:
    """Validate ``tree`` as a ``model``.

    Raises:
        UserError: gives ``complaint`` and every problem with its dotted key. For an unknown key it names the nearest of
            ``keys``, or gives ``otherwise`` if none is near.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(problem, keys, otherwise)}" for problem in error.errors())
        raise UserError(f"{complaint}\n{problems}") from None


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML, including all defaults."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


class Layers(NamedTuple):
    """The settings of a preset, and those of the file that extends it."""

    preset: dict[str, Any]
    own: dict[str, Any]

    def tree(self) -> dict[str, Any]:
        """A mapping of both, to be changed at will."""
        return copy.deepcopy(_merged(self.preset, self.own))


def configure(layers: Layers, settings: Sequence[Mapping[str, Any]], where: str) -> RunConfig:
    """The validated configuration of a file or preset, with dotted ``settings`` on top, the last one uppermost.

    Raises:
        UserError: it is not valid, or a preset for a built-in world brings settings that would ruin the policy.
    """
    tree = layers.tree()
    for layer in settings:
        apply_settings(tree, layer)
    config = parse_config(tree, where)
    if layers.preset:
        own = {key for layer in (layers.own, *settings) for key in flat(layer)}
        values = {
            "learner.learning_rate": config.learner.learning_rate,
            "sampler.max_new_tokens": config.sampler.max_new_tokens,
        }
        refuse_world_settings(config.policy.path, values, layers.preset, own, where)
    return config


def load_tree(source: str) -> dict[str, Any]:
    """The mapping of a YAML file or a preset, not yet validated. Raises: UserError as ``load_layers`` does."""
    return load_layers(source).tree()


def load_layers(source: str) -> Layers:
    """What a YAML file sets and what it takes from a preset; a preset sets nothing by itself.

    ``extends: PRESET`` supplies the keys that the file leaves out; a preset may itself extend another one.

    Raises:
        UserError: if the file or preset does not exist, holds no mapping, or extends something other than a preset.
    """
    preset, own = {}, _read_tree(source)
    if "extends" in own:
        name = own.pop("extends")
        if name not in presets():
            raise UserError(f"{source}: extends {name}, which is not one of the presets {', '.join(presets())}")
        preset = load_tree(name)
    return Layers(_merged(preset, own), {}) if source in presets() else Layers(preset, own)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` updated with ``changes``; a section of another ``kind`` replaces the one in ``base``."""
    merged = base | changes
    for key in base.keys() & changes.keys():
        old, new = base[key], changes[key]
        if isinstance(old, dict) and isinstance(new, dict) and new.get("kind", old.get("kind")) == old.get("kind"):
            merged[key] = _merged(old, new)
    return merged


def _read_tree(source: str) -> dict[str, Any]:
    if source in presets():
        text = (resources.files("sea_agent") / "presets" / f"{source}.yaml").read_text()
    elif os.path.isfile(source):
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{source}: cannot be read as UTF-8 text: {error}") from None
    else:
        nearest = difflib.get_close_matches(source, presets(), n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"{source}: no such file, and not one of the presets {', '.join(presets())}.{hint}")
    try:
        tree = yaml.load(text, Loader=_ScientificLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{source}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{source}: expected a mapping of keys such as policy and prompts")
    return tree


def apply_settings(tree: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Set dotted keys in a tree. A new ``kind`` of a section drops the keys of the old kind."""
    for dotted in sorted(settings, key=lambda key: not key.endswith(".kind")):
        value = copy.deepcopy(settings[dotted])
        *parents, leaf = dotted.split(".")
        node = tree
        for key in parents:
            if not isinstance(node.get(key), dict):
                node[key] = {}
            node = node[key]
        if leaf == "kind" and node.get("kind") != value:
            node.clear()
        node[leaf] = value


def _setting(override: str) -> tuple[str, Any]:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"--set {override}: expected key.path=value, for example --set learner.beta=0.2")
    try:
        return dotted, yaml.load(text, Loader=_ScientificLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"--set {override}: the value is not valid YAML: {error}") from None


class _ScientificLoader(yaml.SafeLoader):
    """Reads ``1e-3`` as a number; YAML 1.1 reads it as text."""


_ScientificLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _explain(problem: Mapping[str, Any], keys: Sequence[str], otherwise: str) -> str:
    location = [str(part) for part in problem["loc"]]
    dotted = ".".join(_without_tags(location))
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        return (
            f"{dotted}: {message} (got {problem['input']!r})"
            if dotted and problem["type"] != "missing"
            else (f"{dotted}: {message}" if dotted else message)
        )
    nearest = difflib.get_close_matches(dotted, keys, n=1, cutoff=0.5)
    same_leaf = [key for key in keys if key.rpartition(".")[2] == location[-1]]
    hint = f"did you mean {(same_leaf or nearest)[0]}?" if same_leaf or nearest else otherwise
    return f"{dotted}: unknown key; {hint}"


def _without_tags(location: Sequence[str]) -> Iterator[str]:
    """Drop pydantic's union tags (``oracle.world.labels`` → ``oracle.labels``)."""
    for index, part in enumerate(location):
        if index and location[index - 1] in ("oracle", "judge") and index < len(location) - 1:
            continue
        yield part


def valid_keys(model: type[BaseModel], tree: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys below ``model``. If ``tree`` names the kind of a section, only the keys of that kind."""
    for name, field in model.model_fields.items():
        yield prefix + name
        inside = tree.get(name) if isinstance(tree, Mapping) else None
        for section in _sections(field.annotation):
            if not _is_of_another_kind(section, inside):
                yield from valid_keys(section, inside, f"{prefix}{name}.")


def _is_of_another_kind(section: type[BaseModel], tree: Any) -> bool:
    if "kind" not in section.model_fields or not isinstance(tree, Mapping) or "kind" not in tree:
        return False
    return tree["kind"] not in get_args(section.model_fields["kind"].annotation)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union) or get_args(annotation):
        for argument in get_args(annotation):
            yield from _sections(argument)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a tree by dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The differences between two sets of settings, one sentence per dotted key."""
    return [
        f"{key} is {there.get(key)} there and {here.get(key)} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]


def describe_keys() -> Iterator[tuple[str, str, str]]:
    """Every configuration key as (key, default, meaning), for ``sea-agent check --keys``.

    A default that only some kinds of a section have follows that of the others: ``True; live: False``.
    """
    found: dict[str, list[tuple[str, FieldInfo]]] = {}

    def walk(model: type[BaseModel], prefix: str, kind: str) -> None:
        for name, field in model.model_fields.items():
            sections = list(_sections(field.annotation))
            if not sections:
                found.setdefault(prefix + name, []).append((kind, field))
            for section in sections:
                kinds = section.model_fields.get("kind")
                walk(section, f"{prefix}{name}.", str(get_args(kinds.annotation)[0]) if kinds else kind)

    walk(RunConfig, "", "")
    for key, fields in found.items():
        meaning = next(field.description for _, field in fields if field.description)
        yield key, _default(key, fields), " ".join(meaning.split())


def _default(key: str, fields: Sequence[tuple[str, FieldInfo]]) -> str:
    defaults = [(kind, "required" if field.is_required() else str(field.default) or "empty") for kind, field in fields]
    usual = Counter(default for _, default in defaults).most_common(1)[0][0]
    if key.endswith(".kind"):  # which is what tells kinds apart
        return usual
    others = {f"{kind}: {default}": None for kind, default in defaults if default != usual}
    return "; ".join([usual, *others])

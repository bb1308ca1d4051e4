"""The base class of all configuration sections, and the files by which processes are told their settings."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from sea_agent.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """Base of every section: frozen, no unknown keys, field docstrings kept as descriptions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )


def read_settings(model: type[Model], path: Path, of: str, option: str = "") -> Model:
    """The settings in a JSON file, ``of`` such as "a decider"; ``option`` names what the file was given with.

    Raises:
        UserError: the file cannot be read, or holds none of these.
    """
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # pydantic's are ValueErrors
        raise UserError(f"{option}{path}: not the settings of {of} ({error})") from None

"""The base class of all configuration sections."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: frozen, no unknown keys, field docstrings kept as descriptions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )

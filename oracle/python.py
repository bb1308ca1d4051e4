"""A user's Python function as the oracle: ``compare(duels: list[dict]) -> list[float]``."""

import importlib
import importlib.util
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from oracle.base import Oracle, Question
from sea_agent.config import PythonOracleConfig
from sea_agent.errors import UserError


class PythonOracle(Oracle):
    """Calls the function named by ``oracle.target``."""

    def __init__(self, config: PythonOracleConfig, seed: int) -> None:
        super().__init__(f"oracle.target={config.target}", config.labels, seed)
        self._compare = load_function(config.target)

    def probabilities(self, questions: Sequence[Question]) -> list[float]:
        """What the function answers; an exception of it is the user's error, told with its place."""
        try:
            return list(self._compare([dict(question) for question in questions]))
        except Exception as error:  # any exception is the user's function's own
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"{self.name}: raised {type(error).__name__}: {error} (in {frame.filename}:{frame.lineno}); "
                "repair the function and run again"
            ) from error


def load_function(target: str) -> Callable[[list[dict[str, Any]]], Sequence[float]]:
    """The function that ``path/to/file.py:function`` or ``module:function`` names.

    Raises:
        UserError: when the file, the module or the function is missing, or its import fails.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise UserError(f"oracle.target={target}: expected path/to/file.py:function or module:function")
    module = _import(place, target)
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"oracle.target={target}: {place} has no function {name}")
    return function


def _import(place: str, target: str) -> ModuleType:
    if place.endswith(".py") and not Path(place).is_file():
        raise UserError(f"oracle.target={target}: no file {place} in {Path.cwd()}")
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        assert spec is not None  # a .py file always has a loader
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except Exception as error:  # the user's module may fail in any way at import
        raise UserError(
            f"oracle.target={target}: {place} cannot be imported ({type(error).__name__}: {error})"
        ) from error

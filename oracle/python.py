"""A user's Python function as the oracle: ``compare(duels: list[dict]) -> list[float]``."""

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from oracle.base import ProbabilityOracle, Question
from sea_agent.config import PythonOracleConfig
from sea_agent.errors import UserError


class PythonOracle(ProbabilityOracle):
    """Calls the function named by ``oracle.target``."""

    def __init__(self, config: PythonOracleConfig, seed: int) -> None:
        super().__init__(f"oracle.target={config.target}", config.labels, seed)
        self._compare = load_function(config.target)

    def probabilities(self, questions: Sequence[Question]) -> list[float]:
        """What the function answers; an exception of it is the user's error, told with its place."""
        try:
            answers = self._compare([dict(question) for question in questions])
            if inspect.iscoroutine(answers):
                answers.close()
                raise UserError(f"{self.name}: is an async function; give a plain one")
            return list(answers) if isinstance(answers, Iterable) else _refuse(self.name, answers)
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # whatever the user's function does is told, and ends the run
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"{self.name}: raised {type(error).__name__}: {error} (in {frame.filename}:{frame.lineno}); "
                "repair the function and run again"
            ) from error


def _refuse(name: str, answers: object) -> NoReturn:
    raise UserError(f"{name}: returned {type(answers).__name__}; return a list with one probability for each duel")


def load_function(target: str) -> Callable[[list[dict[str, Any]]], Any]:
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
    # What the module imports is looked for beside it, after everything that is installed.
    folder = str(Path(place).resolve().parent) if place.endswith(".py") else str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return _execute(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:  # the user's module may fail in any way at import
        raise UserError(
            f"oracle.target={target}: {place} cannot be imported ({type(error).__name__}: {error})"
        ) from error


def _execute(file: Path) -> ModuleType:
    # A name of its own, so that a file called oracle.py takes nobody's place.
    spec = importlib.util.spec_from_file_location(f"sea_agent_user_{file.stem}", file)
    assert spec is not None  # a .py file always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module

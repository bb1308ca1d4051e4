"""A user's own function in place of a built-in one: ``path/to/file.py:name`` or ``module:name``.

Relative paths are looked for in the working directory, on Ray in that of each process. The file is only ever read from
there: a configuration and a checkpoint hold its name, never its code.
"""

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from sea_agent.errors import UserError


def is_own(name: str) -> bool:
    """Whether a name is that of a user's own function, and not of a built-in one."""
    place, _, function = name.rpartition(":")
    return bool(place and function)


def accepted(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are parameters of the function, by name."""
    return {name: options[name] for name in inspect.signature(function).parameters if name in options}


class Plugin:
    """The function that a key of the configuration names; a class is made once, without arguments, and then called.

    Whatever the function raises is its author's error, and is told with its place.

    Args:
        contract: what the function has to be, in a sentence; part of every refusal.

    Raises:
        UserError: when the file, the module or the function is missing, its import fails, its class cannot be made, or
            it is async.
    """

    def __init__(self, key: str, target: str, contract: str) -> None:
        self._contract = contract
        self.name = f"{key}={target}"
        self.__name__ = self.name
        self._use(_load(target, self.name))
        if inspect.isclass(self.function):
            self._use(self())

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What the function returns; an iterator is read to its end.

        Raises:
            UserError: when it cannot be called like this, returns a coroutine or raises anything.
        """
        try:
            self.__signature__.bind(*arguments, **options)
        except TypeError as error:
            raise self.refusal(f"cannot be called: {error}") from None
        try:
            answer = self.function(*arguments, **options)
            if inspect.iscoroutine(answer):
                answer.close()
                raise self.refusal("returned a coroutine; return what it would give")
            return list(answer) if isinstance(answer, Iterator) else answer
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"{self.name}: raised {type(error).__name__}: {error} (in {frame.filename}:{frame.lineno}); "
                "repair the function and run again"
            ) from error

    def _use(self, function: Callable[..., Any]) -> None:
        try:
            self.function, self.__signature__ = function, inspect.signature(function)
        except (TypeError, ValueError) as error:
            raise self.refusal(f"cannot be called: {error}") from None
        if any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None)))):  # noqa: B004
            raise self.refusal("is an async function; give a plain one")

    def refusal(self, problem: str) -> UserError:
        """The error that says what is wrong with the function, and what it has to be."""
        return UserError(f"{self.name}: {problem}; {self._contract}")


def _load(target: str, name: str) -> Callable[..., Any]:
    place, _, function = target.rpartition(":")
    if not is_own(target):
        raise UserError(f"{name}: expected path/to/file.py:function or module:function")
    found = getattr(_import(place, name), function, None)
    if not callable(found):
        raise UserError(f"{name}: {place} has no function {function}")
    return found


def _import(place: str, name: str) -> ModuleType:
    file = Path(place) if place.endswith(".py") else None
    if file is not None and not file.is_file():
        raise UserError(f"{name}: no file {place} in {Path.cwd()}")
    # What the module imports is looked for beside it, after everything that is installed.
    folder = str(file.resolve().parent if file is not None else Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module(place) if file is None else _execute(file)
    except (Exception, SystemExit) as error:  # the user's module may fail in any way at import
        raise UserError(f"{name}: {place} cannot be imported ({type(error).__name__}: {error})") from error


def _execute(file: Path) -> ModuleType:
    # A name that nobody has, so that a file called oracle.py takes nobody's place.
    spec = importlib.util.spec_from_file_location(f"sea_agent_user_{file.stem}", file)
    assert spec is not None  # a .py file always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module

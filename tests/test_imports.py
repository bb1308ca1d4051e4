"""The shape of the house: imports point one way, from room to lower room; a configuration is light to import; files
stay short."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("sea_agent", "actors", "learner", "oracle")
LONGEST_FILE = 500
MOST_MODULES = 13  # directly in sea_agent/
MOST_WHOLE_CONFIGURATIONS = 10  # functions that take the whole RunConfig rather than sections of it

# Each imports only from rooms above it in this list, so that no two import each other.
ROOMS = (
    "sea_agent.errors",
    "sea_agent.seeding",
    "sea_agent.types",
    "sea_agent.weights",
    "sea_agent.saved_state",
    "sea_agent.plugins",
    "sea_agent.config",
    "sea_agent.worlds",
    "sea_agent.pretrained",
    "sea_agent.bandit",
    "sea_agent.features",
    "sea_agent.persistence",
    "sea_agent.data",
    "sea_agent.web",
    "learner",
    "oracle",
    "actors",
    "sea_agent.loop",
    "sea_agent.agent",
    "sea_agent.jobs",
    "sea_agent.run",
    "sea_agent.lab",
    "sea_agent.dashboard",
    "sea_agent.service",
    "sea_agent.doctor",
    "sea_agent.terminal",
    "sea_agent.live",
    "sea_agent.plan",
    "sea_agent.cli",
    "sea_agent.__main__",
)

STORE = {"sqlalchemy", "alembic", "pysqlite3"}
HEAVY = {"torch", "ray", "vllm", "deepspeed", "transformers", "datasets", "peft"}

# (importer, what neither it nor anything inside it may import).
FORBIDDEN = (
    ("sea_agent.types", (*PACKAGES, "torch", "ray")),
    ("sea_agent.bandit", ("ray", "fastapi", "httpx", "requests", "urllib", "sqlite3", "actors", "learner", "oracle")),
    ("oracle", ("ray", "actors", "learner", "sea_agent.bandit")),
    ("learner", ("ray", "actors", "oracle", "sea_agent.bandit")),
    ("actors", ("oracle", "sea_agent.agent", "sea_agent.cli")),
    ("sea_agent.agent", ("ray", "sea_agent.cli")),
    ("sea_agent.lab", ("torch", "sea_agent.cli", "sea_agent.agent")),
    *(
        (pages, (*HEAVY, "actors", "learner", "oracle", "sea_agent.agent", "sea_agent.cli", "sea_agent.bandit"))
        for pages in ("sea_agent.service", "sea_agent.dashboard")
    ),
)


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name and file of every module of the four packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, known: dict[str, Path]) -> set[str]:
    """What a module imports, also inside functions; a project module under its own name, others as written."""
    return {_owner(target, known) for target in _targets(ast.parse(known[name].read_text()), name)} - {name}


def _targets(tree: ast.AST, name: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; write the whole name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _owner(target: str, known: dict[str, Path]) -> str:
    """``pkg.module.name`` → ``pkg.module`` where that is the project's module."""
    candidate = target
    while candidate:
        if candidate in known:
            return candidate
        candidate = candidate.rpartition(".")[0]
    return target


def inside(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


def forbidden_imports(known: dict[str, Path]) -> list[str]:
    return [
        f"{name} imports {target}"
        for name in known
        for importer, banned in FORBIDDEN
        if inside(name, importer)
        for target in sorted(imports(name, known))
        if any(inside(target, place) for place in banned)
    ]


def import_cycle(known: dict[str, Path]) -> list[str]:
    """The modules of one circle, or none."""
    graph = {name: {target for target in imports(name, known) if target in known} for name in known}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def room(name: str) -> str:
    """``sea_agent.lab.spec`` → ``sea_agent.lab``, ``actors.samplers`` → ``actors``."""
    return ".".join(name.split(".")[: 2 if name.startswith("sea_agent") else 1])


def upward_imports(known: dict[str, Path]) -> list[str]:
    """Imports from one room into another that is not above it in ``ROOMS``. The package itself is its version only."""
    place = {name: number for number, name in enumerate(ROOMS)}
    return [
        f"{room(name)} imports {room(target)} ({name} imports {target})"
        for name in known
        for target in sorted(imports(name, known))
        if target in known and target != "sea_agent" and room(name) != room(target)
        if place[room(name)] <= place[room(target)]
    ]


def whole_configurations(known: dict[str, Path]) -> list[str]:
    """Functions with a parameter that is a whole ``RunConfig``."""
    return [
        f"{name}.{node.name}"
        for name, path in known.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if each.annotation is not None and re.search(r"\bRunConfig\b", ast.unparse(each.annotation))
    ]


def long_files(files: Iterator[Path]) -> list[str]:
    lengths = {path: len(path.read_text().splitlines()) for path in files}
    return [f"{path}: {length} lines" for path, length in lengths.items() if length > LONGEST_FILE]


def loaded_by(*statements: str) -> dict[str, set[str]]:
    """The modules that each statement loads in a fresh interpreter, after those before it."""
    lines = ["import sys, json", "loaded, seen = [], set(sys.modules)"]
    for statement in statements:
        lines += [statement, "loaded.append(sorted(set(sys.modules) - seen))", "seen = set(sys.modules)"]
    program = "\n".join([*lines, "print(json.dumps(loaded))"])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return {statement: set(names) for statement, names in zip(statements, json.loads(done.stdout), strict=True)}


def of(packages: set[str], loaded: set[str]) -> set[str]:
    """The packages of which something was loaded."""
    return packages & {name.partition(".")[0] for name in loaded}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small copy of the layout, in order."""
    files = {
        "sea_agent/__init__.py": "",
        "sea_agent/types.py": "import dataclasses\n",
        "sea_agent/agent.py": "from actors import pool\nfrom sea_agent.types import Duel\n",
        "sea_agent/cli.py": "from sea_agent.agent import Agent\n",
        "sea_agent/bandit/__init__.py": "",
        "sea_agent/bandit/selection.py": "import torch\nfrom sea_agent.types import Duel\n",
        "sea_agent/service/__init__.py": "from sea_agent.types import Duel\n",
        "actors/__init__.py": "",
        "actors/pool.py": "import ray\nfrom learner import losses\n",
        "learner/__init__.py": "",
        "learner/losses.py": "import torch\n",
        "oracle/__init__.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


# --- the project -----------------------------------------------------------------------------------------------------


LIGHT = (
    "sea_agent.config",
    "sea_agent.config.files",
    "sea_agent.types",
    "sea_agent.seeding",
    "sea_agent.doctor",
    "sea_agent.cli",
    "sea_agent.lab.experiment",
    "sea_agent.lab.reading",
    "sea_agent.lab.figures",
    "sea_agent.dashboard.app",
)


def test_a_configuration_can_be_checked_without_loading_a_heavy_library() -> None:
    loaded = loaded_by(*(f"import {module}" for module in LIGHT))
    assert {statement: of(HEAVY, names) for statement, names in loaded.items() if of(HEAVY, names)} == {}
    assert [statement for statement, names in loaded.items() if of(STORE, names)] == [], "a page only reads runs"


def test_the_service_loads_no_prompts_worlds_or_heavy_library() -> None:
    names = set().union(*loaded_by("import sea_agent.service.app", "import sea_agent.service.serve").values())
    assert of(HEAVY | STORE, names) == STORE
    assert [name for name in names if inside(name, "sea_agent.data.prompts") or inside(name, "sea_agent.worlds")] == []


def test_every_module_that_a_rule_names_exists() -> None:
    known = modules()
    assert [importer for importer, _ in FORBIDDEN if importer not in known] == []


def test_imports_point_one_way() -> None:
    assert forbidden_imports(modules()) == []


def test_there_is_no_circle_of_imports() -> None:
    assert import_cycle(modules()) == []


def test_every_room_has_its_place() -> None:
    assert set(ROOMS) == {room(name) for name in modules()} - {"sea_agent"}


def test_no_room_imports_a_higher_one() -> None:
    assert upward_imports(modules()) == []


def test_few_modules_stand_outside_the_rooms() -> None:
    assert len(list((ROOT / "sea_agent").glob("*.py"))) <= MOST_MODULES


def test_few_functions_take_the_whole_configuration() -> None:
    found = whole_configurations(modules())
    assert len(found) <= MOST_WHOLE_CONFIGURATIONS, found


def test_files_are_short() -> None:
    assert long_files(path for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py")) == []


# --- the checks find what they are for -------------------------------------------------------------------------------


def test_what_an_import_loads_is_seen() -> None:
    loaded = loaded_by("import sea_agent.config", "import sea_agent.data.prompts", "import sea_agent.bandit.laplace")
    light, prompts, heavy = loaded.values()
    assert of(HEAVY, light) == set()
    assert {"sea_agent.data.prompts", "sea_agent.worlds"} <= prompts
    assert of(HEAVY, heavy) == {"torch"}


def test_a_house_in_order_passes(house: Path) -> None:
    known = modules(house)
    assert forbidden_imports(known) == []
    assert import_cycle(known) == []
    assert upward_imports(known) == []
    assert whole_configurations(known) == []


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("sea_agent/types.py", "import sea_agent.bandit.selection", "sea_agent.types imports sea_agent.bandit"),
        ("oracle/__init__.py", "def f():\n    import actors.pool", "oracle imports actors"),
        ("sea_agent/bandit/__init__.py", "from actors import pool", "sea_agent.bandit imports actors"),
    ],
)
def test_an_import_of_a_higher_room_is_found(house: Path, file: str, line: str, fault: str) -> None:
    (house / file).write_text(line + "\n")
    (found,) = upward_imports(modules(house))
    assert found.startswith(fault)


@pytest.mark.parametrize(
    "signature", ["config: RunConfig", "config: 'RunConfig | None' = None", "*, config: Sequence[RunConfig]"]
)
def test_a_function_of_the_whole_configuration_is_found(house: Path, signature: str) -> None:
    (house / "actors/pool.py").write_text(f"class Pool:\n    def start(self, {signature}) -> None: ...\n")
    assert whole_configurations(modules(house)) == ["actors.pool.start"]


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("sea_agent/bandit/selection.py", "import ray", "sea_agent.bandit.selection imports ray"),
        ("sea_agent/bandit/selection.py", "def f():\n    import fastapi.sse", "selection imports fastapi.sse"),
        ("actors/pool.py", "from sea_agent import agent", "actors.pool imports sea_agent.agent"),
        ("actors/pool.py", "from sea_agent.cli import main", "actors.pool imports sea_agent.cli"),
        (
            "learner/losses.py",
            "from sea_agent.bandit.selection import RULES",
            "learner.losses imports sea_agent.bandit",
        ),
        ("sea_agent/service/__init__.py", "import torch.nn", "sea_agent.service imports torch.nn"),
        ("oracle/__init__.py", "import learner.losses", "oracle imports learner.losses"),
    ],
)
def test_an_import_against_the_direction_is_found(house: Path, file: str, line: str, fault: str) -> None:
    path = house / file
    path.write_text(path.read_text() + line + "\n")
    (found,) = forbidden_imports(modules(house))
    assert fault in found


@pytest.mark.parametrize("line", ["from sea_agent.agent import Agent", "def f():\n    import sea_agent.agent"])
def test_a_circle_is_found(house: Path, line: str) -> None:
    (house / "learner/losses.py").write_text(line + "\n")
    assert {"sea_agent.agent", "actors.pool", "learner.losses"} <= set(import_cycle(modules(house)))


def test_a_long_file_is_found(tmp_path: Path) -> None:
    for name, lines in (("just.py", LONGEST_FILE), ("over.py", LONGEST_FILE + 1)):
        (tmp_path / name).write_text("x = 1\n" * lines)
    (found,) = long_files(tmp_path.glob("*.py"))
    assert "over.py: 501 lines" in found

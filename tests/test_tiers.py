"""The tiers of tests: what `make quick` leaves out, what comes first, and what CONTRIBUTING says of `make soak`."""

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import tiers

ROOT = Path(__file__).parent.parent


class Item:
    """A test as pytest collects it."""

    def __init__(self, nodeid: str, *markers: pytest.MarkDecorator, fixtures: tuple[str, ...] = ()) -> None:
        self.nodeid, self.fixturenames = nodeid, fixtures
        self.markers = {marker.name: marker.mark for marker in markers}

    def add_marker(self, marker: str | pytest.MarkDecorator) -> None:
        made = getattr(pytest.mark, marker) if isinstance(marker, str) else marker
        self.markers[made.name] = made.mark

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self.markers.get(name)


def in_order(*items: Item) -> list[Item]:
    ordered = list(items)
    tiers.pytest_collection_modifyitems(ordered)  # type: ignore[arg-type]
    return ordered


def group(item: Item) -> str:
    return str(item.markers["xdist_group"].args[0])


def test_a_file_is_a_group_and_dear_groups_come_first() -> None:
    ray, shared = pytest.mark.ray, pytest.mark.xdist_group("head")
    items = in_order(
        Item("tests/a.py::one"),
        Item("tests/b.py::one", shared),
        Item("tests/c.py::one"),
        Item("tests/c.py::two", ray),
        Item("tests/d.py::one", shared, pytest.mark.dear),
    )
    assert [item.nodeid for item in items] == [
        "tests/b.py::one",
        "tests/d.py::one",
        "tests/c.py::one",
        "tests/c.py::two",
        "tests/a.py::one",
    ]
    assert [group(item) for item in items] == ["head", "head", "tests/c.py", "tests/c.py", "tests/a.py"]


def test_tests_are_marked_by_what_they_use() -> None:
    items = [
        Item("tests/a.py::one", fixtures=("browser", "tmp_path")),
        Item("tests/b.py::one", fixtures=("postgres_url",)),
        Item("tests/e2e/c.py::one"),
        Item("tests/d.py::one"),
    ]
    in_order(*items)
    marked = [set(item.markers) - {"xdist_group"} for item in items]
    assert marked == [{"browser"}, {"postgresql"}, {"run"}, set()]


@pytest.mark.parametrize(
    ("program", "marker", "passes"),
    [
        (sys.executable, None, True),
        ("/x/ray/gcs/gcs_server", None, False),
        ("/x/ray/gcs/gcs_server", "postgresql", False),
        ("/x/ray/gcs/gcs_server", "run", True),
        ("/x/playwright/driver/node", None, False),
        ("/x/playwright/driver/node", "browser", True),
    ],
)
def test_a_test_that_starts_ray_or_a_browser_without_a_marker_fails(
    program: str, marker: str | None, passes: bool
) -> None:
    item = Item("tests/a.py::one", *([getattr(pytest.mark, marker)] if marker else []))
    with nullcontext() if passes else pytest.raises(AssertionError, match="needs one of the markers"):
        tiers.require_marker(item, [program])  # type: ignore[arg-type]


def test_programs_that_a_test_starts_are_seen() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True, timeout=60)
    assert sys.executable in tiers._started


def test_quick_leaves_out_what_is_dear_by_markers_that_exist() -> None:
    command = ["make", "--dry-run", "--no-print-directory", "quick"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    (left_out,) = re.findall(r"-m \"not \((.*)\)\"", lines)
    known = set(re.findall(r'^    "(\w+): ', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert set(left_out.split(" or ")) == set(tiers.DEAR) <= known


def unnamed(folder: Path, text: str) -> list[str]:
    """Files with tests in soak that a text does not name."""
    files = (path for path in sorted(folder.rglob("test_*.py")) if "mark.soak" in path.read_text())
    return [path.name for path in files if path.name not in text]


def test_contributing_names_every_file_with_tests_in_soak(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    elsewhere = {Path(__file__).name}
    assert set(unnamed(ROOT / "tests", text)) - elsewhere == set()
    (tmp_path / "test_forgotten.py").write_text("@pytest.mark.soak\n")
    assert unnamed(tmp_path, text) == ["test_forgotten.py"]


@pytest.mark.parametrize("dist", ["loadgroup", "load"])
def test_the_tests_of_a_file_run_in_one_process(dist: str, tmp_path: Path) -> None:
    """``load`` is the control: it spreads them."""
    for name in ("test_a", "test_b"):
        noting = (
            "def test_it(n):\n    with open('ran', 'a') as file:\n        print(__name__, os.getpid(), file=file)\n"
        )
        (tmp_path / f"{name}.py").write_text(f"import os, pytest\n@pytest.mark.parametrize('n', range(8))\n{noting}")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", dist, "-p", "tiers", "-c", os.devnull]
    found = {"PYTHONPATH": str(ROOT / "tests"), "PATH": os.environ["PATH"]}
    subprocess.run([*command, "--rootdir", "."], cwd=tmp_path, env=found, check=True, capture_output=True, timeout=120)
    ran = {tuple(line.split()) for line in (tmp_path / "ran").read_text().splitlines()}
    assert (len(ran) == 2) == (dist == "loadgroup")

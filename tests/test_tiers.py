"""The tiers of tests: what `make quick` leaves out, what comes first, and what CONTRIBUTING says of `make soak`."""

import re
import subprocess
import sys
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
    ("program", "markers"),
    [
        ("/usr/bin/git", set()),
        ("/x/ray/core/src/ray/gcs/gcs_server", {"ray"}),
        ("/x/playwright/driver/node", {"browser"}),
    ],
)
def test_a_program_that_needs_a_marker_is_known(program: str, markers: set[str]) -> None:
    assert tiers.needed_markers([program]) == markers


def test_programs_that_a_test_starts_are_seen() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True, timeout=60)
    assert sys.executable in tiers._started


def test_quick_leaves_out_what_is_dear_by_markers_that_exist() -> None:
    command = ["make", "--dry-run", "--no-print-directory", "quick"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    (left_out,) = re.findall(r"-m \"not \((.*)\)\"", lines)
    known = set(re.findall(r'^    "(\w+): ', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert set(left_out.split(" or ")) == {"ray", "vllm", "browser", "run", "dear", "soak", "gpu"} <= known


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

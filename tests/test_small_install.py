"""The small installation, without the extras: it serves, shows, compares and checks, and names the extra otherwise."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = [Requirement(line).name for line in PROJECT["optional-dependencies"]["agent"]]

# A fresh interpreter in which nothing of the extra can be imported, and nothing says that it is installed.
WITHOUT = f"""
import sys
from importlib import metadata

HIDDEN = {PACKAGES!r}
real = metadata.version

def version(name):
    if name in HIDDEN:
        raise metadata.PackageNotFoundError(name)
    return real(name)

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].replace("_", "-") in HIDDEN:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

metadata.version = version
sys.meta_path.insert(0, Hidden())
"""
MAIN = """
from sea_agent.cli import main
for arguments in ARGUMENTS:
    sys.argv = ["sea-agent", *arguments]
    try:
        main()
    except SystemExit as end:
        print(f"exit {end.code}", flush=True)
        print(f"exit {end.code}", file=sys.stderr, flush=True)
"""

NEED_MORE = {
    "run": ("run", "sea", "--out", "out"),
    "resume": ("resume", "out"),
    "submit": ("submit", "sea", "--out", "/runs/out"),
    "demo": ("demo", "--out", "out"),
    "live": ("live", "live", "--out", "out"),
    "experiment": ("experiment", "spec.yaml", "--out", "out"),
    "eval": ("eval", "out"),
    "sample": ("sample", "out"),
    "export": ("export", "out", "--out", "out.jsonl"),
    "world": ("world", "make", "--out", "out"),
    "doctor": ("doctor", "--address", "127.0.0.1:6379"),
}


def without_extra(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that cannot import anything of the extra."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def commands(folder: Path, *arguments: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """Exit code, output and error of each command line, run one after the other in one process."""
    done = without_extra(f"ARGUMENTS = {arguments!r}\n{MAIN}", folder)
    found = []
    for out, err in zip(done.stdout.split("exit ")[:-1], done.stderr.split("exit ")[:-1], strict=True):
        found.append((out, err))
    codes = [int(code) for code in re.findall(r"^exit (\d+)$", done.stdout, flags=re.MULTILINE)]
    assert len(codes) == len(arguments), done.stderr
    return [(code, *texts) for code, texts in zip(codes, found, strict=True)]


def test_it_lists_keys_checks_configurations_diagnoses_and_compares(tmp_path: Path) -> None:
    results = ROOT / "benchmarks" / "results" / "losses.json"
    keys, checked, refused, doctor, compared = commands(
        tmp_path,
        ("check", "--keys"),
        ("check", "sea"),
        ("check", "sea", "--set", "learner.betta=1"),
        ("doctor",),
        ("compare", str(results), "--out", "compared"),
    )
    assert [done[0] for done in (keys, checked, refused, doctor, compared)] == [0, 0, 2, 0, 0]
    assert "learner.beta" in keys[1]
    assert "a valid configuration" in checked[1]
    assert "sea-agent[agent]" in checked[1]
    assert "did you mean learner.beta?" in refused[2]
    assert "only aligning a policy needs it: pip install 'sea-agent[agent]'" in doctor[1]
    assert json.loads((tmp_path / "compared" / "records.json").read_text())
    assert list((tmp_path / "compared" / "figures").glob("*.png"))


def test_a_command_that_needs_more_names_the_extra(tmp_path: Path) -> None:
    for name, (code, _, err) in zip(NEED_MORE, commands(tmp_path, *NEED_MORE.values()), strict=True):
        assert code == 2, name
        assert "pip install 'sea-agent[agent]'" in err, name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["sea_agent.service.serve", "sea_agent.dashboard.app"])
def test_service_and_dashboard_can_be_imported(tmp_path: Path, module: str) -> None:
    assert without_extra(f"import {module}", tmp_path).returncode == 0


def test_the_hidden_packages_are_hidden(tmp_path: Path) -> None:
    assert "No module named 'torch'" in without_extra("import torch", tmp_path).stderr


def installed_with(requirements: list[str]) -> set[str]:
    """Every package that an installation of ``requirements`` brings, by what the packages here say they need."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name in found:
            continue
        found.add(name)
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in one.extras | {""}):
                waiting.append(Requirement(line.partition(";")[0]))
    return found


HEAVY = {"torch", "ray", "transformers", "deepspeed", "vllm"}


def test_no_package_of_the_small_install_brings_a_heavy_one() -> None:
    base = installed_with(PROJECT["dependencies"])
    assert base & HEAVY == set()
    assert {"numpy", "pydantic-core", "starlette"} <= base, "the walk goes through what packages need"
    assert "torch" in installed_with([*PROJECT["dependencies"], "accelerate"]), "the control"

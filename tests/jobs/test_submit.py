"""What is sent to a cluster, what is refused before, and what a job is called."""

import asyncio
import io
import socket
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ServerDisconnectedError

from sea_agent.config import Compute
from sea_agent.errors import RunFailure, UserError
from sea_agent.jobs import submit
from sea_agent.jobs.inside import IN_JOB, require_lasting, where_it_runs
from sea_agent.jobs.packing import pack
from sea_agent.jobs.submit import Cluster, Job, prepare

OUT = Path("/shared/runs/first")


def lay(root: Path, *paths: str, text: str = "x") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


# --- the working directory ------------------------------------------------------------------------------------------


def test_history_environments_results_caches_and_secrets_stay_behind(tmp_path: Path) -> None:
    kept = ("run.yaml", "data/prompts.jsonl", "mine/runs/notes.txt")
    left = (
        ".git/config",
        ".venv/bin/python",
        "runs/a/ledger.sqlite",
        "mine/__pycache__/m.pyc",
        ".mypy_cache/a",
        ".env",
    )
    lay(tmp_path, *kept, *left)
    assert set(pack(tmp_path).sizes) == set(kept)


def test_ignore_files_count_for_their_directory_and_below(tmp_path: Path) -> None:
    lay(tmp_path, "big.bin", "a/big.bin", "a/keep.txt", "a/logs/1", "b/keep.txt", "b/only-here.txt", "only-here.txt")
    (tmp_path / ".gitignore").write_text("big.bin\nlogs/\n")
    (tmp_path / "b" / ".rayignore").write_text("/only-here.txt\n")
    assert set(pack(tmp_path).sizes) == {".gitignore", "a/keep.txt", "b/keep.txt", "b/.rayignore", "only-here.txt"}


class Answer(SimpleNamespace):
    """What Ray's job server answers to a request."""

    status_code = 200
    text = ""

    def json(self) -> Any:
        return self.body

    def raise_for_status(self) -> None:
        pass


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Ray's own client sends to a job server: the names of the archive, and the job."""
    from ray.dashboard.modules import dashboard_sdk

    found: dict[str, Any] = {}

    def request(method: str, url: str, *, data: Any, json: Any, **options: Any) -> Answer:
        assert options["timeout"] == submit._ANSWER_SECONDS
        if method == "PUT":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                found["files"] = {name for name in archive.namelist() if not name.endswith("/")}
        elif method == "POST":
            found["job"] = json
            return Answer(body={"job_id": None, "submission_id": json["submission_id"]})
        elif "/packages/" in url:
            return Answer(status_code=404)
        elif "version" in url:
            return Answer(body={"version": "4", "ray_version": "2", "ray_commit": "0"})
        return Answer(body=[])

    monkeypatch.setattr(dashboard_sdk.requests, "request", request)
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"):
        monkeypatch.setenv(name, "venv")
    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
    return found


def test_what_is_measured_is_what_ray_sends(tmp_path: Path, sent: dict[str, Any]) -> None:
    """Also where the environment tells Ray to send what .gitignore names, and where links run in circles."""
    root = tmp_path / "w"
    lay(root, "a.py", "x/y/z.py", "n/runs/r", "n/venv/a")
    lay(root, "x/skip/z.py", "x/data.bin", ".venv/a", "deep/.git/a", "runs/r")
    (root / ".gitignore").write_text("*.bin\n!/keep.bin\n")
    (root / "keep.bin").write_text("x")
    (root / "x" / ".rayignore").write_text("skip/\n!data.bin\n")
    (root / "loop").symlink_to(root)
    (root / "x" / "a [link]*").symlink_to(tmp_path)
    (root / "x" / "file").symlink_to(root / "a.py")
    (root / "dangling").symlink_to(root / "nowhere")
    packing = pack(root)
    assert Cluster("http://head:8265").submit(Job("run x", packing, {"KEY": "v"}, "first-abc123")) == "first-abc123-1"
    expected = {"x/file", ".gitignore", "a.py", "keep.bin", "n/runs/r", "n/venv/a", "x/.rayignore", "x/y/z.py"}
    assert set(packing.sizes) == sent["files"] == expected
    assert packing.links == ("loop", "x/a [link]*")
    assert sent["job"]["entrypoint"] == "run x"
    assert sent["job"]["runtime_env"]["env_vars"] == {"KEY": "v"}
    assert sent["job"]["runtime_env"]["working_dir"].startswith("gcs://")


def test_without_our_excludes_ray_would_send_more(tmp_path: Path, sent: dict[str, Any]) -> None:
    """The control: it leaves out neither results nor what is behind a link."""
    lay(tmp_path / "w", "a.py", "runs/r")
    lay(tmp_path / "elsewhere", "large.bin")
    (tmp_path / "w" / "data").symlink_to(tmp_path / "elsewhere")
    packing = SimpleNamespace(root=tmp_path / "w", excludes=[])
    Cluster("http://head:8265").submit(Job("run x", packing, {}, "first-abc123"))  # type: ignore[arg-type]
    assert sent["files"] == {"a.py", "runs/r", "data/large.bin"}


def test_a_large_directory_is_refused_with_its_largest_entries(tmp_path: Path) -> None:
    lay(tmp_path, "data/a", "data/b", text="x" * 600_000)
    lay(tmp_path, "model.bin", text="x" * 700_000)
    lay(tmp_path, "run.yaml")
    complaint = r"4 files of 1\.8 MiB .* the largest are data/ \(1\.1 MiB\), model\.bin \(0\.7 MiB\), .*\.rayignore"
    with pytest.raises(UserError, match=complaint):
        pack(tmp_path, limit=1_000_000)
    assert pack(tmp_path, limit=2_000_000).size == 1_900_001, "the control: just a limit above is not refused"


def test_links_to_directories_stay_behind_and_are_named(tmp_path: Path) -> None:
    lay(tmp_path, "elsewhere/large.bin", "w/run.yaml")
    (tmp_path / "w" / "data").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "w" / "loop").symlink_to(tmp_path / "w")
    (tmp_path / "w" / "venv").symlink_to(tmp_path / "elsewhere")
    found = pack(tmp_path / "w")
    assert set(found.sizes) == {"run.yaml"}
    assert found.describe().endswith("1 files, 0.0 MiB, without the linked directories data, loop")


# --- the job --------------------------------------------------------------------------------------------------------


def test_a_job_runs_the_configuration_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, "w/configs/my run.yaml", text="extends: passive\n")
    monkeypatch.chdir(tmp_path)
    job = prepare("w/configs/my run.yaml", OUT, ["learner.beta=0.2"], tmp_path / "w")
    assert job.command == (
        "python -m sea_agent run 'configs/my run.yaml' --set learner.beta=0.2 --out /shared/runs/first --resume"
    )
    assert prepare("passive", OUT, working_dir=tmp_path / "w").command.startswith("python -m sea_agent run passive ")


@pytest.mark.parametrize("where", ["outside", "ignored"])
def test_a_configuration_that_would_not_go_along_is_refused(where: str, tmp_path: Path) -> None:
    lay(tmp_path, "run.yaml", "w/run.yaml", text="extends: passive\n")
    (tmp_path / "w" / ".rayignore").write_text("run.yaml\n")
    source = tmp_path / ("run.yaml" if where == "outside" else "w/run.yaml")
    with pytest.raises(UserError, match=r"run\.yaml: is not among the files that are sent"):
        prepare(str(source), OUT, working_dir=tmp_path / "w")


def test_bad_input_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    for problem, arguments in {
        "learner.betta: unknown key": {"overrides": ["learner.betta=1"]},
        "--out runs/a: give an absolute path": {"out": Path("runs/a")},
        "--env NOT_THERE: not set": {"names": ["NOT_THERE"], "environment": {}},
        "nowhere: no such directory": {"working_dir": tmp_path / "nowhere"},
    }.items():
        with pytest.raises(UserError, match=problem):
            prepare("passive", **{"out": OUT, "working_dir": tmp_path, **arguments})


def test_only_variables_that_are_named_go_along(tmp_path: Path) -> None:
    here = {"JUDGE_KEY": "k1", "RAY_AUTH_TOKEN": "t1"}
    job = prepare("passive", OUT, working_dir=tmp_path, names=["JUDGE_KEY"], environment=here)
    assert job.environment == {"RAY_JOB_STOP_WAIT_TIME_S": "600", "JUDGE_KEY": "k1"}
    patient = prepare(
        "passive", OUT, working_dir=tmp_path, names=[submit.STOP_SECONDS], environment={submit.STOP_SECONDS: "9"}
    )
    assert patient.environment == {"RAY_JOB_STOP_WAIT_TIME_S": "9"}


def test_runs_of_one_name_in_two_places_are_two_runs(tmp_path: Path) -> None:
    stems = [prepare("passive", Path(out), working_dir=tmp_path).stem for out in ("/a/x y", "/b/x y", "/b/../a/x y/")]
    assert stems[0] == stems[2] != stems[1]
    assert all(stem.startswith("x-y-") for stem in stems)


# --- the cluster ----------------------------------------------------------------------------------------------------


class Server:
    """Stands for Ray's client; remembers what it is given."""

    def __init__(self, *jobs: tuple[str | None, bool], refuses: str | None = None) -> None:
        self.jobs = [
            SimpleNamespace(submission_id=id_, status=SimpleNamespace(is_terminal=lambda e=e: e)) for id_, e in jobs
        ]
        self.refuses = refuses
        self.sent: dict[str, Any] = {}

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.jobs

    def submit_job(self, **arguments: Any) -> str:
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.sent = arguments
        return arguments["submission_id"]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], Cluster]:
    def connected(server: Server) -> Cluster:
        monkeypatch.setattr(submit, "_connect", lambda address: server)
        return Cluster("http://head:8265/")

    return connected


@pytest.fixture
def job(tmp_path: Path) -> Job:
    lay(tmp_path, "run.yaml")
    return Job("python -m sea_agent run x", pack(tmp_path), {"KEY": "v"}, "first-abc123")


def test_a_run_is_submitted_under_its_next_number(cluster: Callable[[Server], Cluster], job: Job) -> None:
    others = [("first-abc123-x", False), ("first-abc124-7", False), (None, False), ("xfirst-abc123-8", False)]
    server = Server(("first-abc123-1", True), ("first-abc123-2", True), *others)
    assert cluster(server).submit(job) == "first-abc123-3"
    assert server.sent["entrypoint"] == job.command
    assert server.sent["runtime_env"]["env_vars"] == {"KEY": "v"}


def test_the_same_submission_twice_is_noticed(cluster: Callable[[Server], Cluster], job: Job) -> None:
    server = Server(("first-abc123-1", True), ("first-abc123-2", False))
    with pytest.raises(
        UserError, match=r"(?s)job first-abc123-2 works on this run.*ray job stop --address http://head:8265 f"
    ):
        cluster(server).submit(job)
    assert server.sent == {}


def test_of_two_that_submit_at_once_one_is_refused(cluster: Callable[[Server], Cluster], job: Job) -> None:
    """Both take the same number, and Ray starts only one job of a name."""
    with pytest.raises(RunFailure, match=r"could not be submitted to http://head:8265: .*already exists"):
        cluster(Server(refuses="Job with submission_id first-abc123-1 already exists")).submit(job)


@pytest.mark.parametrize("address", ["auto", "head:6379", "ray://head:10001", "http://head:8265/api"])
def test_an_address_that_is_no_dashboard_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=r"give the address of the cluster's dashboard"):
        Cluster(address)


def test_an_address_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a deadline of ours, Ray's client waits for ever."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    monkeypatch.setattr(submit, "_ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=f"{address}: no job server of Ray answers there .*timed out"):
            Cluster(address)


class Ending:
    """Stands for Ray's client: a job that prints, then ends, or whose cluster is lost."""

    def __init__(
        self, status: str, code: int | None = None, silent: bool = False, lost: Exception | None = None
    ) -> None:
        self._info = SimpleNamespace(status=status, driver_exit_code=code, message="no such node")
        self._silent, self._lost = silent, lost

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield "round 0\n"
        if self._silent:
            await asyncio.Event().wait()
        if self._lost:
            raise self._lost

    def get_job_status(self, job: str) -> SimpleNamespace:
        if self._lost:
            raise self._lost
        return SimpleNamespace(is_terminal=lambda: True)

    def get_job_info(self, job: str) -> SimpleNamespace:
        return self._info


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", 1, 1), ("STOPPED", None, 130), ("FAILED", None, 1)],
)
@pytest.mark.parametrize("silent", [False, True])
def test_the_end_of_a_job_is_the_exit_code(
    status: str, code: int | None, expected: int, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the connection for its logs never closes."""
    monkeypatch.setattr(submit, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(submit, "_connect", lambda address: Ending(status, code, silent))
    printed: list[str] = []
    assert Cluster("http://head:8265").follow("first-1", printed.append) == expected
    told = ["job first-1 could not run: no such node\n"] if (status, code) == ("FAILED", None) else []
    assert printed == ["round 0\n", *told]


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("lost", [ConnectionError("gone"), RuntimeError("closed"), ServerDisconnectedError("off")])
def test_a_cluster_that_is_lost_from_sight_is_told(
    silent: bool, lost: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the connection breaks, and when it falls silent."""
    monkeypatch.setattr(submit, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(submit, "_connect", lambda address: Ending("RUNNING", None, silent, lost))
    complaint = r"(?s)http://head:8265 answers no more .*ray job logs --follow --address http://head:8265 first-1"
    with pytest.raises(RunFailure, match=complaint):
        Cluster("http://head:8265").follow("first-1", lambda text: None)


def test_values_of_variables_are_not_printed(
    sea_agent: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = Server()
    monkeypatch.setattr(submit, "_connect", lambda address: server)
    monkeypatch.setenv("JUDGE_KEY", "do-not-tell")
    done = sea_agent("submit", "passive", "--out", OUT, "--env", "JUDGE_KEY", "--no-wait", "--address", "http://head:1")
    assert done.code == 0, done.err
    assert server.sent["runtime_env"]["env_vars"]["JUDGE_KEY"] == "do-not-tell"
    assert f"working directory {tmp_path}: 0 files, 0.0 MiB" in done.out
    assert "do-not-tell" not in done.out + done.err


# --- inside a job ---------------------------------------------------------------------------------------------------

WITH_FILES = {IN_JOB: '{"runtime_env": {"working_dir": "gcs://_ray_pkg_0.zip"}}'}
WITHOUT_FILES = {IN_JOB: '{"runtime_env": {}, "metadata": {}}'}


def test_a_run_in_a_job_uses_the_cluster_of_the_job() -> None:
    here, there = Compute(seed=3), Compute(seed=3, ray_address="head:6379")
    assert where_it_runs("ray", here, WITH_FILES) == Compute(seed=3, ray_address="auto")
    assert where_it_runs("ray", here, {}) == here
    assert where_it_runs("inline", here, WITH_FILES) == here
    assert where_it_runs("ray", there, WITH_FILES) == there


def test_a_run_in_a_job_is_not_left_in_the_jobs_own_copy() -> None:
    with pytest.raises(UserError, match=r"--out runs/a: a Ray job works in a copy"):
        require_lasting(Path("runs/a"), WITH_FILES)
    for out, environment in ((OUT, WITH_FILES), (Path("runs/a"), {}), (Path("runs/a"), WITHOUT_FILES)):
        require_lasting(out, environment)


def test_bad_input_is_refused_before_ray_and_torch_are_loaded() -> None:
    """They take seconds to load; Ray is needed first to look at the working directory."""
    code = """
import pathlib, sys
from sea_agent.errors import UserError
from sea_agent.jobs.submit import prepare
try:
    prepare("passive", pathlib.Path("/shared/out"), names=["NOT_THERE"], environment={})
except UserError:
    sys.exit(bool({"ray", "torch"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0

"""Runs as jobs of a Ray cluster: what is sent there, under which name, and how its end is waited for.

The client is Ray's own; its waits are given deadlines here, and its complaints are told in one line.
"""

import asyncio
import hashlib
import logging
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sea_agent.config.files import load_config, presets
from sea_agent.errors import RunFailure, UserError
from sea_agent.jobs.packing import Packing, pack

STOP_SECONDS = "RAY_JOB_STOP_WAIT_TIME_S"
"""How long Ray lets a job that is stopped end its round and write its checkpoint. Ray's own 3 seconds are too few."""
_PATIENCE = "600"
_ANSWER_SECONDS = 60.0
_LOOK_SECONDS = 30.0
_STOPPED = 130


@dataclass(frozen=True)
class Job:
    """A run as it is handed to a cluster."""

    command: str
    packing: Packing
    environment: Mapping[str, str]
    stem: str
    """What the ids of all jobs that work on this run begin with."""


def prepare(
    source: str,
    out: Path,
    overrides: Sequence[str] = (),
    working_dir: Path = Path(),
    names: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> Job:
    """The job that runs ``source`` into ``out``, a path on the cluster; ``names`` are the environment variables that
    it takes along. Nothing is sent.

    Raises:
        UserError: for a bad configuration, one that does not go along, a relative ``out``, or an unset variable.
    """
    load_config(source, overrides)
    if not out.is_absolute():
        raise UserError(
            f"--out {out}: give an absolute path on the cluster, on a disk that outlives it; the job's working "
            "directory is a copy that is removed"
        )
    unset = [name for name in names if name not in environment]
    if unset:
        raise UserError(f"--env {unset[0]}: not set in this environment")
    packing = pack(working_dir)
    if source not in presets():
        source = _inside(Path(source), packing)
    place = os.path.normpath(out)
    settings = [part for override in overrides for part in ("--set", override)]
    return Job(
        command=shlex.join(["python", "-m", "sea_agent", "run", source, *settings, "--out", place, "--resume"]),
        packing=packing,
        environment={STOP_SECONDS: _PATIENCE} | {name: environment[name] for name in names},
        stem=_stem(place),
    )


def _inside(source: Path, packing: Packing) -> str:
    """The path of a configuration in the working directory of the job."""
    path = os.path.relpath(source.resolve(), packing.root)
    if path not in packing.sizes:
        raise UserError(
            f"{source}: is not among the files that are sent; it must lie in the working directory {packing.root}, "
            "and no .gitignore or .rayignore may name it"
        )
    return path


def _stem(out: str) -> str:
    """The name of the run's directory, and a digest of its path, as others may have the same name."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", PurePosixPath(out).name)
    return f"{name}-{hashlib.sha256(out.encode()).hexdigest()[:6]}"


class Cluster:
    """The job server of a Ray cluster, at the address of its dashboard.

    Raises:
        UserError: when none answers there, or it does not accept the token.
    """

    def __init__(self, address: str) -> None:
        if not re.match(r"https?://[^/]+/?$", address):
            raise UserError(
                f"--address {address}: give the address of the cluster's dashboard, as `ray start --head` tells it, "
                "for example http://127.0.0.1:8265"
            )
        self.address = address.rstrip("/")
        self._client = _connect(self.address)

    def submit(self, job: Job) -> str:
        """Send the job's files and start it; its id.

        Raises:
            UserError: when another job works on this run.
        """
        before = [one for one in self._client.list_jobs() if _attempt(one.submission_id, job.stem)]
        for one in before:
            if not one.status.is_terminal():
                raise UserError(f"job {one.submission_id} works on this run already\n{self.hints(one.submission_id)}")
        number = 1 + max((_attempt(one.submission_id, job.stem) for one in before), default=0)
        environment = {
            "working_dir": str(job.packing.root),
            "excludes": job.packing.excludes,
            "env_vars": dict(job.environment),
        }
        try:
            return str(
                self._client.submit_job(
                    entrypoint=job.command, submission_id=f"{job.stem}-{number}", runtime_env=environment
                )
            )
        except (OSError, RuntimeError) as error:
            raise RunFailure(f"the job could not be submitted to {self.address}: {error}") from None

    def hints(self, job: str) -> str:
        """The commands that follow and stop a job."""
        return "\n".join(
            f"  {verb}: ray job {command} --address {self.address} {job}"
            for verb, command in (("follow", "logs --follow"), ("status", "status"), ("stop", "stop"))
        )

    def follow(self, job: str, write: Callable[[str], object]) -> int:
        """Pass on what a job prints until it ends; the exit code it ended with, 130 when it was stopped.

        Raises:
            RunFailure: when the cluster is lost from sight. The job may go on.
        """
        from aiohttp import ClientError

        try:
            asyncio.run(self._follow(job, write))
            end = self._client.get_job_info(job)
        except (OSError, RuntimeError, ClientError) as error:
            raise RunFailure(f"{self.address} answers no more ({error})\n{self.hints(job)}") from None
        if end.status == "STOPPED":
            return _STOPPED
        if end.status == "SUCCEEDED":
            return 0
        if end.driver_exit_code is None:  # it never came to print anything itself
            write(f"job {job} could not run: {end.message}\n")
        return end.driver_exit_code or 1

    async def _follow(self, job: str, write: Callable[[str], object]) -> None:
        async def pass_on() -> None:
            async for text in self._client.tail_job_logs(job):
                write(text)

        following = asyncio.create_task(pass_on())
        while not (await asyncio.wait({following}, timeout=_LOOK_SECONDS))[0]:
            # A connection can be silent for long; whether anybody is there is asked apart.
            if (await asyncio.to_thread(self._client.get_job_status, job)).is_terminal():
                await asyncio.wait({following}, timeout=_LOOK_SECONDS)
                return
        following.result()


def _attempt(job: str | None, stem: str) -> int:
    """The number of a job among those of its run, from 1; 0 when it works on another run."""
    match = re.fullmatch(rf"{re.escape(stem)}-(\d+)", job or "")
    return int(match[1]) if match else 0


def _connect(address: str) -> Any:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": _ANSWER_SECONDS} | options)

    for name in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    os.environ |= {
        "RAY_API_SERVER_ADDRESS": address,  # Ray prefers this, then RAY_ADDRESS, to the address it is given
        # What is sent is what was measured: what ``Packing`` leaves out, and no more.
        "RAY_RUNTIME_ENV_IGNORE_GITIGNORE": "0",
        "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES": "",
    }
    try:
        return Client(address)
    except AuthenticationError:
        raise UserError(
            f"--address {address}: the cluster does not accept the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN "
            "(or RAY_AUTH_TOKEN_PATH) as on its head"
        ) from None
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"--address {address}: no job server of Ray answers there ({error})") from None

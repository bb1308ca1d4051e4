"""What a run does differently inside a Ray job, which Ray tells a process in its environment."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sea_agent.config import Compute
from sea_agent.errors import UserError

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def where_it_runs(runtime: str, compute: Compute, environment: Mapping[str, str] = os.environ) -> Compute:
    """``compute`` with the address of the cluster that holds the parts of the run: the configured one, else that of
    the Ray job this process is in. Inside a job a local instance could not start: it would look for the job's files
    in itself."""
    if runtime != "ray" or compute.ray_address or IN_JOB not in environment:
        return compute
    return replace(compute, ray_address="auto")


def require_lasting(out: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a relative output directory in a job that has a working directory of its own.

    Raises:
        UserError: because that directory is a copy, which is removed some time after the job.
    """
    if out.is_absolute() or IN_JOB not in environment:
        return
    if (json.loads(environment[IN_JOB]).get("runtime_env") or {}).get("working_dir"):
        raise UserError(
            f"--out {out}: a Ray job works in a copy of the working directory, which is removed after it; give an "
            "absolute path, on a disk that outlives the cluster"
        )

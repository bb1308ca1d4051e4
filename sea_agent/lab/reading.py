"""Records from what runs leave behind: directories of experiments, single runs, and files of records."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sea_agent.config_files import load_tree, validate
from sea_agent.errors import UserError
from sea_agent.keys import id_for
from sea_agent.lab.records import Curve, Record, read_json, read_records

_SUMMARY = ("oracle_queries", "posterior_labels", "evaluation_queries", "rounds", "cpu_seconds", "wall_seconds")
# Any of these marks the directory of a run, whole or broken.
_MARKS = ("config.yaml", "metrics.jsonl", "summary.json", "error.txt")


@dataclass(frozen=True)
class Loaded:
    """Records of finished runs, and what is wrong with the others."""

    records: tuple[Record, ...]
    problems: tuple[str, ...]


def load_records(sources: Sequence[Path]) -> Loaded:
    """Records of experiments, of single runs and of record files; what is broken is named and left out.

    Raises:
        UserError: when a source does not exist, nothing is left, or two different runs claim the same place.
    """
    found: list[tuple[Path, Record]] = []
    problems: list[str] = []
    for source in sources:
        places = _places(source)
        if not places:
            problems.append(f"{source}: holds no run")
        for place in places:
            try:
                found += [(place, record) for record in _read(place)]
            except UserError as error:
                problems.append(str(error))
    if not found:
        raise UserError("nothing to compare\n" + "\n".join(f"  {problem}" for problem in problems))
    return Loaded(_one_of_each(found), tuple(problems))


def read_run(directory: Path, method: str | None = None) -> Record:
    """The record of a finished run, under ``method`` where that is given.

    Raises:
        UserError: naming the directory and what is wrong with it.
    """
    if (directory / "error.txt").exists():
        lines = (directory / "error.txt").read_text(errors="replace").splitlines()
        raise UserError(f"{directory}: the run failed ({' '.join(lines[-2:])})")
    if not (directory / "summary.json").exists():
        raise UserError(f"{directory}: the run is not finished (it has no summary.json)")
    cell = read_json(directory / "cell.json") if (directory / "cell.json").exists() else {}
    tree = (
        _configured(directory / "config.yaml")
        | cell
        | ({"method": method} if method else {})
        | _summarised(read_json(directory / "summary.json"))
        | {"curve": _curve(directory / "metrics.jsonl")}
    )
    return validate(Record, tree, f"{directory}: not the directory of a run", (), "not known here")


def _places(source: Path) -> list[Path]:
    """Where records are: a file itself, or the directories of runs in and below a directory."""
    if not source.exists():
        raise UserError(f"{source}: no such directory or file; give directories of experiments or runs")
    if source.is_file():
        return [source]
    return sorted({file.parent for mark in _MARKS for file in source.rglob(mark)})


def _read(place: Path) -> list[Record]:
    return read_records(place) if place.is_file() else [read_run(place)]


def _one_of_each(found: Sequence[tuple[Path, Record]]) -> tuple[Record, ...]:
    """Every run once. Different single runs of one name are told apart by their directories."""
    rivals: dict[tuple[Any, ...], dict[str, tuple[Path, Record]]] = defaultdict(dict)
    for place, record in found:
        rivals[_slot(record)].setdefault(record.config, (place, record))
    taken: dict[tuple[Any, ...], tuple[Path, Record]] = {}
    for runs in rivals.values():
        for place, record in runs.values():
            if len(runs) > 1 and record.model is None and place.is_dir():
                record = record.model_copy(update={"method": f"{record.method} ({place.name})"})
            other, _ = taken.setdefault(_slot(record), (place, record))
            if other != place:
                raise UserError(
                    f"{other} and {place} are different runs, and both are {record.method}, seed {record.seed}, of "
                    f"{', '.join(record.group)} labels; compare them apart, or name the methods differently"
                )
    return tuple(record for _, record in taken.values())


def _slot(record: Record) -> tuple[Any, ...]:
    """What only one run of a comparison may be."""
    return (*record.group, record.method, record.seed, record.model)


def _configured(file: Path) -> dict[str, Any]:
    """What a record says of the run's configuration, which is read as it stands: keys may have changed since."""
    tree = load_tree(str(file))
    try:
        oracle, evaluation = tree["oracle"], tree["evaluation"]
        return {
            "world": oracle["world"] if oracle["kind"] == "world" else oracle["kind"],
            "loss": tree["learner"]["loss"],
            "labels": oracle.get("labels", oracle["kind"]),
            "method": tree["selection"]["rule"],
            "seed": tree["seed"],
            "config": id_for("config", file.read_text(encoding="utf-8")),
            "budget": tree["budget"]["oracle_queries"],
            "measurement": {
                "oracle": _name(oracle),
                "judge": _name(evaluation["judge"]) if evaluation["judge"] else None,
                "reference": tree["policy"]["path"],
                "prompts": evaluation["prompts"],
                "temperature": evaluation["temperature"] or tree["sampler"]["temperature"],
            },
        }
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: not the configuration of a run ({type(error).__name__}: {error})") from None


def _name(oracle: Mapping[str, Any]) -> str:
    if oracle["kind"] == "world":
        return f"{oracle['world']} {oracle['scorer']}"
    return str(oracle.get("target") or oracle.get("path") or oracle["kind"])


def _summarised(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "commit": (summary.get("git_commit") or "")[:12] or None,
        "summary": {key: _rounded(summary[key]) for key in _SUMMARY if summary.get(key) is not None},
    }


def _curve(file: Path) -> dict[str, Any]:
    """The columns of ``Curve`` from a run's metrics."""
    try:
        return _columns([json.loads(line) for line in file.read_text().splitlines()])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not the metrics of a run ({type(error).__name__}: {error})") from None


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    evaluations, cpu_seconds, spent = [], [], 0.0
    for row in rows:
        spent += sum(seconds["cpu"] for stage, seconds in row["seconds"].items() if stage != "evaluate")
        if "win_rate" in row:
            evaluations.append(row)
            cpu_seconds.append(_rounded(spent))
    if not evaluations:
        raise ValueError("no win rate; set evaluation.prompts_path")
    columns: dict[str, Any] = {}
    for name in Curve.model_fields:
        if all(row.get(name) is not None for row in evaluations):
            columns[name] = [_rounded(row[name]) for row in evaluations]
    intervals = [row["win_rate_ci"] for row in evaluations]
    return columns | {
        "queries": [row["oracle_queries"] for row in evaluations],
        "low": [_rounded(low) for low, _ in intervals],
        "high": [_rounded(high) for _, high in intervals],
        "cpu_seconds": cpu_seconds,
    }


def _rounded(value: float) -> float:
    """Four significant digits of a float; counts stay exact."""
    return float(f"{value:.4g}") if isinstance(value, float) else value

"""Records from what runs leave behind: directories of experiments, single runs, and files of records."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sea_agent.config.files import load_tree, validate
from sea_agent.errors import UserError
from sea_agent.lab.records import Curve, Record, four_digits, read_json, read_records
from sea_agent.persistence.rounds import RoundMetrics, not_metrics, read_rows
from sea_agent.seeding import id_for

_SUMMARY = ("oracle_queries", "posterior_labels", "evaluation_queries", "rounds", "cpu_seconds", "wall_seconds")
MARKS = ("config.yaml", "metrics.jsonl", "summary.json", "error.txt")
"""Any of these files marks the directory of a run, whole or broken."""


# Oracles that do not evaluate win rates; the second does where it is told to.
_NO_EVALUATORS = ("feedback_service", "llm_judge")
# Sections and keys of a configuration in which the seeds of one method may differ: none of them changes a figure.
_NO_SETTING = ("seed", "runtime", "ray_address", "placement", "threads", "deadline_seconds", "checkpoint", "tracking")


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
    return Loaded(tuple(record for _, record in one_of_each(found)), tuple(problems))


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
    named = {"method": method} if method else {}
    return make_record(
        directory,
        configured(directory / "config.yaml") | cell | named,
        read_json(directory / "summary.json"),
        _curve(directory / "metrics.jsonl"),
    )


def make_record(
    directory: Path, facts: Mapping[str, Any], summary: Mapping[str, Any], curve: Mapping[str, Any]
) -> Record:
    """A record from what ``configured`` says, with the cell's facts on top, and what ``CurveColumns`` found.

    Raises:
        UserError: naming the directory and what is wrong.
    """
    tree = {**facts, **_summarised(summary), "curve": curve}
    return validate(Record, tree, f"{directory}: not the directory of a run", (), "not known here")


def _places(source: Path) -> list[Path]:
    """Where records are: a file itself, or the directories of runs in and below a directory."""
    if not source.exists():
        raise UserError(f"{source}: no such directory or file; give directories of experiments or runs")
    if source.is_file():
        return [source]
    return sorted({file.parent for mark in MARKS for file in source.rglob(mark)})


def _read(place: Path) -> list[Record]:
    return read_records(place) if place.is_file() else [read_run(place)]


def one_of_each(found: Sequence[tuple[Path, Record]]) -> list[tuple[Path, Record]]:
    """Every run once, of those that were found at places; the first of equal ones, with its place.

    Raises:
        UserError: when two different runs claim the same place in a comparison.
    """
    taken: dict[tuple[Any, ...], tuple[Path, Record]] = {}
    for place, record in _told_apart(found):
        other, first = taken.setdefault(_slot(record), (place, record))
        if first.config != record.config:
            raise UserError(
                f"{other} and {place} are different runs, and both are {record.method}, seed {record.seed}, of "
                f"{', '.join(record.group)} labels; compare them apart, or name the methods differently"
            )
    return list(taken.values())


def _told_apart(found: Sequence[tuple[Path, Record]]) -> Iterator[tuple[Path, Record]]:
    """Single runs of one name that differ in more than the seed get the name of their setting's first directory."""
    settings: dict[tuple[str, ...], dict[str | None, str]] = defaultdict(dict)
    for place, record in found:
        if record.model is None and place.is_dir():
            settings[*record.group, record.method].setdefault(record.setting, place.name)
    for place, record in found:
        names = settings[*record.group, record.method]
        if len(names) > 1 and record.model is None and place.is_dir():
            record = record.model_copy(update={"method": f"{record.method} ({names[record.setting]})"})
        yield place, record


def _slot(record: Record) -> tuple[Any, ...]:
    """What only one run of a comparison may be."""
    return (*record.group, record.method, record.seed, record.model)


def configured(file: Path) -> dict[str, Any]:
    """What a record says of the run's configuration, which is read as it stands: keys may have changed since.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    tree = load_tree(str(file))
    setting = {key: value for key, value in tree.items() if key not in _NO_SETTING}
    try:
        oracle, evaluation = tree["oracle"], tree["evaluation"]
        return {
            "world": oracle["world"] if oracle["kind"] == "world" else oracle["kind"],
            "loss": tree["learner"]["loss"],
            "labels": oracle.get("labels", oracle["kind"]),
            "method": tree["selection"]["rule"],
            "seed": tree["seed"],
            "config": id_for("config", file.read_text(encoding="utf-8")),
            "setting": id_for("setting", json.dumps(setting, sort_keys=True, default=str)),
            "budget": tree["budget"]["oracle_queries"],
            "measurement": {
                **_who_evaluates(oracle, evaluation["judge"]),
                "reference": tree["policy"]["path"],
                "prompts": evaluation["prompts"],
                "temperature": evaluation["temperature"] or tree["sampler"]["temperature"],
            },
        }
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: not the configuration of a run ({type(error).__name__}: {error})") from None


def _who_evaluates(oracle: Mapping[str, Any], judge: Mapping[str, Any] | None) -> dict[str, Any]:
    if judge is not None and oracle["kind"] in _NO_EVALUATORS and not oracle.get("evaluates", False):
        return {"oracle": _name(judge), "by_judge": True}
    return {"oracle": _name(oracle), "judge": None if judge is None else _name(judge)}


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
    columns = CurveColumns(file)
    for row in read_rows(file):
        columns.add(row)
    return columns.tree()


class CurveColumns:
    """The columns of a ``Curve``, from the rows of a ``file`` of metrics as they come."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._columns: dict[str, list[Any]] = {name: [] for name in Curve.model_fields}
        self._cpu_seconds = self._wall_seconds = 0.0

    def add(self, row: RoundMetrics) -> None:
        """Take in the next row."""
        for stage, seconds in row.seconds.items():
            if stage != "evaluate":
                self._cpu_seconds += seconds.cpu
                self._wall_seconds += seconds.wall
        found = vars(row.evaluation)
        if found["win_rate"] is None:  # the oracle does not evaluate
            found = {name: found.get(name.replace("win_rate", "judge_win_rate")) for name in found}
        if found["win_rate"] is None or found["win_rate_ci"] is None:
            return
        low, high = found["win_rate_ci"]
        values = {
            **found,
            "queries": row.oracle_queries,
            "low": low,
            "high": high,
            "policy_samples": row.policy_samples,
            "gradient_steps": row.gradient_steps,
            "cpu_seconds": self._cpu_seconds,
            "wall_seconds": self._wall_seconds,
        }
        for name, column in self._columns.items():
            if values[name] is not None:
                column.append(_rounded(values[name]))

    def tree(self) -> dict[str, Any]:
        """The columns so far; one that is not in every evaluation was not measured.

        Raises:
            UserError: when nothing was evaluated.
        """
        evaluations = len(self._columns["queries"])
        if not evaluations:
            raise not_metrics(
                self._file, "no win rate; set evaluation.prompts_path, and evaluation.judge where people answer"
            )
        return {name: column for name, column in self._columns.items() if len(column) == evaluations}


def _rounded(value: float) -> float:
    """Counts stay exact."""
    return four_digits(value) if isinstance(value, float) else value

"""What is compared: the runs that were asked for, sorted into groups and methods as ``sea-agent compare`` does.

Figures are over finished runs. A method without one is told from its unfinished runs, so far.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sea_agent.dashboard.run import Run
from sea_agent.dashboard.scan import RunState
from sea_agent.errors import UserError
from sea_agent.lab.reading import one_of_each
from sea_agent.lab.records import Record

GroupKey = tuple[str, str, str]


@dataclass(frozen=True)
class Member:
    """A run that has a record."""

    run: Run
    record: Record

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return is_finished(self.run)


@dataclass(frozen=True)
class Selection:
    """The runs of one group. ``methods`` holds all of each method's, ``counted`` those that figures are over, and
    ``unmeasured`` runs without a win rate, of which only the ledgers count; ``groups`` counts the runs of every group
    there is, ``left_out`` says which runs are in no comparison, and why."""

    group: GroupKey | None
    groups: dict[GroupKey, int]
    methods: dict[str, list[Member]]
    unmeasured: dict[str, list[Run]]
    left_out: list[tuple[str, str]]

    @property
    def counted(self) -> dict[str, list[Member]]:
        """The finished runs of each method, or all where none is."""
        return {
            name: [member for member in members if member.finished] or members for name, members in self.methods.items()
        }

    @property
    def asking(self) -> dict[str, list[Run]]:
        """The runs of each method whose ledgers are counted: finished ones, or all where none is."""
        found = {name: [member.run for member in members] for name, members in self.methods.items()}
        for name, runs in self.unmeasured.items():
            found[name] = found.get(name, []) + runs
        return {name: [run for run in runs if is_finished(run)] or runs for name, runs in found.items()}

    def is_so_far(self, method: str) -> bool:
        """Whether no run of a method is finished."""
        return not any(member.finished for member in self.methods[method])


def choose(runs: Sequence[Run], group: GroupKey | None) -> Selection:
    """Sort runs into methods; of the largest group when none is named.

    Raises:
        UserError: when two different runs claim the same place in the comparison.
    """
    left_out: list[tuple[str, str]] = []
    by_group: dict[GroupKey, list[Run]] = {}
    for run in runs:
        try:
            facts = run.facts()
            key = (str(facts["world"]), str(facts["loss"]), str(facts["labels"]))
            by_group.setdefault(key, []).append(run)
        except UserError as error:
            left_out.append((run.id, short(error, run)))
    sizes = Counter({key: len(members) for key, members in by_group.items()})
    if group is None and sizes:
        group = sizes.most_common(1)[0][0]
    methods: dict[str, list[Member]] = {}
    unmeasured: dict[str, list[Run]] = {}
    for member in _members(by_group.get(group, []) if group else [], unmeasured, left_out):
        methods.setdefault(member.record.method, []).append(member)
    return Selection(group, dict(sizes), methods, unmeasured, left_out)


def is_finished(run: Run) -> bool:
    """Whether a run came to its end."""
    return run.place.state is RunState.FINISHED


def _members(runs: Sequence[Run], unmeasured: dict[str, list[Run]], left_out: list[tuple[str, str]]) -> list[Member]:
    """Runs with records, each once; finished ones take the place of others."""
    found: dict[Path, Member] = {}
    for run in sorted(runs, key=lambda run: not is_finished(run)):
        if run.place.state is RunState.FAILED:
            left_out.append((run.id, "failed"))
            continue
        try:
            found[run.place.path] = Member(run, run.record())
        except UserError as error:
            unmeasured.setdefault(str(run.facts()["method"]), []).append(run)
            left_out.append((run.id, short(error, run)))
    kept = one_of_each([(path, member.record) for path, member in found.items()])
    left_out += [
        (found[path].run.id, "the same configuration and seed as another run")
        for path in found.keys() - {path for path, _ in kept}
    ]
    return [Member(found[path].run, record) for path, record in sorted(kept, key=lambda one: found[one[0]].run.id)]


def short(error: UserError, run: Run) -> str:
    """An error without the directory, which the reader knows."""
    text = str(error).replace(f"{run.place.path}/", "").replace(f"{run.place.path}: ", "")
    return " ".join(text.split())[:500]

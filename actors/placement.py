"""What each actor of a run takes, which of them are reserved together, and what is missing where there is no room.

Pure functions: nothing here talks to Ray, which reserves all bundles of a run at once and chooses their nodes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sea_agent.config import Compute, LearnerConfig, PlacementConfig, SamplerConfig
from sea_agent.errors import UserError

# The order in which actors are named, and what the settings call them.
ROLES = {
    "learner": ("learner rank", "learner ranks"),
    "sampler": ("sampler", "samplers"),
    "reference-sampler": ("reference sampler", "reference samplers"),
    "posterior": ("posterior", "posteriors"),
    "engine": ("live engine", "live engines"),
}
_DIGITS = 4  # Ray counts resources in ten-thousandths


@dataclass(frozen=True, slots=True)
class Node:
    """A machine and what Ray counts of it: CPUs, GPUs, and memory in bytes."""

    name: str
    cpus: float
    gpus: float = 0.0
    memory: float = 0.0


@dataclass(frozen=True, slots=True)
class Need:
    """What an actor takes of its node: CPUs, and at most one GPU or a share of one."""

    actor: str
    role: str = "sampler"
    cpus: float = 0.0
    gpus: float = 0.0
    beside: str = ""
    """The actor whose GPU it shares, where that is settled."""


Bundle = list[Need]
"""Actors whose resources are reserved on one node."""


class Shortage(UserError):
    """The nodes do not hold the run. The message says what it needs and what there is."""


def needs_of(
    learner: LearnerConfig, sampler: SamplerConfig, shares: PlacementConfig, compute: Compute, posterior: bool
) -> list[Need]:
    """What each actor of a run takes; ``posterior``: whether any decision looks at the posterior.

    Actors of a local Ray instance share its cores, so that the number of cores does not limit theirs.
    """
    cpus = float(compute.threads) if compute.ray_address else 0.0
    # Weights that go by ipc stay on one GPU: the sampler is beside the learner, and each takes a half.
    halves = sampler.weight_transfer == "ipc"
    needs = []
    for role, count, share in (
        ("learner", learner.ranks, 0.5 if halves else shares.learner_gpus),
        ("sampler", sampler.actors, 0.5 if halves else shares.sampler_gpus),
        ("reference-sampler", sampler.actors if sampler.reference_candidates else 0, shares.sampler_gpus),
        ("posterior", 1, shares.posterior_gpus if posterior else 0.0),
    ):
        names = [role] if role == "posterior" else [f"{role}-{index}" for index in range(count)]
        gpus = share if compute.device == "cuda" else 0.0
        beside = "learner-0" if halves and role == "sampler" else ""
        needs += [Need(name, role, cpus, gpus, beside) for name in names]
    return needs


def engine_needs(count: int, shares: PlacementConfig, compute: Compute) -> list[Need]:
    """What the engines of live mode take of a cluster: each what a sampler does. Elsewhere they are processes here."""
    gpus = shares.sampler_gpus if compute.device == "cuda" else 0.0
    names = [f"engine-{index}" for index in range(count if compute.ray_address else 0)]
    return [Need(name, "engine", float(compute.threads), gpus) for name in names]


def bundles(needs: Sequence[Need], nodes: Sequence[Node] = ()) -> list[Bundle]:
    """What is reserved on one node each: the ranks of the learner on as few as ``nodes`` are large enough for, others
    alone but for those who share a GPU. An actor that takes nothing is in none."""
    alone: dict[str, Bundle] = {}
    for need in needs:
        if need.cpus or need.gpus:
            alone.setdefault(need.beside or need.actor, []).append(need)
    ranks = [alone.pop(need.actor) for need in needs if need.role == "learner" and need.actor in alone]
    together = []
    for most in sorted((_most(ranks[0], node) for node in nodes) if ranks else (), reverse=True):
        if ranks[:most]:
            together.append([need for rank in ranks[:most] for need in rank])
            ranks = ranks[most:]
    return [*together, *ranks, *alone.values()]


def total(needs: Sequence[Need]) -> tuple[float, float]:
    """The CPUs and GPUs of several actors."""
    return sum(need.cpus for need in needs), round(sum(need.gpus for need in needs), _DIGITS)


def require_room(needs: Sequence[Need], nodes: Sequence[Node]) -> None:
    """See whether ``nodes``, when nobody else uses them, hold a run.

    Whole GPUs and equal CPUs are found room where there is any; with unlike shares of GPUs it may be missed.

    Raises:
        Shortage: when they do not, with the settings that would make it fit.
    """
    if not _fits(needs, nodes):
        raise Shortage(f"{shortage(needs, nodes)}, which does not hold it. {_remedy(needs, nodes)}")


def shortage(needs: Sequence[Need], nodes: Sequence[Node]) -> str:
    """What a run takes, of which actors that is the sum, and what each node has."""
    parts = [f"{len(these)} {ROLES[role][len(these) > 1]} of {each}" for role, these, each in _by_role(needs)]
    there = [f"{node.name} has {_amount(node.cpus, node.gpus) or 'nothing'}" for node in _in_order(nodes)]
    return (
        f"this run needs {_amount(*total(needs))}: {', '.join(parts)}. Of {len(there)} node{'s' * (len(there) != 1)} "
        f"{', '.join(there) or 'none is there'}"
    )


def describe(needs: Sequence[Need]) -> list[str]:
    """One line for each role: its actors and what they take."""
    return [f"{', '.join(need.actor for need in these)}: {each}" for _, these, each in _by_role(needs)]


def _by_role(needs: Sequence[Need]) -> list[tuple[str, list[Need], str]]:
    """The actors of each role that take something, and what each takes."""
    roles = [(role, [need for need in needs if need.role == role]) for role in ROLES]
    amounts = [(role, these, _amount(*total(these[:1]))) for role, these in roles]
    return [(role, these, each + " each" * (len(these) > 1)) for role, these, each in amounts if each]


def _amount(cpus: float, gpus: float) -> str:
    parts = [f"{amount:.4g} {name}{'s' * (amount != 1)}" for amount, name in ((gpus, "GPU"), (cpus, "CPU")) if amount]
    return " and ".join(parts)


def _in_order(nodes: Iterable[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: node.name)


def _most(bundle: Bundle, node: Node) -> int:
    """How many such bundles a node is large enough for."""
    cpus, gpus = total(bundle)
    return int(min(there // each for there, each in ((node.cpus, cpus), (node.gpus, gpus)) if each))


def _fits(needs: Sequence[Need], nodes: Iterable[Node]) -> bool:
    """First fit, the largest share of a GPU first: what is left then still holds the small ones."""
    rooms = [_Room(node.cpus, [1.0] * int(node.gpus)) for node in _in_order(nodes)]
    takes = sorted(map(total, bundles(needs)), key=lambda take: (take[1], take[0]), reverse=True)
    return all(any(room.take(*take) for room in rooms) for take in takes)


@dataclass(slots=True)
class _Room:
    """What is left of a node: CPUs, and the part of each GPU."""

    cpus: float
    gpus: list[float]

    def take(self, cpus: float, gpus: float) -> bool:
        """Make room for a bundle, on the GPU with the least left that suffices, as Ray does; whether there was any."""
        enough = [left for left in self.gpus if left >= gpus]
        if self.cpus < cpus or (gpus and not enough):
            return False
        self.cpus -= cpus
        if gpus:
            index = self.gpus.index(min(enough))
            self.gpus[index] = round(self.gpus[index] - gpus, _DIGITS)
        return True


def _remedy(needs: Sequence[Need], nodes: Sequence[Node]) -> str:
    """The settings that make the run fit, those that change nothing but speed first."""
    samplers, ranks = (sum(need.role == role for need in needs) for role in ("sampler", "learner"))
    for fewer_samplers, fewer_ranks in (
        *((count, ranks) for count in range(samplers - 1, 0, -1)),
        *((samplers, count) for count in range(ranks - 1, 0, -1)),
        (1, 1),
    ):
        most = {"sampler": fewer_samplers, "reference-sampler": fewer_samplers, "learner": fewer_ranks}
        smaller = [need for role in ROLES for need in [n for n in needs if n.role == role][: most.get(role)]]
        if _fits(smaller, nodes):
            settings = [f"sampler.actors={fewer_samplers}"] * (fewer_samplers != samplers)
            settings += [f"learner.ranks={fewer_ranks}"] * (fewer_ranks != ranks)
            return f"It fits with {' and '.join(settings)}; or add nodes"
    if any(need.gpus for need in needs):
        return "Add nodes with GPUs, or let actors share one: see placement.* in `sea-agent check --keys`"
    return "Add nodes, or lower threads"

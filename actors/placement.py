"""Which actor lives on which node, decided from the configuration and the nodes before anything starts.

Pure functions: nothing here talks to Ray. The ranks of the learner stay together where they fit on one node, since
they exchange gradients; samplers are spread, so that a node that dies takes few of them; the posterior gets the node
with the most room. An actor without a GPU is put on a node without GPUs where there is one. One answer for one set of
nodes, in whatever order they come.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sea_agent.config import RunConfig
from sea_agent.errors import UserError

# The order in which actors with equal needs choose their nodes, and what the settings call them.
ROLES = {
    "learner": ("learner rank", "learner ranks"),
    "sampler": ("sampler", "samplers"),
    "reference-sampler": ("reference sampler", "reference samplers"),
    "posterior": ("posterior", "posteriors"),
}
_UNIT = 10_000  # Ray's own: resources are counted in ten-thousandths

Plan = dict[str, str]
"""The id of the node of each actor."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine and what a run may take of it: CPUs, GPUs, and memory in bytes.

    Ray tells only the sum of what is free of its GPUs, so what is beyond a whole number is taken for a part of one.
    """

    id: str
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


class Shortage(UserError):
    """The nodes do not hold the run. The message tells what it needs and what there is."""


def needs_of(config: RunConfig) -> list[Need]:
    """What each actor of a run takes.

    Actors of a local Ray instance share its cores, so that the number of cores does not limit theirs.
    """
    cpus = float(config.threads) if config.ray_address else 0.0
    shares = config.placement
    references = config.sampler.actors if config.sampler.reference_candidates else 0
    found = []
    # Weights that go by ipc stay on one GPU: the sampler keeps to the learner, and each takes a half.
    halves = config.sampler.weight_transfer == "ipc"
    for kind, count, share in (
        ("learner", config.learner.ranks, 0.5 if halves else shares.learner_gpus),
        ("sampler", config.sampler.actors, 0.5 if halves else shares.sampler_gpus),
        ("reference-sampler", references, shares.sampler_gpus),
        ("posterior", 1, shares.posterior_gpus if config.needs_posterior else 0.0),
    ):
        gpus = share if config.device == "cuda" else 0.0
        names = [kind] if kind == "posterior" else [f"{kind}-{index}" for index in range(count)]
        role = "learner" if halves and kind == "sampler" else kind
        found += [Need(name, role, cpus, gpus) for name in names]
    return found


def plan(needs: Sequence[Need], nodes: Iterable[Node], before: Mapping[str, str] | None = None) -> Plan:
    """A node for each actor. Those that ``before`` put on one of ``nodes`` stay there.

    ``nodes`` are what they are without the actors of this run. Whole GPUs and equal CPUs are never left unused for
    want of a better order; with unlike shares of GPUs a possible plan may be missed.

    Raises:
        Shortage: when an actor finds no room.
    """
    nodes = sorted(nodes, key=lambda node: (node.name, node.id))
    rooms = {node.id: _Room(node) for node in nodes}
    places: Plan = {}
    homeless = []
    for need in needs:
        node_id = None if before is None else before.get(need.actor)
        if node_id in rooms:
            rooms[node_id].take(need)
            places[need.actor] = node_id
        else:
            homeless.append(need)
    order = list(ROLES)
    ranks = [need for need in homeless if need.role == "learner"]
    # The larger share first: what is left then still holds the small ones.
    for need in sorted(homeless, key=lambda need: (-need.gpus, order.index(need.role))):
        left = [rank for rank in ranks if rank.actor not in places]
        able = [room for room in rooms.values() if room.count(need, 1)]
        if not able:
            raise Shortage(f"{_demand(needs)}. {_supply(nodes)}")
        if need.role == "learner":
            room = min(able, key=lambda room: room.rank_of_learner(need, len(left)))
        else:
            room = min(able, key=lambda room: room.rank_of_spread(need))
        room.take(need)
        places[need.actor] = room.node.id
    return {need.actor: places[need.actor] for need in needs}


def require_room(config: RunConfig, nodes: Sequence[Node]) -> Plan:
    """The plan of a run on ``nodes``.

    Raises:
        Shortage: when it does not fit, with the settings that would make it fit.
    """
    try:
        return plan(needs_of(config), nodes)
    except Shortage as shortage:
        raise Shortage(f"{shortage}. {_remedy(config, nodes)}") from None


def describe(needs: Sequence[Need], places: Plan, nodes: Iterable[Node]) -> list[str]:
    """One line for each node that has work: its name, its actors, and what they take of it."""
    lines = []
    for node in sorted(nodes, key=lambda node: (node.name, node.id)):
        here = [need for need in needs if places[need.actor] == node.id]
        if here:
            taken = _amount(sum(need.gpus for need in here), sum(need.cpus for need in here))
            lines.append(f"{node.name}: {', '.join(need.actor for need in here)} ({taken or 'no reservation'})")
    return lines


class _Room:
    """What is left of a node while actors are put on it; CPUs and the parts of its GPUs in ten-thousandths."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._cpus = _units(node.cpus)
        whole, part = divmod(_units(node.gpus), _UNIT)
        self._gpus = [_UNIT] * whole + [part] * (part > 0)
        self._roles = Counter[str]()

    def count(self, need: Need, most: int) -> int:
        """How many actors of this need still fit, up to ``most``."""
        counts = [most]
        if need.cpus:
            counts.append(max(0, self._cpus) // _units(need.cpus))
        if need.gpus:
            counts.append(sum(part // _units(need.gpus) for part in self._gpus))
        return min(counts)

    def take(self, need: Need) -> None:
        self._cpus -= _units(need.cpus)
        self._roles[need.role] += 1
        if need.gpus:
            share = _units(need.gpus)
            # As Ray does: of the GPUs that suffice, the one with the least left.
            fitting = [index for index, part in enumerate(self._gpus) if part >= share]
            self._gpus[min(fitting, key=lambda index: self._gpus[index])] -= share

    def rank_of_learner(self, need: Need, ranks: int) -> tuple[int, ...]:
        """How well the node suits the ``ranks`` that have no place yet, the smallest the best: it holds all of them,
        or the most; others are there; few GPUs are left over."""
        return (-self.count(need, ranks), -self._roles["learner"], sum(self._gpus), -self._cpus)

    def rank_of_spread(self, need: Need) -> tuple[float, ...]:
        """How well the node suits an actor that keeps away from its like, the smallest the best."""
        gpus = sum(self._gpus)
        return (self._roles[need.role], -gpus if need.gpus else gpus, -self._cpus, -self.node.memory)


def _units(amount: float) -> int:
    return round(amount * _UNIT)


def _amount(gpus: float, cpus: float) -> str:
    parts = [f"{amount:.4g} {name}{'s' * (amount != 1)}" for amount, name in ((gpus, "GPU"), (cpus, "CPU")) if amount]
    return " and ".join(parts)


def _demand(needs: Sequence[Need]) -> str:
    parts = []
    for role, names in ROLES.items():
        these = [need for need in needs if need.role == role]
        if these and (each := _amount(these[0].gpus, these[0].cpus)):
            counted = f"{len(these)} {names[len(these) > 1]}"
            parts.append(f"{counted} of {each}" + " each" * (len(these) > 1))
    total = _amount(sum(need.gpus for need in needs), sum(need.cpus for need in needs))
    return f"this run needs {total}: {', '.join(parts)}"


def _supply(nodes: Sequence[Node]) -> str:
    each = ", ".join(f"{node.name} has {_amount(node.gpus, node.cpus) or 'nothing'}" for node in nodes)
    return f"Of {len(nodes)} node{'s' * (len(nodes) != 1)} {each or 'none is there'}, which does not hold it"


def _remedy(config: RunConfig, nodes: Sequence[Node]) -> str:
    """The settings that make the run fit, those that change nothing but speed first."""
    for samplers, ranks in (
        *((count, config.learner.ranks) for count in range(config.sampler.actors - 1, 0, -1)),
        *((config.sampler.actors, count) for count in range(config.learner.ranks - 1, 0, -1)),
        (1, 1),
    ):
        smaller = config.model_copy(
            update={
                "sampler": config.sampler.model_copy(update={"actors": samplers}),
                "learner": config.learner.model_copy(update={"ranks": ranks}),
            }
        )
        try:
            plan(needs_of(smaller), nodes)
        except Shortage:
            continue
        settings = [f"sampler.actors={samplers}"] * (samplers != config.sampler.actors)
        settings += [f"learner.ranks={ranks}"] * (ranks != config.learner.ranks)
        return f"It fits with {' and '.join(settings)}; or add nodes"
    if config.device == "cuda":
        return "Add nodes with GPUs, or let actors share one: see placement.* in `sea-agent check --keys`"
    return "Add nodes, or lower threads"

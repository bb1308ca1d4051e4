"""Which requests become duels: seldom, equally for every user, and those whose answer tells most.

Randomness is keyed by the request's id, so that a request that is sent again is treated the same. Times are seconds by
the service's clock. State lives in memory; ``know`` and ``remember`` bring back what the store has of it after a start.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from sea_agent.config import LiveConfig
from sea_agent.seeding import generator_for

WINDOW = 60
"""Considered requests with which the information of the next is compared."""
RUN_BURST = 3.0
"""Most duels of a run that are saved up while nobody could be asked."""
MOST_USERS = 10_000
"""Users who are remembered before those are forgotten who may be asked as often as a stranger."""
DAY = 86_400.0


class Plan(StrEnum):
    """What is done about a request before it is answered."""

    PLAIN = "plain"
    DUEL = "duel"  # candidates are sampled; whether to ask is decided when they are known
    AUDIT = "audit"  # a response of the initial policy is shown beside


@dataclass(slots=True)
class Bucket:
    """How often somebody may be asked: ``tokens`` at the time ``since``."""

    tokens: float
    since: float


class Asking:
    """Decides for the requests of one run that allow a duel. ``seed`` keys its random decisions."""

    def __init__(self, live: LiveConfig, seed: int = 0) -> None:
        self._live = live
        self._seed = seed
        self._credit = 1.0
        self._users: dict[str, Bucket] = {}
        self._most_users = MOST_USERS
        self._seen: deque[tuple[float, float]] = deque(maxlen=WINDOW)

    def is_heldout(self, conversation: str) -> bool:
        """Whether a conversation is kept for comparing weights: always the same answer for the same one."""
        return self._chance("heldout", conversation) < self._live.heldout_share

    def know(self, user: str, tokens: float, since: float) -> None:
        """What the store has of a user; nothing where the user is known already."""
        self._users.setdefault(user, Bucket(tokens, since))

    def remember(self, information: float) -> None:
        """What a considered request of an earlier life could have told."""
        self._seen.append((information, self._chance("remembered", str(len(self._seen)))))

    def consider(self, user: str, request: str, now: float) -> Plan:
        """What to do about a request that may become a duel: it allows one, its conversation is not held out, its user
        lets themselves be asked and was not asked by the request before it."""
        live = self._live
        self._credit = min(self._credit + live.ask_share, 1.0 + RUN_BURST)
        if self._credit < 1.0 or self.bucket(user, now).tokens < 1.0:
            return Plan.PLAIN
        chance = self._chance("consider", request)
        audits = live.ask_share * live.audit_share
        if chance < audits:
            return Plan.AUDIT
        return Plan.DUEL if chance < max(live.considered_share, live.ask_share) else Plan.PLAIN

    def ask(self, user: str, request: str, information: float, now: float) -> bool:
        """Whether a considered request becomes a duel: its answer tells more than those of most others, and nobody else
        used up what there was meanwhile. Takes a token of the user and of the run if so."""
        live = self._live
        mine = self.note(request, information)
        considered = max(live.considered_share, live.ask_share) - live.ask_share * live.audit_share
        share = live.ask_share * (1.0 - live.audit_share) / considered if considered > 0 else 0.0
        higher = sum(other > mine for other in self._seen)
        return higher < share * len(self._seen) and self.spend(user, now)

    def note(self, request: str, information: float) -> tuple[float, float]:
        """Remember what a considered request could have told: 0 where there was nothing to ask. Returns what it is
        compared by."""
        mine = (information, self._chance("tie", request))
        self._seen.append(mine)
        return mine

    def give_back(self, user: str, now: float) -> None:
        """Undo ``spend``: nobody was asked after all."""
        self._credit += 1.0
        self.bucket(user, now).tokens += 1.0

    def spend(self, user: str, now: float) -> bool:
        """Take a token of the user and of the run; whether both had one."""
        bucket = self.bucket(user, now)
        if self._credit < 1.0 or bucket.tokens < 1.0:
            return False
        self._credit -= 1.0
        bucket.tokens -= 1.0
        return True

    def bucket(self, user: str, now: float) -> Bucket:
        """How often a user may be asked now. It fills with time alone: who writes more is not asked more."""
        full = self._live.user_burst
        if user not in self._users and len(self._users) >= self._most_users:
            self._forget_full(now)
        bucket = self._users.setdefault(user, Bucket(full, now))
        gained = max(0.0, now - bucket.since) * self._live.user_asks_per_day / DAY
        bucket.tokens, bucket.since = min(full, bucket.tokens + gained), max(now, bucket.since)
        return bucket

    def _forget_full(self, now: float) -> None:
        """Let go of users whose bucket is full, as that of a stranger is."""
        full, a_second = self._live.user_burst, self._live.user_asks_per_day / DAY
        poorer = ((user, own) for user, own in self._users.items() if own.tokens + (now - own.since) * a_second < full)
        self._users = dict(poorer)
        self._most_users = max(MOST_USERS, 2 * len(self._users))

    def _chance(self, purpose: str, key: str) -> float:
        return float(generator_for(self._seed, "asking", purpose, key).random())

"""Configuration of live mode: when users are asked, what they are answered, and which weights go live."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from sea_agent.config.section import Section
from sea_agent.types import LONGEST_RUN_ID, RUN_ID

TOKEN = "SEA_AGENT_LIVE_TOKEN"
"""Environment variable with the secret that engines and decider ask of whoever calls them."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class GateConfig(Section):
    """What new weights must hold before they go live."""

    prompts: Annotated[int, Field(ge=1, le=250)] = 64
    """Most held-out conversations, the newest, on which new weights are compared with those that are live."""
    least_prompts: PositiveInt = 8
    """With fewer held-out conversations nothing goes live."""
    margin: Share = 0.05
    """How far below .5 the lower bound of the win rate against the live weights may be, as the posterior sees it."""
    max_kl: PositiveFloat = 10.0
    """Largest divergence from the initial policy, in nats per response."""
    least_distinct: Share = 0.5
    """Least share of distinct responses among samples to one prompt, relative to the initial policy's."""
    longest: PositiveFloat = 2.0
    """Largest mean length of responses, as a multiple of the initial policy's; the shortest is one over this."""
    max_gap: PositiveFloat = 0.05
    """Largest difference between engine and learner in the log-probability of a token, in nats."""
    min_users: NonNegativeInt = 3
    """Users who must have answered before anything goes live."""
    canary_share: Share = 0.0
    """Share of the users who get new weights first, where there are two engines or more; 0 goes live at once."""
    canary_seconds: PositiveFloat = 600.0
    """How long they have them before all others get them."""
    rollback_error: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Chance with which weights that are as good as the initial policy are ever taken back by audits."""


class LiveConfig(Section):
    """Live mode (``sea-agent live``): the users of an OpenAI-compatible endpoint are the oracle."""

    run: Annotated[str, Field(pattern=RUN_ID, max_length=LONGEST_RUN_ID)] = "live"
    """Id of the run in the service, and of the model at the endpoint."""
    engines: PositiveInt = 1
    """Processes, or actors of a Ray cluster, that serve responses. With two, one carries on where the other dies."""
    answer: Literal["first", "best"] = "first"
    """What is shown where nobody is asked. ``first``: one sample, streamed at once. ``best``: the best of ``best_of``
    under the posterior mean, once the posterior is trusted."""
    best_of: Annotated[int, Field(ge=2, le=64)] = 4
    """Samples among which ``answer: best`` chooses."""
    candidates: Annotated[int, Field(ge=2, le=64)] = 8
    """Samples among which the pair of a duel is chosen."""
    wait_seconds: PositiveFloat = 10.0
    """Longest wait for candidates and for the choice among them; without it one response is shown."""
    ask_share: Share = 0.05
    """Share of the requests that allow a duel which get one."""
    considered_share: Share = 0.2
    """Share of the requests that allow a duel for which candidates are sampled; of them those are asked whose answer
    tells most."""
    user_asks_per_day: PositiveFloat = 10.0
    """Most duels of one user a day, however much they write."""
    user_burst: Annotated[float, Field(ge=1.0)] = 3.0
    """Most duels of one user in a short time."""
    audit_share: Share = 0.1
    """Share of the duels that compare the live policy with the initial one. Nothing learns from them."""
    heldout_share: Share = 0.1
    """Share of the conversations that are kept for comparing weights. Nothing learns from them."""
    patience_hours: PositiveFloat = 24.0
    """How long a duel waits for its answer; later ones still count for the posterior."""
    max_weight_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Largest share of a round's answers that one user may have; the rest of theirs wait for later rounds."""
    round_seconds: PositiveFloat = 60.0
    """A round begins with ``batch_size`` new answers, or with at least one after this time."""
    requests_per_minute: PositiveFloat = 60.0
    """Requests of one user."""
    retention_days: PositiveFloat | None = None
    """Days after which texts are erased; null keeps them."""
    keep_versions: Annotated[int, Field(ge=2)] = 3
    """Weights that are kept on disk, the live ones included, to go back to."""
    gate: GateConfig = GateConfig()
    """What new weights must hold before they go live."""

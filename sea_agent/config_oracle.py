"""The oracles that a configuration can name, by ``oracle.kind``."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from sea_agent.config_section import Section


class WorldOracleConfig(Section):
    """The hidden reward of a built-in world."""

    kind: Literal["world"] = "world"
    """Selects this oracle."""
    world: Literal["lexicon", "kitchen"] = "lexicon"
    """Name of the world."""
    scorer: Literal["reward", "judge"] = "reward"
    """``reward``: the hidden reward. ``judge``: the independent judge, with other terms and weights."""
    labels: Literal["threshold", "bernoulli"] = "bernoulli"
    """``threshold``: the better response wins. ``bernoulli``: it wins with its Bradley–Terry probability."""


class PythonOracleConfig(Section):
    """A Python function ``compare(duels: list[dict]) -> list[float]``."""

    kind: Literal["python"]
    """Selects this oracle."""
    target: str
    """``path/to/file.py:function`` or ``module:function``. Each duel has ``id``, ``prompt``, ``first`` and ``second``;
    the function returns the probability that ``first`` is preferred, one for each duel."""
    labels: Literal["threshold", "bernoulli"] = "threshold"
    """``threshold``: the likelier response wins, .5 is a tie. ``bernoulli``: it wins with its probability."""


class RewardModelOracleConfig(Section):
    """A Hugging Face sequence-classification reward model with one output."""

    kind: Literal["reward_model"]
    """Selects this oracle."""
    path: str
    """Model directory or hub name. Its chat template is used when its tokenizer has one."""
    labels: Literal["threshold", "bernoulli"] = "threshold"
    """``threshold``: the higher reward wins. ``bernoulli``: it wins with its Bradley–Terry probability."""
    batch: PositiveInt = 16
    """Responses in one model call."""


class RemoteOracleConfig(Section):
    """What oracles have in common whose answers take their time, and cost money or people's time."""

    wait: bool = True
    """Wait until every duel of a round is answered. Without it the run goes on with the answers there are, and learns
    from the others when they come."""
    pending: PositiveInt = 256
    """``wait: false``: with so many duels unanswered the run waits all the same."""
    wait_hours: PositiveFloat = 72.0
    """Longest wait without any answer, in hours; then the run ends and can be resumed."""


class FeedbackServiceOracleConfig(RemoteOracleConfig):
    """People, over the feedback service (``sea-agent serve``). Its key is read from ``SEA_AGENT_KEY``."""

    kind: Literal["feedback_service"]
    """Selects this oracle."""
    url: str
    """Where the service is, such as ``http://127.0.0.1:8400``."""
    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
    """Id of the run in the service. A run that is resumed finds its duels and answers there again."""
    instructions: str = ""
    """What annotators are told."""
    votes: Annotated[int, Field(ge=1, le=100)] = 1
    """Annotators who answer each duel; the majority decides."""
    min_agreement: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Share of the votes that an outcome needs; a duel that none has reached is a tie, which nothing is learnt from."""


OracleConfig = Annotated[
    WorldOracleConfig | PythonOracleConfig | RewardModelOracleConfig | FeedbackServiceOracleConfig,
    Field(discriminator="kind"),
]

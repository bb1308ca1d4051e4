"""The oracles that a configuration can name, by ``oracle.kind``."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from sea_agent.config.section import Section


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


def _plain_url(url: str) -> str:
    """Refuse what is no address of a service, and what would carry a secret into files and messages."""
    parts = urlsplit(url)
    _ = parts.port  # a ValueError when it is none
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected an address such as http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("expected an address without a user, a query or a fragment: a key belongs in the environment")
    return url


class LlmJudgeOracleConfig(RemoteOracleConfig):
    """A language model behind any OpenAI-compatible endpoint. Its key is read from ``SEA_AGENT_JUDGE_KEY``."""

    kind: Literal["llm_judge"]
    """Selects this oracle."""
    url: Annotated[str, AfterValidator(_plain_url)] = "https://api.openai.com/v1"
    """Where the endpoint is, up to and with ``/v1``. One on this machine may need no key."""
    model: Annotated[str, Field(min_length=1)]
    """Name of the model at the endpoint."""
    rubric: Annotated[str, Field(min_length=1)] = (
        "The better answer is the one that a careful expert would rather have given: it does what the prompt asks, is "
        "correct, clear and complete, and carries no padding. Length by itself is no merit."
    )
    """What *better* means."""
    response_format: Literal["json_schema", "json_object", "text"] = "json_schema"
    """How the endpoint is told the form of an answer. ``json_schema``: it can write nothing else. ``json_object`` and
    ``text`` are for endpoints without it; what is accepted is the same, so more answers may be asked for again."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = 0.0
    """Sampling temperature of the judge; not sent when null, for models that refuse it."""
    seed: int | None = 0
    """Sampling seed of the judge, for endpoints that know one; not sent when null."""
    max_tokens: PositiveInt = 512
    """Longest answer, in tokens; what a reasoning model thinks counts."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Most requests under way at once."""
    timeout_seconds: PositiveFloat = 60.0
    """Longest wait for the whole answer to one request, in seconds."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """Requests for one answer until it can be used; then the duel stays open."""
    price_per_million_input: NonNegativeFloat | None = None
    """Price of a million tokens that the judge reads, in any currency. With both prices, what is spent is recorded."""
    price_per_million_output: NonNegativeFloat | None = None
    """Price of a million tokens that the judge writes."""
    spend_limit: PositiveFloat | None = None
    """Most that one start of the run spends on the judge; then it ends and can be resumed. Requests that are under way
    at that moment are still paid."""
    evaluates: bool = False
    """Whether win rates are asked of it as well. They cost money and never come from the budget."""

    @model_validator(mode="after")
    def _money_can_be_counted(self) -> "LlmJudgeOracleConfig":
        prices = (self.price_per_million_input, self.price_per_million_output)
        if (prices[0] is None) != (prices[1] is None):
            raise ValueError("price_per_million_input and price_per_million_output are given together, or neither")
        if self.spend_limit is not None and prices[0] is None:
            raise ValueError("spend_limit needs price_per_million_input and price_per_million_output")
        return self


OracleConfig = Annotated[
    WorldOracleConfig
    | PythonOracleConfig
    | RewardModelOracleConfig
    | FeedbackServiceOracleConfig
    | LlmJudgeOracleConfig,
    Field(discriminator="kind"),
]

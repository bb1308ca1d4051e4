"""Configuration sections of the oracles, selected by ``oracle.kind``."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from sea_agent.config.section import Section
from sea_agent.types import LONGEST_RUN_ID, RUN_ID


class WorldOracleConfig(Section):
    """The hidden reward of a built-in world."""

    kind: Literal["world"] = "world"
    """Who answers: ``world``, ``python``, ``reward_model``, ``feedback_service``, ``llm_judge`` or ``live``."""
    world: Literal["lexicon", "kitchen", "reviews", "tastes"] = "lexicon"
    """Name of the built-in world."""
    scorer: Literal["reward", "judge", "prior", "vader"] = "reward"
    """``reward``: the hidden reward. ``judge``: the independent judge, which uses other terms and weights. Of the world
    ``reviews`` also ``prior``, a cheap signal, and ``vader``, which needs the package vaderSentiment."""
    labels: Literal["threshold", "bernoulli"] = "bernoulli"
    """``threshold``: the better response always wins; equally good ones tie. ``bernoulli``: sample the winner from the
    Bradley–Terry or returned probability."""


class PythonOracleConfig(Section):
    """A Python function ``compare(duels: list[dict]) -> list[float]``, or ``list[int]`` with ``returns: winner``."""

    kind: Literal["python"]
    """Who answers: ``world``, ``python``, ``reward_model``, ``feedback_service``, ``llm_judge`` or ``live``."""
    target: str
    """``path/to/file.py:function`` or ``module:function``. Each duel has ``id``, ``prompt``, ``first`` and ``second``.
    The function returns one answer per duel, of the kind that ``returns`` says."""
    returns: Literal["probability", "winner"] = "probability"
    """What the function returns. ``probability``: that ``first`` is preferred, from 0 to 1. ``winner``: the index of
    the preferred response, 0 for ``first`` and 1 for ``second``, or -1 if undecided, as TRL's judges do. Beware: a 0
    means the opposite in the other kind."""
    labels: Literal["threshold", "bernoulli"] = "threshold"
    """``threshold``: the better response always wins; equally good ones tie. ``bernoulli``: sample the winner from the
    Bradley–Terry or returned probability."""


class RewardModelOracleConfig(Section):
    """A Hugging Face sequence-classification reward model with one output."""

    kind: Literal["reward_model"]
    """Who answers: ``world``, ``python``, ``reward_model``, ``feedback_service``, ``llm_judge`` or ``live``."""
    path: str
    """Model directory or hub name. If the tokenizer has a chat template, it shows the model the prompt's messages and
    the response as the assistant's turn; else the texts are encoded as a pair."""
    labels: Literal["threshold", "bernoulli"] = "threshold"
    """``threshold``: the better response always wins; equally good ones tie. ``bernoulli``: sample the winner from the
    Bradley–Terry or returned probability."""
    batch: PositiveInt = 16
    """Responses per forward pass."""


class RemoteOracleConfig(Section):
    """Settings shared by the oracles that answer asynchronously."""

    wait: bool = True
    """Wait until every duel of a round is answered. If false, the run continues with the answers it has and learns from
    the others when they arrive."""
    pending: PositiveInt = 256
    """``wait: false``: the most duels that may be unanswered; at that number the run blocks."""
    wait_hours: PositiveFloat = 72.0
    """Longest wait without any answer, in hours. After that the run ends and can be resumed."""


class FeedbackServiceOracleConfig(RemoteOracleConfig):
    """People, through the feedback service (``sea-agent serve``). The API key is read from ``SEA_AGENT_KEY``."""

    kind: Literal["feedback_service"]
    """Who answers: ``world``, ``python``, ``reward_model``, ``feedback_service``, ``llm_judge`` or ``live``."""
    url: str
    """URL of the service, such as ``http://127.0.0.1:8400``."""
    run: Annotated[str, Field(pattern=RUN_ID, max_length=LONGEST_RUN_ID)]
    """Id of the run in the service. A resumed run finds its duels and answers under the same id."""
    instructions: str = ""
    """Instructions shown to annotators. They are sent if the run in the service has neither duels nor instructions yet;
    after that, and if they are empty, it keeps its own."""
    votes: Annotated[int, Field(ge=1, le=100)] | None = None
    """Votes per duel, each from a different annotator. The majority decides. Sent if the run in the service has no
    duels yet; after that, and if null, it keeps its own number, which is 1 in a new run."""
    min_agreement: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Share of the votes that an outcome needs to win; without such an outcome the duel is a tie."""


class LiveOracleConfig(RemoteOracleConfig):
    """The users of live mode (``sea-agent live``), which fills in ``url`` and ``run``. The API key is read from
    ``SEA_AGENT_KEY``."""

    kind: Literal["live"]
    """Who answers: ``world``, ``python``, ``reward_model``, ``feedback_service``, ``llm_judge`` or ``live``."""
    url: str = ""
    """URL of the gateway."""
    run: Annotated[str, Field(pattern=RUN_ID, max_length=LONGEST_RUN_ID)] = "live"
    """Id of the run in the service."""
    wait: bool = False
    """A round of live mode goes on with the answers it has."""
    pending: PositiveInt = 1_000_000
    """Duels that may be unanswered: users may never answer, so the run does not wait for them."""
    wait_hours: PositiveFloat = 24.0 * 365
    """Longest wait without any answer, in hours. After that the run ends and can be resumed."""


def _plain_url(url: str) -> str:
    """Reject anything but a service URL, and URLs that would leak a secret into files and messages."""
    parts = urlsplit(url)
    _ = parts.port  # raises ValueError if invalid
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected a URL such as http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("expected a URL without user, query or fragment: put the key into the environment")
    return url


class LlmJudgeOracleConfig(RemoteOracleConfig):
    """A language model behind any OpenAI-compatible endpoint. The API key is read from ``SEA_AGENT_JUDGE_KEY``."""

    kind: Literal["llm_judge"]
    """Who answers: ``world``, ``python``, ``reward_model``, ``feedback_service``, ``llm_judge`` or ``live``."""
    url: Annotated[str, AfterValidator(_plain_url)] = "https://api.openai.com/v1"
    """Base URL of the OpenAI-compatible endpoint, including ``/v1``; for ``feedback_service``, the URL of the service.
    A local endpoint may need no key."""
    model: Annotated[str, Field(min_length=1)]
    """Model name at the endpoint."""
    rubric: Annotated[str, Field(min_length=1)] = (
        "The better answer is the one that a careful expert would rather have given: it does what the prompt asks, is "
        "correct, clear and complete, and carries no padding. Length by itself is no merit."
    )
    """Criteria by which the judge decides which response is better."""
    response_format: Literal["json_schema", "json_object", "text"] = "json_schema"
    """``response_format`` of the requests. ``json_schema`` constrains the endpoint to valid replies. ``json_object``
    and ``text`` are for endpoints without it; replies are validated as strictly, so more of them may be retried."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = 0.0
    """Sampling temperature of the judge. Set null to omit it for models that reject it."""
    seed: int | None = 0
    """Sampling seed of the judge, if the endpoint supports one. Set null to omit it."""
    max_tokens: PositiveInt = 512
    """Most tokens per reply, including the reasoning tokens of a reasoning model."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Most concurrent requests."""
    timeout_seconds: PositiveFloat = 60.0
    """Timeout of one request, in seconds, until its reply is complete."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """Requests for one usable reply; after that many unusable replies the duel stays open."""
    price_per_million_input: NonNegativeFloat | None = None
    """Price of a million input tokens, in any currency. With both prices set, the spending is recorded."""
    price_per_million_output: NonNegativeFloat | None = None
    """Price of a million output tokens."""
    spend_limit: PositiveFloat | None = None
    """Spending on the judge, counted from each start of the run, at which the run ends; it can be resumed. Requests in
    flight at that moment are still charged."""
    evaluates: bool = False
    """Whether this judge also evaluates win rates. That costs money and does not use the budget of oracle queries."""

    @model_validator(mode="after")
    def _money_can_be_counted(self) -> "LlmJudgeOracleConfig":
        prices = (self.price_per_million_input, self.price_per_million_output)
        if (prices[0] is None) != (prices[1] is None):
            raise ValueError("set both price_per_million_input and price_per_million_output, or neither")
        if self.spend_limit is not None and prices[0] is None:
            raise ValueError("spend_limit needs price_per_million_input and price_per_million_output")
        return self


OracleConfig = Annotated[
    WorldOracleConfig
    | PythonOracleConfig
    | RewardModelOracleConfig
    | FeedbackServiceOracleConfig
    | LlmJudgeOracleConfig
    | LiveOracleConfig,
    Field(discriminator="kind"),
]

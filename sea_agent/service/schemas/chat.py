"""Chat completions in OpenAI's shapes. What would change what the policy samples, or what it is given, and is not
supported is refused; what only concerns the caller is accepted and ignored."""

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from sea_agent.service.limits import LongText, Name
from sea_agent.service.schemas.base import WHOLE, In, Out, TimeOut

Role = Literal["system", "developer", "user", "assistant"]
MOST_MESSAGES = 1000
MOST_PARTS = 100

# A value that means the same as leaving the parameter out.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "prediction": (),
    "top_k": (-1, 0),
    "min_p": (0,),
    "repetition_penalty": (1,),
}
_SAMPLING = ("top_p", "frequency_penalty", "presence_penalty", "logit_bias", "top_k", "min_p", "repetition_penalty")
_EMPTY: tuple[Any, ...] = (None, [])


class TextPart(In):
    """A text in the content of a message."""

    type: Literal["text"]
    text: LongText


class MessageIn(In):
    """A message of the conversation: a role and a text. Clients send the assistant's messages back as they got them,
    with further fields that are empty, such as ``refusal``."""

    model_config = ConfigDict(extra="allow")

    role: Role
    content: LongText | Annotated[list[TextPart], Field(min_length=1, max_length=MOST_PARTS)]

    @field_validator("content", mode="before")
    @classmethod
    def _texts_only(cls, content: Any) -> Any:
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind != "text":
                raise ValueError(f"{kind[:100]} is not supported: the policy reads text only; leave it out")
        return content

    @model_validator(mode="after")
    def _nothing_else(self) -> "MessageIn":
        for name, value in (self.model_extra or {}).items():
            if value not in _EMPTY:
                raise ValueError(f"{name} is not supported: the policy reads roles and texts only; leave it out")
        return self

    def plain(self) -> dict[str, str]:
        """The message as a policy's chat template takes it."""
        content = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(In):
    """Of a stream."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = False


class SeaIn(In):
    """Of live mode. ``duel``: whether two responses may come instead of one, of which the user picks the better."""

    duel: Literal["never", "allow"] = "never"


class ChatIn(In):
    """A request for a completion."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(min_length=1, max_length=200)]
    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=MOST_MESSAGES)]
    n: Annotated[int, Field(ge=1, le=8), WHOLE] | None = 1
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), WHOLE] | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=200)]
        | list[Annotated[str, Field(min_length=1, max_length=200)]]
        | None
    ) = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: Name | None = None
    store: bool | None = True
    sea: SeaIn = SeaIn()

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if isinstance(stop, list) and len(stop) > 4:
            raise ValueError("at most four stop sequences")
        return stop

    @model_validator(mode="after")
    def _supported(self) -> "ChatIn":
        try:
            json.dumps([[self.model_extra]])  # as its digest needs it
        except RecursionError:
            raise ValueError("the body is nested too deeply") from None
        for name, value in (self.model_extra or {}).items():
            if name in _NEUTRAL and value is not None and value not in _NEUTRAL[name]:
                why = (
                    "responses are exact samples of the policy, which learns from them"
                    if name in _SAMPLING
                    else "the policy reads and writes text only"
                )
                raise ValueError(f"{name} is not supported: {why}; leave it out")
        if self.messages[-1].role == "assistant":
            raise ValueError("messages: the last one is the assistant's; end with the message to answer")
        return self

    @property
    def count(self) -> int:
        """How many responses are wanted."""
        return self.n or 1

    @property
    def stops(self) -> list[str]:
        """Texts before which a response ends."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def longest(self) -> int | None:
        """Most tokens of a response, if it says so."""
        return self.max_completion_tokens or self.max_tokens


class DuelOut(Out):
    """The two choices are a duel: say which is better by ``PUT /v1/feedback/{completion}/choice``."""

    id: str
    expires_at: TimeOut


class SeaOut(Out):
    """Of live mode: the weights that answered, and the duel if the user is asked."""

    policy_version: int | None
    duel: DuelOut | None = None


class Usage(Out):
    """Tokens of the prompt and of all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class MessageOut(Out):
    """A response."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(Out):
    """One response."""

    index: int
    message: MessageOut
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatOut(Out):
    """A completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    sea: SeaOut


class ModelOut(Out):
    """The live policy."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["sea-agent"] = "sea-agent"


class ModelsOut(Out):
    """The models of the endpoint: one."""

    object: Literal["list"] = "list"
    data: list[ModelOut]

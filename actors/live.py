"""What the back ends of a live engine have in common: requests, tokens, weights that come from files, texts that grow.

A live engine serves one policy to many streams at once, and takes new weights under them. Each token carries the
version of the weights that computed it; what is cached of a response stays as the weights of its time computed it, so
after a swap a running response is of neither version alone.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file

from sea_agent.data.prompt_rows import PromptRow, check_message, check_prompt
from sea_agent.data.tokens import tokenize_prompts
from sea_agent.errors import RunFailure, UserError, first_line
from sea_agent.types import TokenRow
from sea_agent.weights import WeightUpdate, checksum

INITIAL_VERSION = 0
"""Version of the policy as read from disk."""
PATIENCE_SECONDS = 120.0
"""Longest wait for a stream's next token, for weights to be swapped, and for a row to be scored."""
_BROKEN = "\ufffd"
_WEIGHTS = "model.safetensors"


class Refused(Exception):
    """What was asked does not fit what the engine holds; the old state stays. The message says why."""


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """A response to draw. ``done`` are its first tokens, which another engine drew; they count as steps."""

    id: str
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float
    seed: int
    priority: int = 0
    done: tuple[int, ...] = ()
    initial: bool = False
    """Drawn from the initial policy, whatever is live."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens that one version of the weights drew, with their log-probabilities in nats at temperature 1."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    version: int


class LiveBackend(Protocol):
    """Draws, scores and swaps. All its methods are called in one event loop."""

    name: str
    context: int
    """Most tokens of a prompt and its response."""
    vocabulary: int
    tokenizer: Any
    end_ids: tuple[int, ...]
    has_initial: bool
    version: int
    checksum: str

    @property
    def running(self) -> int:
        """Requests that are drawn or wait to be."""
        ...

    @property
    def failure(self) -> BaseException | None:
        """Why it draws no more; None while it does."""
        ...

    def generate(self, request: LiveRequest) -> AsyncGenerator[Tokens, None]:
        """The tokens after ``request.done``, as they come; closing the iterator ends the request.

        Raises:
            RunFailure: no token came in time, or none will.
        """
        ...

    async def start(self) -> None:
        """Get ready; nothing else may be asked before.

        Raises:
            UserError: the policy cannot be served.
        """
        ...

    async def load(self, update: WeightUpdate, directory: str) -> None:
        """Swap the live weights under the running streams, and take the version, both between two steps. They were read
        from ``directory``, where another process may read them again.

        Raises:
            Refused: the policy does not hold ``update.checksum`` afterwards; it has its old weights again.
        """
        ...

    async def score(self, rows: Sequence[TokenRow], version: int) -> list[list[float]]:
        """log π(token) of each response token, in nats, without a cache.

        Raises:
            Refused: ``version`` is not the live one, or no longer.
        """
        ...

    async def close(self) -> None:
        """End what runs."""
        ...


def read_weights(directory: str, version: int, expected: str) -> WeightUpdate:
    """The weights of a publication. What is read is compared with ``expected``, before anything is swapped.

    Raises:
        Refused: they cannot be read, or are others.
    """
    path = Path(directory) / _WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise Refused(f"{path}: these weights cannot be read ({first_line(error)})") from None
    found = checksum(tensors)
    if found != expected:
        raise Refused(f"{path}: its weights are {found}, but version {version} was published as {expected}")
    return WeightUpdate(version, tensors, found)


def check_version(update: WeightUpdate, backend: LiveBackend) -> bool:
    """Whether weights are to be loaded; False if they are held already.

    Raises:
        Refused: a number stands for one set of weights, and the engine holds others under this one.
    """
    if update.version != backend.version:
        return True
    if update.checksum != backend.checksum:
        raise Refused(
            f"version {update.version} is held with the weights {backend.checksum}, and these are {update.checksum}. "
            "Give new weights a version of their own."
        )
    return False


def rendered(messages: list[Any], tokenizer: Any) -> tuple[str, tuple[int, ...], bool]:
    """The text of a conversation as an oracle reads it, the policy's tokens for it, and whether both are those of the
    last message alone: a policy without a chat template completes texts, and reads no more than what it completes.

    Raises:
        UserError: the policy could not be given what it should be; the message says what to do.
    """
    last_only = tokenizer.chat_template is None
    row = _completed(messages) if last_only else check_prompt(messages, "messages")
    [tokens] = tokenize_prompts([row], tokenizer)
    return row.text, tuple(tokens.tolist()), last_only


def _completed(messages: list[Any]) -> PromptRow:
    """The last message of a conversation as a plain text. Raises: UserError for one that tells the policy more."""
    roles = {check_message(message, "messages")[0] for message in messages}
    row = check_prompt(messages[-1:], "messages")
    for role in sorted(roles - {"user", "assistant"}):
        raise UserError(
            f"messages: this policy has no chat template, so it reads the last message alone, and the {role} message "
            "would not reach it. Leave it out, or save a chat template with the policy's tokenizer."
        )
    return PromptRow(row.where, row.text, None)


def check_request(request: LiveRequest, backend: LiveBackend) -> None:
    """Refuse what cannot be drawn. Raises: UserError saying what to do."""
    room = backend.context - request.max_new_tokens
    length = len(request.prompt_ids)
    if not 0 < length <= room:
        raise UserError(
            f"the prompt has {length} tokens, and a response of up to {request.max_new_tokens} does not fit after it "
            f"into the policy's context of {backend.context}. Shorten the conversation, or ask for fewer tokens."
        )
    largest = max(*request.prompt_ids, *request.done, 0)
    if largest >= backend.vocabulary or min(*request.prompt_ids, *request.done, 0) < 0:
        raise UserError(f"token {largest} is none of the policy's {backend.vocabulary}. Send tokens of this policy.")
    if len(request.done) > request.max_new_tokens:
        raise UserError(f"stop_after has {len(request.done)} tokens, more than the {request.max_new_tokens} asked for.")
    if request.initial and not backend.has_initial:
        raise UserError("this engine does not hold the initial policy. Start it with initial: true.")


class GrowingText:
    """The text of a response that grows by tokens; a character is given once all its bytes are there.

    What was given after some tokens depends on these tokens alone, so another engine goes on where one stopped.
    """

    def __init__(self, tokenizer: Any, done: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._begin, self._read = 0, 0  # tokens from _begin give the context in which those from _read are decoded
        self.whole = ""
        for token in done:
            self.add([token])

    def add(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete. Give them one by one, or as they came."""
        return "".join(map(self._add, tokens))

    def finish(self) -> str:
        """The rest: characters that will never be complete, as the tokenizer shows them."""
        everything = self._decode(self._tokens)
        rest = everything.removeprefix(self.whole) if everything.startswith(self.whole) else self._rest()
        self.whole += rest
        return rest

    def _add(self, token: int) -> str:
        self._tokens.append(token)
        new = self._rest()
        if not new or new.endswith(_BROKEN):
            return ""
        self._begin, self._read = self._read, len(self._tokens)
        self.whole += new
        return new

    def _rest(self) -> str:
        """The text of the tokens that were not given yet, after those before them."""
        before = self._decode(self._tokens[self._begin : self._read])
        return self._decode(self._tokens[self._begin :])[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


def is_whole(tokens: Sequence[int], max_new_tokens: int, end_ids: Sequence[int]) -> bool:
    """Whether a response has its end token, or all its tokens."""
    return len(tokens) >= max_new_tokens or bool(tokens and tokens[-1] in end_ids)


def late(what: str) -> RunFailure:
    """The error of a wait that took too long."""
    return RunFailure(f"live engine: {what} took more than {PATIENCE_SECONDS:.0f} seconds; the engine is overloaded.")

"""Prompts and responses as a file holds them: texts or chats. What the policy could not be given is refused, not left
out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sea_agent.data.rows import json_type, whole_text
from sea_agent.errors import UserError
from sea_agent.types import Messages

MEANINGFUL = (
    "tools",
    "documents",
    "image",
    "images",
    "video",
    "videos",
    "audio",
    "audios",
    "chat_template_kwargs",
)
"""Columns beside a prompt that belong to what the policy is given, by convention; they are not supported."""

_ONLY_TEXT = "Tools, documents, images and other media are not supported"


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A checked prompt before tokenisation."""

    where: str
    text: str
    messages: Messages | None

    @property
    def contents(self) -> tuple[str, ...]:
        """What the policy must be given: the text, or the content of each message."""
        return (self.text,) if self.messages is None else tuple(content for _, content in self.messages)


def check_prompt(value: Any, where: str) -> PromptRow:
    """A prompt as a file holds it: a text, or a list of chat messages.

    Raises:
        UserError: naming the problem.
    """
    if isinstance(value, str):
        if not value.strip():
            raise UserError(f"{where}: the prompt is empty. Give it a text, or remove it.")
        return PromptRow(where, whole_text(value, where), None)
    if isinstance(value, list):
        messages = tuple(check_message(message, where) for message in value)
        if not messages:
            raise UserError(f"{where}: the prompt is empty. Give it at least one message, or remove it.")
        if not all(content.strip() for _, content in messages):
            raise UserError(f"{where}: a chat message is empty. Give its content a text, or remove it.")
        if messages[-1][0] == "assistant":
            raise UserError(f"{where}: the last message is the assistant's. End the prompt with the message to answer.")
        return PromptRow(where, _readable(messages), messages)
    raise UserError(
        f"{where}: the prompt is {json_type(value)}. Give a text, or a list of messages with role and content."
    )


def check_response(value: Any, field: str, where: str) -> str:
    """A response as a file holds it in ``field``: a text, which may be empty, as a policy may end immediately, or a
    list with one message of the assistant.

    Raises:
        UserError: naming the problem.
    """
    match value:
        case str(text):
            return whole_text(text, where)
        case [{"role": "assistant"} as message]:
            return check_message(message, where)[1]
        case None:
            raise UserError(f"{where}: {field} is null. Leave out duels that nobody won.")
    raise UserError(
        f"{where}: {field} is {json_type(value)}. Give a text, or a list with one message of the assistant."
    )


def check_message(message: Any, where: str) -> tuple[str, str]:
    """The role and the text of a chat message.

    Raises:
        UserError: it is no message, or holds what is not supported.
    """
    if isinstance(message, dict) and isinstance(message.get("role"), str):
        refuse_unread({key: message[key] for key in message.keys() - {"role", "content"}}, where)
        match message.get("content", ...):
            case str(text):
                return message["role"], whole_text(text, where)
            case None:
                raise UserError(
                    f"{where}: a message's content is null. {_ONLY_TEXT}; give the message a text, or remove it."
                )
            case [*parts] if all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in parts):
                return message["role"], whole_text(_text_of(parts, where), where)
    raise UserError(
        f"{where}: a chat message must be an object with the texts role and content, "
        'such as {"role": "user", "content": "Write a haiku."}.'
    )


def refuse_unread(values: Mapping[str, Any], where: str) -> None:
    """Refuse keys that would be left out of the prompt. A key without a value is as good as absent.

    Raises:
        UserError: naming the first such key.
    """
    for key in sorted(key for key, value in values.items() if value):
        raise UserError(
            f"{where}: {key} would not reach the policy. {_ONLY_TEXT}, and of a message only role and content are "
            f"read; remove {key}, or write it into a message's content."
        )


def _text_of(parts: list[dict[str, Any]], where: str) -> str:
    """The text of content that is given as a list with one part."""
    if not parts:
        raise UserError(f"{where}: a message's content is an empty list. Give the message a text, or remove it.")
    for part in parts:
        if part["type"] != "text":
            raise UserError(
                f"{where}: a message's content has a part of type {part['type']!r}. {_ONLY_TEXT}; leave the row out."
            )
        if not isinstance(part.get("text"), str):
            raise UserError(
                f"{where}: a message's content has a part of type 'text' whose text is {json_type(part.get('text'))}. "
                "Give it a text, or remove the message."
            )
        refuse_unread({name: value for name, value in part.items() if name not in ("type", "text")}, where)
    if len(parts) != 1:
        raise UserError(f"{where}: a message's content has {len(parts)} parts. Join their texts into one text.")
    return parts[0]["text"]


def _readable(messages: Messages) -> str:
    """The text that an oracle reads for a chat."""
    if len(messages) == 1 and messages[0][0] == "user":
        return messages[0][1]
    return "\n".join(f"{role}: {content}" for role, content in messages)

"""From checked prompts to the policy's tokens, with a check that nothing is lost on the way.

The tokens of every prompt are decoded again. They must hold the text of every message, begin at most once, and not
end: a policy that is asked to go on after its own end token was never trained for that.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from sea_agent.data.prompt_rows import PromptRow
from sea_agent.errors import UserError, first_line

# Prompts per tokenizer call; tokenizers process a batch in parallel.
_TOKENIZER_BATCH = 1024
_SHOWN = 60
_SETTERS = ("system", "developer")
"""Roles whose message a template may move: some write it into a user's turn."""


class _Unfit(Exception):
    """Why the tokens of a prompt are not the prompt; what to do."""


def tokenize_prompts(rows: Sequence[PromptRow], tokenizer: Any) -> Iterator[np.ndarray]:
    """Token ids of each row, as compact arrays: a dataset may hold a hundred thousand prompts.

    Raises:
        UserError: naming the first row whose tokens would not be the prompt, the problem and the remedy.
    """
    for start in range(0, len(rows), _TOKENIZER_BATCH):
        batch = rows[start : start + _TOKENIZER_BATCH]
        plain = iter(_plain_tokens([row for row in batch if row.messages is None], tokenizer))
        for row in batch:
            try:
                ids = next(plain) if row.messages is None else _chat_tokens(row, tokenizer)
                _check_ends(row, ids, tokenizer)
            except _Unfit as problem:
                raise UserError(f"{row.where}: {problem}") from None
            yield np.array(ids, dtype=np.int32)


def require_kept(text: str, ids: Sequence[int], tokenizer: Any, where: str) -> None:
    """Refuse a text whose tokens no longer hold it. Raises: UserError with both."""
    decoded = _decode(list(ids), tokenizer)
    if _lost([text], decoded) is not None:
        raise UserError(f"{where}: {_not_kept(text, decoded)}")


# --- plain texts -----------------------------------------------------------------------------------------------------


def _plain_tokens(rows: Sequence[PromptRow], tokenizer: Any) -> Iterator[list[int]]:
    """What the tokenizer writes before a text, and the text; but not what it writes after one.

    A text that already begins so, such as a chat that was rendered before, begins once.
    """
    texts = [row.text for row in rows]
    if not texts:
        return
    try:
        encoded = tokenizer(texts, add_special_tokens=False).input_ids
        opening = _opening(max(texts, key=len), tokenizer)
    except Exception:  # tokenizers has no exception class of its own
        encoded, opening = None, []
    for index, row in enumerate(rows):
        ids = _alone(row.text, tokenizer) if encoded is None else encoded[index]
        if not ids:
            raise _Unfit("the prompt has no tokens for the policy's tokenizer. Change or remove it.")
        decoded = _decode(ids, tokenizer)
        if _lost(row.contents, decoded) is not None:
            raise _Unfit(_not_kept(row.text, decoded))
        yield ids if ids[: len(opening)] == opening else opening + ids


def _alone(text: str, tokenizer: Any) -> list[int]:
    """The tokens of one text; names the text on which a batch failed."""
    try:
        return tokenizer(text, add_special_tokens=False).input_ids
    except Exception as error:
        raise _Unfit(
            f"the policy's tokenizer fails on the prompt ({type(error).__name__}: {first_line(error)}). Change or "
            "remove it."
        ) from None


def _opening(text: str, tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer writes before a text, such as its beginning token."""
    bare, whole = tokenizer(text, add_special_tokens=False).input_ids, tokenizer(text).input_ids
    places = (start for start in range(len(whole)) if whole[start : start + len(bare)] == bare)
    return whole[: next(places, 0)]


# --- chats -----------------------------------------------------------------------------------------------------------


def _chat_tokens(row: PromptRow, tokenizer: Any) -> list[int]:
    """The chat by the policy's template: with its content as texts, or as parts if the template reads only those."""
    if tokenizer.chat_template is None:
        raise _Unfit(
            "the prompt is a chat, but the policy's tokenizer has no chat template. "
            "Give plain texts, or save a chat template with the tokenizer."
        )
    name = f"the chat template of {tokenizer.name_or_path or 'the policy'}"
    messages = row.messages or ()
    texts = [{"role": role, "content": content} for role, content in messages]
    parts = [{"role": role, "content": [{"type": "text", "text": content}]} for role, content in messages]
    try:
        return _rendered(row, texts, tokenizer, name)
    except _Unfit as problem:
        try:
            return _rendered(row, parts, tokenizer, name)
        except _Unfit:
            raise problem from None


def _rendered(row: PromptRow, messages: list[dict[str, Any]], tokenizer: Any, template: str) -> list[int]:
    text = _applied(messages, tokenizer, template, tokenize=False)
    ids: list[int] = _applied(messages, tokenizer, template, tokenize=True, return_dict=False)
    lost = _lost(row.contents, text)
    if lost is None:
        lost = _left_out(messages, tokenizer, template)
    if lost is not None:
        role = (row.messages or ())[lost][0]
        raise _Unfit(
            f"{template} leaves out the {role} message {_excerpt(row.contents[lost])}. Write its text into a message "
            "that the template renders, or save a template that renders it with the tokenizer."
        )
    if any(repr(message["content"]) in text for message in messages if isinstance(message["content"], list)):
        raise _Unfit(f"{template} writes the content as a list")
    decoded = _decode(ids, tokenizer)
    if _lost(row.contents, decoded) is not None:
        raise _Unfit(_not_kept(text, decoded))
    return ids


def _applied(messages: list[dict[str, Any]], tokenizer: Any, template: str, **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options)
    except Exception as error:  # a template is a program of its author's
        raise _Unfit(
            f"{template} fails on the prompt ({type(error).__name__}: {first_line(error)}). Change the roles or the "
            "order of the messages, or set tokenizer.chat_template to one template that renders them, and save the "
            "tokenizer again."
        ) from None


def _left_out(messages: Sequence[dict[str, Any]], tokenizer: Any, template: str) -> int | None:
    """The index of a message that the template does not render, or None.

    A short text is easily found in what the template itself writes, so each text gets a mark of its own.

    Raises:
        _Unfit: the turns are not in the order of the messages.
    """
    marks = [f"mark{place}kram" for place in range(len(messages))]
    marked = [
        message | {"content": _marked(message["content"], mark)} for message, mark in zip(messages, marks, strict=True)
    ]
    text = _applied(marked, tokenizer, template, tokenize=False).casefold()
    places = [text.find(mark) for mark in marks]
    if -1 in places:
        return places.index(-1)
    turns = [place for place, message in zip(places, messages, strict=True) if message["role"] not in _SETTERS]
    if turns != sorted(turns):
        raise _Unfit(
            f"{template} renders the messages in another order. Save a template that keeps it with the tokenizer."
        )
    return None


def _marked(content: str | list[dict[str, str]], mark: str) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return f"{content} {mark}"
    return [part | {"text": f"{part['text']} {mark}"} for part in content]


# --- what is checked -------------------------------------------------------------------------------------------------


def _check_ends(row: PromptRow, ids: list[int], tokenizer: Any) -> None:
    """Refuse tokens that end, or that begin twice. A template may begin every turn anew, as Llama 2's does."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if ids and ids[-1] == end:
        raise _Unfit(
            f"the prompt ends with the end token {tokenizer.eos_token}, after which a policy says nothing. Remove it "
            "from the end of the text; a chat template must end with the beginning of the assistant's message when "
            "add_generation_prompt is set."
        )
    if begin is None:
        return
    in_a_row = any(one == begin == other for one, other in pairwise(ids))
    in_a_text = begin != end and (
        ids.count(begin) > 1
        if row.messages is None
        else any(tokenizer.bos_token in content for content in row.contents)
    )
    if in_a_row or in_a_text:
        raise _Unfit(
            f"the prompt has the beginning token {tokenizer.bos_token} twice, or inside its text. Remove it; give a "
            "chat as a list of messages with role and content, not as rendered text."
        )


def _lost(texts: Sequence[str], decoded: str) -> int | None:
    """The index of a text that ``decoded`` does not hold, or None. Each text needs a place of its own.

    Blanks, case, accents and compatible forms of a letter may differ: some tokenizers change them on purpose.
    """
    if _missing([text.strip() for text in texts], decoded) is None:
        return None
    return _missing([_folded(text) for text in texts], _folded(decoded))


def _missing(texts: Sequence[str], decoded: str) -> int | None:
    # The longest first: a shorter text may be a part of it.
    for index in sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True):
        before, found, after = decoded.partition(texts[index]) if texts[index] else (decoded, " ", "")
        if not found:
            return index
        decoded = f"{before}\0{after}"
    return None


def _folded(text: str) -> str:
    whole = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in whole if unicodedata.category(letter)[0] not in "CMZ")


def _decode(ids: list[int], tokenizer: Any) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _not_kept(text: str, decoded: str) -> str:
    return (
        f"the policy's tokenizer does not keep the text {_excerpt(text)}: it becomes {_excerpt(decoded)}. Remove what "
        "it does not know, or use the tokenizer that belongs to the policy."
    )


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")

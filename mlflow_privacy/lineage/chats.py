"""Chats, as lists of messages, written as the texts that a chat model reads: by its tokenizer's own template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.errors import LineageError

_SHOWN = 200  # characters of an error of the template


def is_chat(value: Any) -> bool:
    """Whether a value is a list of messages with role and content, one at least.

    >>> is_chat([{"role": "user", "content": "hello"}]), is_chat(["hello"]), is_chat("hello")
    (True, False, False)
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(isinstance(message, Mapping) and {"role", "content"} <= set(message) for message in value)
    )


def of_chats(column: Sequence[Any]) -> bool:
    """Whether all values of a column are chats."""
    return len(column) > 0 and all(map(is_chat, column))


def written(texts: Sequence[Any], prompts: Sequence[Any] | None, tokenizer: Any, name: str) -> tuple[list[str], Any]:
    """Chats as texts, and their prompts if these are chats too, as the tokenizer's chat template writes them.

    Without prompts a text is the whole conversation. With prompts it is what the template adds to the prompt, which
    ends where the answer begins.

    Args:
      texts: n chats.
      prompts: n chats that stand before them, or None.
      tokenizer: of transformers.
      name: of the column, for messages.

    Raises:
      LineageError: the tokenizer has no template, or the template refuses a chat.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise LineageError(
            f"its column {name!r} holds chats, lists of messages with role and content, but the model's tokenizer has "
            "no chat template that writes them as one text. Log the texts as the training saw them (text=...), or log "
            "the model with the tokenizer whose chat_template it was trained with"
        )
    if prompts is None:
        return [_write(chat, tokenizer, name, i) for i, chat in enumerate(texts)], None
    before = [_write(chat, tokenizer, name, i, answer=True) for i, chat in enumerate(prompts)]
    whole = [
        _write([*prompt, *chat], tokenizer, name, i)
        for i, (prompt, chat) in enumerate(zip(prompts, texts, strict=True))
    ]
    for i, (start, text) in enumerate(zip(before, whole, strict=True)):
        if not text.startswith(start):
            raise LineageError(
                f"the chat template does not write the prompt of record {i} at the beginning of its text, so that the "
                "two cannot be told apart. Log both as texts, as the training saw them"
            )
    return [text[len(start) :] for start, text in zip(before, whole, strict=True)], before


def _write(chat: Any, tokenizer: Any, name: str, place: int, *, answer: bool = False) -> str:
    from jinja2 import TemplateError

    messages = [_message(message) for message in chat]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer))
    except (TemplateError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        text = " ".join(str(error).split())[:_SHOWN]
        raise LineageError(
            f"the tokenizer's chat template refuses record {place} of the column {name!r} ({type(error).__name__}: "
            f"{text}). Leave such records out, or log the texts as the training saw them"
        ) from error


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without the keys that a table filled in for other messages."""
    return {str(key): _plain(value) for key, value in message.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value

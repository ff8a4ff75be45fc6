"""What features see of a request: a text, or the messages of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bandit_router.values import clean_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What features see of a request: the last user turn, and counts of the rest.

    Attributes
    ----------
    text : str
        The last user turn; lone surrogates are replaced by U+FFFD.
    turns : int
        Messages in all.
    other_chars : int
        Characters of all messages but the last user turn.
    system_chars : int
        Those of them that system or developer messages hold.
    images, tools : int
        Image parts, and tool calls and results, anywhere.
    """

    text: str
    turns: int = 1
    other_chars: int = 0
    system_chars: int = 0
    images: int = 0
    tools: int = 0

    @classmethod
    def of(cls, prompt: str | Sequence[Mapping[str, Any]]) -> Prompt:  # Any: JSON of OpenAI messages
        """Read a text, or OpenAI messages (``{"role", "content"}``).

        Raises
        ------
        TypeError, ValueError
            Not a text or a non-empty list of messages, or too long; the message says where.

        Examples
        --------
        >>> Prompt.of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
        Prompt(text='Hi', turns=2, other_chars=9, system_chars=9, images=0, tools=0)
        """
        if isinstance(prompt, str):
            return cls(text=clean_text("prompt", prompt))
        if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray):
            kind = type(prompt).__name__
            raise TypeError(f"prompt: expected a text or a list of messages, got {kind}")
        if not prompt:
            raise ValueError("messages: expected at least one message, got none")
        turns = [_Turn.of(message, f"messages[{i}]") for i, message in enumerate(prompt)]
        return cls._from_turns(turns)

    @classmethod
    def _from_turns(cls, turns: list[_Turn]) -> Prompt:
        users = [i for i, turn in enumerate(turns) if turn.role == "user"]
        last = users[-1] if users else len(turns) - 1
        rest = turns[:last] + turns[last + 1 :]
        return cls(
            text=clean_text("messages", turns[last].text),
            turns=len(turns),
            other_chars=sum(len(turn.text) for turn in rest),
            system_chars=sum(len(t.text) for t in rest if t.role in ("system", "developer")),
            images=sum(turn.images for turn in turns),
            tools=sum(turn.tools for turn in turns),
        )

    @property
    def input_tokens(self) -> float:
        """A rough count of the tokens of the whole prompt: four characters each, 800 an image."""
        return (len(self.text) + self.other_chars) / 4 + 4 * self.turns + 800 * self.images


@dataclass(frozen=True, slots=True)
class _Turn:
    role: str
    text: str
    images: int
    tools: int

    @classmethod
    def of(cls, message: Any, where: str) -> _Turn:  # Any: it is what this checks
        if not isinstance(message, Mapping):
            raise TypeError(f"{where}: expected an object, got {type(message).__name__}")
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise ValueError(f"{where}.role: expected a text, got {type(role).__name__}")
        parts = _parts(message.get("content"), f"{where}.content")
        kinds = [str(part.get("type")) for part in parts]
        calls = message.get("tool_calls") or ()
        return cls(
            role=role,
            text="\n".join(text for part in parts if isinstance(text := part.get("text"), str)),
            images=sum("image" in kind for kind in kinds),
            tools=sum("tool" in kind for kind in kinds)
            + (len(calls) if isinstance(calls, Sequence) else 0)
            + (role in ("tool", "function")),
        )


def _parts(content: Any, where: str) -> list[Mapping[str, Any]]:  # Any: it is what this checks
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, Sequence) or isinstance(content, bytes | bytearray):
        raise TypeError(f"{where}: expected a text or a list of parts, got {type(content).__name__}")
    for i, part in enumerate(content):
        if not isinstance(part, Mapping):
            raise TypeError(f"{where}[{i}]: expected an object, got {type(part).__name__}")
    return list(content)

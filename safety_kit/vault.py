"""What a conversation's placeholders stand for: kept in memory, for one conversation, and nowhere else."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Collection
from typing import Final, NoReturn

from safety_kit.errors import UserError
from safety_kit.types import Role

RESTORED: Final[tuple[Role, ...]] = ("user", "assistant")
"""Whose values a reply may show again: what the user gave, and what an earlier reply has shown already."""

_LABEL, _FEWEST, _MOST = 32, 6, 64  # characters of a label, and the fewest and most hexadecimal digits
_SHAPE = re.compile(rf"<[A-Z0-9][A-Z0-9_]{{0,{_LABEL - 1}}}_[0-9a-f]{{{_FEWEST},{_MOST}}}>")
_NO_LABEL = re.compile("[^A-Z0-9]+")
_DIGITS = frozenset("0123456789abcdef")


class Vault:
    """The values behind the placeholders of one conversation.

    A placeholder such as ``<EMAIL_3f9a1c>`` is a keyed hash of the value, so a conversation writes the same value
    always the same, and nobody without the key can tell, or make up, what stands for what. It is lengthened where it
    would be another value's.

    A vault may serve several threads, never several conversations. It cannot be pickled or copied, and shows no value.
    """

    __slots__ = ("_key", "_labels", "_lock", "_made", "_own_key", "_restored", "_taken", "_values")

    def __init__(self, key: bytes | None = None, *, restores: Collection[Role] = RESTORED) -> None:
        """An empty vault.

        Args:
            key: 16 to 64 secret bytes of the conversation, for a server that keeps no vault between two turns and
                builds it anew from the messages. A placeholder that then stands in an earlier message is taken for
                this conversation's own. Without a key one is made, and what looks like a placeholder in a text that
                comes before its value is text: it is never restored.
            restores: The roles whose values a reply shows again. What other messages hold, an instruction or a
                tool's result, stays a placeholder in the reply.

        Raises:
            UserError: The key is too short or too long.
        """
        if key is not None and not 16 <= len(key) <= 64:
            raise UserError("A vault's key is 16 to 64 bytes; make one with secrets.token_bytes(16).")
        self._own_key = key is None
        self._key = secrets.token_bytes(16) if key is None else key
        self._restored = frozenset(restores)
        self._made: dict[tuple[str, str], str] = {}  # by label and value
        self._values: dict[str, str] = {}  # by placeholder, of those that may be restored
        self._taken: set[str] = set()  # placeholders that were made, or that texts brought along
        self._labels: dict[str, int] = {}  # the longest placeholder that may be restored, by its beginning
        self._lock = threading.Lock()

    def placeholder(self, label: str, value: str, role: Role | None = None) -> str:
        """What is written instead of a value.

        Args:
            label: What the value is; its ASCII letters and digits stand in the placeholder.
            value: Any text, lone surrogates included. A restorable placeholder in it stands for its own value.
            role: Who wrote the value; None: the reply that is being checked. It says whether `restore` may write it.
        """
        value = self.restore(value)
        label = _NO_LABEL.sub("_", label.upper())[:_LABEL].strip("_") or "DATA"
        with self._lock:
            if (label, value) not in self._made:
                self._made[label, value] = self._free(label, value)
            made = self._made[label, value]
            if role in self._restored:
                self._values[made] = value
                opening = f"<{label}_"
                self._labels[opening] = max(len(made), self._labels.get(opening, 0))
        return made

    def note(self, text: str) -> None:
        """Learn which placeholders a text brings along: where the key is the vault's own, no value gets one of them."""
        if not self._own_key or "<" not in text:
            return
        with self._lock:
            self._taken.update(_SHAPE.findall(text))

    def restore(self, text: str) -> str:
        """The text with every restorable placeholder of this vault replaced by its value; all else is left alone."""
        return _SHAPE.sub(lambda found: self._values.get(found[0], found[0]), text) if self._values else text

    def restorer(self) -> Restorer:
        """The same for a text that grows."""
        return Restorer(self)

    def may_begin(self, text: str) -> bool:
        """Whether a restorable placeholder begins with this text and goes on."""
        return any(
            opening.startswith(text)
            or (text.startswith(opening) and len(text) < longest and _DIGITS.issuperset(text[len(opening) :]))
            for opening, longest in tuple(self._labels.items())
        )

    def _free(self, label: str, value: str) -> str:
        data = f"{label}\0{value}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(data, key=self._key, digest_size=_MOST // 2).hexdigest()
        lengths = range(_FEWEST, _MOST + 1)
        made = next(made for n in lengths if (made := f"<{label}_{digest[:n]}>") not in self._taken)
        self._taken.add(made)
        return made

    def __len__(self) -> int:
        return len(self._made)

    def __bool__(self) -> bool:
        return True  # an empty vault is a vault

    def __repr__(self) -> str:
        return f"Vault({len(self)} values)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("A vault is neither pickled nor copied: it lives as long as its conversation.")


class Restorer:
    """Restores a text that grows: whatever the chunks, together they are `Vault.restore` of the whole."""

    __slots__ = ("_held", "_vault")

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._held = ""

    def feed(self, text: str) -> str:
        """Read on; what may still become a placeholder is held, which is shorter than one."""
        text = self._held + text
        cut = text.rfind("<")
        if cut < 0 or not self._vault.may_begin(text[cut:]):
            cut = len(text)
        self._held = text[cut:]
        return self._vault.restore(text[:cut])

    def close(self) -> str:
        """The text is complete: what is held is no placeholder."""
        text, self._held = self._held, ""
        return text

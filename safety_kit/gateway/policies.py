"""The guards that a gateway serves, by policy: built once, built anew when their files change, swapped in one step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from safety_kit.errors import PolicyError, SafetyKitError
from safety_kit.gateway.watch import Look, file_of, files_of, look
from safety_kit.guard import Guard
from safety_kit.policy import Policy

Event: TypeAlias = Literal["loaded", "refused"]
"""A policy is served from now on; or its files cannot be, and what was served before still is."""

Build: TypeAlias = Callable[[Policy], Guard]
OnEvent: TypeAlias = Callable[[str, Event, str], None]


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """How one policy stands.

    Attributes:
        digest: Of the guard that is served; None: there is none, and requests under this policy fail.
        fault: Why the files as they are now are not served; None where they are.
    """

    digest: str | None
    fault: str | None = None


@dataclass(slots=True)
class _Entry:
    """One policy: its guard, the files that this was made of, and the last look at them."""

    files: tuple[Path, ...]
    guard: Guard | None = None
    served: str | None = None
    refused: str | None = None
    fault: str | None = None
    seen: Look | None = None


class Policies:
    """Guards by the name of their policy. A request takes one and keeps it to its end, whatever is loaded meanwhile.

    Changed files are loaded once two looks in a row found them the same, and only if they still are when the guard
    is built: half a file can be a valid policy that forbids less. What cannot be enforced is told once and changes
    nothing; it is tried again when the files change again. Safe for threads.
    """

    def __init__(
        self,
        default: str = "default",
        others: Callable[[], Iterable[str]] = tuple,
        *,
        shadow: str | None = None,
        build: Build = Guard,
        on_event: OnEvent | None = None,
        classifiers: Callable[[Policy], Path | None] = lambda _: None,
    ) -> None:
        """Load the policies that are named now.

        Args:
            default: Name or file of the policy of requests that name none.
            others: Gives those that API keys name; asked again at each look.
            shadow: A policy that is judged and not enforced.
            build: Makes the guard of a policy; called in the thread that looks.
            on_event: Told of each policy that is loaded or refused: its name, which, and a sentence.
            classifiers: Gives the folder of the model's own classifiers, to be watched with the policy that names them.

        Raises:
            SafetyKitError: A policy cannot be read or enforced; there is nothing older to keep.
        """
        self.default = default
        self._others = others
        self._shadow = shadow
        self._build = build
        self._on_event = on_event
        self._classifiers = classifiers
        self._entries: dict[str, _Entry] = {}
        self._looking = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        for name in self._names():
            self._entries[name] = entry = _Entry((file_of(name),))
            self._load(name, entry, look(entry.files))
            if entry.guard is None:
                raise PolicyError(entry.fault or f"The policy {name} changes while it is read; start again.")

    def guard(self, name: str | None = None) -> Guard:
        """The guard of a policy as it is now; without a name the default one's.

        Raises:
            PolicyError: No such policy is served; never another in its place.
        """
        entry = self._entries.get(self.default if name is None else name)
        if entry is None or entry.guard is None:
            raise PolicyError("The policy of this request is not served; look at /readyz and correct its file.")
        return entry.guard

    def shadow(self) -> Guard | None:
        """The shadow policy's guard as it is now; None: there is none."""
        return None if self._shadow is None else self.guard(self._shadow)

    def status(self) -> dict[str, PolicyStatus]:
        """How each policy stands, by name."""
        return {
            name: PolicyStatus(entry.guard.digest if entry.guard else None, entry.fault)
            for name, entry in list(self._entries.items())
        }

    def look(self) -> None:
        """Look at all files once, and load what has changed and has come to rest."""
        with self._looking:
            names = self._names()
            entries = {name: self._entries.get(name) or _Entry((file_of(name),)) for name in names}
            self._entries = entries  # a policy that no key names any more is let go
            for name, entry in entries.items():
                before, entry.seen = entry.seen, look(entry.files, entry.seen)
                if entry.seen.digest in (entry.served, entry.refused):
                    if entry.seen.digest == entry.served and entry.fault is not None:
                        entry.refused = entry.fault = None
                        self._tell(name, "loaded", "its files are again those that are served.")
                elif before is not None and before.digest == entry.seen.digest:
                    self._load(name, entry, entry.seen)

    def start(self, seconds: float) -> None:
        """Look every so many seconds, in a thread of its own, until `stop`; 0: never."""
        if seconds and self._thread is None:
            self._thread = threading.Thread(target=self._watch, args=(seconds,), name="policies", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def _watch(self, seconds: float) -> None:
        told = ""
        while not self._stop.wait(seconds):
            try:
                self.look()
                told = ""
            except Exception as error:  # the next look may go better; without this thread none would be made
                message = f"looking at the policies failed with {type(error).__name__}."
                if message != told:
                    self._tell(self.default, "refused", message)
                told = message

    def _names(self) -> list[str]:
        shadow = [] if self._shadow is None else [self._shadow]
        return list(dict.fromkeys([self.default, *shadow, *self._others()]))

    def _load(self, name: str, entry: _Entry, seen: Look) -> None:
        """Build a policy's guard and serve it, if the files are still as they were seen."""
        try:
            policy = Policy.load(name)
            files = files_of(name, policy, self._classifiers(policy))
            if files != entry.files:  # it names other files now: all of them have to stay as they are
                named = look(files)
                if look(entry.files).digest != seen.digest:
                    return
                entry.files, seen = files, named
            guard = self._build(policy)
        except Exception as error:
            fault = str(error) if isinstance(error, SafetyKitError) else f"loading failed with {type(error).__name__}."
            if look(entry.files).digest == seen.digest:
                entry.seen, entry.refused, entry.fault = seen, seen.digest, fault
                self._tell(name, "refused", fault)
            return
        if look(entry.files).digest != seen.digest:
            return  # changed meanwhile: the next look begins anew
        entry.guard = guard
        entry.seen, entry.served, entry.refused, entry.fault = seen, seen.digest, None, None
        self._tell(name, "loaded", f"the policy {guard.policy.name!r} with the digest {guard.digest[:12]}.")

    def _tell(self, name: str, event: Event, message: str) -> None:
        if self._on_event is not None:
            self._on_event(name, event, message)

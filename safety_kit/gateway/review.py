"""The review store: what was flagged or blocked, with its texts, for the people who improve the guard."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from safety_kit.errors import SafetyKitError, UserError
from safety_kit.gateway.review_entry import entry_of
from safety_kit.gateway.review_files import Shelf
from safety_kit.gateway.review_redact import Redaction

if TYPE_CHECKING:
    from safety_kit.gateway.record import Record
    from safety_kit.gateway.settings import Review
    from safety_kit.policy import Policy

PURGE_SECONDS: Final = 3600.0

_FLAGGED: Final = frozenset({"flag", "redact", "block"})
_BLOCKED: Final = frozenset({"block"})

log = logging.getLogger(__name__)


class ReviewStore:
    """Keeps requests, redacted; safe for threads, and several processes may share a folder."""

    def __init__(self, settings: Review, policies: Iterable[Policy], clock: Callable[[], float] = time.time) -> None:
        """Open the store and delete what is too old; once an hour that is done again.

        Args:
            settings: `settings.folder` must be named.
            policies: All that the gateway may decide by: what any of them calls personal data is masked.
            clock: Unix time.

        Raises:
            UserError: No policy says what personal data is, or the folder cannot be used.
        """
        if settings.folder is None:
            raise UserError("There is no review store to open: name its folder with review.folder.")
        self._settings = settings
        self._redaction = self._redacting(policies)
        self._shelf = Shelf.make(settings.folder, settings.days, clock)
        self._purge()
        self._closed = threading.Event()
        threading.Thread(target=self._keep_purging, name="review-purge", daemon=True).start()

    def use(self, policies: Iterable[Policy]) -> None:
        """Redact by other policies from now on.

        Raises:
            UserError: None of them says what personal data is; the ones before stay.
        """
        self._redaction = self._redacting(policies)

    def write(self, record: Record) -> None:
        """Keep a request, if it is of the kind that is kept and has its texts.

        Raises:
            SafetyKitError: It cannot be written; nothing of it is left.
        """
        kept = {"flagged": _FLAGGED, "blocked": _BLOCKED, "none": frozenset[str]()}[self._settings.keep]
        if record.outcome not in kept or record.texts is None:
            return
        entry = entry_of(record, self._shelf.now(), self._redaction.body)
        try:
            self._shelf.add(entry)
        except OSError as error:
            raise SafetyKitError(
                f"The review store {self._shelf.folder} cannot be written: {error.strerror}; make room."
            ) from error

    def close(self) -> None:
        """Stop purging."""
        self._closed.set()

    def _redacting(self, policies: Iterable[Policy]) -> Redaction:
        redaction = Redaction(policies)
        if not (redaction.masks_pii or self._settings.unredacted):
            raise UserError(
                "No policy says what personal data is, so that nothing can be kept for review: add a pii check with "
                "rules to the policy, or set review.unredacted: true to keep texts as they are."
            )
        return redaction

    def _purge(self) -> None:
        try:
            if gone := self._shelf.purge():
                log.info("%d entries of the review store were older than %d days", gone, self._shelf.days)
        except OSError as error:
            log.error("the review store cannot delete what is too old: %s", error.strerror)

    def _keep_purging(self) -> None:
        while not self._closed.wait(PURGE_SECONDS):
            self._purge()

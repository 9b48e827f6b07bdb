"""The error tree. Each class carries the exit code that the command line ends with.

SafetyKitError (3)
├── UserError (2)            bad arguments, data or policy: the remedy is in the message
│   ├── DataError            example rows that cannot be taught from
│   ├── PolicyError          a policy that cannot be enforced
│   ├── ArtifactError        a classifier folder that is missing, changed or made for another model
│   │   └── MissingArtifact  a category that was never taught for this model
│   ├── ModelError           a model that cannot be had, or is no supported Gemma
│   └── ConversationError    a request or a reply that is no chat completion
├── AuditError (3)           the audit log cannot be written now
├── CheckTimeout (3)         a check that did not come back in time; a verdict's error, raised to no caller
├── Overloaded (3)           more work than the machine has room for; ask again later
└── MissingExtra (3)         a package of an extra that is not installed
"""

from __future__ import annotations


class SafetyKitError(Exception):
    """Any fault that the kit names itself; its message is one or two sentences with the remedy."""

    exit_code = 3


class UserError(SafetyKitError):
    """The caller can mend it: bad arguments, data, policy or model name."""

    exit_code = 2


class DataError(UserError):
    """Example rows that cannot be taught from."""


class PolicyError(UserError):
    """A policy that cannot be read or enforced."""


class ArtifactError(UserError):
    """A classifier folder that is missing, changed, or made for another model."""


class MissingArtifact(ArtifactError):
    """A category of the policy has no classifier for this model; the message names the command that teaches it."""


class ModelError(UserError):
    """A model that cannot be had, or that is no supported Gemma."""


class ConversationError(UserError):
    """A request, a response or a chunk that has not the form of a chat completion."""


class AuditError(SafetyKitError):
    """A line of the audit log could not be written, or could not be now."""


class CheckTimeout(SafetyKitError):
    """A check did not come back in time."""


class Overloaded(SafetyKitError):
    """There is no room for more work now.

    Attributes:
        retry_after: Seconds after which asking again is worth it.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class MissingExtra(SafetyKitError):
    """A package that belongs to an extra is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'safety-kit[{extra}]'")

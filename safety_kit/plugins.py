"""Checks that other packages bring, by the entry point group `safety_kit.checks`: the type's name → a module.

The module (or object) has `Options`, a subclass of `InstalledOptions` whose `type` is a `Literal` of the name;
`categories(name, options)`, all that the check may find; and `build(name, options, wanted)`, which makes it. It is
imported only when a policy names the type.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, get_args

from safety_kit.check_options import InstalledOptions
from safety_kit.errors import PolicyError, SafetyKitError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "safety_kit.checks"
_CHECK: Final = ("name", "categories", "capture", "lookahead", "run", "start", "step")

_LOCK = threading.Lock()
_LOADED: dict[str, Plugin] = {}


@dataclass(frozen=True, slots=True)
class Plugin:
    """One installed check type.

    Attributes:
        package: Name and version of the package that brings it.
        name: The type's name.
        options: The class of its options.
    """

    package: str
    name: str
    options: type[InstalledOptions]
    _categories: Callable[[str, InstalledOptions], frozenset[str]]
    _build: Callable[[str, InstalledOptions, frozenset[str]], Any]

    def categories(self, name: str, options: InstalledOptions) -> frozenset[str]:
        """All that a check of these options may find.

        Raises:
            PolicyError: The package's own function fails, or gives no set of names.
        """
        found = self._call("categories", self._categories, name, options)
        if not isinstance(found, frozenset) or not found or not all(isinstance(c, str) and c for c in found):
            raise _broken(self.package, self.name, "its categories() gives no frozenset of names")
        return found

    def build(self, name: str, options: InstalledOptions, wanted: frozenset[str]) -> Any:
        """The check.

        Raises:
            PolicyError: The package's own function fails, or gives something that is no check.
        """
        check = self._call("build", self._build, name, options, wanted)
        if missing := [part for part in _CHECK if not hasattr(check, part)]:
            raise _broken(self.package, self.name, f"its build() gives something without {missing[0]!r}")
        return check

    def _call(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except SafetyKitError:
            raise  # has a remedy of its own
        except Exception as error:
            raise _broken(self.package, self.name, f"its {what}() failed with {_said(error)}") from error


def installed() -> dict[str, list[EntryPoint]]:
    """The installed check types, none of them loaded, and what brings each."""
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def plugin(type_: str) -> Plugin | None:
    """The installed check of this type, loaded once; None where no package brings it.

    Raises:
        PolicyError: Two packages bring it, or the one that does is broken.
    """
    with _LOCK:
        if type_ not in _LOADED:
            points = installed().get(type_)
            if not points:
                return None
            packages = sorted({_package(point) for point in points})
            if len(packages) > 1:
                raise PolicyError(f"Both {' and '.join(packages)} bring the check type {type_!r}; remove one of them.")
            _LOADED[type_] = _load(points[0], packages[0])
        return _LOADED[type_]


def _load(point: EntryPoint, package: str) -> Plugin:
    try:
        module = point.load()
    except Exception as error:
        raise _broken(package, point.name, f"it does not load ({_said(error)})") from error
    if missing := [part for part in ("Options", "categories", "build") if not hasattr(module, part)]:
        raise _broken(package, point.name, f"{point.value} has no {missing[0]!r}")
    options = module.Options
    if not (isinstance(options, type) and issubclass(options, InstalledOptions)):
        raise _broken(package, point.name, "its Options is no subclass of safety_kit.check_options.InstalledOptions")
    if get_args(options.model_fields["type"].annotation) != (point.name,):
        raise _broken(package, point.name, f"its Options.type is not Literal[{point.name!r}]")
    return Plugin(package, point.name, options, module.categories, module.build)


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _broken(package: str, type_: str, why: str) -> PolicyError:
    return PolicyError(
        f"The package {package}, which brings the check type {type_!r}, is broken: {why}; update or remove it."
    )


def _said(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__

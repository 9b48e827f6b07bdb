"""Checks by entry point: a package on the path is found, used in a guard and a stream, and blamed when it is broken."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from safety_kit import plugins
from safety_kit.checks.base import build
from safety_kit.errors import MissingExtra, PolicyError
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.policy_schema import given_by
from safety_kit.stream import StreamGuard

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "guides" / "own-checks.md").read_text(encoding="utf-8")
(MODULE, SCRATCH), (POLICY,) = (re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) for kind in ("python", "yaml"))
BUILD = "return PatternsCheck("

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package with one module and one entry point on the path."""
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.syspath_prepend(tmp_path)

    def add(code: str, package: str = "acme-checks", module: str = "acme_checks", type_: str = "ticket") -> None:
        (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
        info = tmp_path / f"{package.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[safety_kit.checks]\n{type_} = {module}\n", encoding="utf-8")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return add


@pytest.mark.parametrize("module", [MODULE, MODULE + SCRATCH], ids=["ten lines", "from scratch"])
def test_the_page_s_check_works_in_a_guard_and_a_stream(install: Install, module: str) -> None:
    install(module)
    policy = Policy.parse(POLICY)
    assert json.loads(policy.content)["checks"] == {"tickets": {"type": "ticket", "prefix": "ACME"}}
    guard = Guard(policy)
    text = "See ACME-1234, and not XACME-12345."
    expected = "See [TICKET], and not XACME-12345."
    assert guard.check_text(text, "output").text == expected
    flow = StreamGuard(guard)
    assert "".join([*(flow.feed(char).text for char in text), flow.close().text]) == expected


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("prefix: ACME", "prefx: ACME", "checks.tickets.prefx: unknown key"),
        ("prefix: ACME", "prefix: [1]", "checks.tickets.prefix: must be a text"),
        ("category: ticket", "category: other", "rules[0].category: no check gives 'other'"),
    ],
)
def test_its_options_are_checked_as_the_kit_s_own(install: Install, old: str, new: str, place: str) -> None:
    install(MODULE)
    with pytest.raises(PolicyError, match="^" + re.escape(place)):
        Policy.parse(POLICY.replace(old, new))


def test_an_unknown_type_names_the_known_ones(install: Install) -> None:
    install(MODULE)
    with pytest.raises(PolicyError, match=r"checks\.tickets\.type: unknown check type; use one of .*pii.*, ticket\."):
        Policy.parse(POLICY.replace("type: ticket", "type: tickets"))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("from typing", "import no_such_package\nfrom typing", r"does not load \(ModuleNotFoundError: No module named"),
        ("def build", "def make", "has no 'build'"),
        ("class Options(InstalledOptions)", "class Options", "no subclass of"),
        ('Literal["ticket"]', 'Literal["card"]', r"is not Literal\['ticket'\]"),
        ('return frozenset({"ticket"})', 'return ["ticket"]', "gives no frozenset of names"),
        ('return frozenset({"ticket"})', "return 1 / 0", r"categories\(\) failed with ZeroDivisionError"),
    ],
)
def test_a_broken_package_is_named(install: Install, old: str, new: str, why: str) -> None:
    assert old in MODULE
    install(MODULE.replace(old, new))
    with pytest.raises(PolicyError, match=rf"The package acme-checks 1\.2, .*'ticket', is broken: .*{why}"):
        Policy.parse(POLICY)


@pytest.mark.parametrize(
    ("new", "why"),
    [
        ("return object() or (", "without 'name'"),
        ("raise OSError('no\\nfile') or (", "failed with OSError: no; update"),
    ],
)
def test_a_package_that_builds_no_check_is_named(install: Install, new: str, why: str) -> None:
    install(MODULE.replace(BUILD, new))
    with pytest.raises(PolicyError, match=rf"acme-checks 1\.2.*{why}"):
        Guard(Policy.parse(POLICY))


def test_a_package_s_own_fault_with_a_remedy_stays(install: Install) -> None:
    code = "from safety_kit.errors import MissingExtra\n    raise MissingExtra('tickets', 'all') or ("
    install(MODULE.replace(BUILD, code))
    with pytest.raises(MissingExtra, match="tickets is not installed"):
        Guard(Policy.parse(POLICY))


def test_two_packages_with_one_type_are_both_named(install: Install) -> None:
    install(MODULE)
    install(MODULE, "bolt-checks", "bolt_checks")
    with pytest.raises(PolicyError, match=r"Both acme-checks 1\.2 and bolt-checks 1\.2 bring .* 'ticket'"):
        Policy.parse(POLICY)


def test_a_package_cannot_take_the_place_of_the_kit_s_own_check(install: Install) -> None:
    install("raise SystemExit", type_="pii")
    policy = Policy.parse(POLICY.replace("{type: ticket, prefix: ACME}", "{type: pii}").replace("ticket,", "pii.*,"))
    assert not Guard(policy).check_text("a@example.com", "output").blocked


def test_a_check_whose_package_has_gone_is_refused(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(MODULE)
    options = Policy.parse(POLICY).checks["tickets"]
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(plugins, "installed", dict)
    assert given_by("tickets", options) == frozenset()
    with pytest.raises(PolicyError, match="any more"):
        build("tickets", options, frozenset({"ticket"}))


def test_packages_are_looked_through_only_for_a_type_that_is_not_the_kit_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise LookupError

    monkeypatch.setattr(plugins, "installed", refuse)
    assert Policy.load("default").checks
    with pytest.raises(LookupError):
        Policy.parse(POLICY)


def test_the_schema_lists_the_kit_s_own_types(install: Install) -> None:
    install(MODULE)
    schema = json.dumps(Policy.json_schema())
    assert "PatternsOptions" in schema
    assert "InstalledOptions" not in schema
    assert "ticket" not in schema

"""A gateway's settings: where they come from, and what is said of one that makes no sense."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from safety_kit.errors import UserError
from safety_kit.gateway.settings import Settings

FILE = """
port: 9000
policy: policies/strict.yaml
keys: keys.yaml
upstream: {url: "http://127.0.0.1:8000/v1", api_key_env: UPSTREAM_KEY}
limits: {rate: 60/minute, concurrent: 8}
audit: {file: audit.jsonl}
"""


def load(tmp_path: Path, text: str, overrides: dict[str, Any] | None = None, **environ: str) -> Settings:
    file = tmp_path / "gateway.yaml"
    file.write_text(text, encoding="utf-8")
    return Settings.load(file, overrides or {}, environ)


def test_a_file_then_the_environment_then_the_options(tmp_path: Path) -> None:
    environ = {"UPSTREAM_KEY": "s3cret", "AIP_HTTP_PORT": "9001", "AIP_HEALTH_ROUTE": "/alive"}
    read = load(tmp_path, FILE, {"limits.concurrent": 4, "audit.file": "here.jsonl", "limits.rate": None}, **environ)
    assert (read.port, read.vertex.health) == (9001, "/alive")
    assert (read.limits.rate, read.limits.concurrent) == ("60/minute", 4)
    assert read.upstream is not None
    assert read.upstream.api_key is not None
    assert read.upstream.api_key.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(read) + read.model_dump_json()
    assert (read.policy, read.keys) == (str(tmp_path / "policies/strict.yaml"), tmp_path / "keys.yaml")
    assert read.audit.file == Path("here.jsonl")  # an option is relative to where it is typed
    assert load(tmp_path, FILE, {"port": 1}, **environ).port == 1


def test_nothing_is_asked_for() -> None:
    read = Settings.load(None, {}, {})
    assert (read, read.host, read.policy) == (Settings(), "127.0.0.1", "default")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port: [", "line 1: this is no valid YAML"),
        ("port: 1\nport: 2", "line 2: the key 'port' is given twice"),
        ("- port", "must be a mapping"),
        ("1: 2", "must be a mapping"),
        ("prot: 1", "prot: unknown key; correct its spelling"),
        ("limits: {conncurrent: 1}", "limits.conncurrent: unknown key"),
        ("limits: 3", "limits: must be a mapping"),
        ("port: eighty", "port: use a whole number"),
        ("port: 70000", "port: use a number of at most 65535"),
        ("limits: {body: 0}", "limits.body: use a number above 0"),
        ("limits: {drain: .inf}", "limits.drain: use a number"),
        ("limits: {rate: 60 per minute}", "limits.rate: use a rate such as 60/minute"),
        ("limits: {redis_failure: allow}", "limits.redis_failure: use 'refuse' or 'local'"),
        ("upstream: {}", "upstream.url: is missing"),
        ("upstream: {url: 'http://a', api_key_env: NOT_SET}", "environment variable NOT_SET is not set"),
        ("upstream: {url: 'http://a', api_key: k, api_key_env: SET}", "both given"),
        ("host: 0.0.0.0", "not loopback"),
        ("review: {keep: flagged}", "review.folder"),
        ("cors_origins: ['*']", r"cors_origins\[0\]: name an origin"),
        ("proxies: [balancer]", r"proxies\[0\]: use an address"),
    ],
)
def test_a_fault_is_told_with_its_file_its_place_and_what_belongs_there(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UserError, match=rf"gateway\.yaml: .*{told}"):
        load(tmp_path, text, SET="x")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert Settings(host=host).keys is None


def test_elsewhere_needs_keys_or_a_word() -> None:
    assert Settings(host="0.0.0.0", allow_anonymous=True).host == "0.0.0.0"
    assert Settings(host="::", keys=Path("keys.yaml")).host == "::"


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read"):
        Settings.load(tmp_path / "nowhere.yaml", {}, {})
    (tmp_path / "bytes.yaml").write_bytes(b"port: \xff")
    with pytest.raises(UserError, match="not UTF-8"):
        Settings.load(tmp_path / "bytes.yaml", {}, {})


def names(section: type[BaseModel], under: str = "") -> Iterator[str]:
    """Every setting by its dotted name."""
    for name, field in section.model_fields.items():
        inner = next((type_ for type_ in (field.annotation, *get_args(field.annotation)) if is_section(type_)), None)
        yield from names(inner, f"{under}{name}.") if inner else [f"{under}{name}"]


def is_section(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, BaseModel)


def test_the_guide_explains_every_setting() -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/gateway-settings.md").read_text(encoding="utf-8")
    rows = [row for row in guide.splitlines() if row.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`([\w.]+)`", row.split("|")[1])}
    with_heading = ("upstream.", "limits.")
    assert {name.removeprefix(with_heading[0]).removeprefix(with_heading[1]) for name in names(Settings)} <= told

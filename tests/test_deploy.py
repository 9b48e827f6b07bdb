"""deploy/ as far as it can be tried without a daemon: what names what, and that it is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from safety_kit.gateway.settings import Settings
from safety_kit.guard import Guard
from safety_kit.policy import Policy

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"


def instructions() -> list[tuple[str, str, str]]:
    """(stage, instruction, arguments) of the Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stage, found = "", []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stage = rest.split(" AS ")[1]
        found.append((stage, name, rest))
    return found


def loaded(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


@pytest.fixture
def compose() -> dict[str, Any]:
    return loaded("compose.yaml")


@pytest.fixture
def settings() -> Settings:
    return Settings.model_validate(loaded("config/gateway.yaml"))


def ignored(path: str) -> bool:
    """Whether .dockerignore leaves a path of the repository out; the last line that matches it decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if pattern == "*" or path == pattern or path.startswith(f"{pattern}/"):
                out = not line.startswith("!")
    return out


# --- the image


def test_what_the_image_copies_is_there() -> None:
    stages = {stage for stage, _, _ in instructions()}
    for _, name, rest in instructions():
        if name != "COPY":
            continue
        words = rest.split()
        if words[0].startswith("--from="):
            assert words[0].removeprefix("--from=") in stages
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert not ignored(source), source


def test_the_image_is_built_of_all_that_the_wheel_takes() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {word for _, name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]}
    assert set(wheel["only-include"]) <= copied


def test_secrets_and_logs_stay_out_of_the_build() -> None:
    for path in (".git", ".venv", "deploy/config/keys.yaml", "tests", "benchmarks", "audit.jsonl", ".env"):
        assert ignored(path), path


@pytest.mark.parametrize("target", ["gateway", "embedded"])
def test_the_image_runs_without_rights_and_without_a_network(target: str) -> None:
    parents = {rest.split(" AS ")[1]: rest.split(" AS ")[0] for _, name, rest in instructions() if name == "FROM"}
    line = [target]
    while line[-1] in parents:
        line.append(parents[line[-1]])
    own = [(name, rest) for stage, name, rest in instructions() if stage in line]
    users = [rest for name, rest in own if name == "USER"]
    assert users
    assert users[-1] not in ("root", "0", "0:0")
    environment = " ".join(rest for name, rest in own if name == "ENV")
    assert "HF_HUB_OFFLINE=1" in environment
    assert {"HEALTHCHECK", "ENTRYPOINT", "STOPSIGNAL"} <= {name for name, _ in own}


# --- the services


def test_services_name_what_there_is(compose: dict[str, Any]) -> None:
    services = compose["services"]
    stages = {stage for stage, _, _ in instructions()}
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        assert set(service["networks"]) <= set(compose["networks"]), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            there = (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"]
            assert there, f"{name}: {volume}"
        for needed, how in service.get("depends_on", {}).items():
            image_checks = "build" in services[needed]  # the Dockerfile's HEALTHCHECK
            assert how != {"condition": "service_healthy"} or "healthcheck" in services[needed] or image_checks
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).exists()
            default = re.fullmatch(r"\$\{\w+:-(\w+)\}", service["build"]["target"])
            assert default is not None
            assert default[1] in stages


def test_replicas_share_nothing_but_their_settings_and_redis(compose: dict[str, Any], settings: Settings) -> None:
    replicas = [service for service in compose["services"].values() if "build" in service]
    assert len(replicas) == 2
    writable = [{v for v in service["volumes"] if not v.endswith(":ro")} for service in replicas]
    assert not writable[0] & writable[1]
    assert loaded("config/gateway.yaml")["limits"]["redis"] == "redis://redis:6379/0"
    assert "redis" in compose["services"]
    assert settings.audit.file is not None
    folder = str(settings.audit.file.parent)
    assert all(any(v.split(":")[1] == folder for v in own) for own in writable)
    for service in replicas:
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]


def test_only_loopback_is_published(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_settings_of_the_replicas_are_sound(compose: dict[str, Any], settings: Settings) -> None:
    assert settings.keys is not None, "they listen beyond loopback"
    assert settings.reload > 0
    mounted = {v.split(":")[1]: v.split(":")[0] for v in compose["services"]["gateway-1"]["volumes"]}
    folder = DEPLOY / mounted["/etc/safety-kit"]
    policy = Policy.load(folder / Path(settings.policy).name)
    assert not policy.needs_model, "the default target has no model"
    assert policy.warnings == []
    assert not Guard(policy).check_text("Good morning.").blocked
    grace = float(compose["services"]["gateway-1"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.limits.drain


def test_the_balancer_and_prometheus_know_the_replicas(compose: dict[str, Any], settings: Settings) -> None:
    replicas = {f"{name}:{settings.port}" for name, service in compose["services"].items() if "build" in service}
    nginx = (DEPLOY / "nginx.conf").read_text()
    assert set(re.findall(r"^\s*server (\S+:\d+) ", nginx, re.MULTILINE)) == replicas
    scraped = loaded("prometheus.yml")["scrape_configs"]
    assert {target for job in scraped for one in job["static_configs"] for target in one["targets"]} == replicas
    assert {job["metrics_path"] for job in scraped} == {"/metrics"}


def test_the_balancer_holds_no_token_back_and_asks_no_replica_twice(settings: Settings) -> None:
    nginx = (DEPLOY / "nginx.conf").read_text()
    assert "proxy_buffering off;" in nginx
    assert "non_idempotent" not in nginx
    assert nginx.count("{") == nginx.count("}")
    most = re.search(r"client_max_body_size (\d+)m;", nginx)
    assert most is not None
    assert int(most[1]) * 2**20 >= settings.limits.body


def test_alerts_ask_for_metrics_that_there_are() -> None:
    metrics = pytest.importorskip("safety_kit.gateway.metrics")
    page = metrics.Metrics(queued=lambda: 0).render()[0].decode()
    known = set(re.findall(r"^# TYPE (\w+) \w+$", page, re.MULTILINE))
    known |= {f"{name}_bucket" for name in known}
    asked = {
        name
        for group in loaded("alerts.yml")["groups"]
        for rule in group["rules"]
        for name in re.findall(r"safety_kit_\w+", rule["expr"])
    }
    assert asked
    assert asked <= known
    assert loaded("prometheus.yml")["rule_files"] == ["alerts.yml"]


def test_the_guide_gives_the_keys_to_the_containers_user() -> None:
    """Keys that others may read are refused, so that it must own them."""
    (user,) = re.findall(r"^USER (\d+)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    guide = (ROOT / "docs" / "guides" / "operate.md").read_text(encoding="utf-8")
    assert f"chown {user} deploy/config/keys.yaml" in guide

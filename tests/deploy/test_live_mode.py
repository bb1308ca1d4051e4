"""Live mode as it is deployed: it begins and goes on by one command, is given the time that it takes, and is reached by
its gateway alone."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from deploy.deployed import DEPLOY, ROOT, Document, Problems, compose, containers, find, units

from sea_agent.config import RunConfig
from sea_agent.config.files import load_config
from sea_agent.live import supervisor
from sea_agent.service.app import make_app
from sea_agent.service.settings import Settings
from sea_agent.web.listening import proxy_network

NAME = "sea-agent-live"


def stateful() -> Document:
    return find("StatefulSet", NAME)


def container() -> Document:
    (only,) = containers(stateful())
    return only


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def command_lines() -> dict[str, list[str]]:
    return {
        "kubernetes": container()["args"],
        "compose": compose()["services"]["live"]["command"],
        "systemd": shlex.split(units()[NAME]["Service"]["ExecStart"])[1:],
    }


# --- it begins, goes on, and ends ------------------------------------------------------------------------------------


def forgetful(arguments: list[str]) -> Problems:
    """What keeps a command from beginning at the first start, or from going on at the next."""
    problems = []
    if arguments[0] != "live" or arguments[1].startswith("-"):
        problems.append("it has no configuration to begin with")
    if "--resume" not in arguments:
        problems.append("it does not go on")
    return problems


def test_one_command_begins_and_goes_on() -> None:
    lines = command_lines()
    assert {name: forgetful(arguments) for name, arguments in lines.items()} == {name: [] for name in lines}


def test_a_command_that_only_begins_or_only_goes_on_is_found() -> None:
    for arguments in command_lines().values():
        assert forgetful([one for one in arguments if one != "--resume"]) != []
        assert forgetful([arguments[0], *arguments[2:]]) != []


def too_short(grace: float) -> bool:
    """Whether parts that are ending in order would be killed meanwhile."""
    return grace < supervisor.END_SECONDS + supervisor.KILL_SECONDS + supervisor.POLL_SECONDS


def test_it_has_the_time_that_it_takes_to_end() -> None:
    pod = stateful()["spec"]["template"]["spec"]
    assert not too_short(pod["terminationGracePeriodSeconds"])
    assert not too_short(seconds(compose()["services"]["live"]["stop_grace_period"]))
    assert not too_short(seconds(units()[NAME]["Service"]["TimeoutStopSec"]))
    for usual in (10, 30):  # of Compose and of Kubernetes
        assert too_short(usual)


def test_only_the_command_is_asked_to_end_so_that_its_parts_end_in_order() -> None:
    assert units()[NAME]["Service"]["KillMode"] == "mixed"
    entry = re.findall(r"^ENTRYPOINT (.*)$", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert {tuple(json.loads(one)) for one in entry} == {("tini", "--", "sea-agent")}, "tini -g would ask all of them"


def window(probe: Document) -> float:
    return float(probe["periodSeconds"] * probe["failureThreshold"])


def test_it_is_probed_where_it_answers_and_given_the_time_to_load_and_to_start_parts_again() -> None:
    paths = {route.path for route in make_app(Settings()).routes}  # type: ignore[attr-defined]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[name]["httpGet"]["path"] in paths
        assert container()[name]["httpGet"]["port"] == container()["ports"][0]["name"]
    assert container()["ports"][0]["containerPort"] == find("Service", NAME)["spec"]["ports"][0]["port"] == 8400
    loading = RunConfig.model_fields["deadline_seconds"].default + supervisor.START_SECONDS
    assert window(container()["startupProbe"]) >= loading
    assert window(container()["livenessProbe"]) > 2 * supervisor.LONGEST_PAUSE
    assert seconds(compose()["services"]["live"]["healthcheck"]["start_period"]) >= loading


def test_there_is_one_of_it_and_what_it_learns_outlives_the_pod() -> None:
    spec, service = stateful()["spec"], find("Service", NAME)["spec"]
    assert spec["replicas"] == 1
    assert spec["selector"]["matchLabels"] == service["selector"] == spec["template"]["metadata"]["labels"]
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    arguments = container()["args"]
    out = Path(arguments[arguments.index("--out") + 1])
    assert out.parent == Path(mounts["live"]), (
        "a new file system is not empty, and the dashboard shows what is beside it"
    )


def test_the_configuration_of_the_pod_is_one_of_live_mode(tmp_path: Path) -> None:
    ((name, text),) = find("ConfigMap", NAME)["data"].items()
    (tmp_path / name).write_text(text)
    config = load_config(str(tmp_path / name))
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert container()["args"][1] == f"{mounts['config']}/{name}"
    assert config.policy.path.startswith(f"{mounts['live']}/")
    assert config.live is not None
    assert config.is_live
    assert config.live.engines > 1 or not config.live.gate.canary_share
    assert "nvidia.com/gpu" in container()["resources"]["limits"] or config.device == "cpu"


def test_the_page_and_the_pod_have_one_form_of_configuration(tmp_path: Path) -> None:
    """What docs/live.md shows is a configuration of live mode, too."""
    (text,) = re.findall(r"    # mine\.yaml\n((?:    .*\n)+)", (ROOT / "docs" / "live.md").read_text())
    (tmp_path / "mine.yaml").write_text(text.replace("\n    ", "\n").removeprefix("    "))
    assert load_config(str(tmp_path / "mine.yaml")).live is not None


# --- who reaches what ------------------------------------------------------------------------------------------------


def test_those_who_may_ask_reach_the_gateway_and_it_reaches_nobody() -> None:
    spec = find("NetworkPolicy", NAME)["spec"]
    assert spec["podSelector"]["matchLabels"] == stateful()["spec"]["template"]["metadata"]["labels"]
    assert spec == {
        "podSelector": spec["podSelector"],
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {
                "from": [{"podSelector": {"matchLabels": {"sea-agent/may-ask": "true"}}}],
                "ports": [{"protocol": "TCP", "port": container()["ports"][0]["containerPort"]}],
            }
        ],
        "egress": [],
    }


def believed(document: Document) -> Problems:
    """Who is believed to be the proxy, beside the proxy."""
    services, network = document["services"], document["networks"]["front"]
    (told,) = [one.removeprefix("--proxy=") for one in services["live"]["command"] if one.startswith("--proxy=")]
    (subnet,) = [one["subnet"] for one in network["ipam"]["config"]]
    others = [name for name, service in services.items() if "front" in service["networks"]]
    problems = [f"{name} is on it too" for name in others if name not in ("live", "live-proxy")]
    return (
        problems
        + ["it is another network"] * (proxy_network(told) != subnet)
        + ["it leads out"] * (not network.get("internal"))
    )


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda _: None, None),
        (lambda document: document["services"]["run"]["networks"].append("front"), "run is on it too"),
        (lambda document: document["networks"]["front"].pop("internal"), "it leads out"),
        (
            lambda document: document["services"]["live"]["command"].__setitem__(-1, "--proxy=0.0.0.0/0"),
            "it is another",
        ),
    ],
)
def test_nobody_but_the_proxy_is_believed_to_be_it(spoil: Any, problem: str | None) -> None:
    document = compose()
    spoil(document)
    assert [one.startswith(problem or "") for one in believed(document)] == [True] * (problem is not None)


def test_the_proxy_finds_its_certificate_where_it_looks() -> None:
    text = (DEPLOY / "proxy" / "nginx-live.conf").read_text()
    wanted = re.findall(r"^\s*ssl_certificate(?:_key)? (\S+);", text, flags=re.MULTILINE)
    assert wanted == [f"/run/secrets/{name}" for name in compose()["services"]["live-proxy"]["secrets"]]
    (port,) = re.findall(r"listen (\d+) ssl;", text)
    (published,) = compose()["services"]["live-proxy"]["ports"]
    assert published.rpartition(":")[2] == port

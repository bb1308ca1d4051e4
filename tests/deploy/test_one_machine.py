"""One machine: what the compose file, Prometheus, Grafana and systemd open, and that they find each other."""

import configparser
import copy
import re
import shlex

import pytest
from deploy.deployed import DEPLOY, Document, Problems, compose, documents, floating, units
from pydantic import BaseModel, ConfigDict, ValidationError

from sea_agent.config import TrackingConfig
from sea_agent.service.settings import Settings

# --- compose, Prometheus and Grafana ---------------------------------------------------------------------------------


class Healthcheck(BaseModel):
    """As far as the file uses it."""

    model_config = ConfigDict(extra="forbid")
    test: list[str]
    interval: str
    retries: int
    start_period: str = "0s"


class Container(BaseModel):
    """A service of the Compose specification, as far as the file uses it."""

    model_config = ConfigDict(extra="forbid")
    image: str
    build: dict[str, str] = {}
    command: list[str] = []
    environment: dict[str, str] = {}
    ports: list[str] = []
    volumes: list[str] = []
    secrets: list[str] = []
    networks: list[str]
    profiles: list[str] = []
    depends_on: dict[str, dict[str, str]] | list[str] = []
    healthcheck: Healthcheck | None = None
    restart: str
    read_only: bool = False
    tmpfs: list[str] = []
    cap_drop: list[str] = []
    security_opt: list[str] = []
    stop_grace_period: str = "10s"
    shm_size: str = "64mb"


LOOPBACK = re.compile(r"(127\.0\.0\.1|\$\{\w+:-127\.0\.0\.1\}):")
"""How a published port begins that others reach only where an operator says so."""


def loose_compose(document: Document) -> Problems:
    """What the compose file opens, leaves out or refers to in vain."""
    problems = []
    for name, raw in document["services"].items():
        try:
            service = Container.model_validate(raw)
        except ValidationError as error:
            problems.append(f"{name}: {error.errors()[0]['loc']}")
            continue
        problems += [f"{name}: {port} is open to others" for port in service.ports if not LOOPBACK.match(port)]
        problems += floating(service.image)
        problems += [f"{name}: no network {one}" for one in service.networks if one not in document["networks"]]
        problems += [f"{name}: no service {one}" for one in service.depends_on if one not in document["services"]]
        problems += [f"{name}: no secret {one}" for one in service.secrets if one not in document["secrets"]]
        for source, *_ in (volume.split(":") for volume in service.volumes):
            here = source.startswith("./")
            if not (here or source in document["volumes"]):
                problems.append(f"{name}: no volume {source}")
            if here and source != "./config" and not (DEPLOY / source).exists():
                problems.append(f"{name}: no file {source}")
        if name != "postgres" and not (service.read_only and service.cap_drop == ["ALL"]):
            problems.append(f"{name}: may write or gain rights")
    return problems


def test_the_compose_file_opens_nothing_and_refers_to_what_is_there() -> None:
    document = compose()
    assert loose_compose(document) == []
    assert set(document["services"]) == {"postgres", "service", "run", "live", "live-proxy", "prometheus", "grafana"}
    assert document["networks"]["store"] == {"internal": True}
    assert on_network("store") == ["postgres", "service", "live"]


def on_network(network: str) -> list[str]:
    return [name for name, service in compose()["services"].items() if network in service["networks"]]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"ports": ["8400:8400"]}, "open to others"),
        ({"ports": ["${ADDRESS:-0.0.0.0}:8400:8400"]}, "open to others"),
        ({"ports": ["${ADDRESS}:8400:8400"]}, "open to others"),
        ({"image": "prom/prometheus"}, "floating"),
        ({"comand": []}, "comand"),
        ({"volumes": ["./nothing.yml:/x"]}, "no file"),
        ({"volumes": ["nothing:/x"]}, "no volume"),
        ({"cap_drop": []}, "gain rights"),
        ({"networks": ["nowhere"]}, "no network"),
        ({"secrets": ["nothing"]}, "no secret"),
        ({"depends_on": ["nobody"]}, "no service"),
    ],
)
def test_a_looser_compose_file_is_found(change: Document, problem: str) -> None:
    document = copy.deepcopy(compose())
    document["services"]["prometheus"] |= change
    assert [one for one in loose_compose(document) if problem in one]


def test_prometheus_reads_where_something_answers() -> None:
    (prometheus,) = documents(DEPLOY / "prometheus.yml")
    services = compose()["services"]
    targets = {
        target
        for job in prometheus["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    }
    gateways = {f"{name}:{Settings().port}" for name in ("service", "live")}
    assert targets == {*gateways, f"run:{TrackingConfig().prometheus_port}"}
    for target in targets:
        assert set(services[target.partition(":")[0]]["networks"]) & set(services["prometheus"]["networks"])
    (key,) = [
        job["authorization"]["credentials_file"] for job in prometheus["scrape_configs"] if "authorization" in job
    ]
    assert key == f"/run/secrets/{services['prometheus']['secrets'][0]}"


def test_grafana_finds_prometheus_and_the_boards() -> None:
    services, provisioning = compose()["services"], DEPLOY / "grafana" / "provisioning"
    (sources,), (boards,) = (documents(provisioning / f"{name}.yaml") for name in ("datasources", "dashboards"))
    (source,), (provider,) = sources["datasources"], boards["providers"]
    assert source["url"] == f"http://prometheus:{services['prometheus']['ports'][0].rpartition(':')[2]}"
    mounted = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    for name in ("run.json", "service.json"):
        assert f"{provider['options']['path']}/{name}" in mounted


# --- systemd ---------------------------------------------------------------------------------------------------------


def loose_unit(parser: configparser.RawConfigParser) -> Problems:
    wanted = {"DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes"}
    service = dict(parser["Service"])
    problems = [f"{key}={service.get(key)}" for key, value in wanted.items() if service.get(key) != value]
    data = shlex.split(service["ExecStart"])[-1]
    state = f"/var/lib/{service.get('StateDirectory')}"
    return problems + [f"{data} is not writable"] * (not f"{data}/".startswith(f"{state}/"))


@pytest.mark.parametrize("name", units())
def test_a_unit_has_no_more_rights_than_it_needs_and_writes_where_it_may(name: str) -> None:
    unit = units()[name]
    assert set(unit.sections()) == {"Unit", "Service", "Install"}
    assert loose_unit(unit) == []


@pytest.mark.parametrize("name", units())
@pytest.mark.parametrize("key", ["DynamicUser", "ProtectSystem", "StateDirectory"])
def test_a_looser_unit_is_found(name: str, key: str) -> None:
    parser = units()[name]
    parser.remove_option("Service", key)
    assert loose_unit(parser) != []

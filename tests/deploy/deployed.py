"""The files of ``deploy/`` as the tests of them read them."""

import configparser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))

Document = dict[str, Any]
Problems = list[str]


def documents(path: Path) -> list[Document]:
    return list(yaml.safe_load_all(path.read_text()))


def everything() -> list[Document]:
    return [document for path in KUBERNETES for document in documents(path)]


def compose() -> Document:
    (document,) = documents(DEPLOY / "compose.yaml")
    return document


def find(kind: str, name: str | None = None) -> Document:
    """The first document of a kind, or the one with this name."""
    of_kind = (document for document in everything() if document["kind"] == kind)
    return next(document for document in of_kind if name in (None, document["metadata"]["name"]))


def pods(document: Document) -> Iterator[Document]:
    """The specifications of pods in a document, with their metadata."""
    spec = document.get("spec", {})
    if document["kind"] == "Deployment":
        yield spec["template"]
    elif document["kind"] == "StatefulSet":
        pod = spec["template"]
        claims = [{"name": claim["metadata"]["name"]} for claim in spec["volumeClaimTemplates"]]
        yield pod | {"spec": pod["spec"] | {"volumes": [*pod["spec"].get("volumes", []), *claims]}}
    elif document["kind"] in ("RayCluster", "RayJob"):
        cluster = spec.get("rayClusterSpec", spec)
        yield cluster["headGroupSpec"]["template"]
        yield from (group["template"] for group in cluster["workerGroupSpecs"])


def containers(document: Document) -> Iterator[Document]:
    return (container for pod in pods(document) for container in pod["spec"]["containers"])


def floating(image: str) -> Problems:
    """An image whose version is left to chance."""
    _, _, tag = image.partition(":")
    return [f"{image}: floating"] if tag in ("", "latest", "main", "edge") else []


def variables(document: Document) -> Iterator[tuple[str, Document]]:
    for container in containers(document):
        yield from ((variable["name"], variable) for variable in container.get("env", []))


def units() -> dict[str, configparser.RawConfigParser]:
    """The units of systemd by name."""
    found = {}
    for path in sorted((DEPLOY / "systemd").glob("*.service")):
        found[path.stem] = parser = configparser.RawConfigParser(strict=False)
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        parser.read(path)
    return found

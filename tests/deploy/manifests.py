"""The manifests of deploy/k8s: as they stand, and as `kubectl apply -k tls` makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

K8S = Path(__file__).resolve().parents[2] / "deploy" / "k8s"
Document = dict[str, Any]


def read(name: str) -> list[Document]:
    return list(yaml.safe_load_all((K8S / name).read_text()))


def documents() -> list[Document]:
    """What the operator applies, without TLS."""
    return [document for name in ("base/parallax-server.yaml", "monitoring.yaml", "prometheusrule.yaml")
            for document in read(name)]


def one(kind: str, among: list[Document] | None = None) -> Document:
    (found,) = [each for each in (among or documents()) if each["kind"] == kind]
    return found


def kustomized(folder: str) -> list[Document]:
    """A folder with a kustomization of these few words: resources, and JSON patches (RFC 6902)
    that add and replace."""
    (settings,) = read(f"{folder}/kustomization.yaml")
    assert set(settings) <= {"apiVersion", "kind", "resources", "patches"}, settings
    found: list[Document] = []
    for resource in settings["resources"]:
        if resource.endswith(".yaml"):
            found += read(f"{folder}/{resource}")
        else:
            found += kustomized(f"{folder}/{resource}")
    for patch in settings.get("patches", []):
        (target,) = [document for document in found
                     if document["kind"] == patch["target"]["kind"]
                     and document["metadata"]["name"] == patch["target"]["name"]]
        for operation in yaml.safe_load(patch["patch"]):
            _patch(target, **operation)
    return found


def _patch(document: Document, op: str, path: str, value: Any) -> None:
    *parents, last = path.strip("/").split("/")
    place: Any = document
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if op == "add" and last == "-":
        place.append(value)
    else:
        assert op == "replace" and last in place, (op, path)
        place[last] = value

"""The manifests of deploy/k8s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

K8S = Path(__file__).resolve().parents[2] / "deploy" / "k8s"
Document = dict[str, Any]


def read(name: str) -> list[Document]:
    return list(yaml.safe_load_all((K8S / name).read_text()))


def documents() -> list[Document]:
    """What the operator applies."""
    return [document for name in ("parallax-server.yaml", "monitoring.yaml", "prometheusrule.yaml")
            for document in read(name)]


def one(kind: str, among: list[Document] | None = None) -> Document:
    (found,) = [each for each in (among or documents()) if each["kind"] == kind]
    return found

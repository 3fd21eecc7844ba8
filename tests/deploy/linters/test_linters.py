"""The manifests against Kubernetes' schemas and the Dockerfile by hadolint; each with a mistake
planted, which must be found."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import kubernetes_validate
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from manifests import documents as every_document, kustomized  # noqa: E402

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
VERSION = "1.31"
# Of custom resources, whose schemas their operators bring.
CUSTOM = {"ServiceMonitor", "PrometheusRule"}


def documents() -> list[dict[str, Any]]:
    return [document for document in every_document() if document["kind"] not in CUSTOM]


def check(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


def named(kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents() if document["kind"] == kind]
    return copy.deepcopy(found)


def test_the_manifests_are_read() -> None:
    assert len(documents()) >= 6


@pytest.mark.parametrize(
    "document", documents() + kustomized("tls"), ids=lambda document: document["kind"]
)
def test_every_manifest_fits_its_schema(document: dict[str, Any]) -> None:
    check(document)


def misspell_a_field(deployment: dict[str, Any]) -> None:
    pod = deployment["spec"]["template"]["spec"]
    pod["terminationGracePeriodSecond"] = pod.pop("terminationGracePeriodSeconds")


def give_a_text_for_a_number(deployment: dict[str, Any]) -> None:
    deployment["spec"]["replicas"] = "three"


def leave_out_the_selector(deployment: dict[str, Any]) -> None:
    del deployment["spec"]["selector"]


@pytest.mark.parametrize(
    "plant", [misspell_a_field, give_a_text_for_a_number, leave_out_the_selector]
)
def test_a_planted_mistake_is_found(plant: Callable[[dict[str, Any]], None]) -> None:
    deployment = named("Deployment")
    plant(deployment)
    with pytest.raises(kubernetes_validate.ValidationError):
        check(deployment)


def lint(dockerfile: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [os.environ["HADOLINT"], "-"], input=dockerfile, capture_output=True, text=True
    )


def test_hadolint_has_nothing_to_say() -> None:
    result = lint((DEPLOY / "docker" / "Dockerfile").read_text())
    assert (result.returncode, result.stdout) == (0, "")


def test_hadolint_finds_a_planted_mistake() -> None:
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    result = lint(text.replace("WORKDIR /src", "WORKDIR src"))
    assert result.returncode != 0 and "DL3000" in result.stdout

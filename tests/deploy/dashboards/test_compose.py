"""The compose file against the files that it mounts and the programs that read them. No
container engine is needed, and none is run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
COMPOSE = DEPLOY / "compose"
FILE: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]


def defaulted(text: str) -> str:
    """`${NAME:-default}` as it is when NAME is not set; without a default it is an error."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    assert "$" not in text, text
    return text


def mounts(service: str) -> dict[str, str]:
    """Path in the container to source: a file of the checkout or a named volume."""
    parts = [defaulted(volume).split(":") for volume in SERVICES[service]["volumes"]]
    return {target: source for source, target, *_ in parts}


def bound(service: str) -> dict[str, Path]:
    return {target: COMPOSE / source for target, source in mounts(service).items() if "/" in source}


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_mounted_exists_and_is_read_only(service: str) -> None:
    for volume in SERVICES[service]["volumes"]:
        source, target, *mode = defaulted(volume).split(":")
        assert target.startswith("/")
        if "/" in source:
            assert (COMPOSE / source).exists(), source
            assert mode == ["ro"], volume
        else:
            assert source in FILE["volumes"], source


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_open_to_this_machine_only(service: str) -> None:
    for port in SERVICES[service]["ports"]:
        assert port.startswith("127.0.0.1:"), port


@pytest.mark.parametrize("service", SERVICES)
def test_images_have_a_version(service: str) -> None:
    _, version = SERVICES[service]["image"].split(":")
    assert version != "latest"


def test_dependencies_are_services() -> None:
    assert all(set(service.get("depends_on", [])) <= set(SERVICES) for service in SERVICES.values())


def test_the_server_is_the_image_of_the_dockerfile() -> None:
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    assert f"-t {SERVICES['server']['image']} " in dockerfile
    (ports,) = re.findall(r"^EXPOSE (.*)$", dockerfile, re.MULTILINE)
    assert [port.split(":")[-1] for port in SERVICES["server"]["ports"]] == ports.split()


def test_the_servers_flags_are_its_own() -> None:
    usage = subprocess.run([os.environ["PARALLAX_SERVER"], "--help"], capture_output=True, text=True,
                           check=True).stdout
    for argument in SERVICES["server"]["command"]:
        assert re.search(rf"^  {argument.split('=')[0]}=", usage, re.MULTILINE), argument
    assert SERVICES["server"]["command"][0] == "--model=/models/model"
    model = bound("server")["/models/model"]
    assert (model / "config.json").is_file()


def test_the_container_outlives_the_drain() -> None:
    usage = subprocess.run([os.environ["PARALLAX_SERVER"], "--help"], capture_output=True, text=True,
                           check=True).stdout
    grace = int(re.search(r"--grace-period=\S+  \(default (\d+)s\)", usage)[1])
    assert int(SERVICES["server"]["stop_grace_period"].removesuffix("s")) > grace


def test_prometheus_reads_what_is_mounted(tmp_path: Path) -> None:
    for target, source in bound("prometheus").items():
        inside = tmp_path / target.lstrip("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, inside)
    (option,) = [a for a in SERVICES["prometheus"]["command"] if a.startswith("--config.file=")]
    file = tmp_path / option.split("=")[1].lstrip("/")
    subprocess.run(["promtool", "check", "config", file], check=True, stdout=subprocess.DEVNULL)
    (scraped,) = yaml.safe_load((file.parent / "targets.yml").read_text())
    assert scraped["targets"] == ["server:9464"]


def test_grafana_finds_its_data_and_its_dashboard() -> None:
    environment = SERVICES["grafana"]["environment"]
    inside = bound("grafana")
    provisioning = inside["/etc/grafana/provisioning"]
    text = "".join(file.read_text() for file in provisioning.rglob("*.yml"))
    assert set(re.findall(r"\$\{(\w+)\}", text)) <= set(environment)
    dashboards = inside[environment["PARALLAX_DASHBOARDS"]]
    home = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(environment["PARALLAX_DASHBOARDS"] + "/")
    assert json.loads((dashboards / Path(home).name).read_text())["uid"] == "parallax-server"
    host, port = re.fullmatch(r"http://(\w+):(\d+)", environment["PROMETHEUS_URL"]).groups()
    assert SERVICES[host]["ports"][0].split(":")[-1] == port

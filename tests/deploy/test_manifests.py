"""The Kubernetes manifests and the Dockerfile, against the server that they start."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import run_dockerfile
from certificates import Certificates
from manifests import K8S, Document, documents, kustomized, one, read
from parallax_client.v1 import admin_pb2
from server_process import ServerProcess

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
LABELS = {"app.kubernetes.io/name": "parallax-server"}
# What the API server requires of these kinds, and the version that serves them.
KINDS = {
    "ServiceAccount": ("v1", []),
    "Service": ("v1", ["selector", "ports"]),
    "Deployment": ("apps/v1", ["selector", "template"]),
    "PodDisruptionBudget": ("policy/v1", ["selector"]),
    "NetworkPolicy": ("networking.k8s.io/v1", ["podSelector"]),
    "ServiceMonitor": ("monitoring.coreos.com/v1", ["selector", "endpoints"]),
    "PrometheusRule": ("monitoring.coreos.com/v1", ["groups"]),
    "HorizontalPodAutoscaler": ("autoscaling/v2", ["scaleTargetRef", "maxReplicas"]),
}


def pod(among: list[Document] | None = None) -> dict[str, Any]:
    return one("Deployment", among)["spec"]["template"]["spec"]


def container(among: list[Document] | None = None) -> dict[str, Any]:
    (server,) = pod(among)["containers"]
    return server


@pytest.fixture(scope="module")
def server_help() -> str:
    return subprocess.run(
        [os.environ["PARALLAX_SERVER"], "--help"], capture_output=True, text=True, check=True
    ).stdout


def seconds(text: str) -> int:
    return int(re.fullmatch(r"(\d+)s", text).group(1))  # type: ignore[union-attr]


@pytest.mark.parametrize("document", documents(), ids=lambda d: d["kind"])
def test_every_object_has_what_its_kind_requires(document: dict[str, Any]) -> None:
    version, required = KINDS[document["kind"]]
    assert document["apiVersion"] == version
    assert document["metadata"]["name"] == "parallax-server"
    assert set(required) <= set(document.get("spec", {}))


def test_all_select_the_pods_of_the_deployment() -> None:
    assert one("Deployment")["spec"]["template"]["metadata"]["labels"].items() >= LABELS.items()
    assert one("Deployment")["spec"]["selector"]["matchLabels"] == LABELS
    assert one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == LABELS
    assert one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == LABELS
    assert one("Service")["spec"]["selector"] == LABELS
    assert one("Service")["metadata"]["labels"].items() >= LABELS.items()  # for the monitor
    assert one("ServiceMonitor")["spec"]["selector"]["matchLabels"] == LABELS
    assert one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["kind"] == "Deployment"


def adapter_rules() -> dict[str, dict[str, Any]]:
    rules = yaml.safe_load((K8S / "adapter" / "rules.yaml").read_text())["rules"]["custom"]
    return {rule["name"]["as"]: rule for rule in rules}


def test_the_adapter_serves_what_the_autoscaler_asks_for() -> None:
    asked = {metric["pods"]["metric"]["name"] for metric in one("HorizontalPodAutoscaler")["spec"]["metrics"]}
    assert set(adapter_rules()) == asked


def test_the_adapters_queries_give_a_number_for_busy_and_idle_replicas(tmp_path: Path) -> None:
    """By promtool, on two pods: one whose requests wait 0.5 s each, one that has none."""

    def query(name: str) -> str:
        text = adapter_rules()[name]["metricsQuery"]
        return text.replace("<<.LabelMatchers>>", 'namespace="n"').replace("<<.GroupBy>>", "pod")

    def series(name: str, pod: str, values: str) -> dict[str, str]:
        return {"series": f'{name}{{namespace="n",pod="{pod}"}}', "values": values}

    def expected(name: str, busy: float, idle: float) -> dict[str, Any]:
        samples = [{"labels": f'{{pod="{pod}"}}', "value": value} for pod, value in (("busy", busy), ("idle", idle))]
        return {"expr": query(name), "eval_time": "5m", "exp_samples": samples}

    wait = "parallax:request_queue_time_seconds"
    inputs = [
        series(f"{wait}_sum", "busy", "0+5x20"),
        series(f"{wait}_count", "busy", "0+10x20"),
        series(f"{wait}_sum", "idle", "7x20"),
        series(f"{wait}_count", "idle", "3x20"),
        series("parallax:kv_cache_usage_perc", "busy", "0.75x20"),
        series("parallax:kv_cache_usage_perc", "idle", "0x20"),
    ]
    tests = {
        "interval": "15s",
        "input_series": inputs,
        "promql_expr_test": [
            expected("parallax_queue_time_seconds", 0.5, 0),
            expected("parallax_kv_cache_usage", 0.75, 0),
        ],
    }
    file = tmp_path / "adapter.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "15s", "tests": [tests]}))
    result = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def rule_files() -> list[Path]:
    return sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))


def test_kubernetes_gets_the_rules_of_prometheus() -> None:
    groups = [group for file in rule_files() for group in yaml.safe_load(file.read_text())["groups"]]
    by_name = lambda group: group["name"]  # noqa: E731
    assert sorted(one("PrometheusRule")["spec"]["groups"], key=by_name) == sorted(groups, key=by_name)


def test_the_rules_are_what_their_program_writes() -> None:
    """The comments, too."""
    printed = subprocess.run(
        [K8S / "build_prometheusrule.py", "--print"], capture_output=True, text=True, check=True
    ).stdout
    assert printed == (K8S / "prometheusrule.yaml").read_text()


def test_no_alert_calls_a_start_an_outage() -> None:
    """A server that loads listens on no port. It has the same time everywhere."""
    probe = container()["startupProbe"]
    budget = probe["periodSeconds"] * probe["failureThreshold"]
    alerts = {rule.get("alert"): rule for group in one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]}
    assert alerts["ParallaxServerDown"]["for"] == f"{budget // 60}m"
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    assert f"--start-period={budget // 60}m" in dockerfile
    assert one("Deployment")["spec"]["progressDeadlineSeconds"] > budget
    with_tls = container(kustomized("tls"))["startupProbe"]
    assert with_tls["periodSeconds"] * with_tls["failureThreshold"] == budget


def test_the_autoscaler_alone_sets_the_number_of_replicas() -> None:
    assert "replicas" not in one("Deployment")["spec"]
    assert one("HorizontalPodAutoscaler")["spec"]["minReplicas"] > 1


def image_health_check() -> list[str]:
    stages = run_dockerfile.parse((DEPLOY / "docker" / "Dockerfile").read_text())
    (rest,) = [rest for verb, rest in stages["runtime"].steps if verb == "HEALTHCHECK"]
    return json.loads(rest[rest.index("CMD") + 3 :])


def pod_health_check() -> list[str]:
    server = container(kustomized("tls"))
    for probe in (server["startupProbe"], server["readinessProbe"]):
        assert set(probe) == {"exec", "periodSeconds", "timeoutSeconds", "failureThreshold"}
        assert probe["exec"] == server["readinessProbe"]["exec"]
    return server["readinessProbe"]["exec"]["command"]


def run_check(command: list[str], server: ServerProcess, flags: str = "") -> int:
    """As the container does it, but for the port."""
    port = server.address.split(":")[1]
    client = Path(os.environ["PARALLAX_CLIENT"])
    return subprocess.run(
        [word.replace("50051", port) for word in command],
        env={"PATH": f"{client.parent}:/usr/bin:/bin", "PARALLAX_HEALTH_FLAGS": flags},
        capture_output=True,
    ).returncode


def tls_flags(certificates: Certificates) -> list[str]:
    return [f"--tls-cert={certificates.server_cert}", f"--tls-key={certificates.server_key}"]


def test_the_images_health_check_sees_a_server_and_its_drain() -> None:
    with ServerProcess("null") as server:
        assert run_check(image_health_check(), server) == 0
        server.admin.Drain(admin_pb2.DrainRequest(timeout_ms=1000))
        assert run_check(image_health_check(), server) == 3


def test_the_images_health_check_speaks_tls_if_told(certificates: Certificates) -> None:
    flags = f"--tls-ca={certificates.ca} --tls-server-name=localhost"
    with ServerProcess("null", *tls_flags(certificates)) as server:
        assert run_check(image_health_check(), server) == 1
        assert run_check(image_health_check(), server, flags) == 0
    with ServerProcess("null", *tls_flags(certificates), f"--tls-client-ca={certificates.ca}") as server:
        assert run_check(image_health_check(), server, flags) == 1
        flags += f" --tls-cert={certificates.client_cert} --tls-key={certificates.client_key}"
        assert run_check(image_health_check(), server, flags) == 0


def test_the_pods_probes_speak_tls_where_the_server_does(certificates: Certificates) -> None:
    def check() -> list[str]:
        files = {"/etc/parallax/tls/ca.crt": certificates.ca, "=parallax-server": "=localhost"}
        words = pod_health_check()
        for name, stand_in in files.items():
            assert any(word.endswith(name) for word in words), name
            words = [word.replace(name, stand_in) for word in words]
        return words

    with ServerProcess("null", *tls_flags(certificates)) as server:
        assert run_check(check(), server) == 0
        server.admin.Drain(admin_pb2.DrainRequest(timeout_ms=1000))
        assert run_check(check(), server) == 3


def test_the_variant_with_tls_differs_in_nothing_else() -> None:
    plain, tls = documents(), kustomized("tls")
    assert container(tls)["args"][: len(container()["args"])] == container()["args"]
    assert container(tls)["args"][len(container()["args"]) :] == [
        "--tls-cert=/etc/parallax/tls/tls.crt", "--tls-key=/etc/parallax/tls/tls.key"]
    for name in ("args", "startupProbe", "readinessProbe", "volumeMounts"):
        container(tls)[name] = container(plain)[name]
    pod(tls)["volumes"].pop()
    one("Service", tls)["spec"]["ports"][0]["appProtocol"] = "kubernetes.io/h2c"
    assert tls == read("base/parallax-server.yaml")


def docker_flags() -> list[str]:
    """What the image starts the server with."""
    stages = run_dockerfile.parse((DEPLOY / "docker" / "Dockerfile").read_text())
    words = [json.loads(rest) for verb, rest in stages["runtime"].steps if verb in ("ENTRYPOINT", "CMD")]
    return [word.split("=")[0] for word in sum(words, []) if word.startswith("--")]


def test_every_flag_is_one_the_server_has(server_help: str) -> None:
    systemd = (DEPLOY / "systemd" / "parallax-server.service").read_text()
    systemd += (DEPLOY / "systemd" / "server.env").read_text()
    flags = {argument.split("=")[0] for argument in container(kustomized("tls"))["args"]}
    flags |= set(docker_flags()) | set(re.findall(r"(?<=[ =])--[a-z][a-z-]*(?==)", systemd))
    assert {"--model", "--model-name", "--listen", "--tls-cert", "--grace-period"} <= flags
    for flag in flags:
        assert re.search(rf"^  {flag}=", server_help, re.MULTILINE), flag


def test_ports_are_the_servers(server_help: str) -> None:
    grpc_port = int(re.search(r"--listen=ADDRESS  \(default [\d.]+:(\d+)\)", server_help).group(1))
    metrics_port = int(re.search(r"--metrics-listen=ADDRESS  \(default [\d.]+:(\d+)\)", server_help).group(1))
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"grpc": grpc_port, "metrics": metrics_port}
    assert container()["readinessProbe"]["grpc"]["port"] == grpc_port
    assert container()["startupProbe"]["grpc"]["port"] == grpc_port
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    assert f"EXPOSE {grpc_port} {metrics_port}" in dockerfile
    assert {port["targetPort"] for port in one("Service")["spec"]["ports"]} == set(ports)


def test_the_pod_outlives_its_drain() -> None:
    (grace,) = [a.split("=")[1] for a in container()["args"] if a.startswith("--grace-period=")]
    before = int(container()["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod()["terminationGracePeriodSeconds"] >= before + seconds(grace) + 15


@pytest.mark.parametrize("folder", ["base", "tls"])
def test_the_container_has_no_privilege(folder: str) -> None:
    found = kustomized(folder)
    assert container(found)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(found)["securityContext"]["runAsNonRoot"] is True
    assert pod(found)["automountServiceAccountToken"] is False
    # With a read-only root, every file that a flag names lies on a mounted volume.
    mounts = [mount["mountPath"] for mount in container(found)["volumeMounts"]]
    paths = [a.split("=")[1] for a in container(found)["args"] if "=/" in a]
    assert paths and all(any(path.startswith(m) for m in mounts) for path in paths)
    volumes = {volume["name"] for volume in pod(found)["volumes"]}
    assert {mount["name"] for mount in container(found)["volumeMounts"]} == volumes


def test_the_image_runs_as_the_user_of_the_manifest() -> None:
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    user = pod()["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}" in dockerfile
    last_user = re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE)[-1]
    assert last_user == f"{user}:{user}"


def test_make_test_image_understands_every_step_of_the_cpu_image() -> None:
    stages = run_dockerfile.parse((DEPLOY / "docker" / "Dockerfile").read_text())
    assert stages["cpu"].base == "runtime" and stages["runtime"].base in run_dockerfile.BASES
    assert stages["build-cpu"].base in run_dockerfile.BASES
    verbs = {verb for name in ("build-cpu", "runtime", "cpu") for verb, _ in stages[name].steps}
    assert {"RUN", "COPY", "USER", "ENV", "HEALTHCHECK", "ENTRYPOINT"} <= verbs <= run_dockerfile.VERBS
    # A step that goes on over several lines is one.
    assert sum("apt-get install" in rest for _, rest in stages["build-cpu"].steps) == 1


def test_the_dockerfile_copies_from_stages_and_files_that_exist() -> None:
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE))
    assert {"cpu", "cuda"} <= stages
    for stage in re.findall(r"COPY --from=(\S+)", dockerfile):
        assert stage in stages
    for source in re.findall(r"^COPY (?!--from)(\S+) ", dockerfile, re.MULTILINE):
        assert (DEPLOY.parent / source).exists(), source
    for script in re.findall(r"^RUN (deploy/\S+)", dockerfile, re.MULTILINE):
        assert os.access(DEPLOY.parent / script, os.X_OK), script
    assert ":latest" not in dockerfile

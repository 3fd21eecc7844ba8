"""HAProxy in front of three replicas of the default model: what a client sees when a replica
is killed, drained or added under load."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Iterator

import pytest

from free_ports import free_address
from haproxy_process import CONFIGURATION, HaproxyProcess, haproxy
from header_recorder import STATIC_ENTRIES, HeaderRecorder
from load import Load
from parallax_client import Client, RetryPolicy, ServingStatus, TlsOptions
from parallax_client.v1 import admin_pb2
from raw_http2 import is_answered
from server_process import NO_RETRY, REPOSITORY, STORIES_MODEL, ServerProcess, eventually

RETRY = RetryPolicy(max_attempts=10)
GENERATE = "/parallax.v1.InferenceService/Generate"
INFO = "/parallax.v1.InferenceService/GetModelInfo"


def replica(*flags: str) -> ServerProcess:
    return ServerProcess(STORIES_MODEL, "--threads=1", "--kv-cache-pages=256", *flags)


class Fleet:
    def __init__(self, stack: ExitStack) -> None:
        self.replicas = [stack.enter_context(replica()) for _ in range(3)]
        self.front = stack.enter_context(
            HaproxyProcess("plain", [server.address for server in self.replicas])
        )

    def client(self, retry: RetryPolicy = NO_RETRY) -> Client:
        return Client(self.front.address, retry=retry)

    def impatient(self) -> Client:
        """Takes the first answer, whatever it is."""
        return self.client(NO_RETRY)

    def patient(self) -> Client:
        """Tries again after UNAVAILABLE, as the clients of this project do."""
        return self.client(RETRY)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(stack)


def test_calls_are_spread_over_all_replicas(fleet: Fleet) -> None:
    with Load(fleet.impatient) as load:
        load.go_on(40)
    assert load.failed() == 0, load.errors
    sessions = fleet.front.sessions()
    assert min(sessions.values()) >= sum(sessions.values()) / 6, sessions


def tokens_generated(fleet: Fleet) -> list[int]:
    return [replica.stats().tokens_generated for replica in fleet.replicas]


@pytest.mark.skipif("PARALLAX_LOADGEN" not in os.environ, reason="built without bench/")
def test_the_load_generator_through_the_front_counts_what_the_replicas_do(fleet: Fleet, tmp_path: Path) -> None:
    before = tokens_generated(fleet)
    result = tmp_path / "run.json"
    subprocess.run(
        [
            os.environ["PARALLAX_LOADGEN"],
            "run",
            f"--target={fleet.front.address}",
            f"--json={result}",
            "--concurrency=12",
            "--warmup=0.5",
            "--duration=4",
            "--prompt_tokens=uniform:1:100",
            "--output_tokens=uniform:1:40",
            "--max_lag_ms=5000",
            "--quiet",
        ],
        check=True,
        timeout=120,
    )
    run = json.loads(result.read_text())
    assert run["requests"]["failed"] == run["requests"]["unfinished"] == 0
    generated = [after - b for after, b in zip(tokens_generated(fleet), before)]
    assert sum(generated) == run["whole_run"]["output_tokens"] > 500
    assert min(generated) >= sum(generated) / 6, generated


def test_parallax_client_across_a_drain(fleet: Fleet) -> None:
    """One run after the other of six streams at once, before, during and after it."""
    runs: list[subprocess.CompletedProcess[str]] = []
    stop = threading.Event()

    def run_clients() -> None:
        command = [os.environ["PARALLAX_CLIENT"], "concurrent", f"--server={fleet.front.address}"]
        # As RETRY: until the front's checks see that the replica drains, it prefers it, idle as it is.
        command += [f"--attempts={RETRY.max_attempts}"]
        command += ["--count=6", "--max-tokens=40", "--ignore-eos=true", "--json", "Once upon a time"]
        while not stop.is_set():
            runs.append(subprocess.run(command, capture_output=True, text=True, timeout=60))

    def go_on(more: int) -> None:
        goal = len(runs) + more
        assert eventually(lambda: len(runs) >= goal, 60), "a client hangs"

    clients = threading.Thread(target=run_clients)
    clients.start()
    try:
        go_on(2)
        leaving = fleet.replicas[0]
        assert leaving.stats().requests_submitted > 0
        assert leaving.admin.Drain(admin_pb2.DrainRequest(timeout_ms=60000)).drained
        given = leaving.stats().requests_submitted
        go_on(3)
        assert leaving.stats().requests_submitted == given
    finally:
        stop.set()
        clients.join(60)
    for run in runs:
        assert run.returncode == 0, run.stderr
    summaries = [json.loads(run.stdout) for run in runs]
    assert all(summary["failed"] == 0 for summary in summaries)
    assert sum(tokens_generated(fleet)) == 6 * 40 * len(runs)
    assert sum(summary["completion_tokens"] for summary in summaries) == 6 * 40 * len(runs)


def test_a_killed_replica_ends_its_own_calls_and_no_others(fleet: Fleet) -> None:
    with Load(fleet.patient, threads=9) as load:
        load.go_on(20)
        fleet.replicas[0].signal(signal.SIGKILL)
        load.go_on(40)
    assert eventually(lambda: fleet.front.states()["replica1"] == "DOWN")
    # Streams that had begun cannot be moved: at most one a thread. HAProxy cuts them off, which
    # gRPC tells as UNKNOWN. The rest is tried again.
    assert load.failed() <= 9, load.errors
    assert set(load.ends) <= {"OK", "UNKNOWN", "UNAVAILABLE", "CANCELLED", "INTERNAL"}, load.ends


def test_a_replica_that_drains_fails_no_call_of_a_client_that_retries(fleet: Fleet) -> None:
    with Load(fleet.patient) as load:
        load.go_on(20)
        fleet.replicas[0].admin.Drain(admin_pb2.DrainRequest(timeout_ms=60000))
        assert eventually(lambda: fleet.front.states()["replica1"] == "DOWN")
        # The checks read the answer, and did not wait in vain for another.
        check = lambda: fleet.front.statistics()["replica1"]["check_status"]  # noqa: E731
        assert eventually(lambda: check().endswith("L7RSP")), f"the check ends with {check()}"
        before = fleet.front.sessions()["replica1"]
        load.go_on(20)
    assert load.failed() == 0, load.errors
    assert fleet.front.sessions()["replica1"] == before
    assert fleet.replicas[0].stop() == 0


def arrived(fleet: Fleet, index: int) -> bool:
    """Whether a replica has all calls that the front gave it."""
    given = fleet.front.sessions()[f"replica{index + 1}"]
    return fleet.replicas[index].stats().requests_submitted == given


def test_a_replica_drained_at_the_front_first_fails_no_call_at_all(fleet: Fleet) -> None:
    with Load(fleet.impatient) as load:
        load.go_on(20)
        assert fleet.front.command("set server replicas/replica2 state drain") == ""
        # What the front gave it last may still be on its way.
        assert eventually(lambda: arrived(fleet, 1)), (
            f"given {fleet.front.sessions()}, the second has {fleet.replicas[1].stats()}")
        drained = fleet.replicas[1].admin.Drain(admin_pb2.DrainRequest(timeout_ms=60000))
        assert drained.drained
        assert fleet.replicas[1].stop() == 0
        load.go_on(20)
    assert load.failed() == 0, load.errors


def test_a_replica_added_under_load_gets_calls(fleet: Fleet) -> None:
    with replica() as fourth, Load(fleet.impatient) as load:
        load.go_on(10)
        added = fleet.front.command(
            f"add server replicas/replica4 {fourth.address} proto h2 check inter 1s"
        )
        assert "New server registered" in added
        fleet.front.command("enable health replicas/replica4")
        fleet.front.command("set server replicas/replica4 state ready")
        assert eventually(lambda: fleet.front.sessions().get("replica4", 0) >= 5)
        load.go_on(10)
    assert load.failed() == 0, load.errors


def test_no_replica_is_an_error_and_not_a_hang(fleet: Fleet) -> None:
    for server in fleet.replicas:
        server.signal(signal.SIGKILL)
    assert eventually(lambda: set(fleet.front.states().values()) == {"DOWN"})
    result = subprocess.run(
        [os.environ["PARALLAX_CLIENT"], "complete", f"--server={fleet.front.address}", "hello"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert "UNAVAILABLE" in result.stderr


def test_prompts_do_not_reach_the_log(fleet: Fleet) -> None:
    with fleet.client() as client:
        client.generate("a-secret-prompt", max_tokens=2)
    assert eventually(lambda: "InferenceService/Generate" in fleet.front.log())
    assert "a-secret-prompt" not in fleet.front.log()


def test_a_binary_header_does_not_reach_a_replica(fleet: Fleet) -> None:
    """One that is no base64 would end the connection that it came on."""
    assert is_answered(fleet.front.address, INFO, {b"x-bin": b"***"})
    assert is_answered(fleet.front.address, INFO, {b"grpc-trace-bin": b"***", b"x-note": b"a"})


def test_both_fronts_drop_binary_headers() -> None:
    for kind in ("plain", "tls"):
        text = (CONFIGURATION / f"{kind}.cfg").read_text()
        assert re.search(r"^frontend parallax\n(    .*\n)*    http-request del-header -bin -m end$", text, re.MULTILINE)


def test_no_header_is_encoded_by_reference_to_a_call_before() -> None:
    """What one client makes of a replica's HPACK table is of no use against the next."""
    with ServerProcess("null") as server, HeaderRecorder(server.address) as recorder:
        with HaproxyProcess("plain", [recorder.address] * 3) as front:
            metadata = [("x-note", "hello"), ("x-note-bin", b"hello")]
            with Client(front.address, metadata=metadata) as client:
                for _ in range(9):
                    client.generate([1, 300], max_tokens=2)
        calls = recorder.calls(GENERATE.encode())
    assert max(len(blocks) for blocks in calls) > 1, "no connection with two calls"
    for block in sum(calls, []):
        assert {b"te", b"x-note"} <= block.names and b"x-note-bin" not in block.names
        assert 0 < max(block.indices) <= STATIC_ENTRIES


def readme_blocks() -> list[str]:
    """What an operator is told to type, block by block."""
    text = (CONFIGURATION / "README.md").read_text()
    return [re.sub("^    ", "", block, flags=re.MULTILINE) for block in re.findall(r"\n\n((?:    .+\n)+)", text)]


def free_here(script: str) -> tuple[str, dict[str, str]]:
    """The script with ports that are free here, and the address that each port became."""
    port = re.compile(r"\b(?:50\d{3}|946\d)\b")
    addresses = {each: free_address() for each in port.findall(script)}
    return port.sub(lambda found: addresses[found[0]].split(":")[1], script), addresses


def test_the_commands_of_the_readme_do_what_it_says(tmp_path: Path) -> None:
    """All of it in one shell, with a fourth replica to add."""
    start, drain, add = readme_blocks()
    fourth = (
        "parallax-server --model $M --listen 127.0.0.1:50064"
        " --admin-listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 &\n"
        "parallax-client health --server 127.0.0.1:50064 --wait-ms 60000\n"
    )
    script, addresses = free_here(start + drain + fourth + add + "kill $(jobs -p)\nwait\n")
    script = script.replace("/tmp/parallax.sock", str(tmp_path / "admin.sock"))
    programs = [str(Path(os.environ[name]).parent) for name in ("PARALLAX_SERVER", "PARALLAX_CLIENT")]
    environment = {
        "PATH": ":".join([*programs, os.environ["PATH"]]),
        "PARALLAX_BIND": addresses["50050"],
        "PARALLAX_STATS": free_address(),
        **{f"PARALLAX_REPLICA_{i}": addresses[f"5006{i}"] for i in (1, 2, 3)},
    }
    log = tmp_path / "log"
    with log.open("w") as file:
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=REPOSITORY,
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
        try:
            status = shell.wait(120)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)  # what it left running
    said = log.read_text()
    assert status == 0, said
    assert "New server registered" in said and "drained" in said, said
    states = dict(re.findall(r"^(replica\d),(\w+)", said, re.MULTILINE))
    assert states.keys() == {f"replica{i}" for i in range(1, 5)}, said
    # The second drained and was not started again.
    assert states["replica1"] == states["replica3"] == "UP", states


def test_tls_on_both_sides(certificates, tmp_path: Path) -> None:
    def bundle(name: str, *parts: str) -> str:
        path = tmp_path / name
        path.write_text("".join(Path(part).read_text() for part in parts))
        return str(path)

    tls = [
        f"--tls-cert={certificates.server_cert}",
        f"--tls-key={certificates.server_key}",
        f"--tls-client-ca={certificates.ca}",
    ]
    with ExitStack() as stack:
        replicas = [stack.enter_context(replica(*tls)) for _ in range(3)]
        front = stack.enter_context(
            HaproxyProcess(
                "tls",
                [server.address for server in replicas],
                PARALLAX_CERT=bundle("front.pem", certificates.server_cert, certificates.server_key),
                PARALLAX_REPLICA_CA=certificates.ca,
                PARALLAX_REPLICA_CERT=bundle(
                    "client.pem", certificates.client_cert, certificates.client_key
                ),
            )
        )
        assert eventually(lambda: set(front.states().values()) == {"UP"}), front.log()
        with Client(front.address, tls=TlsOptions(ca_file=certificates.ca)) as client:
            assert client.generate("Once", max_tokens=3).choices[0].token_ids
            assert client.health() is ServingStatus.SERVING
        assert front.all_checks("L7OK")


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_the_configuration_is_valid_and_warns_of_nothing(kind: str, certificates, tmp_path: Path) -> None:
    pem = tmp_path / "both.pem"
    pem.write_text(
        Path(certificates.server_cert).read_text() + Path(certificates.server_key).read_text()
    )
    result = subprocess.run(
        [haproxy(), "-c", "-f", CONFIGURATION / "base.cfg", "-f", CONFIGURATION / f"{kind}.cfg"],
        env={
            "PARALLAX_CERT": str(pem),
            "PARALLAX_REPLICA_CA": certificates.ca,
            "PARALLAX_REPLICA_CERT": str(pem),
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stdout + result.stderr, result.stderr

"""Starting, draining and stopping, as a supervisor and an operator see them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading

import grpc
import pytest

from parallax_client import Client, ServingStatus
from parallax_client.v1 import admin_pb2
from server_process import REPOSITORY, STORIES_MODEL, ServerProcess, eventually

Code = grpc.StatusCode
PROMPT = "Once upon a time there was a little"
ABORTED = 3


class Running:
    """A stream that is read on a thread, and how it ended."""

    def __init__(self, client: Client, **parameters: object) -> None:
        self.tokens = 0
        self.code: grpc.StatusCode | None = None
        self.details = ""
        self._first = threading.Event()
        self._stream = client.stream(PROMPT, ignore_eos=True, **parameters)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self._first.wait(60)

    def join(self) -> None:
        self._thread.join(120)
        assert not self._thread.is_alive(), "no terminal message"

    def _read(self) -> None:
        try:
            for chunk in self._stream:
                self.tokens += len(chunk.token_ids)
                self._first.set()
            self.code = Code.OK
        except grpc.RpcError as error:
            self.code, self.details = error.code(), error.details()
        self._first.set()


def test_sigterm_finishes_running_requests() -> None:
    with ServerProcess(STORIES_MODEL, "--grace-period=60s") as server, server.client() as client:
        running = [Running(client, max_tokens=300) for _ in range(3)]
        server.signal(signal.SIGTERM)
        assert eventually(lambda: refuses(server))
        for stream in running:
            stream.join()
            assert (stream.code, stream.tokens) == (Code.OK, 300)
        assert server.wait(30) == 0, server.log()


def refuses(server: ServerProcess) -> bool:
    """Whether new work meets UNAVAILABLE, on a connection of its own."""
    with server.client() as client:
        try:
            client.generate(PROMPT, max_tokens=1, timeout=20)
        except grpc.RpcError as error:
            assert error.code() == Code.UNAVAILABLE, error.details()
            return True
        return False


def test_second_sigterm_aborts_with_a_terminal_message() -> None:
    with ServerProcess(STORIES_MODEL, "--grace-period=10m") as server, server.client() as client:
        running = [Running(client, n=5) for _ in range(3)]  # seconds: the second SIGTERM finds them
        server.signal(signal.SIGTERM)
        assert eventually(lambda: refuses(server))
        server.signal(signal.SIGTERM)
        for stream in running:
            stream.join()
            assert stream.code == Code.UNAVAILABLE, stream.details
        assert server.wait(30) == ABORTED, server.log()


def test_the_grace_period_ends() -> None:
    with ServerProcess(STORIES_MODEL, "--grace-period=100ms") as server, server.client() as client:
        running = Running(client, n=16)  # seconds, whatever the machine
        server.signal(signal.SIGINT)
        running.join()
        assert running.code == Code.UNAVAILABLE, running.details
        assert server.wait(30) == ABORTED


def test_an_idle_server_stops_at_once() -> None:
    with ServerProcess("null") as server:
        server.signal(signal.SIGTERM)
        assert server.wait(10) == 0


def test_drain_keeps_the_process_and_its_requests() -> None:
    with ServerProcess(STORIES_MODEL) as server, server.client() as client:
        running = Running(client, n=4, max_tokens=500)  # a second: Drain finds it running
        response = server.admin.Drain(admin_pb2.DrainRequest(timeout_ms=0))
        assert not response.drained and response.live_requests == 1
        assert refuses(server)
        assert client.health() is ServingStatus.NOT_SERVING
        response = server.admin.Drain(admin_pb2.DrainRequest(timeout_ms=60000))
        assert response.drained and response.live_requests == 0
        running.join()
        assert (running.code, running.tokens) == (Code.OK, 4 * 500)
        assert server.stats().draining
        assert server.stop() == 0


def test_drain_refuses_a_timeout_out_of_range() -> None:
    with ServerProcess("null") as server:
        for timeout_ms in (-1, 3600001):
            with pytest.raises(grpc.RpcError) as failure:
                server.admin.Drain(admin_pb2.DrainRequest(timeout_ms=timeout_ms))
            assert failure.value.code() == Code.INVALID_ARGUMENT
            assert str(timeout_ms) in failure.value.details()
        assert not server.stats().draining


def test_ready_file_names_the_ports(tmp_path) -> None:
    ready = tmp_path / "ready.json"
    with ServerProcess("null", f"--ready-file={ready}") as server:
        assert eventually(ready.exists)  # written after the line on standard output
        assert f'"port":{server.address.split(":")[1]}' in ready.read_text()


@pytest.mark.parametrize(
    "flags, status, names",
    [
        (["--model=/nonexistent"], 1, "/nonexistent"),
        ([], 2, "--model"),
        (["--model=null", "--max-num-seqs=0"], 2, "--max-num-seqs"),
        (["--model=null", "--nonsense"], 2, "--nonsense"),
        (["--model=null", "--listen=nowhere"], 2, "nowhere"),
        (["--model=null", "--tls-cert=/nonexistent.pem", "--tls-key=/x.pem"], 1, "/nonexistent.pem"),
        (["--model=null", "--auth-token-file=/nonexistent"], 1, "/nonexistent"),
    ],
)
def test_a_server_that_cannot_start_says_why(flags: list[str], status: int, names: str) -> None:
    defaults = ["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--metrics-listen="]
    result = subprocess.run(
        [os.environ["PARALLAX_SERVER"], *defaults, *flags],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == status, result.stderr
    assert names in result.stderr
    assert result.stdout == ""


def test_a_taken_port_is_an_error() -> None:
    with ServerProcess("null") as server:
        with pytest.raises(RuntimeError, match=server.address):
            ServerProcess("null", f"--listen={server.address}")


def test_the_readmes_name_flags_that_exist_with_their_defaults() -> None:
    help_text = subprocess.run([os.environ["PARALLAX_SERVER"], "--help"], check=True,
                               capture_output=True, text=True).stdout
    defaults = dict(re.findall(r"^  --(?:\[no-\])?([a-z-]+)\S*(?:  \(default (.*)\))?", help_text,
                               re.MULTILINE))
    rows = re.findall(r"^\| (`--.*`) \| (.*) \| .* \|$", (REPOSITORY / "README.md").read_text(),
                      re.MULTILINE)
    named = [(re.findall(r"`--([a-z-]+)`", flags), values.replace("`", "").split(", "))
             for flags, values in rows]
    numbers = {flag: value for flags, values in named if len(flags) == len(values)
               for flag, value in zip(flags, values) if re.fullmatch(r"[\d.:]+s?", value)}
    assert {flag for flags, _ in named for flag in flags} <= set(defaults)
    assert {flag: defaults[flag] for flag in numbers} == numbers
    assert {"max-mixed-prefill-tokens", "max-num-batched-tokens", "listen"} <= set(numbers)
    advice = (REPOSITORY / "deploy" / "grafana" / "README.md").read_text()
    assert set(re.findall(r"`--([a-z][a-z-]+)`", advice)) <= set(defaults)

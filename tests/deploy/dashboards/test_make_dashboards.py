"""The script of `make dashboards`, from its start to Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from free_ports import free_address
from server_process import REPOSITORY, STORIES_MODEL, eventually

SCRIPT = REPOSITORY / "deploy" / "demo" / "dashboards.sh"
BUILD = Path(os.environ["PARALLAX_SERVER"]).parents[1]


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as reply:
        return reply.read().decode()


def start(**environment: str) -> subprocess.Popen[str]:
    # Tests that run in the background ignore Ctrl-C, and a shell cannot undo what it inherits.
    return subprocess.Popen([SCRIPT, BUILD, STORIES_MODEL], env={**os.environ, **environment},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def alive(session: int) -> list[str]:
    """Processes of the script's session."""
    listed = subprocess.run(["ps", "-o", "args=", "-s", str(session)], capture_output=True, text=True)
    return listed.stdout.splitlines()


def test_it_shows_a_loaded_server_and_leaves_nothing(tmp_path: Path) -> None:
    addresses = {name: free_address() for name in ("METRICS", "PROMETHEUS")}
    script = start(**addresses, LOAD_SECONDS="3", TMPDIR=str(tmp_path))
    try:
        assert script.stdout is not None
        seen = ""
        for line in script.stdout:
            seen += line
            if "The load is over" in line:
                break
        assert "The load is over" in seen, seen
        urls = re.findall(r"http://\S+", seen)
        assert len(urls) == 2 and all(fetch(url) for url in urls)
        query = urllib.parse.quote("parallax:generation_tokens_total > 0")
        api = f"http://{addresses['PROMETHEUS']}/api/v1/query?query={query}"
        assert eventually(lambda: json.loads(fetch(api))["data"]["result"] != [])
    finally:
        os.killpg(script.pid, signal.SIGINT)
        script.communicate(timeout=60)
    assert script.returncode == 0
    assert alive(script.pid) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taken", ["METRICS", "PROMETHEUS"])
def test_a_port_in_use_is_named(taken: str, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        addresses = {name: free_address() for name in ("METRICS", "PROMETHEUS")}
        addresses[taken] = f"127.0.0.1:{listener.getsockname()[1]}"
        script = start(**addresses, LOAD_SECONDS="1", TMPDIR=str(tmp_path))
        output, _ = script.communicate(timeout=100)
    assert script.returncode != 0
    assert addresses[taken] in output

"""A real HAProxy on the files of deploy/haproxy, and its runtime socket."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from pathlib import Path

from free_ports import free_address
from server_process import REPOSITORY, eventually

CONFIGURATION = REPOSITORY / "deploy" / "haproxy"


class HaproxyProcess:
    """In front of three replicas, from construction to the end of the `with` block."""

    def __init__(self, kind: str, replicas: list[str], **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="parallax-haproxy-")
        self._socket = Path(self._folder.name) / "admin.sock"
        self._log = open(Path(self._folder.name) / "log", "w+")
        self.address = free_address()
        self._process = subprocess.Popen(
            [haproxy(), "-f", CONFIGURATION / "base.cfg", "-f", CONFIGURATION / f"{kind}.cfg"],
            env={
                "PATH": os.environ["PATH"],
                "PARALLAX_ADMIN": str(self._socket),
                "PARALLAX_STATS": free_address(),
                "PARALLAX_BIND": self.address,
                **{f"PARALLAX_REPLICA_{i}": r for i, r in enumerate(replicas, start=1)},
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        assert eventually(self._listens), self.log()
        assert eventually(lambda: self.all_checks("OK")), self.states()

    def _listens(self) -> bool:
        """The socket's file is there a moment before anything listens on it."""
        try:
            return bool(self.command("show info"))
        except OSError:
            return False

    def command(self, line: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(line.encode() + b"\n")
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return answer.decode().strip()

    def statistics(self) -> dict[str, dict[str, str]]:
        """HAProxy's columns by replica."""
        header, *lines = self.command("show stat replicas 4 -1").lstrip("# ").splitlines()
        rows = [dict(zip(header.split(","), line.split(","))) for line in lines if line]
        return {row["svname"]: row for row in rows}

    def states(self) -> dict[str, str]:
        """UP, DOWN, DRAIN, MAINT or a transition such as "UP 1/2", by replica."""
        return {name: row["status"] for name, row in self.statistics().items()}

    def all_checks(self, ending: str) -> bool:
        """Whether every replica's last health check was, for instance, L7OK."""
        return all(row["check_status"].endswith(ending) for row in self.statistics().values())

    def sessions(self) -> dict[str, int]:
        """Calls that were given to each replica so far."""
        return {name: int(row["stot"]) for name, row in self.statistics().items()}

    def log(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()

    def __enter__(self) -> HaproxyProcess:
        return self

    def __exit__(self, *unused: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        self._folder.cleanup()


def haproxy() -> str:
    # Debian puts it where only root's PATH looks.
    for folder in [*os.environ["PATH"].split(":"), "/usr/sbin"]:
        if (Path(folder) / "haproxy").exists():
            return str(Path(folder) / "haproxy")
    raise FileNotFoundError("haproxy is not installed (deploy/setup/install_deps.sh test)")

"""The unit, by systemd's own tools, offline."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "systemd" / "parallax-server.service"


def seconds(name: str) -> int:
    return int(re.search(rf"{name}=(\d+)s", UNIT.read_text()).group(1))  # type: ignore[union-attr]


def test_the_unit_is_valid(tmp_path: Path) -> None:
    # The verifier wants the program to exist; it is installed elsewhere.
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/parallax-server/bin/parallax-server", "/bin/true"))
    result = subprocess.run(
        [shutil.which("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no", unit],
        capture_output=True,
        text=True,
    )
    about_it = [line for line in result.stderr.splitlines() if UNIT.name in line]
    assert result.returncode == 0 and about_it == [], result.stderr


def test_the_unit_exposes_little() -> None:
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", UNIT],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr


def test_systemd_waits_longer_than_the_server() -> None:
    assert seconds("TimeoutStopSec") >= seconds("--grace-period") + 10

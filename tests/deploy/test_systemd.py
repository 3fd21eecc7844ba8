"""The unit, by systemd's own tools, offline."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "parallax-server.service"


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


def test_what_a_stop_ends_with_is_no_failure() -> None:
    usage = subprocess.run([os.environ["PARALLAX_SERVER"], "--help"], capture_output=True, text=True).stdout
    assert "3 stopped, requests were aborted" in usage
    assert re.search("^SuccessExitStatus=3$", UNIT.read_text(), re.MULTILINE)
    # That would also end a server for good which aborted its requests by itself.
    assert re.search("^RestartForceExitStatus=3$", UNIT.read_text(), re.MULTILINE)


def readme_commands(root: Path) -> list[str]:
    """Those to install and those to upgrade, with `root` before every absolute path."""
    blocks = re.findall(r"\n\n((?:    .+\n)+)", (FOLDER / "README.md").read_text())
    return [re.sub(r"(?<= )/(?=opt|etc)", f"{root}/", block) for block in blocks]


def pack(version: str, work: Path) -> None:
    """A package in `work` whose server says its version."""
    folder = work / f"parallax-server-{version}-linux-x86_64"
    shutil.copytree(FOLDER, folder / "share" / "systemd")
    (folder / "bin").mkdir()
    (folder / "bin" / "parallax-server").write_text(f"#!/bin/sh\necho {version}\n")
    (folder / "bin" / "parallax-server").chmod(0o755)
    subprocess.run(["tar", "czf", f"{folder}.tar.gz", "-C", work, folder.name], check=True)
    shutil.rmtree(folder)


def test_the_commands_of_the_readme_install_and_upgrade(tmp_path: Path) -> None:
    root, work, programs = (tmp_path / name for name in ("root", "work", "programs"))
    for folder in (root / "opt", root / "etc" / "systemd" / "system", work, programs):
        folder.mkdir(parents=True)
    (programs / "systemctl").write_text(f"#!/bin/sh\necho \"$@\" >> {tmp_path}/told\n")
    (programs / "systemctl").chmod(0o755)
    server = root / "opt" / "parallax-server" / "bin" / "parallax-server"

    def follow(commands: str) -> str:
        path = f"{programs}:{os.environ['PATH']}"
        subprocess.run(["bash", "-eu", "-c", commands], cwd=work, env={"PATH": path}, check=True)
        return subprocess.run([server], capture_output=True, text=True, check=True).stdout.strip()

    install, upgrade = readme_commands(root)
    pack("0.1.0", work)
    assert follow(install) == "0.1.0"
    assert (root / "etc/systemd/system/parallax-server.service").read_text() == UNIT.read_text()
    assert (root / "etc/parallax/server.env").exists()
    (work / "parallax-server-0.1.0-linux-x86_64.tar.gz").unlink()
    for version in ("0.1.1", "0.2.0"):
        pack(version, work)
        assert follow(upgrade) == version
        (work / f"parallax-server-{version}-linux-x86_64.tar.gz").unlink()
    assert (tmp_path / "told").read_text().splitlines() == [
        "daemon-reload", "enable --now parallax-server", *["restart parallax-server"] * 2]


def test_the_package_has_the_unit() -> None:
    text = (FOLDER.parent / "package" / "CMakeLists.txt").read_text()
    installed = re.search(r"install\(FILES ([^)]*)DESTINATION share/systemd\)", text)[1].split()  # type: ignore[index]
    assert {FOLDER.parent / "package" / name for name in installed} == {
        FOLDER.parent / "package" / "../systemd" / file.name for file in FOLDER.iterdir()}

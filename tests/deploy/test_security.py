"""deploy/SECURITY.md against the tests that it names and the server that it is about."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = REPOSITORY / "tests"
DEPLOY = REPOSITORY / "deploy"
TEXT = (DEPLOY / "SECURITY.md").read_text()
REFERENCE = re.compile(r"`([\w.]+\.(?:py|cc))::([\w.]+)`")
# Of the compiler and the C library, which every program has; the last three under sanitizers.
RUNTIME = {"libc6", "libstdc++6", "libgcc-s1", "libasan8", "libubsan1", "libtsan2"}


def claims() -> list[str]:
    """The list items, each on one line. The table of residual risks is no claim."""
    items = re.findall(r"^\* (.*\n(?:  .*\n)*)", TEXT, re.MULTILINE)
    return [" ".join(item.split()) for item in items]


def sources() -> dict[str, list[Path]]:
    """The files under tests/ by name."""
    files: dict[str, list[Path]] = {}
    for path in TESTS.rglob("*"):
        files.setdefault(path.name, []).append(path)
    return files


SOURCES = sources()


def references() -> list[str]:
    return sorted({"::".join(found) for found in REFERENCE.findall(TEXT)})


def packages() -> dict[str, str]:
    rows = re.findall(r"^\| (lib[\w.+-]+|zlib1g|nlohmann[\w-]+) \| ([\d.]+) \|", TEXT, re.MULTILINE)
    return dict(rows)


def test_the_document_is_read() -> None:
    assert len(claims()) > 30 and len(references()) > 60 and len(packages()) > 10


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim[:40])
def test_every_claim_names_a_test(claim: str) -> None:
    assert REFERENCE.search(claim), claim


def is_registered(file: Path, lists: Path) -> bool:
    """Whether a CMakeLists.txt names `file`, perhaps as `test_${subject}.py` with its subject in a
    list, or runs its whole folder."""
    text = lists.read_text()
    for name in re.findall(r"[^\s()/\"]+\.(?:cc|py)\b", text):
        pattern = re.sub(r"\\\$\\\{\w+\\\}", r"(\\w+)", re.escape(name))
        found = re.fullmatch(pattern, file.name)
        words = [word.removesuffix("_fuzz") for word in found.groups()] if found else []
        if found and all(re.search(rf"(?<![\w.]){word}(?![\w.])", text) for word in words):
            return True
    return f"}}/{file.parent.name})" in text


@pytest.mark.parametrize("reference", references())
def test_every_named_test_exists_and_runs(reference: str) -> None:
    file, name = reference.split("::")
    (path,) = SOURCES[file]
    text = path.read_text()
    if "." in name:
        suite, case = name.split(".")
        pattern = rf"^TEST(_F|_P)?\({suite}, {case}\)"
    elif file.endswith(".cc"):
        pattern = rf'^extern "C" int {name}\('
    else:
        pattern = rf"^def {name}\("
    assert re.search(pattern, text, re.MULTILINE), f"{file} has no {name}"
    lists = [folder / "CMakeLists.txt" for folder in path.parents]
    existing = [each for each in lists if each.is_relative_to(TESTS) and each.exists()]
    assert any(is_registered(path, each) for each in existing), f"{file} runs nowhere"


def test_the_server_links_what_the_table_says() -> None:
    dump = subprocess.run(
        ["objdump", "-p", os.environ["PARALLAX_SERVER"]], capture_output=True, text=True, check=True
    )
    needed = set(re.findall(r"NEEDED +(\S+)", dump.stdout))
    assert "libssl.so.3" in needed
    listed = {package for package in packages() if not package.endswith("-dev")}
    files = subprocess.run(
        ["dpkg-query", "-L", *listed, *RUNTIME], capture_output=True, text=True
    ).stdout.splitlines()
    assert needed - {Path(file).name for file in files} == set()


@pytest.mark.parametrize("package, version", packages().items())
def test_versions_are_the_tables(package: str, version: str) -> None:
    installed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=True
    ).stdout
    upstream = installed.split(":")[-1]
    assert re.match(rf"{re.escape(version)}(?!\d)", upstream), f"{package} {installed}"


def test_what_is_deployed_silences_grpc() -> None:
    unit = (DEPLOY / "systemd" / "parallax-server.service").read_text()
    assert re.search(r"^Environment=GRPC_VERBOSITY=NONE$", unit, re.MULTILINE)
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    assert re.search(r"^ENV GRPC_VERBOSITY=NONE$", dockerfile, re.MULTILINE)
    # Both images are made of the stage that sets it.
    assert re.findall(r"^FROM runtime AS (\w+)$", dockerfile, re.MULTILINE) == ["cpu", "cuda"]


def test_the_list_of_packages_can_be_read() -> None:
    """A quote in a reason once ended the list early."""
    listed = subprocess.run(
        [DEPLOY / "setup" / "install_deps.sh", "--list", "ci"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stderr == ""
    names = listed.stdout.split()
    assert {"g++", "prometheus", "python3-wheel", "openssl", "llvm"} <= set(names)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", name) for name in names)

#!/usr/bin/env python3
"""Runs the steps of deploy/docker/Dockerfile without a container engine, then the image.

    run_dockerfile.py FOLDER [MODEL]

Each stage that the target `cpu` needs becomes a folder: its base is Debian 12 by debootstrap (FROM
debian:12-slim; apt's own lists, so larger than the slim image and otherwise the same packages), and
its RUN, COPY, ENV, WORKDIR and USER are read from the Dockerfile and done in it. The last stage then
runs like a container: its ENTRYPOINT and CMD as its USER, in namespaces of its own for files,
processes and network, MODEL mounted at /models/model; and its HEALTHCHECK beside it.

Needs root, debootstrap, Debian's mirror and some 4 GB in FOLDER, which keeps the base for the next
time. Exit code 0: the image was built, served, was healthy and stopped as told.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "deploy" / "docker" / "Dockerfile"
MIRROR = "http://deb.debian.org/debian"
BASES = {"debian:12-slim": "bookworm"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VERBS = {"RUN", "COPY", "WORKDIR", "ENV", "USER", "ENTRYPOINT", "CMD", "HEALTHCHECK", "STOPSIGNAL", "EXPOSE"}
START_SECONDS = 120  # ample for the default model


@dataclass
class Stage:
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Image:
    """A stage that has been built: its files and what the steps said beside them."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    folder: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"


def parse(text: str) -> dict[str, Stage]:
    """The stages by name, in order."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    for step in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if not step.strip():
            continue
        verb, rest = step.split(None, 1)
        if verb == "FROM":
            base, _, name = rest.split()
            stage = stages[name] = Stage(base)
        else:
            stage.steps.append((verb, rest))
    return stages


def ignored(path: Path) -> bool:
    relative = path.relative_to(REPOSITORY).as_posix()
    return any(
        path.name == pattern[3:] if pattern.startswith("**/") else relative == pattern
        for pattern in (REPOSITORY / ".dockerignore").read_text().split()
    )


def run(*command: str | Path, **options) -> None:
    print("+", shlex.join(map(str, command)), flush=True)
    subprocess.run(command, check=True, **options)


class Builder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stages = parse(DOCKERFILE.read_text())
        self._built: dict[str, Image] = {}

    def build(self, name: str) -> Image:
        if name in self._built:
            return self._built[name]
        stage = self._stages[name]
        image = self._from(stage.base, self._folder / "stages" / name)
        for verb, rest in stage.steps:
            print(f"== {name}: {verb} {rest}", flush=True)
            self._do(image, verb, rest)
        self._built[name] = image
        return image

    def _from(self, base: str, root: Path) -> Image:
        root.parent.mkdir(parents=True, exist_ok=True)
        if base in self._stages:
            image = Image(**{**vars(self.build(base)), "root": root})
            image.environment = dict(image.environment)
            source = self.build(base).root
        else:
            image = Image(root)
            source = self._debootstrap(BASES[base])
        run("rm", "-rf", "--one-file-system", root)
        run("cp", "-a", "--reflink=auto", source, root)
        return image

    def _debootstrap(self, suite: str) -> Path:
        root, complete = self._folder / suite, self._folder / f"{suite}.complete"
        if not complete.exists():
            run("rm", "-rf", "--one-file-system", root)
            run("debootstrap", "--variant=minbase", suite, root, MIRROR)
            # This machine's way to the mirror.
            ways = ("Acquire::http::Proxy", "Acquire::Check-Valid-Until", "Acquire::Check-Date")
            config = root / "etc" / "apt" / "apt.conf.d" / "00host"
            with config.open("w") as file:
                run("apt-config", "dump", *ways, stdout=file)
            complete.touch()
        return root

    def _do(self, image: Image, verb: str, rest: str) -> None:
        if verb not in VERBS:
            raise SystemExit(f"run_dockerfile.py: {verb} is not understood")
        if verb == "RUN":
            shutil.copy("/etc/resolv.conf", image.root / "etc" / "resolv.conf")
            run(*inside(image, ["/bin/sh", "-c", rest], network=True))
        elif verb == "COPY":
            self._copy(image, rest)
        elif verb == "WORKDIR":
            image.folder = rest.strip()
            (image.root / image.folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif verb == "ENV":
            for word in shlex.split(rest):
                key, value = word.split("=", 1)
                expand = lambda found: image.environment.get(found.group(1), "")  # noqa: E731
                image.environment[key] = re.sub(r"\$(\w+)", expand, value)
        elif verb == "USER":
            image.user = rest.strip()
        elif verb == "ENTRYPOINT":
            image.entrypoint = json.loads(rest)
        elif verb == "CMD":
            image.command = json.loads(rest)
        elif verb == "HEALTHCHECK":
            image.health = json.loads(rest[rest.index("CMD") + 3 :])
        elif verb == "STOPSIGNAL":
            image.stop_signal = rest.strip()

    def _copy(self, image: Image, rest: str) -> None:
        words = rest.split()
        source_image = re.fullmatch(r"--from=(\S+)", words[0])
        source, target = words[-2:]
        to = image.root / os.path.join(image.folder, target).lstrip("/")
        if source_image:
            source_path = self.build(source_image.group(1)).root / source.lstrip("/")
        else:
            source_path = (REPOSITORY / source).resolve()
        if source_path.is_dir():
            skip = lambda folder, names: [  # noqa: E731
                name for name in names if not source_image and ignored(Path(folder) / name)
            ]
            shutil.copytree(source_path, to, symlinks=True, ignore=skip, dirs_exist_ok=True)
        else:
            if target.endswith("/"):
                to = to / source_path.name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source_path, to)


def inside(image: Image, command: list[str], network: bool = False) -> list[str]:
    """`command` as the image's user in its files, with /proc of its own processes. Without
    `network` it has a loopback of its own and nothing else."""
    environment = [f"{key}={value}" for key, value in image.environment.items()]
    prepare = f"mount -t proc proc {shlex.quote(str(image.root))}/proc"
    if not network:
        prepare += " && ip link set lo up"
    user, group = image.user.split(":")
    # Drops to the user in the new root; HOME as a container engine sets it.
    enter = ["chroot", f"--userspec={user}:{group}", str(image.root)]
    enter += ["env", "-i", *environment, "HOME=/root" if user == "0" else "HOME=/"]
    enter += ["/bin/sh", "-c", f'cd {shlex.quote(image.folder)} && exec "$@"', "sh", *command]
    flags = ["--mount", "--pid", "--fork", "--kill-child"] + ([] if network else ["--net"])
    return ["unshare", *flags, "sh", "-c", f'{prepare} && exec "$@"', "sh", *enter]


def serve(image: Image, model: Path) -> None:
    """Runs the image and its health check; raises where one is not as it should be."""
    mounted = image.root / "models" / "model"
    shutil.copytree(model, mounted, dirs_exist_ok=True)
    run("chmod", "-R", "a+rX", image.root / "models")
    # One script in one set of namespaces: the server as the container's process, the checks
    # beside it as an engine runs them.
    server = shlex.join([*image.entrypoint, *image.command])
    health = shlex.join(image.health)
    script = f"""
set -u
if {health} >/dev/null 2>&1; then echo "healthy before there is a server"; exit 1; fi
{server} & pid=$!
seconds=0
until {health}; do
  seconds=$((seconds + 1))
  if ! kill -0 $pid || [ $seconds -ge {START_SECONDS} ]; then echo "never healthy"; exit 1; fi
  sleep 1
done
echo "healthy after $seconds s"
user=$(sed -n 's/^Uid:[[:space:]]*//p' /proc/$pid/status | cut -f1)
echo "the server runs as $user"
[ "$user" = "{image.user.split(":")[0]}" ] || exit 1
parallax-client complete --server 127.0.0.1:50051 --max-tokens 12 --temperature 0 'Once upon a time' || exit 1
kill -{image.stop_signal.removeprefix("SIG")} $pid
wait $pid; code=$?
echo "the server ended with $code"
exit $code
"""
    run(*inside(image, ["/bin/sh", "-c", script]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path, nargs="?",
                        default=REPOSITORY / "models" / "parallax-stories-14m")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        sys.exit("run_dockerfile.py: needs root and debootstrap (apt-get install debootstrap)")
    began = time.monotonic()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY,
                            capture_output=True, text=True, check=True).stdout.strip()
    image = Builder(arguments.folder.resolve()).build("cpu")
    serve(image, arguments.model)
    print(f"the image of {commit} was built and ran, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

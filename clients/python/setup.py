"""Adds the generated modules to the built package; the rest is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).resolve().parent))
from generate_stubs import generate  # noqa: E402


class BuildWithStubs(build_py):
    """Generates parallax_client/v1 where the package is built."""

    def run(self) -> None:
        super().run()
        generate(Path(self.build_lib))


setup(cmdclass={"build_py": BuildWithStubs})

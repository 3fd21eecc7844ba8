"""Fleets that the tests of one file share, or have to themselves."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Iterator

import pytest

from fleet import Fleet


@pytest.fixture(scope="module")
def shared_fleet() -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(stack)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(stack)

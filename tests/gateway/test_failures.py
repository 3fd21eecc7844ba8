"""Replicas that are killed, drained and added under load: what a client sees."""

from __future__ import annotations

import os
import signal

from fleet import Fleet
from http_load import HttpLoad
from parallax_client.v1 import admin_pb2
from server_process import eventually

CYCLES = int(os.environ.get("PARALLAX_GATEWAY_CYCLES", "50"))


def test_a_killed_replica_hangs_nobody(fleet: Fleet) -> None:
    with HttpLoad(fleet.gateway) as load:
        load.go_on(12)
        fleet.replicas[0].signal(signal.SIGKILL)
        load.go_on(30)
    # What it was generating cannot be moved once a client has part of it: one a thread.
    assert load.failed() <= 6, load.errors
    assert eventually(lambda: fleet.replicas[0].address not in fleet.gateway.ready())


def test_a_replica_removed_at_the_gateway_first_fails_nobody(fleet: Fleet) -> None:
    leaving = fleet.replicas[1]
    with HttpLoad(fleet.gateway) as load:
        load.go_on(12)
        fleet.gateway.remove(leaving)
        assert eventually(lambda: not fleet.gateway.knows(leaving))
        assert leaving.admin.Drain(admin_pb2.DrainRequest(timeout_ms=60000)).drained
        assert leaving.stop() == 0
        load.go_on(12)
    assert load.failed() == 0, load.errors


def test_a_replica_that_drains_by_itself_fails_nobody(fleet: Fleet) -> None:
    leaving = fleet.replicas[1]
    with HttpLoad(fleet.gateway) as load:
        load.go_on(12)
        assert leaving.admin.Drain(admin_pb2.DrainRequest(timeout_ms=60000)).drained
        load.go_on(20)
        assert leaving.stop() == 0
        load.go_on(12)
    assert load.failed() == 0, load.errors


def test_a_replica_added_under_load_gets_requests(fleet: Fleet) -> None:
    with HttpLoad(fleet.gateway) as load:
        load.go_on(6)
        added = fleet.start_replica()
        fleet.gateway.add(added)
        assert eventually(lambda: added.stats().requests_finished >= 5, 60)
    assert load.failed() == 0, load.errors


def test_kill_drain_add_cycles_hang_nobody(fleet: Fleet, record) -> None:
    with HttpLoad(fleet.gateway) as load:
        for cycle in range(CYCLES):
            leaving = fleet.replicas.pop(0)
            if cycle % 2 == 0:
                leaving.signal(signal.SIGKILL)
            else:
                fleet.gateway.remove(leaving)
                assert leaving.admin.Drain(admin_pb2.DrainRequest(timeout_ms=60000)).drained
                leaving.signal(signal.SIGTERM)
            leaving.wait(60)
            fleet.gateway.remove(leaving)
            fresh = fleet.start_replica()
            fleet.replicas.append(fresh)
            fleet.gateway.add(fresh)
            assert eventually(lambda: fresh.address in fleet.gateway.ready(), 60)
            load.go_on(6)
    record(
        "kill_drain_add_cycles",
        {
            "cycles": CYCLES,
            "ends": dict(load.ends),
            "slowest_seconds": round(load.slowest, 2),
            "hung": load.ends["hung"],
        },
    )
    assert load.failed() <= 6 * CYCLES / 2, load.errors

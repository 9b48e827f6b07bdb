"""Two replicas behind a balancer: what a `kill -9` of one costs, and what it does not."""

from __future__ import annotations

import pytest

from benchmarks.replicas import kill_one


@pytest.mark.slow
@pytest.mark.allow_hosts(["127.0.0.1"])
def test_a_killed_replica_ends_its_own_streams_alone() -> None:
    killed = kill_one(streams=8, seconds=6)
    assert killed.open > 0
    assert killed.ended == killed.open, "each of its streams ends with an error, never as if it were whole"
    assert killed.others == 0
    assert killed.after > 0
    assert killed.verified == (True, True)

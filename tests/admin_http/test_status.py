"""`/status`: JSON after the contract's schema, for a directory in every state."""

import asyncio
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped, unused-ignore]

import pgweir_contract
from admin_http.process import Ports, Process, Waiter, entry, started
from pgweir_contract.status import Status

_SCHEMA = Path(pgweir_contract.__file__).parent / "schema" / "status.json"


async def _status(ports: Ports) -> tuple[Status, str]:
    async with ports.client.get(f"{ports.control}/status") as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        text = await answer.text()
    data: Any = json.loads(text)
    jsonschema.validate(data, json.loads(_SCHEMA.read_text()))
    return Status.model_validate_json(text), text


async def test_a_process_without_tenants_has_a_status() -> None:
    process = Process()
    process.problems.clear()
    process.state = "Starting"
    async with started(process) as ports:
        status, _ = await _status(ports)
    assert status.state == "Starting"
    assert (status.tenants, status.instances, status.problems, status.clients) == ((), (), (), 0)


async def test_the_status_tells_who_this_is_and_what_is_applied() -> None:
    process = Process()
    async with started(process) as ports:
        status, _ = await _status(ports)
    assert (status.version, status.boot_id, status.member) == ("1.2.3", "b00t", "pooler-0")
    assert status.pid == os.getpid()
    assert status.started_at == "2026-01-02T03:04:05.000Z"
    assert datetime.fromisoformat(status.started_at) == process.started_at
    assert status.revisions == {"cluster.json": "17"}
    assert [(p.where, p.problem) for p in status.problems] == process.problems
    assert [(p.where, p.problem) for p in status.warnings] == process.warnings


async def test_tenants_pools_and_instances_are_listed_in_order() -> None:
    process = Process()
    pool = process.pool("zeta", clients=7)
    holder, waiters = Waiter(), [Waiter() for _ in range(5)]
    pool.ask(holder)
    await holder.told
    for waiter in waiters:
        pool.ask(waiter)
    process.directory.put(entry("alpha"))  # no client came yet: no pool
    async with started(process) as ports:
        await asyncio.gather(*(w.told for w in waiters[:4]))  # size is 5
        status, text = await _status(ports)
    assert [t.tenant_id for t in status.tenants] == ["alpha", "zeta"]
    assert status.tenants[0].pools == ()
    (row,) = status.tenants[1].pools
    assert (row.database, row.user, row.clients, row.size) == ("app", "alice", 7, 5)
    assert (row.waiting, row.servers_active, row.servers_idle) == (1, 5, 0)
    (instance,) = status.instances
    assert (instance.instance, instance.limit, instance.connections) == ("db.internal.example:5432", 60, 5)
    assert status.clients == 7
    assert "hunter2" not in text


async def test_a_listening_server_is_shown_apart() -> None:
    process = Process()
    pool = process.pool("acme")
    listener = Waiter()
    pool.ask_to_listen(listener)
    await listener.told
    async with started(process) as ports:
        status, _ = await _status(ports)
        metrics = await ports.metrics()
    (row,) = status.tenants[0].pools
    assert (row.servers_listening, row.servers_active, row.servers_idle, row.servers_opening) == (1, 0, 0, 0)
    assert status.instances[0].connections == 1
    assert 'pgweir_servers{state="listening",tenant="acme"} 1.0' in metrics


async def test_a_removed_tenant_is_listed_until_its_servers_are_gone() -> None:
    process = Process()
    pool = process.pool("acme", clients=1)
    holder = Waiter()
    pool.ask(holder)
    server = await holder.told
    process.directory.remove("acme")
    async with started(process) as ports:
        status, _ = await _status(ports)
        assert [t.tenant_id for t in status.tenants] == ["acme"]
        assert status.tenants[0].pools[0].servers_active == 1
        pool.lost(server)
        await pool.closed
        status, _ = await _status(ports)
        assert status.tenants == ()


async def test_clients_of_a_tenant_that_moved_are_counted_once() -> None:
    process = Process()
    old = process.pool("acme")
    holder = Waiter()
    old.ask(holder)
    await holder.told
    process.directory.put(entry("acme", host="other.internal.example"))
    new = process.pool("acme", clients=4)
    assert new is not old
    async with started(process) as ports:
        status, _ = await _status(ports)
    assert status.clients == 4
    assert [(p.clients, p.servers_active) for p in status.tenants[0].pools] == [(4, 0), (0, 1)]

"""node's drivers: `pg`, `postgres` (postgres.js) and knex on `pg`, each with its defaults, in a process of its own."""

from drivers.runtimes import HERE, node_modules, run_scenario
from drivers.target import Target


async def test_node_pg(target: Target) -> None:
    await _run(target, "pg.cjs")


async def test_postgres_js(target: Target) -> None:
    await _run(target, "postgres.cjs")


async def test_knex(target: Target) -> None:
    await _run(target, "knex.cjs")


async def _run(target: Target, script: str) -> None:
    await run_scenario(target, ["node", HERE / "node" / script], NODE_PATH=str(node_modules()))
    await target.check_rest()

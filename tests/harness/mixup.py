"""Does a reply ever reach the wrong client? Many tagged clients do random things and check every message.

`run_mixup` makes a table, lets the clients run until together they have seen so many ReadyForQuery messages,
kills some at random moments, and at the end asks PostgreSQL itself what is left: no open transaction, no
lock, every committed row and step exactly once. The seed fixes what each client does; the timing stays free.
"""

import argparse
import asyncio
import contextlib
import os
import random
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field

import uvloop

from harness.address import Address
from harness.mixup_client import KilledError, MixupError, TaggedClient
from harness.mixup_operations import COUNTER_ROWS
from harness.mixup_weights import OPERATIONS, Operation
from harness.raw_client import RawClient, ServerClosedError, ServerRefusedError

MAX_MISMATCHES = 20  # then the run ends: what follows is mostly echo
QUIET_TIMEOUT_S = 10.0  # for a pooler to clean up after the last killed clients
REPLY_TIMEOUT_S = 60.0


@dataclass
class MixupResult:
    """What happened; `mismatches` and `leftovers` must be empty."""

    seed: int
    queries: int = 0  # ReadyForQuery messages received
    killed: int = 0
    cancels: int = 0  # sent
    seconds: float = 0.0
    by_operation: Counter[str] = field(default_factory=Counter)
    mismatches: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)  # as PostgreSQL sees it, at the end

    def check(self, queries: int) -> None:
        """AssertionError unless all is well, at least so many queries ran, and every operation did."""
        problems = self.mismatches + self.leftovers
        assert not problems, f"seed {self.seed}:\n" + "\n".join(problems)
        assert self.queries >= queries, f"only {self.queries} of {queries} queries ran"
        missing = {operation.__name__ for operation in OPERATIONS} - self.by_operation.keys()
        assert not missing or queries < 20_000, f"operations that never ran: {missing}"

    def __str__(self) -> str:
        rate = self.queries / max(self.seconds, 1e-9)
        return (
            f"{self.queries} queries in {self.seconds:.1f} s ({rate:.0f}/s), {self.killed} clients killed,"
            f" {self.cancels} cancels,"
            f" {len(self.mismatches)} mismatches, {len(self.leftovers)} leftovers"
        )


async def run_mixup(
    address: Address, admin: Address, *, clients: int = 200, queries: int = 200_000, seed: int = 1
) -> MixupResult:
    """Runs the check against `address`; `admin` is a superuser's way past the pooler to the same database."""
    run = _Run(address, admin, queries, seed)
    await run.prepare()
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(run.work(i), name=f"mix-up client {i}") for i in range(clients)]
        killer = group.create_task(run.kill_at_random(), name="killer of mix-up clients")
        await asyncio.wait(workers)
        killer.cancel()
    run.result.seconds = time.monotonic() - started
    await run.verify()
    return run.result


class _Run:
    def __init__(self, address: Address, admin: Address, queries: int, seed: int) -> None:
        self.result = MixupResult(seed)
        self._address = address
        self._admin = admin
        self._queries = queries
        self._rng = random.Random(seed)
        self._table = f"mixup_{secrets.token_hex(4)}"
        self._alive: dict[int, TaggedClient] = {}  # worker -> its client, from login to its end
        self._shot: set[str] = set()  # tags of clients that the killer ended
        self._rows = self._steps = self._uncertain_rows = self._uncertain_steps = 0
        self._role = ""  # whom the servers belong to, as PostgreSQL calls it

    async def prepare(self) -> None:
        """Makes the run's tables, through the address under test."""
        client = await RawClient.connect(self._address)
        self._role = str((await client.values("select current_user"))[0][0], "utf-8")  # type: ignore[arg-type]
        await client.values(
            f"create table {self._table} (tag text, n int);"
            f"create index on {self._table} (tag);"
            f"create table {self._table}_counter (id int primary key, steps int);"
            f"insert into {self._table}_counter select i, 0 from generate_series(0, {COUNTER_ROWS - 1}) i"
        )
        client.close()

    @property
    def _is_over(self) -> bool:
        return self.result.queries >= self._queries or len(self.result.mismatches) >= MAX_MISMATCHES

    async def work(self, index: int) -> None:
        """One client after the other, until the run is over."""
        rng = random.Random(f"{self.result.seed}/{index}")
        names = list(OPERATIONS)
        weights = list(OPERATIONS.values())
        generation = 0
        while not self._is_over:
            client = await self._login(f"c{index}g{generation}-{rng.getrandbits(48):012x}", rng)
            generation += 1
            if client is None:
                continue
            self._alive[index] = client
            while not self._is_over and await self._do(client, rng.choices(names, weights)[0]):
                pass
            del self._alive[index]
            self._settle(client)

    async def _login(self, tag: str, rng: random.Random) -> TaggedClient | None:
        try:
            raw = await RawClient.connect(self._address, {"application_name": tag}, timeout_s=REPLY_TIMEOUT_S)
        except (OSError, ServerRefusedError, ValueError) as error:
            self.result.mismatches.append(f"{tag}: login: {type(error).__name__}: {error}")
            return None
        return TaggedClient(raw, self._address, tag, f"public.{self._table}", rng)

    async def _do(self, client: TaggedClient, operation: Operation) -> bool:
        """Runs one operation; False when the client is gone."""
        before = client.queries
        try:
            await operation(client)
        except KilledError:
            self.result.killed += 1
            return False
        except (MixupError, ServerClosedError, TimeoutError, ValueError) as error:
            if client.tag not in self._shot or isinstance(error, MixupError):
                words = f"{client.tag}: {operation.__name__}: {type(error).__name__}: {error}"
                self.result.mismatches.append(words)
            client.raw.abort()
            return False
        finally:
            self.result.queries += client.queries - before
            self.result.by_operation[operation.__name__] += 1
        return True

    def _settle(self, client: TaggedClient) -> None:
        self.result.cancels += client.cancels
        self._rows += client.committed_rows
        self._steps += client.committed_steps
        self._uncertain_rows += client.uncertain_rows
        self._uncertain_steps += client.uncertain_steps
        client.raw.close()

    async def kill_at_random(self) -> None:
        """Ends some client, whatever it is doing, a few times a second."""
        while not self._is_over:
            await asyncio.sleep(self._rng.uniform(0, 0.4))
            if self._alive:
                victim = self._rng.choice(list(self._alive.values()))
                if not victim.raw.closed:
                    self._shot.add(victim.tag)
                    self.result.killed += 1
                    victim.raw.abort()

    async def verify(self) -> None:
        """Asks PostgreSQL what is left, until it is nothing or QUIET_TIMEOUT_S is over."""
        admin = await RawClient.connect(self._admin)
        deadline = time.monotonic() + QUIET_TIMEOUT_S
        while (left := await self._leftovers(admin)) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        self.result.leftovers += left
        await self._compare(admin, f"select count(*) from {self._table}", self._rows, self._uncertain_rows)
        total = f"select sum(steps) from {self._table}_counter"
        await self._compare(admin, total, self._steps, self._uncertain_steps)
        with contextlib.suppress(TimeoutError):  # a lock that is left has been reported above
            admin.timeout_s = 5
            await admin.values(f"drop table {self._table}, {self._table}_counter")
        admin.close()

    async def _leftovers(self, admin: RawClient) -> list[str]:
        sessions = await admin.values(
            "select pid, state, left(query, 80) from pg_stat_activity"
            f" where usename = '{self._role}' and backend_type = 'client backend' and state <> 'idle'"
        )
        locks = await admin.values(
            "select l.pid, l.locktype, l.mode, l.granted from pg_locks l join pg_stat_activity a using (pid)"
            f" where a.usename = '{self._role}' and a.backend_type = 'client backend'"
        )
        return [f"session left: {row}" for row in sessions] + [f"lock left: {row}" for row in locks]

    async def _compare(self, admin: RawClient, sql: str, certain: int, uncertain: int) -> None:
        found = int((await admin.values(sql))[0][0] or 0)
        if not certain <= found <= certain + uncertain:
            self.result.mismatches.append(f"{sql}: {found}, committed {certain} (+ {uncertain} unanswered)")


def main() -> None:
    """`python -m harness.mixup`: the passwords come from PGPASSWORD and PGWEIR_ADMIN_PASSWORD."""
    parser = argparse.ArgumentParser(prog="harness.mixup", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--admin-host", default="127.0.0.1", help="PostgreSQL itself, past the pooler")
    parser.add_argument("--admin-port", type=int, required=True)
    parser.add_argument("--admin-user", default="postgres")
    parser.add_argument("--admin-database", help="the database's own name, when the pooler renames it")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--queries", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    address = Address(args.port, args.user, args.database, os.environ.get("PGPASSWORD", ""), args.host)
    admin = Address(
        args.admin_port,
        args.admin_user,
        args.admin_database or args.database,
        os.environ.get("PGWEIR_ADMIN_PASSWORD", ""),
        args.admin_host,
    )
    run = run_mixup(address, admin, clients=args.clients, queries=args.queries, seed=args.seed)
    result = uvloop.run(run)
    print(result)
    for name, count in result.by_operation.most_common():
        print(f"  {count:8d} {name}")
    result.check(args.queries)


if __name__ == "__main__":
    main()

"""What all scenarios have in common: sizes, statements and the rule for statements that DDL made stale.

A scenario is one driver's way through the same list: transactions; many statements and one statement many times;
DDL in mid-life of cached statements; errors and what works after them; COPY; LISTEN and NOTIFY; cancel; timeouts;
large values; more clients than servers. What a driver does not have is left out.
"""

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

CLIENTS = 30  # over target.POOL_SIZE servers
ROUNDS = 4  # transactions of each of them
STATEMENTS = 120  # different texts: more than psycopg and asyncpg keep
REPEATS = 12  # of one statement: more than every driver's threshold
READERS = 3  # clients with a cached statement when DDL comes; with two more they fit five servers in session mode
LARGE_TEXT = "Grüße, 世界 🐘 " * 49_933  # 1 MiB in UTF-8
LARGE_BYTES = bytes(range(256)) * 4096  # 1 MiB

CANCELLED = "57014"
UNIQUE_VIOLATION = "23505"
FAILED_TRANSACTION = "25P02"
STALE_PLAN = "0A000"

# Is a statement with this mark running? By the word that only it holds.
IS_RUNNING = (
    "select exists (select from pg_stat_activity where state = 'active'"
    " and position('{mark}' in query) > 0 and pid <> pg_backend_pid())"
)

SHAPES = (
    "create table shapes (id int primary key, n int)",
    "insert into shapes select i, i * 10 from generate_series(1, 50) i",
)
ADD_COLUMN = "alter table shapes add column added text default 'new'"
INT_TO_FLOAT = "alter table shapes alter column n type float4 using n + 0.5"
# What row 7 holds after each step.
BEFORE: tuple[object, ...] = (7, 70)
WITH_COLUMN: tuple[object, ...] = (7, 70, "new")
WITH_FLOAT: tuple[object, ...] = (7, 70.5, "new")


def settled(run: Callable[[], T], is_stale: Callable[[Exception], bool], retries: int = 1) -> T:
    """The result of `run`, which may fail with a stale plan so often; a driver that retries itself gets 0."""
    for _ in range(retries):
        try:
            return run()
        except Exception as error:
            if not is_stale(error):
                raise
    return run()


async def settled_async(run: Callable[[], Awaitable[T]], is_stale: Callable[[Exception], bool], retries: int = 1) -> T:
    """As `settled`, for coroutines."""
    for _ in range(retries):
        try:
            return await run()
        except Exception as error:
            if not is_stale(error):
                raise
    return await run()


def in_threads(work: Callable[[int], object], clients: int = CLIENTS) -> None:
    """All clients at once; the first error of any is raised."""
    with ThreadPoolExecutor(clients) as threads:
        for done in [threads.submit(work, index) for index in range(clients)]:
            done.result()

"""Ten thousand cancels at random moments: each hits the query it was meant for, or nothing."""

import asyncio
import random
from dataclasses import dataclass, field

from harness.config import tenant
from harness.databases import Database
from harness.messages import Message, error_fields, extended, query, rows
from harness.raw_client import RawClient, cancel
from harness.waiting import until
from net.poolers import NewPooler, is_at_rest

CLIENTS = 50
SERVERS = 5
CANCELS = 10_000
CANCELLERS = 8


@dataclass
class Victim:
    """A client that runs one tagged query after the other, and what was done to it."""

    client: RawClient
    under_way: int = 0  # cancels of it that were sent and whose connection was not closed yet
    was_aimed_at: bool = False  # a cancel was under way at some moment since its query was sent
    queries: int = 0
    cancelled: int = 0
    mistakes: list[str] = field(default_factory=list)

    async def live(self, number: int, rng: random.Random, stop: asyncio.Event) -> None:
        while not stop.is_set():
            tag = f"{number}-{self.queries}"
            self.queries += 1
            self.was_aimed_at = self.under_way > 0
            sql = f"select pg_sleep(0.005), '{tag}'"
            self.client.send(query(sql) if rng.random() < 0.5 else extended(sql))
            self._judge(tag, await self.client.receive_until(b"Z"))
            if rng.random() < 0.1:
                await asyncio.sleep(0.01)  # idle: what arrives now must do nothing

    def _judge(self, tag: str, received: list[Message]) -> None:
        errors = [error_fields(body) for kind, body in received if kind == b"E"]
        if not errors:
            if [row[1] for row in rows(received)] != [tag.encode()]:
                self.mistakes.append(f"{tag}: {rows(received)}")
            return
        self.cancelled += 1
        if [fields["C"] for fields in errors] != ["57014"] or received[-1].body != b"I":
            self.mistakes.append(f"{tag}: {errors}")
        elif not self.was_aimed_at:
            self.mistakes.append(f"{tag}: hit by a cancel that was not meant for it")

    async def be_cancelled(self, port: int) -> None:
        self.under_way += 1
        self.was_aimed_at = True
        await cancel("127.0.0.1", port, self.client.pid, self.client.secret)
        self.under_way -= 1


async def test_ten_thousand_cancels_hit_their_own_queries_only(pooler: NewPooler, database: Database) -> None:
    entry = tenant(database, size=SERVERS)
    process = pooler(entry)
    address = process.address(entry)
    victims = [Victim(await RawClient.connect(address, minor=i % 2 * 2)) for i in range(CLIENTS)]
    bystander = await RawClient.connect(address)  # nobody aims at it
    stop = asyncio.Event()
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    lives = [asyncio.create_task(victim.live(i, rng, stop)) for i, victim in enumerate(victims)]
    port, left = process.port(), CANCELS

    async def aim() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await rng.choice(victims).be_cancelled(port)
            await asyncio.sleep(rng.random() * 0.004)

    cancellers = [asyncio.create_task(aim()) for _ in range(CANCELLERS)]
    innocent = 0
    while not all(task.done() for task in cancellers):
        innocent += 1
        assert (await bystander.values(f"select pg_sleep(0.002), {innocent}"))[0][1] == b"%d" % innocent
    stop.set()
    await asyncio.gather(*cancellers, *lives)
    assert [mistake for victim in victims for mistake in victim.mistakes] == [], f"seed {seed}"
    assert sum(victim.cancelled for victim in victims) > CANCELS // 20
    for victim in victims:
        assert await victim.client.values("select 7") == [[b"7"]]
        victim.client.close()
    bystander.close()
    await until(lambda: is_at_rest(process, entry), "all at rest")

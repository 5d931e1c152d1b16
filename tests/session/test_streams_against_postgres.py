"""The claim that a server is free, checked against real PostgreSQL.

Random conversations go through both streams, cut anywhere. Whenever the streams say "free", a query of our own must be
answered by exactly its own rows; and when a conversation has ended, they must say so.
"""

from random import Random

import pytest

from harness.databases import Database
from session.scripts import RECOVERY, SCHEMA, script
from session.tapped_client import TappedClient
from wire.splits import cut

SCRIPTS_PER_SEED = 60


async def _connect(database: Database, random: Random) -> TappedClient:
    client = await TappedClient.connect(database.address)
    client.tap(random)
    return client


async def _play(client: TappedClient, random: Random, parts: list[bytes], name: str) -> None:
    """Sends the messages in pieces of any size, waiting for answers here and there."""
    data = b"".join(parts)
    patience = random.choice([0.0, 0.0, 0.3, 0.8])
    for number, piece in enumerate(cut(data, [random.randrange(len(data)) for _ in range(len(parts))])):
        if client.closed:
            return
        client.speak(piece)
        if random.random() < patience:
            await client.pause(0.003)
        if not client.is_attached and not client.frontend.is_mid_message and random.random() < 0.7:
            await client.prove_free(f"{name} {number}")


@pytest.mark.parametrize("seed", range(6))
async def test_free_is_said_when_postgres_is_free_and_only_then(database: Database, seed: int) -> None:
    random = Random(seed)
    database.sql(SCHEMA + f"grant all on plain, picky, late to {database.user}")
    client = await _connect(database, random)
    lost = proved = 0
    for number in range(SCRIPTS_PER_SEED):
        parts = script(random, random.choice([1, 2, 4, 8]))
        name = f"script {number} of seed {seed}"
        await _play(client, random, parts, name)
        for part in RECOVERY:
            if not client.closed:
                client.speak(part)
        await client.until_free()
        if client.closed:
            # A message that may not come during a copy: PostgreSQL gives the connection up.
            assert client.is_attached
            lost += 1
            client = await _connect(database, random)
        else:
            assert not client.backend.pipeline.is_confused
            await client.prove_free(name)
            proved += 1
    client.close()
    assert proved > lost

"""The same scripts directly and through transaction mode: the same answers, errors and settings.

Up to fifty clients share five servers or fewer, so that each goes from server to server. `PGWEIR_SEEDS` says how many
seeds run and `PGWEIR_FIRST_SEED` which is the first.
"""

import os
from random import Random

import pytest

from differential.comparison import differences
from differential.passages import Cast, script
from differential.scene import prepare_roles, role_of
from harness.config import tenant
from harness.databases import Database
from integration.quiet import until_quiet
from net.poolers import NewPooler

SEEDS = int(os.environ.get("PGWEIR_SEEDS", "3"))
FIRST_SEED = int(os.environ.get("PGWEIR_FIRST_SEED", "1"))
POOL_SIZE = 5
PINNED = 0.15  # of the clients do what keeps a server


@pytest.mark.timeout(60 + 20 * SEEDS)
@pytest.mark.parametrize("is_superuser", [False, True], ids=["user", "superuser"])
async def test_transaction_mode_answers_as_postgresql_does(
    pooler: NewPooler, database: Database, *, is_superuser: bool
) -> None:
    prepare_roles(database, is_superuser=is_superuser)
    entry = tenant(database, size=POOL_SIZE, queue_timeout=60.0)
    process = pooler(entry)
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        random = Random(seed)
        casts = [
            Cast(
                number, role_of(database), database.user, is_superuser, random.random() < PINNED, random.random() < 0.5
            )
            for number in range(random.randint(20, 50))
        ]
        scripts = [script(Random(f"{seed}/{cast.number}"), cast) for cast in casts]
        found = await differences(database, process.address(entry), scripts)
        assert not found, f"seed {seed}:\n" + "\n\n".join(found)
    await until_quiet(process, database)
    assert len(database.backends()) <= POOL_SIZE

"""Can the time of a failed login tell an unknown tenant, an unknown user and a wrong password apart?

`PYTHONPATH=tests python -m security.login_timing [TRIES]` runs TRIES (500) failed logins of each kind against a real
pooler over loopback, 40 at a time and shuffled, and compares when each message of the answers came: the medians, and
the Kolmogorov–Smirnov test of each two kinds. Needs no PostgreSQL: nobody gets that far. Exit code 1 when a pair of
kinds can be told apart (p < 0.01, or medians more than 2 % apart).
"""

import asyncio
import base64
import itertools
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from pydantic import SecretStr

from harness import messages
from harness.config import cluster, files
from harness.pooler import Pooler
from harness.raw_client import RawClient
from harness.scram_client import ScramClient
from pgweir_contract.models import ClusterLimits, Database, FailedLogins, TenantEntry, Upstream, User
from security.kolmogorov_smirnov import p_value

TRIES = 500
OF_A_KIND_AT_ONCE = 10
MORE_TENANTS = 40  # with 64 users each: as many first logins as that can be measured
P_MIN, MEDIANS_MAX = 0.01, 0.02

# Name of the kind, and the user of the n-th try.
KINDS: dict[str, Callable[[int], str]] = {
    "unknown tenant": lambda _: "app.nowhere",
    "unknown user": lambda _: "nobody.acme",
    "wrong password": lambda _: "app.acme",
    "its first login": lambda n: f"u{n % 64}.t{n // 64}",  # of a user whose keys nobody has needed yet
}
STAGES = ("mechanisms", "challenge", "failure")  # the three messages that a failed login gets


# Well-formed. To make one from a password takes 1-2 ms, in which this process would not notice other answers.
_ANY_PROOF = base64.b64encode(bytes(range(32)))


@dataclass(frozen=True)
class Comparison:
    """Two kinds of failure at one stage."""

    stage: str
    kinds: tuple[str, str]
    p: float
    medians_s: tuple[float, float]

    @property
    def medians_apart(self) -> float:
        one, other = self.medians_s
        return abs(one - other) / min(one, other)


async def failed_login(port: int, user: str) -> list[float]:
    """Seconds from the startup message to each message of the answer."""
    client = await RawClient.open("127.0.0.1", port)
    scram = ScramClient("wrong")
    first = scram.first()
    began = perf_counter()
    client.send(messages.startup({"user": user, "database": "shop"}))
    await client.receive()
    took = [perf_counter() - began]
    client.send(messages.password(b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first))
    challenge = await client.receive()
    took.append(perf_counter() - began)
    nonce = challenge.body[4:].partition(b",")[0]
    client.send(messages.password(b"c=biws,%b,p=%b" % (nonce, _ANY_PROOF)))
    assert (await client.receive()).tag == b"E"
    took.append(perf_counter() - began)
    client.abort()
    return took


async def measure(port: int, tries: int) -> dict[str, dict[str, list[float]]]:
    """Stage to kind to times."""
    found: dict[str, dict[str, list[float]]] = {stage: defaultdict(list) for stage in STAGES}
    for first in range(0, tries, OF_A_KIND_AT_ONCE):
        batch = [(kind, first + i) for kind in KINDS for i in range(OF_A_KIND_AT_ONCE)]
        random.shuffle(batch)
        all_times = await asyncio.gather(*(failed_login(port, KINDS[kind](number)) for kind, number in batch))
        for (kind, _), times in zip(batch, all_times, strict=True):
            for stage, time_s in zip(STAGES, times, strict=True):
                found[stage][kind].append(time_s)
    return found


def compare(found: dict[str, dict[str, list[float]]]) -> list[Comparison]:
    """Each two kinds at each stage."""
    return [
        Comparison(stage, (a, b), p_value(kinds[a], kinds[b]), (_median(kinds[a]), _median(kinds[b])))
        for stage, kinds in found.items()
        for a, b in itertools.combinations(KINDS, 2)
    ]


def _median(times: list[float]) -> float:
    return statistics.median(times)


def configuration() -> dict[str, bytes]:
    """Tenants with users; the breaker is off, because one address tries this often."""
    names = {"acme": ["app"]} | {f"t{t}": [f"u{u}" for u in range(64)] for t in range(MORE_TENANTS)}
    entries = [
        TenantEntry(
            tenant_id=tenant_id,
            upstream=Upstream(host="127.0.0.1", port=1),
            databases=(Database(name="shop"),),
            users=tuple(User(name=user, passwords=(SecretStr("the right password"),)) for user in users),
        )
        for tenant_id, users in names.items()
    ]
    limits = ClusterLimits(drain_timeout=1.0, failed_logins=FailedLogins(max=0))
    return files(entries, cluster(limits=limits))


def main(arguments: list[str]) -> int:
    """Prints a table; the exit code."""
    tries = int(arguments[0]) if arguments else TRIES
    process = Pooler(configuration())
    process.start()
    try:
        rows = compare(asyncio.run(measure(process.port(), tries)))
    finally:
        process.stop()
    print(f"{tries} failed logins of each kind, {OF_A_KIND_AT_ONCE * len(KINDS)} at a time")
    for row in rows:
        one, other = (f"{median * 1e3:.2f} ms" for median in row.medians_s)
        print(f"{row.stage:10} {' / '.join(row.kinds):32} {one:>10} {other:>10}  p = {row.p:.3f}")
    told = [row for row in rows if row.stage == "failure" and (row.p < P_MIN or row.medians_apart > MEDIANS_MAX)]
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

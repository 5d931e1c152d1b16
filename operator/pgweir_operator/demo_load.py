"""Many clients over some logins: connected a few at a time, asking until they are told to stop."""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pgweir_operator.demo_client import DemoClient, Tally, Target
from pgweir_operator.demo_scram import SaltedPasswords

# 1,000 clients then ask 3,000 times a second together: about half of what two cores can do.
THINK_S: Final = 0.3
_CONNECTING: Final = 50  # at a time
_LOGIN_TIMEOUT_S: Final = 60.0
_LAST_ANSWERS_S: Final = 15.0


class DemoLoad:
    """Clients spread evenly over tenants, and over each tenant's logins."""

    def __init__(self, targets: Mapping[str, Sequence[Target]], clients: int, think_s: float = THINK_S) -> None:
        self.tallies = {tenant: Tally() for tenant in targets}
        self.wanted = clients
        self._think_s = think_s
        self._targets = targets
        self._clients: list[DemoClient] = []
        self._salted = SaltedPasswords()

    @property
    def connected(self) -> int:
        """Clients that have logged in so far."""
        return len(self._clients)

    def total(self) -> Tally:
        """All tenants together."""
        total = Tally()
        for tally in self.tallies.values():
            total.add(tally)
        return total

    async def connect(self, on_progress: Callable[[int], None]) -> None:
        """Logs all clients in; what fails is counted as an error. `on_progress` gets the number so far."""
        logins = {tenant: itertools.cycle(targets) for tenant, targets in self._targets.items()}
        jobs = [(tenant, next(logins[tenant])) for tenant in itertools.islice(itertools.cycle(logins), self.wanted)]
        left = iter(enumerate(jobs))

        async def work() -> None:
            for number, (tenant, target) in left:
                await self._connect_one(f"{tenant}-{number}", target, self.tallies[tenant])
                on_progress(self.connected)

        async with asyncio.TaskGroup() as group:
            for i in range(_CONNECTING):
                group.create_task(work(), name=f"connect demo clients {i}")

    def start(self) -> None:
        """Lets all of them ask."""
        for client in self._clients:
            client.start()

    async def stop(self) -> None:
        """No more queries; waits for the answers that are owed, then disconnects."""
        for client in self._clients:
            client.stop_asking()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LAST_ANSWERS_S
        while loop.time() < deadline and any(client.is_waiting for client in self._clients):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for client in self._clients:
            client.close()

    async def _connect_one(self, name: str, target: Target, tally: Tally) -> None:
        loop = asyncio.get_running_loop()
        client = DemoClient(name, target, tally, self._think_s, self._salted)
        try:
            async with asyncio.timeout(_LOGIN_TIMEOUT_S):
                await loop.create_connection(lambda: client, target.host, target.port)
                await client.ready
        except ConnectionError:
            if not client.ready.done():  # refused before a byte was sent; else the client has counted it
                tally.failed("the connection was refused")
        except TimeoutError:
            client.fail("no answer to the login")
        else:
            self._clients.append(client)

"""Decides on each login before its password is looked at, and remembers how logins ended.

Whoever is refused here for where he comes from reads what somebody with a wrong password reads, at the same time after
his startup message: the reason is in our log and metrics alone, or it would tell which tenants exist.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

import structlog

from pgweir_pooler.admission.addresses import group_of
from pgweir_pooler.admission.breaker import Breaker, Pair
from pgweir_pooler.admission.half_open import HalfOpen
from pgweir_pooler.admission.login_rate import LoginRates
from pgweir_pooler.admission.refusal_log import INTERVAL_S, RefusalLog

if TYPE_CHECKING:
    import asyncio

    from pgweir_contract.models import ClusterLimits
    from pgweir_pooler.directory import Directory
    from pgweir_pooler.errors import PoolerError
    from pgweir_pooler.net.client_login import ClientLogin
    from pgweir_pooler.session.steps import Identity
    from pgweir_pooler.telemetry import ProcessCounters

log = structlog.get_logger()

# No tenant's name is longer: what a client sends is cut, so that it fills neither memory nor the log.
_NAME_MAX: Final = 64


class Verdict(Enum):
    """What becomes of a login; the value is the word of log and metric."""

    ADMIT = "wrong_credentials"  # go on; if it fails, this is why
    BAR = "address_not_allowed"  # go on, and fail in any case
    BLOCK = "blocked"  # fail without a look at what the client sends


class Doorkeeper:
    """One for the process."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        directory: Directory,
        counters: ProcessCounters,
        limits: ClusterLimits,
    ) -> None:
        self._loop = loop
        self._directory = directory
        self._counters = counters
        self.half_open: HalfOpen[ClientLogin] = HalfOpen()  # connected, not authenticated
        self._breaker = Breaker(limits.failed_logins)
        self._rates = LoginRates(limits.login_rate_per_address)
        self._refusals = RefusalLog()

    def learn(self, limits: ClusterLimits) -> None:
        """Takes over the limits of cluster.json; what was counted stays."""
        self._breaker.limits = limits.failed_logins
        self._rates.learn(limits.login_rate_per_address)

    # --- arriving

    def arrived(self, login: ClientLogin, address: str, limits: ClusterLimits) -> None:
        """A connection, or the word of a proxy on where it comes from: whoever has most of them makes room for it."""
        group = group_of(address)
        half_open = self.half_open
        half_open.discard(login)
        own_max = limits.max_half_open_logins_per_address
        while own_max and half_open.count(group) >= own_max:
            half_open.oldest_of(group).make_room()
        while len(half_open) >= limits.max_half_open_logins:
            half_open.first_to_go().make_room()
        half_open.add(login, group)

    def is_in_time(self, address: str) -> bool:
        """Whether the address does not exceed its rate of logins."""
        return self._rates.take(group_of(address), self._loop.time())

    def judge(self, tenant_id: str, address: str) -> Verdict:
        """Before a secret is looked up."""
        if self._breaker.is_blocked(_pair(tenant_id, address), self._loop.time()):
            return Verdict.BLOCK
        tenant = self._directory.tenants.get(tenant_id)
        if tenant is not None and not tenant.networks.admit(address):
            return Verdict.BAR
        return Verdict.ADMIT

    # --- ending

    def failed(self, who: Identity, address: str, verdict: Verdict) -> None:
        """A login failed as with a wrong password. Those that a list refuses count, too: the difference would show."""
        failures = self._counters.login_failures
        failures[verdict.value] = failures.get(verdict.value, 0) + 1
        if verdict is Verdict.BLOCK:
            return
        pair = _pair(who.tenant, address)
        block_s = self._breaker.failed(pair, self._loop.time(), who.user[:_NAME_MAX])
        if not block_s:
            return
        self._counters.login_blocks += 1
        log.warning(
            "logins blocked after failures",
            tenant=pair.tenant,
            client=pair.group,
            failures=self._breaker.limits.max,
            seconds=block_s,
        )
        for login in list(self.half_open.of_group(pair.group)):
            login.bar_if_of(who.tenant)  # what is under way are guesses, too

    def succeeded(self, who: Identity, address: str) -> None:
        """A login ended well."""
        self._breaker.succeeded(_pair(who.tenant, address), who.user[:_NAME_MAX])

    def blocked(self) -> int:
        """How many pairs of tenant and address are refused now."""
        return self._breaker.blocked(self._loop.time())

    # --- the log

    def log_refusal(
        self, error: PoolerError, who: Identity, address: str, event: str = "login refused", **more: str
    ) -> None:
        """A line for a refused login, or a count (`refusal_log`)."""
        if self._refusals.is_empty:
            self._loop.call_later(INTERVAL_S, self._tell_rest)
        if self._refusals.note(_pair(who.tenant, address)):
            log.log(
                error.log_level,
                event,
                code=error.code,
                reason=error.log_text()[: 4 * _NAME_MAX],
                tenant=who.tenant[:_NAME_MAX],
                user=who.user[:_NAME_MAX],
                client=address,
                **more,
            )

    def _tell_rest(self) -> None:
        counts, others = self._refusals.end_interval()
        for pair, count in counts.items():
            log.info("more logins refused", tenant=pair.tenant, client=pair.group, count=count)
        if others:
            log.info("more logins refused", count=others)


def _pair(tenant_id: str, address: str) -> Pair:
    return Pair(tenant_id[:_NAME_MAX], group_of(address))

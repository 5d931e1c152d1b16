"""Random lives of three pools on one instance: the books hold after every step, and everybody is served at last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgweir_pooler.errors import PoolerError, ServerLoginFailed, Terminated
from pgweir_pooler.pool.deadlines import next_deadline
from pgweir_pooler.pool.instance_ledger import KEEP_IDLE_S, LOOK_AGAIN_S, InstanceLedger
from pgweir_pooler.pool.keys import CloseReason
from pgweir_pooler.pool.slot import Close, Effect, Grant, Open, Refuse, Renew, Seat, Slot
from pool.books import DOWN, Client, Server, limits, new_pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgweir_pooler.pool.ledger import PoolLedger

POOLS = 3
ERRORS: list[PoolerError] = [
    DOWN,
    ServerLoginFailed("57P03", "the database system is starting up"),
    ServerLoginFailed("53300", "sorry, too many clients already"),
]
pick = st.integers(min_value=0, max_value=1_000)
some_pool = st.integers(min_value=0, max_value=POOLS - 1)


class Books(RuleBasedStateMachine):
    """Does what the shell would do, in any order, and keeps its own record of who has what."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.instance = InstanceLedger(4, max_connecting=3)
        self.pools = [new_pool(self.instance, f"t{i}", limits(size=3, min_idle=i % 2)) for i in range(POOLS)]
        self.queues: dict[PoolLedger, list[Client]] = {pool: [] for pool in self.pools}
        self.connecting: list[Slot] = []
        self.lent: list[Slot] = []
        self.terminating: list[Slot] = []
        self.want_to_listen: dict[Client, PoolLedger] = {}
        self.listening: list[Slot] = []
        self.to_renew: list[Slot] = []

    # --- the shell

    def perform(self, effects: Sequence[Effect], asked: Client | None = None) -> None:
        for effect in effects:
            if isinstance(effect, Open):
                self.connecting.append(effect.slot)
                assert self.instance.servers <= self.instance.limit
            elif isinstance(effect, Close):
                for place in (self.lent, self.listening, self.to_renew):
                    if effect.slot in place:
                        place.remove(effect.slot)
                self.terminating.append(effect.slot)
            elif isinstance(effect, Grant):
                queue = self.queues[effect.slot.pool]
                assert queue[0] is effect.waiter, "first come, first served"
                assert effect.waiter not in effect.slot.pool.waiters, "a granted waiter is not queued"
                assert effect.slot not in self.lent, "a server has one client"
                assert effect.slot.generation == effect.slot.pool.generation
                assert not effect.slot.pool.is_paused, "a paused pool lends nothing"
                queue.pop(0)
                self.lent.append(effect.slot)
            elif isinstance(effect, Seat):
                assert self.want_to_listen.pop(effect.waiter) is effect.slot.pool  # type: ignore[call-overload]
                self.listening.append(effect.slot)
            elif isinstance(effect, Renew):
                self.to_renew.append(effect.slot)
            elif effect.waiter in self.want_to_listen:
                del self.want_to_listen[effect.waiter]
            else:
                assert isinstance(effect, Refuse)
                (queue,) = [queue for queue in self.queues.values() if effect.waiter in queue]
                queue.remove(effect.waiter)  # type: ignore[arg-type]

    def tick_until(self, end: float) -> None:
        for _ in range(2_000):
            pool = min(self.pools, key=lambda pool: pool.wake_at)
            if pool.wake_at > end:
                self.now = end
                return
            self.now = max(self.now, pool.wake_at)
            self.perform(pool.tick(self.now))
            assert pool.wake_at > self.now, "a tick leaves nothing due"
        raise AssertionError("the timers spin")

    # --- what happens

    @rule(duration_s=st.sampled_from([0.0, 0.01, 0.3, 1.0, 1.5, 20.0]))
    def time_passes(self, duration_s: float) -> None:
        self.tick_until(self.now + duration_s)

    @rule(i=some_pool)
    def a_client_wants_a_server(self, i: int) -> None:
        pool = self.pools[i]
        slot = pool.take()
        if slot is not None:
            assert not pool.waiters
            assert slot not in self.lent
            self.lent.append(slot)
            return
        client = Client()
        self.queues[pool].append(client)
        self.perform(pool.ask(client, self.now))

    @precondition(lambda self: self.lent)
    @rule(i=pick)
    def a_server_comes_back(self, i: int) -> None:
        slot = self.lent.pop(i % len(self.lent))
        self.perform(slot.pool.give_back(slot, self.now))

    @precondition(lambda self: self.lent)
    @rule(i=pick)
    def a_lent_server_is_discarded(self, i: int) -> None:
        slot = self.lent[i % len(self.lent)]
        self.perform(slot.pool.discard(slot, CloseReason.BROKEN, self.now))
        assert slot in self.terminating

    @precondition(lambda self: self.connecting)
    @rule(i=pick)
    def a_login_succeeds(self, i: int) -> None:
        slot = self.connecting.pop(i % len(self.connecting))
        self.perform(slot.pool.opened(slot, Server(slot), self.now))

    @precondition(lambda self: self.connecting)
    @rule(i=pick, error=st.sampled_from(ERRORS))
    def a_login_fails(self, i: int, error: PoolerError) -> None:
        slot = self.connecting.pop(i % len(self.connecting))
        self.perform(slot.pool.open_failed(slot, error, self.now))

    @precondition(lambda self: self.terminating)
    @rule(i=pick)
    def a_closing_server_is_gone(self, i: int) -> None:
        slot = self.terminating.pop(i % len(self.terminating))
        self.perform(slot.pool.lost(slot, self.now))
        assert not slot.pool.lost(slot, self.now), "lost may come twice"

    @rule(i=some_pool, j=pick)
    def a_server_dies(self, i: int, j: int) -> None:
        pool = self.pools[i]
        alive = [*pool.idle, *pool.active, *pool.listening.servers]
        if alive:
            slot = alive[j % len(alive)]
            for place in (self.lent, self.listening, self.to_renew):
                if slot in place:
                    place.remove(slot)
            self.perform(pool.lost(slot, self.now))

    @rule(i=some_pool, j=pick)
    def a_waiter_leaves(self, i: int, j: int) -> None:
        queue = self.queues[self.pools[i]]
        if queue:
            client = queue.pop(j % len(queue))
            self.perform(self.pools[i].abandon(client, self.now))

    @rule(i=some_pool)
    def somebody_wants_to_listen(self, i: int) -> None:
        client = Client("listener")
        self.want_to_listen[client] = self.pools[i]
        before = self.instance.listeners
        self.perform(self.pools[i].listening.ask(client, self.now))
        assert self.instance.listeners <= max(before, self.instance.limit - 1), "a place is left to the pools"

    @precondition(lambda self: self.want_to_listen)
    @rule(i=pick)
    def nobody_wants_to_listen_any_more(self, i: int) -> None:
        client = list(self.want_to_listen)[i % len(self.want_to_listen)]
        self.perform(self.want_to_listen.pop(client).listening.abandon(client, self.now))

    @precondition(lambda self: self.listening)
    @rule(i=pick)
    def a_listening_server_is_discarded(self, i: int) -> None:
        slot = self.listening[i % len(self.listening)]
        self.perform(slot.pool.discard(slot, CloseReason.LISTENING_ENDED, self.now))
        assert slot in self.terminating

    @rule(i=some_pool, size=st.integers(1, 4), min_idle=st.integers(0, 2), times=st.sampled_from([0, 2, 10]))
    def a_pool_is_resized(self, i: int, size: int, min_idle: int, times: float) -> None:
        bounds = limits(size, min(size, min_idle), times, times, 3 * times)
        self.perform(self.pools[i].resize(bounds, self.now))

    @rule(limit=st.integers(1, 6))
    def the_instance_is_resized(self, limit: int) -> None:
        self.perform(self.instance.resize(limit, self.now))

    @rule(i=some_pool)
    def a_password_changes(self, i: int) -> None:
        self.perform(self.pools[i].retire(self.now))

    @rule(i=some_pool)
    def a_pool_is_paused(self, i: int) -> None:
        self.perform(self.pools[i].pause(self.now))

    @rule(i=some_pool)
    def a_pool_is_resumed(self, i: int) -> None:
        self.perform(self.pools[i].resume(self.now))

    @precondition(lambda self: len(self.pools) > 1)
    @rule(i=some_pool)
    def a_pool_is_drained(self, i: int) -> None:
        if i == 2:  # the other two live on, so that there is always a life to look at
            self.perform(self.pools[i].drain(Terminated(), self.now))
            assert not self.queues[self.pools[i]]

    # --- what always holds

    @invariant()
    def every_slot_is_in_one_place_and_counted(self) -> None:
        pools = self.pools
        listening = [pool.listening for pool in pools]
        places: list[Iterable[Slot]] = [place for p in pools for place in (p.opening, p.idle, p.active, p.closing)]
        places += [place for x in listening for place in (x.opening, x.servers)]
        slots = [slot for place in places for slot in place]
        assert len(slots) == len(set(slots)) == self.instance.servers
        openings: list[Iterable[Slot]] = [*(p.opening for p in pools), *(x.opening for x in listening)]
        assert {slot for opening in openings for slot in opening} == set(self.connecting)
        assert {slot for p in pools for slot in p.active} == set(self.lent)
        assert {slot for p in pools for slot in p.closing} == set(self.terminating)
        assert self.instance.opening == len(self.connecting) <= self.instance.max_connecting
        assert self.instance.closing == len(self.terminating)

    @invariant()
    def who_listens_is_counted_apart(self) -> None:
        places = [pool.listening for pool in self.pools]
        assert [slot for x in places for slot in x.servers if slot not in self.listening] == []
        assert len(self.listening) == sum(len(x.servers) for x in places)
        assert self.instance.listeners == sum(len(x.wanted) + len(x.opening) + len(x.servers) for x in places)
        limit = self.instance.limit
        assert sum(len(x.wanted) + len(x.servers) for x in places) < limit, "a place is left to the pools"
        for slot in self.listening:
            assert slot in self.to_renew or slot.generation == slot.pool.generation

    @invariant()
    def the_queue_is_what_the_clients_think(self) -> None:
        for pool in self.pools:
            assert list(pool.waiters) == self.queues[pool]
            assert not (pool.waiters and pool.idle), "nobody waits while a server is free"

    @invariant()
    def whoever_waits_has_something_to_wait_for(self) -> None:
        for pool in self.pools:
            is_starving = pool in self.instance.starving
            assert is_starving == (pool.shortfall(self.now) > 0)
            due_at = max(self.now, next_deadline(pool, self.now))
            assert pool.wake_at <= due_at + KEEP_IDLE_S * is_starving
            if pool.is_paused:
                assert not pool.idle
                continue
            if not pool.waiters or pool.opening or pool.active:
                continue
            if self.now < pool.backoff.retry_at:
                assert pool.wake_at <= pool.backoff.retry_at
            else:
                assert is_starving
                assert not self.instance.has_room()
                assert pool.wake_at <= self.now + KEEP_IDLE_S

    @invariant()
    def no_pool_starves_while_another_keeps_a_server_idle(self) -> None:
        if not self.instance.starving or self.instance.closing or self.instance.opening:
            return
        for pool in self.pools:
            if pool.idle and pool.total() > pool.limits.min_idle:
                assert self.now <= pool.idle[0].idle_since + 2 * KEEP_IDLE_S + LOOK_AGAIN_S

    def teardown(self) -> None:
        """From any state: when logins succeed and clients give back, every waiter is served."""
        for pool in self.pools:
            self.perform(pool.resume(self.now))
        for _ in range(100):
            if not any(self.queues.values()) and not self.want_to_listen:
                return
            while self.terminating:
                self.a_closing_server_is_gone(0)
            while self.connecting:
                self.a_login_succeeds(0)
            for _ in range(len(self.lent)):
                if self.lent:
                    self.a_server_comes_back(0)
            self.tick_until(self.now + 1.1)
        raise AssertionError("somebody waits for ever")


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)

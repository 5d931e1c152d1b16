"""The moment between two listening servers, step by step: whatever comes first, nothing is lost or doubled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pgweir_pooler.net import handoff
from pgweir_pooler.net.handoff import Handoff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pgweir_pooler.net.handoff import Heard


class Server:
    """Keeps what it was asked, and answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, Callable[[dict[str, str]], None] | None]] = []

    def ask(self, queries: Sequence[bytes], answered: Callable[[dict[str, str]], None] | None = None) -> None:
        self.asked.append((b"".join(queries), answered))

    def answer(self, error: dict[str, str] | None = None) -> None:
        _, answered = self.asked.pop(0)
        if answered is not None:
            answered(error or {})


class Scene:
    def __init__(self) -> None:
        self.old, self.new = Server(), Server()
        self.results: list[Heard | None] = []
        old: Any = self.old
        new: Any = self.new
        self.failed: list[object] = []
        self.handoff = Handoff(old, new, self.results.append, lambda server, _: self.failed.append(server))
        self.handoff.begin([b"a", b"b"])
        self.mark = self.handoff._mark

    def joined(self) -> Scene:
        self.old.answer()
        assert self.new.asked[0][0].count(b"LISTEN") == 3
        self.new.answer()
        assert (
            self.new.asked[0][0] == b"Q" + (4 + 10 + len(self.mark)).to_bytes(4, "big") + b'NOTIFY "%b"\0' % self.mark
        )
        return self

    def hears(self, server: Server, message: bytes, channel: bytes = b"a") -> bool:
        source: Any = server
        return self.handoff.must_deliver(source, channel, message)

    def hears_mark(self, server: Server) -> None:
        assert not self.hears(server, b"mark", self.mark)


def test_the_old_one_is_delivered_up_to_the_mark_and_the_new_one_after_it() -> None:
    scene = Scene().joined()
    assert not scene.hears(scene.new, b"1")
    assert scene.hears(scene.old, b"1")
    scene.hears_mark(scene.old)
    assert not scene.hears(scene.old, b"2")
    scene.hears_mark(scene.new)
    assert scene.results == [[]]


def test_what_the_new_one_hears_first_is_kept() -> None:
    scene = Scene().joined()
    scene.hears_mark(scene.new)
    assert not scene.hears(scene.new, b"2")
    assert scene.hears(scene.old, b"1")
    assert not scene.hears(scene.new, b"3", b"b")
    scene.hears_mark(scene.old)
    assert scene.results == [[(b"a", b"2"), (b"b", b"3")]]


def test_the_mark_goes_out_when_both_listen() -> None:
    scene = Scene()
    scene.new.answer()
    assert not scene.new.asked
    scene.old.answer()
    assert scene.new.asked


def test_an_old_one_that_is_past_the_mark_and_never_heard_it_is_elsewhere() -> None:
    scene = Scene().joined()
    scene.hears_mark(scene.new)
    scene.new.answer()
    assert scene.hears(scene.old, b"1")
    scene.old.answer()
    assert scene.results == [None]
    scene.hears_mark(scene.old)
    assert scene.results == [None], "told once"


@pytest.mark.parametrize("step", ["old listens", "new listens", "mark"])
def test_a_server_that_answers_with_an_error_has_failed(step: str) -> None:
    scene = Scene()
    error = {"C": "25006"}
    if step == "old listens":
        scene.old.answer(error)
    elif step == "new listens":
        scene.new.answer(error)
    else:
        scene.joined()
        scene.new.answer(error)
    assert scene.failed == [scene.old if step == "old listens" else scene.new]
    assert scene.results == []


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handoff, "KEPT_BYTES", 5)
    scene = Scene().joined()
    scene.hears_mark(scene.new)
    scene.hears(scene.new, b"12345")
    assert scene.results == []
    scene.hears(scene.new, b"6")
    assert scene.results == [None]


def test_the_old_one_goes_on_without_a_loss_if_the_new_one_fails_behind_its_mark() -> None:
    scene = Scene().joined()
    scene.hears_mark(scene.old)
    assert not scene.hears(scene.old, b"1")
    assert not scene.hears(scene.new, b"0")
    assert not scene.hears(scene.old, b"2", b"b")
    assert scene.handoff.abandon() == [(b"a", b"1"), (b"b", b"2")]


def test_an_abandoned_one_tells_nobody_and_the_old_one_forgets_the_mark() -> None:
    scene = Scene().joined()
    scene.handoff.abandon()
    assert b"UNLISTEN" in scene.old.asked[-1][0]
    scene.hears_mark(scene.old)
    scene.hears_mark(scene.new)
    scene.new.answer()
    assert scene.results == []

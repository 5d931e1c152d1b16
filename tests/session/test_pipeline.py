"""What is owed, told in letters: `>` a client's message, `<` a server's, `Z` with a status.

`>!` is a message that we refuse, sent as one that PostgreSQL rejects; `<!` is the ErrorResponse to it.
"""

import pytest

from pgweir_pooler.session.pipeline import (
    MAYBE_SYNC,
    NAMED_CLOSE,
    NAMED_PARSE,
    OWN_CLOSE,
    OWN_DESCRIBE,
    OWN_PARSE,
    TOLD_DESCRIBE,
    Pipeline,
)
from pgweir_pooler.session.statement_notes import Note

REFUSED = b"refused"


def run(story: str, pipeline: Pipeline | None = None) -> Pipeline:
    """Plays `story`, such as ">P >S <1 <ZI"; `free` and `held` claim what the ReadyForQuery before them freed."""
    pipeline = pipeline or Pipeline()
    is_free = None
    for word in story.split():
        if word in ("free", "held"):
            assert is_free is (word == "free"), f"{word} in {story}"
        elif word == ">!":
            pipeline.refuse(REFUSED)
        elif word[0] == ">":
            pipeline.sent(ord(word[1]))
        elif word == "<!":
            assert pipeline.received(ord("E")) == REFUSED, f"not our error in {story}"
        elif word[1] == "Z":
            is_free = pipeline.ready(ord(word[2]))
        else:
            assert pipeline.received(ord(word[1])) is None, f"replaced in {story}"
    return pipeline


@pytest.mark.parametrize(
    "story",
    [
        ">Q <T <D <C <ZI free",
        ">Q <I <ZI free",
        ">Q <C <C <T <D <C <ZI free",
        ">Q <E <ZI free",
        ">Q <T <D <E <ZI free",
        ">Q <H <d <c <C <ZI free",
        ">F <V <ZI free",
        ">F <E <ZI free",
        ">S <ZI free",
        ">S <E <ZI free",  # a deferred constraint
        ">P >S <1 <ZI free",
        ">B >S <2 <ZI free",
        ">C >S <3 <ZI free",
        ">D >S <T <ZI free",
        ">D >S <n <ZI free",
        ">D >S <t <n <ZI free",
        ">D >S <t <T <ZI free",
        ">E >S <D <D <C <ZI free",
        ">E >S <I <ZI free",
        ">E >S <D <s <ZI free",
        ">E >S <H <d <c <C <ZI free",
        ">P >B >D >E >S <1 <2 <T <D <s <ZI free",
        ">P >B >E >E >S <1 <2 <D <s <D <C <ZI free",
    ],
)
def test_each_message_is_taken_by_its_own_reply(story: str) -> None:
    pipeline = run(story)
    assert pipeline.is_settled


@pytest.mark.parametrize(
    "story",
    [
        ">Q >Q <C <ZI held <C <ZI free",
        ">P >S >P >S <1 <ZI held <1 <ZI free",
        ">S >S >S <ZI held <ZI held <ZI free",
        ">P >S >Q <1 <ZI held <C <ZI free",
        ">Q <C <ZT held >Q <E <ZE held >Q <C <ZI free",
        ">P <1 >B <2 >S <ZI free",
    ],
)
def test_free_only_behind_the_last_ready_for_query_that_says_idle(story: str) -> None:
    assert run(story).is_settled


@pytest.mark.parametrize("story", [">P <1", ">P >D <1 <t <n", ">P >B >E <1 <2 <C", ">E <G >c <C"])
def test_messages_answered_without_a_sync_leave_a_transaction_open(story: str) -> None:
    pipeline = run(story)
    assert not pipeline.owed
    assert not pipeline.is_settled
    assert run(">S <ZI free", pipeline).is_settled


@pytest.mark.parametrize(
    "story",
    [
        ">P >B >E >S <E <ZI free",
        ">P >B >E >S <1 <2 <E <ZI free",
        ">P >B >E >S >P >S <1 <E <ZI held <1 <ZI free",
        ">P <E >B >E >S <ZI free",  # what is sent before the Sync is skipped
        ">P >Q >F <E >Q >S <ZI free",
        ">P >B <E >c >f >S >Q <ZI held <C <ZI free",
    ],
)
def test_an_error_takes_everything_up_to_the_sync(story: str) -> None:
    assert run(story).is_settled


def test_the_server_is_not_settled_while_it_skips() -> None:
    pipeline = run(">P <E")
    assert not pipeline.owed
    assert not pipeline.is_settled


@pytest.mark.parametrize(
    "story",
    [
        ">Q <G >c <C <ZI free",
        ">Q <G >f <E <ZI free",
        ">Q <G >c <E <ZI free",
        ">Q <G <E >c <ZI free",  # it failed before the end
        ">Q <G <E <ZI free >c >S <ZI free",  # ... or the end came later yet
        ">Q >c >Q <G <C <ZI held <C <ZI free",  # everything sent early
        ">Q >c >c <G <C <G <C <C <ZI free",  # two copies in one Query
        ">Q >c >c <G <E <ZI free",
        ">P >B >E >c >S <1 <2 <G <C <ZI free",
        ">P >B >E >f >S <1 <2 <G <E <ZI free",
        ">P >B >E <1 <2 <G <E >c >S <ZI free",
        ">P >B >E >S >c >S <1 <2 <G <C <ZI free",  # the Sync before CopyDone was ignored
        ">P >B >E >S >S >c >S <1 <2 <G <C <ZI free",
        ">P >B >E >S >c >S <E <ZI held <ZI free",  # no copy: both Syncs count
        ">Q >S >c <G <C <ZI free",
        ">c >Q <C <ZI free",  # a stray CopyDone is ignored
        ">f >c >S <ZI free",
        ">Q >f <C <ZI free",
        ">P >B >c >E >S <1 <2 <C <ZI free",
    ],
)
def test_copy_in(story: str) -> None:
    pipeline = run(story)
    assert pipeline.is_settled


@pytest.mark.parametrize(
    ("story", "one_more"),
    [
        (">P >B >E >S >c >S <1 <2 <G <E <ZI", False),
        (">P >B >E >S >c >S <1 <2 <G <E <ZI", True),
        (">P >B >E >S <1 <2 <G <E >c >S <ZI", True),
        (">Q >S >c <G <E <ZI", False),
        (">Q >S >c <G <E <ZI", True),
        (">Q >S >S >c <G <E <ZI", True),
        (">Q >S >c >S >S <G <E <ZI <ZI <ZI", True),
        (">Q >S >c >S >S <G <E <ZI <ZI <ZI", False),
        (">Q >S >c <G <E <ZI held >S <ZI", True),  # the later Sync is certain, so it counts first
        (">Q >S >c <G <E <ZI held >S <ZI", False),
    ],
)
def test_a_sync_before_the_end_of_a_failed_copy_is_waited_for_until_the_next_reply(story: str, one_more: bool) -> None:
    pipeline = run(story + " held")
    assert not pipeline.is_settled
    assert set(pipeline.owed) == {MAYBE_SYNC}
    if one_more:
        run("<ZI", pipeline)
    run(">Q <T <C <ZI free", pipeline)
    assert pipeline.is_settled


def test_a_query_sent_behind_doubtful_and_certain_syncs_is_not_mistaken() -> None:
    run(">Q >S >c >S >S >Q <G <E <ZI held <ZI held <ZI held <H <d <c <C <ZI free")


@pytest.mark.parametrize("story", [">P >B >E >S >c >P >B >S <1 <2 <G <E", ">P >B >E >S <1 <2 <G <E >P"])
def test_messages_of_which_nobody_knows_whether_they_are_skipped_confuse(story: str) -> None:
    assert run(story).is_confused


@pytest.mark.parametrize(
    "story",
    ["<ZI", "<C", "<T", ">P <2", ">P <ZI", ">B <T", ">E <ZI", ">S <C", ">F <T", ">Q <1", ">Q <G <ZI", ">Q <W"],
)
def test_a_reply_that_does_not_fit_confuses_for_ever(story: str) -> None:
    pipeline = run(story)
    assert pipeline.is_confused
    assert not pipeline.is_settled
    for tail in ("<ZI held", ">Q <C <ZI held", ">S <ZI held"):
        run(tail, pipeline)
        assert pipeline.is_confused


def test_an_error_may_come_at_any_time() -> None:
    assert run("<E").is_settled


@pytest.mark.parametrize(
    "story",
    [
        ">! >S <! <ZI free",
        ">! <! >S <ZI free",
        ">! <! >Q >P >S <ZI free",  # what is sent before the Sync is skipped
        ">c >f >! >S <! <ZI free",
        ">P >B >E >! >S <1 <2 <C <! <ZI free",
        ">! >P >B >E >S <! <ZI free",
        ">! >! >! >S >! >S <! <ZI held <! <ZI free",
        ">Q >! >S <C <ZI held <! <ZI free",
        ">Q >! >S >Q <C <ZT held <! <ZE held <C <ZI free",
        ">Q >S >c <G <E <ZI held >! >S <! <ZI free",  # it was answered, so the Sync before it did not count
        ">Q >S >c <G <E <ZI held >! >S <ZI held <! <ZI free",
    ],
)
def test_a_refusal_is_an_error_that_postgres_tells_in_our_words(story: str) -> None:
    pipeline = run(story)
    assert pipeline.is_settled
    assert not pipeline.notes


@pytest.mark.parametrize(
    "story",
    [
        ">P >B >! >S <E <ZI free",  # an earlier error: PostgreSQL skips what we refuse
        ">P <E >! >S <ZI free",
        ">P >B >! >S >P >! >S <E <ZI held <1 <! <ZI free",
    ],
)
def test_an_earlier_error_voids_a_refusal_up_to_the_sync_and_no_later_one(story: str) -> None:
    pipeline = run(story)
    assert pipeline.is_settled
    assert not pipeline.notes


def test_each_refusal_is_told_in_its_own_words() -> None:
    pipeline = run(">P")
    pipeline.refuse(b"one")
    pipeline.refuse(b"skipped")
    pipeline.sent(ord("S"))
    pipeline.refuse(b"two")
    pipeline.sent(ord("S"))
    run("<1", pipeline)
    assert pipeline.received(ord("E")) == b"one"
    run("<ZI held", pipeline)
    assert pipeline.received(ord("E")) == b"two"
    run("<ZI free", pipeline)


@pytest.mark.parametrize("story", [">!", ">! <!", ">P >! <1", ">P <1 >! <!"])
def test_a_refusal_without_a_sync_does_not_settle(story: str) -> None:
    pipeline = run(story)
    assert not pipeline.is_settled
    assert not pipeline.is_confused


@pytest.mark.parametrize("reply", ["2", "1", "C", "n", "ZI"])
def test_postgres_cannot_carry_out_what_was_refused(reply: str) -> None:
    pipeline = run(">! >S")
    if reply == "ZI":
        assert not pipeline.ready(ord("I"))
    else:
        pipeline.received(ord(reply))
    assert pipeline.is_confused


@pytest.mark.parametrize("one_more", [False, True])
def test_a_refusal_between_the_syncs_behind_a_failed_copy(one_more: bool) -> None:
    pipeline = run(">Q >S >c >S >! >S <G <E <ZI held <ZI held")
    run("<ZI held <! <ZI free" if one_more else "<! <ZI free", pipeline)
    assert pipeline.is_settled


@pytest.mark.parametrize("story", [">P >B >E >S >c >! >S <1 <2 <G <E", ">P >B >E >S <1 <2 <G <E >!"])
def test_a_refusal_of_which_nobody_knows_whether_it_is_skipped_confuses(story: str) -> None:
    assert run(story).is_confused


@pytest.mark.parametrize(
    "story",
    [
        # PostgreSQL reads a Query only behind the copy's failure, so the Sync behind that counts for certain.
        ">Q >Q >S >Q <G <E <ZI held <E <ZI held <ZI held <T <D <C <ZI free",
        ">Q >S >Q >S <G <E <ZI held <ZI held <T <D <C <ZI held <ZI free",  # the Sync before it did count,
        ">Q >S >Q >S <G <E <ZI held <T <D <C <ZI held <ZI free",  # or not
        ">Q >P >B >E >S >Q <G <E <ZI held <1 <2 <C <ZI held <C <ZI free",
        ">P >B >E >P >B >E >S >Q <1 <2 <G <E <ZI held <C <ZI free",
    ],
)
def test_a_message_behind_a_copy_without_an_end_proves_where_it_failed(story: str) -> None:
    assert run(story).is_settled


def test_what_will_settle_by_itself() -> None:
    assert run(">Q").will_settle
    assert run(">P >S").will_settle
    assert not run(">P").will_settle
    assert not run(">Q <G").will_settle


@pytest.mark.parametrize(
    ("story", "is_mid_message", "expected"),
    [
        ("", False, True),
        ("", True, True),  # CopyData where no COPY is: the server ignores it when it is whole
        (">Q", False, False),
        (">Q", True, True),  # half a query
        (">Q >Q", True, False),  # the first one runs
        (">Q <E <ZE", False, True),
        (">F", False, False),
        (">P", False, True),
        (">P >D", False, True),
        (">P >B", True, True),
        (">P >S", False, False),
        (">P <1", False, True),
        (">P >B >E", False, False),
        (">P >B >E <1 <2 <C", False, True),
        (">P <E", False, True),  # skips to a Sync that has not come
        (">Q >P", True, False),
        (">S >P", False, False),
        (">Q <G", False, True),
        (">Q <G", True, True),
        (">Q <G >c", False, False),
        (">Q <G >f", False, False),
        (">Q <G >f", True, True),
        (">Q <G >c >Q", True, False),
        (">E >S <G", False, True),
        (">E >S <G >c >S", False, False),
    ],
)
def test_it_is_known_when_only_the_client_can_go_on(story: str, is_mid_message: bool, expected: bool) -> None:
    assert run(story).awaits_client(is_mid_message=is_mid_message) is expected


# --- entries with notes


class Heard(Note):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def described(self, tag: int, body: bytes) -> None:
        self.words.append(f"{chr(tag)}:{body.decode()}")

    def answered(self) -> None:
        self.words.append("answered")

    def dropped(self) -> None:
        self.words.append("dropped")


@pytest.mark.parametrize(
    ("entry", "replies", "forwarded", "words"),
    [
        (NAMED_PARSE, "1", [None], ["answered"]),
        (NAMED_CLOSE, "3", [None], ["answered"]),
        (TOLD_DESCRIBE, "tT", [None, None], ["t:t", "T:T", "answered"]),
        (TOLD_DESCRIBE, "tn", [None, None], ["t:t", "n:n", "answered"]),
        (OWN_PARSE, "1", [b""], ["answered"]),
        (OWN_DESCRIBE, "tT", [b"", b""], ["t:t", "T:T", "answered"]),
        (OWN_DESCRIBE, "tn", [b"", b""], ["t:t", "n:n", "answered"]),
        (OWN_CLOSE, "3", [b""], ["answered"]),
    ],
)
def test_a_note_hears_the_replies_to_its_message(
    entry: int, replies: str, forwarded: list[bytes | None], words: list[str]
) -> None:
    pipeline, note, behind = Pipeline(), Heard(), Heard()
    run(">P", pipeline)
    pipeline.expect(entry, note)
    pipeline.expect(NAMED_PARSE, behind)
    run(">S <1", pipeline)
    assert [pipeline.received(ord(reply), reply.encode()) for reply in replies] == forwarded
    assert note.words == words
    assert behind.words == []
    run("<1 <ZI free", pipeline)
    assert behind.words == ["answered"]
    assert pipeline.is_settled
    assert not pipeline.notes


@pytest.mark.parametrize("entry", [NAMED_PARSE, NAMED_CLOSE, TOLD_DESCRIBE, OWN_PARSE, OWN_CLOSE])
def test_notes_hear_that_their_messages_failed_or_were_skipped(entry: int) -> None:
    pipeline, notes = Pipeline(), [Heard() for _ in range(3)]
    pipeline.expect(entry, notes[0])
    run(">B >E", pipeline)
    pipeline.expect(entry, notes[1])
    run(">S", pipeline)
    pipeline.expect(entry, notes[2])
    run(">S <E", pipeline)
    assert [note.words for note in notes] == [["dropped"], ["dropped"], []]
    run("<ZI held <E <ZI free", pipeline)
    assert notes[2].words == ["dropped"]
    assert not pipeline.notes


def test_a_note_of_a_message_that_is_skipped_when_it_is_sent_is_dropped_at_once() -> None:
    pipeline, note = run(">P <E"), Heard()
    pipeline.expect(NAMED_PARSE, note)
    assert note.words == ["dropped"]
    assert not pipeline.notes
    run(">S <ZI free", pipeline)


def test_a_description_that_nobody_asked_for_confuses() -> None:
    pipeline, note = Pipeline(), Heard()
    pipeline.expect(OWN_PARSE, note)
    pipeline.received(ord("T"))
    assert pipeline.is_confused


def test_only_descriptions_that_somebody_reads_are_held() -> None:
    for entry, reads in ((OWN_DESCRIBE, True), (TOLD_DESCRIBE, True), (NAMED_PARSE, False)):
        pipeline = Pipeline()
        pipeline.expect(entry, Heard())
        assert pipeline.reads_shape is reads
    assert not run(">D").reads_shape
    assert not run("").reads_shape

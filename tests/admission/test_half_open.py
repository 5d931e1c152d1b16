"""Who has most connections without a login makes room; the books agree whatever comes and goes."""

from hypothesis import given
from hypothesis import strategies as st

from pgweir_pooler.admission.half_open import HalfOpen


def test_the_oldest_of_the_busiest_group_goes_first() -> None:
    logins: HalfOpen[str] = HalfOpen()
    for name, group in (("a1", "a"), ("b1", "b"), ("b2", "b"), ("b3", "b"), ("a2", "a")):
        logins.add(name, group)
    assert logins.first_to_go() == "b1"
    logins.discard("b1")
    assert [logins.count("a"), logins.count("b"), len(logins)] == [2, 2, 4]
    logins.discard("b2")
    assert logins.first_to_go() == "a1"
    assert list(logins.of_group("b")) == ["b3"]


def test_among_equals_the_first_that_came_goes_first() -> None:
    logins: HalfOpen[str] = HalfOpen()
    for name in "abc":
        logins.add(name, name)
    assert logins.first_to_go() == "a"


def test_who_turns_out_to_come_from_elsewhere_changes_its_group() -> None:
    logins: HalfOpen[str] = HalfOpen()
    logins.add("x", "proxy")
    logins.add("x", "real")
    assert (logins.count("proxy"), logins.count("real"), len(logins)) == (0, 1, 1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.sampled_from("abcd")), max_size=300))
def test_the_books_agree(steps: list[tuple[bool, int, str]]) -> None:
    logins: HalfOpen[int] = HalfOpen()
    model: dict[int, str] = {}
    for is_coming, login, group in steps:
        model.pop(login, None)
        if is_coming:
            logins.add(login, group)
            model[login] = group
        else:
            logins.discard(login)
        assert list(logins) == list(model)
        if model:
            groups = list(model.values())
            most = max(groups.count(g) for g in groups)
            victim = logins.first_to_go()
            assert groups.count(model[victim]) == most
            assert victim == next(x for x in model if model[x] == model[victim])
        for g in "abcd":
            assert logins.count(g) == list(model.values()).count(g)
    for login in list(logins):
        logins.discard(login)
    assert not logins._by_count
    assert not logins._members
    assert logins._most == 0

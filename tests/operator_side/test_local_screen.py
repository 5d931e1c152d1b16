"""What a user of the demo reads on a terminal."""

from collections.abc import Iterator

import pytest

from pgweir_operator.local_screen import TerminalScreen


@pytest.fixture
def screen() -> Iterator[TerminalScreen]:
    """A screen on pytest's own output."""
    made = TerminalScreen()
    yield made
    made.close()


def shown(screen: TerminalScreen) -> str:
    """The line with the progress bar, as it is drawn now."""
    with screen._console.capture() as capture:
        screen._console.print(screen._progress)
    return capture.get()


def test_work_with_an_end_shows_how_much_of_it_is_done(screen: TerminalScreen) -> None:
    screen.progress("clients connected", 250, 1000)
    assert "clients connected" in shown(screen)
    assert " 250/1000 " in shown(screen)


def test_load_without_an_end_does_not_inherit_that_of_the_work_before(screen: TerminalScreen) -> None:
    screen.progress("clients connected", 1000, 1000)
    screen.progress("seconds of load", 0, None)
    screen.progress("seconds of load", 15.2, None)
    text = shown(screen)
    assert "seconds of load" in text and " 15 " in text
    assert "connected" not in text and "1000" not in text
    screen.progress("clients connected", 3, 7)
    assert " 3/7 " in shown(screen)

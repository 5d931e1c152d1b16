"""When a failed login is answered: at fixed times after its startup message, whatever was done meanwhile.

Looking up a user, asking the database for a secret, making a verifier from a password: all of it takes a time that
tells which of them happened. A client that is told at a multiple of FAILURE_STEP_S cannot see it. There is no random
part: an average over many tries would take that out again.
"""

import math
from typing import Final

FAILURE_STEP_S: Final = 0.25


def answer_at(startup_at: float, now: float) -> float:
    """The next multiple of the step after the startup message that is not over yet."""
    steps = max(1, math.ceil((now - startup_at) / FAILURE_STEP_S))
    return startup_at + steps * FAILURE_STEP_S

"""What is known not to work yet. The names are those of the `driver` marks; each entry is a strict xfail."""

# Drivers whose scenario fails in transaction mode; the test of a driver that works again fails until it leaves.
FAILS_IN_TRANSACTION_MODE: frozenset[str] = frozenset(
    {
        "asyncpg",
    }
)

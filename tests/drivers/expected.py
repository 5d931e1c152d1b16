"""What is known not to work yet. The names are those of the `driver` marks; each entry is a strict xfail."""

# Drivers whose scenario fails in transaction mode: a name leaves when its scenario passes, or its tests fail.
FAILS_IN_TRANSACTION_MODE: frozenset[str] = frozenset()

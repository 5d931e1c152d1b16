"""What is known not to work yet. The names are those of the `driver` marks; each entry is a strict xfail."""

# Drivers whose scenario fails in transaction mode: a name leaves when its scenario passes, or its tests fail.
FAILS_IN_TRANSACTION_MODE: frozenset[str] = frozenset(
    {
        "asyncpg",
        "django",
        "node-pg",
        "pg8000",
        "pgbench",
        "pgjdbc",
        "postgres.js",
        "psql",
        "psycopg",
        "psycopg-async",
        "psycopg-pipeline",
        "psycopg-threshold-0",
        "psycopg2",
        "sqlalchemy-asyncpg",
        "sqlalchemy-psycopg",
    }
)

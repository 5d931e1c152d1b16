"""Where a client goes and as whom: to a test's client a PostgreSQL and a pooler look the same."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Address:
    """Everything a client needs to log in."""

    port: int
    user: str
    database: str
    password: str = field(repr=False)
    host: str = "127.0.0.1"

    @property
    def dsn(self) -> str:
        """The libpq form, which psycopg, psql and pgbench read; it holds the password."""
        return (
            f"host={self.host} port={self.port} dbname={self.database} user={self.user}"
            f" password={self.password} sslmode=disable gssencmode=disable"
        )

    @property
    def environment(self) -> dict[str, str]:
        """libpq's environment variables: the way to give a program a password that no process list shows."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGDATABASE": self.database,
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGSSLMODE": "disable",
            "PGGSSENCMODE": "disable",
        }

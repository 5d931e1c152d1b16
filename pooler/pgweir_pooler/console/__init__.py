"""The admin console: SQL-like commands over the PostgreSQL protocol, as PgBouncer has them."""

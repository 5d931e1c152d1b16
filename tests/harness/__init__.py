"""What the tests stand on: real PostgreSQL, a real pooler process, a raw client, load, the mix-up check."""

"""The pooler: one process that accepts PostgreSQL clients and lends them a few server connections.

Layers, from the top; a module imports only from below itself (import-linter holds this):
`__main__` → `server` → `net`, `admin_http`, `config_file` → `cluster`, `routing` → `pool` → `session` → `wire`
→ `telemetry`, `errors`.
"""

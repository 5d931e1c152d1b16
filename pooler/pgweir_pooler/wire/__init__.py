"""Bytes and messages of the PostgreSQL protocol. Pure: no socket, no clock, no await."""

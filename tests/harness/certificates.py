"""Certificates for tests, made by trustme; one authority per process, for keys take time."""

import datetime
from functools import cache
from typing import NamedTuple

import trustme


class Pair(NamedTuple):
    """A certificate with its chain, and its key, as PEM texts."""

    certificate: str
    key: str


@cache
def authority(name: str = "tests") -> trustme.CA:
    """A certificate authority of this name."""
    return trustme.CA(organization_name=name)


def ca_pem(name: str = "tests") -> str:
    """The authority's certificate."""
    return authority(name).cert_pem.bytes().decode()


def self_signed(name: str = "alone") -> Pair:
    """A certificate that vouches for itself, for no host."""
    return Pair(ca_pem(name), authority(name).private_key_pem.bytes().decode())


@cache
def pair(
    *names: str,
    ca: str = "tests",
    common_name: str | None = None,
    not_before: datetime.datetime | None = None,
    not_after: datetime.datetime | None = None,
    serial: int = 0,
) -> Pair:
    """A certificate for host names and addresses, made once; another `serial`, another certificate."""
    leaf = authority(ca).issue_cert(*names, common_name=common_name, not_before=not_before, not_after=not_after)
    chain = "".join(blob.bytes().decode() for blob in leaf.cert_chain_pems)
    return Pair(chain, leaf.private_key_pem.bytes().decode())

"""A client's address: what lists of networks match, and what limits count.

An address that is none (a Unix socket's peer, a transport that has none) is in no network. Limits count an IPv6 client
by its /64, because that is what one subscriber gets. A client that comes as `::ffff:a.b.c.d` is the IPv4 client.
"""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, TypeAlias

from pgweir_contract.tenant import TenantEntry

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

NOWHERE: Final = "local"  # how the group of clients without an address is shown
_GROUP_BITS: Final = 64


def host_of(peername: object) -> str:
    """The address in a transport's `peername`, empty when there is none."""
    return str(peername[0]) if isinstance(peername, tuple) and peername else ""


@lru_cache(maxsize=1024)
def parse_address(text: str) -> Address | None:
    """The address, IPv4 where IPv6 carries one; None when it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=1024)
def group_of(text: str) -> str:
    """What limits count as one: an IPv4 address, the /64 of an IPv6 address, all clients without an address."""
    address = parse_address(text)
    if address is None:
        return NOWHERE
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, _GROUP_BITS), strict=False))


class Networks:
    """A tenant's lists: where its clients may come from."""

    __slots__ = ("_allowed", "_denied")

    def __init__(self, allowed: Iterable[str] = (), denied: Iterable[str] = ()) -> None:
        self._allowed = tuple(map(ipaddress.ip_network, allowed))
        self._denied = tuple(map(ipaddress.ip_network, denied))

    @classmethod
    def of(cls, entry: TenantEntry) -> "Networks":
        """The lists of a tenant."""
        return cls(entry.allowed_cidrs, entry.denied_cidrs)

    def admit(self, text: str) -> bool:
        """Whether a client of this address may come in: a denied network counts before an allowed one.

        Without an allowed network all are. A client without an address comes in unless networks are allowed by name.
        """
        if not self._allowed and not self._denied:
            return True
        address = parse_address(text)
        if address is None:
            return not self._allowed
        if any(_holds(network, address) for network in self._denied):
            return False
        return not self._allowed or any(_holds(network, address) for network in self._allowed)


def _holds(network: Network, address: Address) -> bool:
    return network.version == address.version and address in network

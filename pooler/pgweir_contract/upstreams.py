"""Where tenants may point: they are not trusted with the network that the pooler is in.

Nothing said, everything is allowed but addresses that lead to the pooler's own host, its neighbours on the link or the
cloud that it runs in. Each list that is not empty must name a target as well. An address of those kinds is allowed only
when `allowedCIDRs` names it or a part of its kind: `127.0.0.0/8` names loopback, `0.0.0.0/0` does not.

Pure: names are resolved by whoever connects, who asks about each address.
"""

import ipaddress
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from pgweir_contract.json_form import ContractModel, Host, Listed

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_METADATA: Final = "one of a cloud's metadata services"
# What is never meant by a database's address; the first match counts.
_SPECIAL: Final[tuple[tuple[IpNetwork, str], ...]] = tuple(
    (ipaddress.ip_network(network), what)
    for network, what in (
        ("169.254.169.254/32", _METADATA),
        ("fd00:ec2::254/128", _METADATA),  # AWS
        ("fd20:ce::254/128", _METADATA),  # Google
        ("100.100.100.200/32", _METADATA),  # Alibaba
        ("168.63.129.16/32", _METADATA),  # Azure
        ("192.0.0.192/32", _METADATA),  # Oracle
        ("127.0.0.0/8", "loopback"),
        ("::1/128", "loopback"),
        ("0.0.0.0/8", "unspecified"),
        ("::/128", "unspecified"),
        ("169.254.0.0/16", "link-local"),
        ("fe80::/10", "link-local"),
        ("224.0.0.0/4", "multicast"),
        ("ff00::/8", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
# IPv6 addresses that stand for IPv4 ones: gateways and kernels turn them into the IPv4 address in the bits after these.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


def _cidr(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError("must be a network such as 10.0.0.0/8, without bits behind its prefix") from None
    return text


def _pattern(text: str) -> str:
    if "*" in text.removeprefix("*.") or text == "*.":
        raise ValueError("must be a host name, an address or *. and the end of a name")
    return text


Cidr = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_cidr)]
HostPattern = Annotated[Host, AfterValidator(_pattern)]


def address_of(host: str) -> IpAddress | None:
    """The address that a host is written as; None for a name."""
    try:
        return _plain(ipaddress.ip_address(host))
    except ValueError:
        return None


class Upstreams(ContractModel):
    """Which hosts and addresses tenants may name as their PostgreSQL."""

    allowed_hosts: Annotated[Listed[HostPattern], Field(max_length=256)] = ()
    allowed_cidrs: Annotated[Listed[Cidr], Field(alias="allowedCIDRs", max_length=256)] = ()

    def host_problem(self, host: str) -> str | None:
        """Why a tenant may not name this host; what its address is worth can be told of addresses alone."""
        address = address_of(host)
        is_listed = not self.allowed_hosts or any(_matches(host, pattern) for pattern in self.allowed_hosts)
        if not is_listed and (address is None or not self._names(address)):
            return "is not among the cluster's upstreams.allowedHosts"
        return None if address is None else self.address_problem(address)

    def address_problem(self, address: IpAddress) -> str | None:
        """Why nothing may connect to this address."""
        address = _plain(address)
        for kind, what in _SPECIAL:
            if any(part in kind for part in _meanings(address)):
                if any(address in network and _is_within(network, kind) for network in self._networks()):
                    return None
                return f"is {what}, which the cluster's upstreams.allowedCIDRs does not name"
        if self.allowed_cidrs and not self._names(address):
            return "is not in the cluster's upstreams.allowedCIDRs"
        return None

    def _names(self, address: IpAddress) -> bool:
        return any(address in network for network in self._networks())

    def _networks(self) -> list[IpNetwork]:
        alone = [address for address in map(address_of, self.allowed_hosts) if address is not None]
        return [ipaddress.ip_network(text) for text in (*self.allowed_cidrs, *alone)]


def _matches(host: str, pattern: str) -> bool:
    host, pattern = host.lower().rstrip("."), pattern.lower().rstrip(".")
    return host.endswith(pattern[1:]) and host != pattern[1:] if pattern.startswith("*.") else host == pattern


def _is_within(network: IpNetwork, kind: IpNetwork) -> bool:
    return network.version == kind.version and network.subnet_of(kind)  # type: ignore[arg-type]


def _plain(address: IpAddress) -> IpAddress:
    """Without a scope; an IPv4 address in IPv6's notation as what it is."""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    return address


def _meanings(address: IpAddress) -> list[IpAddress]:
    """The address, and the IPv4 one that a gateway would make of it."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address in _NAT64 or address in _NAT64_LOCAL or (address in _COMPATIBLE and int(address) > 1):
        return [address, ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    return [address] if address.sixtofour is None else [address, address.sixtofour]

"""IP networks as configuration writes them."""

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field


def _cidr(text: str) -> str:
    address, slash, _ = text.partition("/")
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(_cidr_problem(text, address)) from None
    if "%" in address:
        raise ValueError("a network has no zone")
    if not slash:
        raise ValueError("a network needs its length, as in 10.0.0.0/8; a single address has /32 (IPv6: /128)")
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError("write an IPv4 network as such (10.0.0.0/8): clients that come by ::ffff:… are IPv4 clients")
    return text


def _cidr_problem(text: str, address: str) -> str:
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return "must be a network such as 10.0.0.0/8 or 2001:db8::/32"
    return f"{address} has bits behind the network's length; {loose} is the network that it lies in"


Cidr = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_cidr)]
"""An IPv4 or IPv6 network: address, slash, length."""

"""Who of a tenant's clients is let in: networks that they may come from, and whether they may come at all."""

import ipaddress
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pgweir_contract.json_form import ContractModel
from pgweir_contract.timestamps import Timestamp


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


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line without control characters")
    return text


class Access(ContractModel):
    """Whether clients of the tenant are let in; a rejection may say why, and end by itself."""

    mode: Literal["Open", "Reject"] = "Open"
    reason: Annotated[str, Field(max_length=256), AfterValidator(_line)] = ""  # clients with the right password read it
    until: Timestamp | None = None  # None: until somebody says Open

    @model_validator(mode="after")
    def _says_nothing_in_vain(self) -> Self:
        if self.mode == "Open" and (self.reason or self.until is not None):
            raise ValueError("reason and until are for the mode Reject")
        return self

    def rejects(self, now: datetime) -> bool:
        """Whether clients are sent away at this moment (with its zone)."""
        return self.mode == "Reject" and (self.until is None or now < self.until)

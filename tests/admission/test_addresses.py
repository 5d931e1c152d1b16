"""Lists match IPv4, IPv6 and IPv4 carried by IPv6; limits count subscribers."""

import pytest

from pgweir_pooler.admission.addresses import NOWHERE, Networks, group_of, host_of, parse_address


@pytest.mark.parametrize(
    ("allowed", "denied", "address", "comes_in"),
    [
        ((), (), "192.0.2.1", True),
        ((), (), "", True),
        (("10.0.0.0/8",), (), "10.255.0.1", True),
        (("10.0.0.0/8",), (), "11.0.0.1", False),
        (("10.0.0.0/8",), (), "::ffff:10.1.2.3", True),
        (("10.0.0.0/8",), (), "::ffff:11.1.2.3", False),
        (("10.0.0.0/8",), (), "2001:db8::1", False),
        (("10.0.0.0/8", "2001:db8::/32"), (), "2001:db8:1::1", True),
        (("0.0.0.0/0",), (), "2001:db8::1", False),
        (("::/0",), (), "10.0.0.1", False),
        (("::/0",), (), "::ffff:10.0.0.1", False),
        ((), ("10.0.0.0/8",), "10.0.0.1", False),
        ((), ("10.0.0.0/8",), "::ffff:10.0.0.1", False),
        ((), ("10.0.0.0/8",), "11.0.0.1", True),
        (("10.0.0.0/8",), ("10.9.0.0/16",), "10.9.0.1", False),
        (("10.0.0.0/8",), ("10.9.0.0/16",), "10.8.0.1", True),
        (("fe80::/10",), (), "fe80::1%eth0", True),
        (("10.0.0.0/8",), (), "", False),
        (("0.0.0.0/0", "::/0"), (), "/run/socket", False),
        ((), ("0.0.0.0/0", "::/0"), "", True),
    ],
)
def test_who_comes_in(allowed: tuple[str, ...], denied: tuple[str, ...], address: str, comes_in: bool) -> None:
    assert Networks(allowed, denied).admit(address) is comes_in


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", NOWHERE),
        ("/run/socket", NOWHERE),
    ],
)
def test_what_counts_as_one(address: str, group: str) -> None:
    assert group_of(address) == group


@pytest.mark.parametrize(
    ("peername", "host"),
    [(("::1", 5, 0, 0), "::1"), (("10.0.0.1", 5), "10.0.0.1"), ("/run/x", ""), ("", ""), (None, ""), ((), "")],
)
def test_odd_peers_have_no_host(peername: object, host: str) -> None:
    assert host_of(peername) == host


def test_no_address_is_none() -> None:
    assert parse_address("") is None

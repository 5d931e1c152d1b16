"""Networks and rejections of a tenant are checked when they are read, with words that say what to write."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from contract.contract_values import tenant
from pgweir_contract.access import Access
from pgweir_contract.json_form import describe_errors, render
from pgweir_contract.models import TenantEntry
from pgweir_contract.networks import Cidr
from pgweir_contract.reading import ContractError, validate

_CIDR: TypeAdapter[str] = TypeAdapter(Cidr)
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("text", ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.7/32", "::/0", "2001:db8::/32", "::1/128"])
def test_networks_are_taken(text: str) -> None:
    assert _CIDR.validate_python(text) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10.0.0.1/8", "10.0.0.0/8 is the network"),
        ("2001:db8::1/32", "2001:db8::/32 is the network"),
        ("10.0.0.0", "/32"),
        ("10.0.0.0/33", "such as 10.0.0.0/8"),
        ("10.0.0/8", "such as"),
        ("db.example/8", "such as"),
        ("", "at least 1 character"),
        ("::ffff:10.0.0.0/104", "IPv4 network as such"),
        ("fe80::%eth0/64", "no zone"),
        (" 10.0.0.0/8", "such as"),
    ],
)
def test_what_is_no_network_is_refused_with_a_word_on_it(text: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _CIDR.validate_python(text)
    assert words in " ".join(describe_errors(caught.value))


@pytest.mark.parametrize("field", ["allowedCIDRs", "deniedCIDRs"])
def test_the_place_of_a_bad_network_is_named(field: str) -> None:
    value = tenant().model_dump(mode="json", by_alias=True, exclude_none=True)
    value["users"][0]["passwords"] = ["x"]
    value[field] = ["10.0.0.0/8", "10.0.0.1/8"]
    with pytest.raises(ContractError, match=r"CIDRs\[1\]: ") as caught:
        validate(TenantEntry, value)
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("values", "rejects"),
    [
        ({}, False),
        ({"mode": "Reject"}, True),
        ({"mode": "Reject", "until": datetime(2026, 5, 1, 12, 0, 1, tzinfo=UTC)}, True),
        ({"mode": "Reject", "until": NOW}, False),
        ({"mode": "Reject", "until": datetime(2026, 4, 30, tzinfo=UTC), "reason": "unpaid"}, False),
    ],
)
def test_a_rejection_ends_by_itself(values: dict[str, Any], rejects: bool) -> None:
    assert Access(**values).rejects(NOW) is rejects


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"mode": "Reject", "until": "tomorrow"}, "RFC 3339"),
        ({"mode": "Reject", "until": "2026-05-01T12:00:00"}, "time zone"),
        ({"mode": "Reject", "until": 1777000000}, "RFC 3339"),
        ({"mode": "Reject", "reason": "two\nlines"}, "one line"),
        ({"mode": "Reject", "reason": "x" * 257}, "256"),
        ({"mode": "Open", "reason": "unpaid"}, "mode Reject"),
        ({"mode": "Closed"}, "mode"),
    ],
)
def test_a_bad_rejection_is_refused(value: dict[str, Any], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        validate(Access, value)


def test_a_moment_is_written_as_it_is_read() -> None:
    access = validate(Access, {"mode": "Reject", "until": "2026-05-01T14:00:00+02:00", "reason": "unpaid"})
    assert access.until == NOW
    assert b'"until":"2026-05-01T12:00:00Z"' in render(access)

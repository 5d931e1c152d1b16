"""Which host name is whose, as tenants come, go and change their minds."""

from pgweir_pooler.sni_names import SniNames


def names() -> SniNames:
    made = SniNames()
    made.domains = ("pooler.test", "db.example.com")
    return made


def test_names_under_a_domain_of_the_cluster_are_tenants_by_themselves() -> None:
    made = names()
    assert made.tenant_of("acme.pooler.test") == "acme"
    assert made.tenant_of("acme.db.example.com") == "acme"
    for strange in ("pooler.test", ".pooler.test", "a.b.pooler.test", "-a.pooler.test", "acme.pooler.test.evil", ""):
        assert made.tenant_of(strange) is None


def test_a_name_under_a_domain_cannot_be_claimed_by_another_tenant() -> None:
    made = names()
    made.put("thief", ("acme.pooler.test", "thief.test"))
    assert made.tenant_of("acme.pooler.test") == "acme"
    assert made.claimed_in_vain("thief") == ["acme.pooler.test"]


def test_the_first_who_claims_a_name_has_it_until_it_goes() -> None:
    made = names()
    made.put("a", ("x.test", "y.test"))
    made.put("b", ("x.test",))
    assert made.tenant_of("x.test") == "a"
    assert made.claimed_in_vain("b") == ["x.test"]
    made.put("a", ("z.test", "x.test"))  # keeps it
    assert made.tenant_of("x.test") == "a"
    assert made.tenant_of("y.test") is None
    made.remove("a")
    assert made.tenant_of("x.test") == "b"
    made.remove("b")
    made.remove("c")
    assert made.tenant_of("x.test") is None

"""Which host names belong to which tenants, for clients that say one by SNI (RFC 6066)."""

import re

_TENANT = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


class SniNames:
    """`TENANT.` a domain of the cluster is the tenant's; other names belong to the first tenant that claims them."""

    def __init__(self) -> None:
        self.domains: tuple[str, ...] = ()  # of cluster.json
        self._claims: dict[str, dict[str, None]] = {}  # host name -> tenants that claim it, the first one's it is
        self._names: dict[str, tuple[str, ...]] = {}  # tenant -> what it claims

    def put(self, tenant: str, names: tuple[str, ...]) -> None:
        """Replaces what the tenant claims; a name that it keeps is not lost to another meanwhile."""
        before = self._names.get(tenant, ())
        if names == before:
            return
        for name in before:
            if name not in names:
                self._withdraw(tenant, name)
        for name in names:
            self._claims.setdefault(name, {}).setdefault(tenant)
        if names:
            self._names[tenant] = names
        else:
            del self._names[tenant]

    def remove(self, tenant: str) -> None:
        """The tenant is gone."""
        self.put(tenant, ())

    def tenant_of(self, server_name: str) -> str | None:
        """Whose name this is; a tenant under a domain of the cluster need not exist."""
        for domain in self.domains:
            label = server_name.removesuffix("." + domain)
            if label != server_name and _TENANT.fullmatch(label):
                return label
        return next(iter(self._claims.get(server_name, ())), None)

    def claimed_in_vain(self, tenant: str) -> list[str]:
        """Names of the tenant that are another's."""
        return [name for name in self._names.get(tenant, ()) if self.tenant_of(name) != tenant]

    def _withdraw(self, tenant: str, name: str) -> None:
        claims = self._claims[name]
        del claims[tenant]
        if not claims:
            del self._claims[name]

"""The JSON that a pooler answers with on `/status`: what it runs, what it has applied, and what is wrong.

It names hosts and tenants, so it is served on the control port only. It never holds a secret.
"""

from typing import Annotated, Literal

from pydantic import Field

from pgweir_contract.json_form import ContractModel, Listed

Natural = Annotated[int, Field(ge=0)]


class Problem(ContractModel):
    """One thing that is wrong with the configuration, and where: a file, or a file and a tenant."""

    where: str
    problem: str


class PoolStatus(ContractModel):
    """One pool at this moment."""

    database: str
    user: str
    clients: Natural  # clients logged in to this pool, waiting or not
    waiting: Natural
    servers_active: Natural
    servers_idle: Natural
    servers_opening: Natural
    servers_closing: Natural
    servers_listening: Natural = 0  # listen for notifications; outside of `size`
    size: Natural
    error: str | None = None  # the code of the last login's error, until one succeeds: NoClientKey, ServerUnreachable…
    pinned: dict[str, Natural] = Field(
        default_factory=dict
    )  # clients that keep their server between transactions, by why


class TenantStatus(ContractModel):
    """One tenant's pools."""

    tenant_id: str
    pools: Listed[PoolStatus] = ()


class InstanceStatus(ContractModel):
    """One database instance's budget, and how much of it this process uses."""

    instance: str
    limit: Natural
    connections: Natural


class Status(ContractModel):
    """The whole answer."""

    version: str  # of the pooler
    boot_id: str  # made anew by each process
    member: str
    pid: Natural
    started_at: str  # RFC 3339, UTC
    state: Literal["Starting", "Serving", "Draining"]
    revisions: dict[str, str] = Field(default_factory=dict)  # file name -> revision that is applied
    problems: Listed[Problem] = ()
    warnings: Listed[Problem] = ()  # what works and should not stay so
    clients: Natural = 0
    tenants: Listed[TenantStatus] = ()
    instances: Listed[InstanceStatus] = ()

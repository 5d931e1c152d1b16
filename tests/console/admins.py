"""Admins of a test's pooler."""

from pydantic import SecretStr

from harness.address import Address
from harness.config import cluster
from harness.pooler import Pooler
from pgweir_contract.admin import AdminRole
from pgweir_contract.models import AdminConsole, AdminUser, ClusterFile

JANE = "jane-open-sesame"
EYE = "eye-open-sesame"


def admin_user(name: str, role: AdminRole, password: str) -> AdminUser:
    return AdminUser(name=name, role=role, passwords=(SecretStr(password),))


ADMINS = AdminConsole(users=(admin_user("jane", "Admin", JANE), admin_user("eye", "Stats", EYE)))


def with_admins(admin: AdminConsole = ADMINS, **fields: object) -> ClusterFile:
    """`cluster.json` with jane, who may do all, and eye, who may look."""
    return cluster(admin=admin, **fields)


def console(pooler: Pooler, user: str = "jane", database: str = "pgweir", listener: str = "transaction") -> Address:
    """How an admin logs in."""
    return Address(pooler.port(listener), user, database, JANE if user == "jane" else EYE)

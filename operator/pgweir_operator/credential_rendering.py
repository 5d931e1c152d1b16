"""From the Secrets that manifests name to the credentials of the contract, and the overlap of a rotation. Pure.

A Secret holds one password. When it changes, the one of before stays in the files behind the new one until the overlap
is over, so that clients may change theirs in the meantime; what stays is known from the entry that was rendered before.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import SecretStr

from pgweir_contract.auth import SECRETS_MAX, Auth, AuthSettings
from pgweir_contract.models import TenantEntry, User
from pgweir_operator.credential_specs import AuthSpec, UserSpec

# The field that asks, the name of a Secret, and the key: its value. Raises what a refusal is.
TextOf = Callable[[str, str, str], SecretStr]

LISTS: Final = ("passwords", "verifiers")


def user_secrets(spec: UserSpec, text_of: TextOf, password_of: TextOf) -> dict[str, Any]:
    """The fields of a User that hold its secrets."""
    found: dict[str, Any] = {"valid_until": spec.valid_until}
    if (ref := spec.password_secret_ref) is not None:
        found["passwords"] = (password_of("passwordSecretRef", ref.name, ref.key),)
    if (stored := spec.verifier_secret_ref) is not None:
        text = text_of("verifierSecretRef", stored.name, stored.key).get_secret_value().strip()
        found["verifiers"] = (SecretStr(text),)
    return found


def auth_entry(spec: AuthSpec, text_of: TextOf, password_of: TextOf) -> Auth:
    """A tenant's `auth` with the role that looks users up. ValidationError when that has no name of a role."""
    settings = {name: getattr(spec, name) for name in AuthSettings.model_fields}
    ref = spec.user_secret_ref
    if ref is None:
        return Auth(**settings)
    return Auth(
        **settings,
        user=text_of("auth.userSecretRef", ref.name, ref.username_key).get_secret_value(),
        passwords=(password_of("auth.userSecretRef", ref.name, ref.password_key),),
    )


def with_overlap(entry: TenantEntry, before: TenantEntry | None, now: datetime, overlap_s: float) -> TenantEntry:
    """The entry with the secrets of before that still count."""
    known = {user.name: user for user in before.users} if before is not None else {}
    users = tuple(_user(user, known.get(user.name), now, overlap_s) for user in entry.users)
    return entry if users == entry.users else entry.model_copy(update={"users": users})


def next_end(entries: Mapping[str, TenantEntry]) -> datetime | None:
    """When the first overlap ends."""
    ends = [user.overlap_until for entry in entries.values() for user in entry.users if user.overlap_until]
    return min(ends, default=None)


def _user(user: User, before: User | None, now: datetime, overlap_s: float) -> User:
    if before is None or not overlap_s:
        return user
    is_over = before.overlap_until is not None and before.overlap_until <= now
    changes: dict[str, Any] = {}
    is_new = False
    for name in LISTS:
        new: tuple[SecretStr, ...] = getattr(user, name)
        old: tuple[SecretStr, ...] = getattr(before, name)
        kept = [secret for secret in (old[:1] if is_over else old) if secret not in new]
        if not new or not kept:
            continue
        changes[name] = (*new, *kept)[:SECRETS_MAX]
        is_new |= new[:1] != old[:1]
    if not changes:
        return user
    changes["overlap_until"] = now + timedelta(seconds=overlap_s) if is_new else before.overlap_until
    return user.model_copy(update=changes)

"""What a StartupMessage asks for: tenant, user, database, settings.

The tenant is named, in this order, by

1. `pgweir.tenant=NAME`, as a startup parameter of its own or as `-c pgweir.tenant=NAME` in `options`, or by
   `reference=NAME` in `options` (as Supavisor's clients write it). The user is then taken whole, dots and
   all, except that a suffix equal to the tenant is cut off: `alice.acme` in tenant `acme` is `alice`.
2. the part of the user after its last dot: `alice.acme`, and `first.last.acme` is user `first.last`. When
   there is a default tenant and the caller can tell tenants (`is_tenant`), a suffix that is no tenant belongs
   to the user.
3. the cluster's default tenant.

A user without a suffix who names the database `pgweir` or `pgbouncer`, and no tenant, wants the admin console, when
there is one (`has_console`): its tenant is CONSOLE_TENANT.

A database that is not named, or named exactly as the user was sent (psql does so without a dbname), is the
user's name without the tenant.

From outside nobody can see which tenants exist: an unknown one goes on to a login that fails like a wrong
password, and `shown_user`, the name in that failure, depends on what the client sent alone, never on
`is_tenant`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgweir_contract.names import CONSOLE_ALIAS, CONSOLE_DATABASE
from pgweir_pooler.errors import InvalidParameter, NoTenant, NotSupported
from pgweir_pooler.session.steps import Identity, Settings
from pgweir_pooler.wire.limits import SETTING_NAME_MAX_BYTES, SETTINGS_MAX_BYTES, SETTINGS_MAX_COUNT

TENANT_PARAMETER = "pgweir.tenant"
CONSOLE_TENANT = ""  # no tenant id is empty
_CONSOLE_DATABASES = frozenset({CONSOLE_DATABASE, CONSOLE_ALIAS})
_OWN_PREFIX = "pgweir."
_OPTION_PREFIX = b"_pq_."

# Names that mean something else in a startup message: as a setting they would name another user or database
# to the server. PostgreSQL compares them in lower case only, so `USER` would be a setting there; here it is
# refused.
_RESERVED = frozenset({"user", "database", "options", "replication"})
_SETTING_NAME = re.compile(r"[a-z_][a-z0-9_$]*(\.[a-z_][a-z0-9_$]*)*")
_UNDEFINED_OBJECT = "42704"
_INVALID_NAME = "42602"
_SYNTAX_ERROR = "42601"
_INVALID_AUTHORIZATION = "28000"
_SPACE = " \t\n\v\f\r"  # isspace() in the C locale
_SHOWN_MAX_CHARS = 63


@dataclass(frozen=True, slots=True)
class Startup:
    """A StartupMessage, understood."""

    identity: Identity
    shown_user: str  # how errors name the user
    settings: Settings
    unknown_options: tuple[bytes, ...]  # `_pq_.` names, for NegotiateProtocolVersion
    sent_user: bytes = b""  # the whole name, a tenant behind the dot included


def parse_startup(
    pairs: Sequence[tuple[bytes, bytes]],
    *,
    default_tenant: str | None,
    is_tenant: Callable[[str], bool] | None = None,
    has_console: bool = False,
) -> Startup:
    """Understands the parameters of a StartupMessage; the last of equal names counts, as in PostgreSQL.

    Raises InvalidParameter, NotSupported, NoTenant.
    """
    unknown_options = tuple(name for name, _ in pairs if name.startswith(_OPTION_PREFIX))
    given = {_text(name): _text(value) for name, value in pairs if not name.startswith(_OPTION_PREFIX)}
    _refuse_replication(given.pop("replication", ""))
    sent_user = given.pop("user", "")
    database = given.pop("database", "")
    # As in PostgreSQL, `options` come first and parameters of their own override them.
    collected = _parse_options(given.pop("options", ""))
    for name, value in given.items():
        _collect(collected, name, value)
    named_tenant = collected.pop(TENANT_PARAMETER, "")
    if has_console and database in _CONSOLE_DATABASES and sent_user and "." not in sent_user and not named_tenant:
        identity = Identity(CONSOLE_TENANT, sent_user, CONSOLE_DATABASE)
        return Startup(identity, sent_user, _bounded(collected), unknown_options, sent_user.encode())
    tenant, user, shown_user = _who(sent_user, named_tenant, default_tenant, is_tenant)
    if database == sent_user:  # libpq's default is the user's whole name: nobody named a database
        database = ""
    identity = Identity(tenant, user, database or user)
    return Startup(identity, shown_user, _bounded(collected), unknown_options, sent_user.encode())


def split_options(options: str) -> list[str]:
    """Splits at white space; a backslash makes the next character literal (PostgreSQL's pg_split_opts)."""
    words: list[str] = []
    word: list[str] | None = None  # None between words, so that an escaped nothing is no word
    escaped = False
    for char in options:
        if char in _SPACE and not escaped:
            if word is not None:
                words.append("".join(word))
            word = None
            continue
        word = [] if word is None else word
        if char == "\\" and not escaped:
            escaped = True
        else:
            escaped = False
            word.append(char)
    if word is not None:
        words.append("".join(word))
    return words


def _parse_options(options: str) -> dict[str, str]:
    """The settings in `options`; a tenant named by `reference=` is among them as `pgweir.tenant`."""
    collected: dict[str, str] = {}
    words = iter(split_options(options))
    for word in words:
        if word == "-c":
            assignment = next(words, "")
        elif word.startswith(("--", "-c")):
            assignment = word[2:]
        elif word.startswith("reference="):
            _collect(collected, TENANT_PARAMETER, word.partition("=")[2])
            continue
        else:
            raise InvalidParameter(
                f'invalid command-line argument for server process: "{_shown(word)}"',
                sqlstate=_SYNTAX_ERROR,
                hint="Of the server's switches, options take -c name=value and --name=value.",
            )
        name, equals, value = assignment.partition("=")
        if not equals:
            raise InvalidParameter(f'"{_shown(word)}" in options requires a value', sqlstate=_SYNTAX_ERROR)
        _collect(collected, name.replace("-", "_"), value)
    return collected


def _collect(collected: dict[str, str], name: str, value: str) -> None:
    """Adds one setting under its lower-case name, or raises InvalidParameter."""
    lowered = name.lower()
    if len(lowered) > SETTING_NAME_MAX_BYTES or _SETTING_NAME.fullmatch(lowered) is None:
        raise InvalidParameter(f'invalid configuration parameter name "{_shown(name)}"', sqlstate=_INVALID_NAME)
    is_own = lowered.startswith(_OWN_PREFIX) and lowered != TENANT_PARAMETER
    if lowered in _RESERVED or lowered.startswith(_OPTION_PREFIX.decode()) or is_own:
        raise InvalidParameter(f'unrecognized configuration parameter "{_shown(name)}"', sqlstate=_UNDEFINED_OBJECT)
    collected[lowered] = value


def _bounded(collected: dict[str, str]) -> Settings:
    size_bytes = sum(len(name) + len(value.encode()) for name, value in collected.items())
    if len(collected) > SETTINGS_MAX_COUNT or size_bytes > SETTINGS_MAX_BYTES:
        raise InvalidParameter(
            "too many or too long startup parameters",
            hint=f"At most {SETTINGS_MAX_COUNT} parameters with {SETTINGS_MAX_BYTES} bytes are taken.",
        )
    return tuple(sorted(collected.items()))


def _who(
    sent_user: str, named_tenant: str, default_tenant: str | None, is_tenant: Callable[[str], bool] | None
) -> tuple[str, str, str]:
    """Tenant, user, and the user's name for errors; the module's docstring has the rule."""
    before, dot, suffix = sent_user.rpartition(".")
    has_suffix = bool(dot and before and suffix)
    if not sent_user:
        raise InvalidParameter("no PostgreSQL user name specified in startup packet", sqlstate=_INVALID_AUTHORIZATION)
    if named_tenant:
        user = before if has_suffix and suffix == named_tenant else sent_user
        return named_tenant, user, user
    if default_tenant is None:
        if not has_suffix:
            raise _no_tenant()
        return suffix, before, before
    if is_tenant is None and has_suffix:
        return suffix, before, before
    if is_tenant is not None and has_suffix and is_tenant(suffix):
        # Shown whole: `before` here and `sent_user` below would tell whether the suffix is a tenant.
        return suffix, before, sent_user
    return default_tenant, sent_user, sent_user


def _no_tenant() -> NoTenant:
    return NoTenant(
        "the connection names no tenant",
        hint=f"Connect as user.tenant, or with options='-c {TENANT_PARAMETER}=TENANT'.",
    )


def _refuse_replication(value: str) -> None:
    """PostgreSQL's parse_bool knows prefixes too (`f`, `fal`, `n`, `of`); `o` alone is ambiguous."""
    lowered = value.lower()
    is_false = lowered == "0" or (lowered != "o" and any(word.startswith(lowered) for word in ("false", "no", "off")))
    if not is_false:
        raise NotSupported(
            "replication connections cannot be pooled",
            hint="Connect to the database directly for replication.",
        )


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidParameter("a startup parameter is not valid UTF-8") from None


def _shown(word: str) -> str:
    """What we repeat of a client's word: short, and nothing that would break a line of a log."""
    return "".join(char if char.isprintable() else "?" for char in word[:_SHOWN_MAX_CHARS])

"""Which addresses the pooler connects to for its tenants: asked at each connection, after the name was resolved.

The cluster's `upstreams` say what tenants may name. What is refused whatever they say: our own listeners, and those of
the other members, for a tenant that points to a pooler makes that wait for itself. A way back to us that begins
elsewhere (a Service, a proxy) is found during the login:

- the nonce that we give a client in SCRAM carries a mark that this process alone can make; a server whose nonce has
  it is ourselves. PostgreSQL and its clients take any nonce;
- a login without SCRAM that comes to its end brings a cancel key, which is known here if the server is ourselves.
"""

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Callable, Iterable

from pgweir_contract.models import ClusterFile, Upstreams
from pgweir_contract.upstreams import IpAddress, address_of
from pgweir_pooler.errors import UpstreamNotAllowed

_TOKEN_BYTES = 18  # as PostgreSQL's nonces
_MARK_HEX = 24  # 96 bits

Listening = tuple[IpAddress, int]


class UpstreamGuard:
    """One for the process; `learn` and `own` tell it what it guards."""

    def __init__(self) -> None:
        self.rules = Upstreams()
        self.own: list[Listening] = []  # where this process listens
        self._members: frozenset[IpAddress] = frozenset()
        self._member_ports: frozenset[int] = frozenset()
        self._key = secrets.token_bytes(32)
        # Whether a cancel key is that of a session of this process; set by the composition root.
        self.is_own_session: Callable[[int, bytes], bool] = lambda _process_id, _secret: False

    def learn(self, cluster: ClusterFile) -> None:
        """Takes over cluster.json."""
        self.rules = cluster.upstreams
        addresses = [address_of(member.address.rpartition(":")[0].strip("[]")) for member in cluster.members]
        self._members = frozenset(address for address in addresses if address is not None)
        peers = {int(member.address.rpartition(":")[2]) for member in cluster.members}
        self._member_ports = frozenset({listener.port for listener in cluster.listeners} | peers)

    def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Notes where this process listens."""
        for sock in sockets:
            host, port = sock.getsockname()[:2]
            self.own.append((ipaddress.ip_address(host), port))

    def judge(self, host: str, address: str, port: int) -> None:
        """Raises UpstreamNotAllowed if a tenant's server at this address, which its host has, is out of bounds."""
        problem = self.rules.host_problem(host)
        if problem is not None:
            what = "host" if address_of(host) is None else "address"
            raise UpstreamNotAllowed(f"the database server's {what} {problem}")
        found = ipaddress.ip_address(address)
        problem = self.rules.address_problem(found)
        if problem is not None:
            raise UpstreamNotAllowed(f"the database server's address {problem}")
        if self._is_ours(found, port):
            raise UpstreamNotAllowed("the database server's address is that of the pooler itself")

    def _is_ours(self, address: IpAddress, port: int) -> bool:
        plain = address_of(str(address)) or address
        if plain in self._members and port in self._member_ports:
            return True
        mine = [host for host, own_port in self.own if own_port == port]
        return any(host == plain or (host.is_unspecified and _is_on_this_host(plain)) for host in mine)

    # --- marks

    def new_nonce(self) -> str:
        """A SCRAM nonce for a client, with our mark in it."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        return token + self._mark(token.encode())

    def is_own_nonce(self, nonce: bytes) -> bool:
        """Whether `new_nonce` made it."""
        return hmac.compare_digest(self._mark(nonce[:-_MARK_HEX]).encode(), nonce[-_MARK_HEX:])

    def _mark(self, token: bytes) -> str:
        return hmac.digest(self._key, token, "sha256").hex()[:_MARK_HEX]


def _is_on_this_host(address: IpAddress) -> bool:
    """Nothing is sent: the kernel says from where it would be, and to itself that is from the address itself."""
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))
        except OSError:
            return False
        return ipaddress.ip_address(probe.getsockname()[0]) == address

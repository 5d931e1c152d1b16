"""Good inputs for a fuzzer to begin with: what it would need years to guess."""

import ipaddress
import ssl

from pgweir_pooler.wire import messages
from pgweir_pooler.wire.scram import BINDING_TYPE, ClientExchange

_SSL_REQUEST = (8).to_bytes(4, "big") + messages.SSL_REQUEST_CODE.to_bytes(4, "big")
_GSSENC_REQUEST = (8).to_bytes(4, "big") + messages.GSSENC_REQUEST_CODE.to_bytes(4, "big")
_CANCEL = (16).to_bytes(4, "big") + messages.CANCEL_REQUEST_CODE.to_bytes(4, "big") + bytes(range(8))
_LONG_CANCEL = (44).to_bytes(4, "big") + messages.CANCEL_REQUEST_CODE.to_bytes(4, "big") + bytes(range(36))
_V2 = b"\r\n\r\n\0\r\nQUIT\n"


def seeds() -> dict[str, list[bytes]]:
    """Inputs of each target."""
    return {"startup": _startups(), "sasl": _sasl(), "proxy": _proxies(), "hello": _hellos()}


def _startups() -> list[bytes]:
    parameters: list[dict[str, str]] = [
        {"user": "bob.acme", "database": "shop"},
        {"user": "bob", "database": "pgweir", "application_name": "psql", "client_encoding": "UTF8"},
        {"user": "bob", "options": "-c work_mem=4MB --time-zone=UTC -c pgweir.tenant=acme reference=other \\ x"},
        {"user": "bob", "replication": "database", "pgweir.tenant": "acme"},
        {"user": "bob.acme", "_pq_.new": "1", "DateStyle": "ISO"},
    ]
    packets = [messages.startup_message(x) for x in parameters]
    newer = [
        packet[:4] + (3 << 16 | minor).to_bytes(4, "big") + packet[8:] for packet in packets for minor in (2, 9999)
    ]
    plain = [_CANCEL, _LONG_CANCEL, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\0\1\1", *packets, *newer]
    asked = [_SSL_REQUEST + packets[0], _GSSENC_REQUEST + _SSL_REQUEST + packets[1], _GSSENC_REQUEST + newer[0]]
    return [bytes([how]) + stream for how in (0, 1, 0xC9) for stream in (*plain, *asked)]


def _sasl() -> list[bytes]:
    found = []
    for binding in (b"", b"\1" * 32):
        exchange = ClientExchange("wrong", "clientnonce", binding=binding)
        mechanism = "SCRAM-SHA-256-PLUS" if binding else "SCRAM-SHA-256"
        first = exchange.first()
        challenge = b"r=clientnonceservernonce,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=1"
        final = exchange.receive_first(challenge)
        stream = messages.sasl_initial_response(mechanism, first) + messages.sasl_response(final)
        found += [bytes([how]) + stream for how in (0x00, 0x10, 0xC0, 0xD0)]
        found.append(b"\0" + messages.sasl_initial_response(mechanism, b"y,,n=,r=x") + stream[-60:])
        found.append(b"\x10" + messages.sasl_initial_response(mechanism, b"p=" + BINDING_TYPE + b",,n=,r=x"))
    found += [bytes([how]) + messages.password_message(b"md5" + b"0" * 32) for how in (0x20, 0xE0)]
    found += [bytes([how]) + messages.password_message(b"secret") for how in (0x30, 0xF0)]
    return found


def _proxies() -> list[bytes]:
    four = ipaddress.IPv4Address("192.0.2.1").packed * 2 + b"\x04\xd2\x15\x38"
    six = ipaddress.IPv6Address("::ffff:192.0.2.1").packed * 2 + b"\x04\xd2\x15\x38"
    version_2 = [
        _V2 + bytes([0x21, kind]) + len(body).to_bytes(2, "big") + body + b"rest"
        for kind, body in ((0x11, four), (0x11, four + b"\4\0\2ab"), (0x21, six), (0x31, bytes(216)), (0, b""))
    ]
    lines = [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 5432\r\nrest",
        b"PROXY TCP6 2001:db8::1 ::1 1234 5432\r\n",
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN anything at all\r\nrest",
    ]
    return [b"\0" + header for header in (*version_2, _V2 + b"\x20\0\0\0rest", *lines)]


def _hellos() -> list[bytes]:
    found = []
    for name, alpn in ((None, []), ("acme.pooler.test", ["postgresql"]), ("a" * 60 + ".test", ["h2", "postgresql"])):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.maximum_version = version
            if alpn:
                context.set_alpn_protocols(alpn)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
            try:
                connection.do_handshake()
            except ssl.SSLWantReadError:
                hello = outgoing.read()
                cut = hello[:5].replace(hello[3:5], b"\0\x40") + hello[5:69]
                cut += hello[:3] + (len(hello) - 69).to_bytes(2, "big") + hello[69:]
                found += [hello, cut]  # in one record, and in two
    return found

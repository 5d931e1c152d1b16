"""Between the end of a client's transaction and the return of its server: what has become of the session.

Something that the client ran may have left settings, prepared statements, channels, temporary tables, cursors or locks
behind. PostgreSQL is asked, on the same server and before the client reads that it is ready. Settings and statements
become the client's and are brought to whatever server it gets next; its channels become those of the listening server;
what cannot move pins the client to this server until it is gone.
"""

from typing import TYPE_CHECKING

from pgweir_pooler.errors import PoolerError, ServerLost
from pgweir_pooler.net.server_connection import ServerConnection, error_of
from pgweir_pooler.session.session_state import Answer, is_single, question, quoted
from pgweir_pooler.session.settings import changed_parameters, literal, reading_settings
from pgweir_pooler.session.statements import SERVER_NAME_PREFIX, name_in_sql
from pgweir_pooler.session.suspicion import (
    CHANNELS,
    DISCARDED,
    HIDDEN,
    HOLDABLE,
    LOADED,
    LOCKS,
    PREPARED,
    QUESTIONS,
    RESET,
    SETTINGS,
    TEMPORARY,
)
from pgweir_pooler.wire.cursor import ServerProtocolError
from pgweir_pooler.wire.framing import PARSE, QUERY, SYNC
from pgweir_pooler.wire.messages import error_response_for, message, query, ready_for_query

if TYPE_CHECKING:
    from pgweir_pooler.net.client_session import ClientSession

_PINNING = TEMPORARY | HOLDABLE | LOCKS
_UTF8 = b"UTF8"
_OWN_PREFIX = SERVER_NAME_PREFIX.decode()
_CANCELED = "57014"
_MAX_CANCELS = 10  # a statement_timeout of 1 ms is felt by one question in a few, on a busy machine


class Boundary:
    """One such moment of one client."""

    __slots__ = ("_asks", "_cancels", "_channels", "_parameters", "_server", "_session")

    def __init__(self, session: "ClientSession", server: ServerConnection, asks: int) -> None:
        self._session = session
        self._server = server
        self._asks = asks
        self._cancels = 0  # how often the question was cancelled
        self._channels: frozenset[bytes] = frozenset()  # what the client listens to from now on
        self._parameters = dict(server.stream.parameters)  # as the client knows them

    def begin(self) -> None:
        """Takes the server from the client and asks."""
        session, server, asks = self._session, self._server, self._asks
        session.lend_for_errand(server)
        if server.is_lost:
            session.errand_failed(ServerLost("the connection to the database was lost"))
            return
        server.stream.asks = 0
        if asks & HIDDEN:
            server.has_hidden_settings = True
        if asks & DISCARDED:
            session.pins = 0
        session.pins |= asks & LOADED
        if asks & QUESTIONS:
            self._ask()
        else:
            self._end()

    def _ask(self, *, is_unhurried: bool = False) -> None:
        text = question(self._asks, self._session.custom_names, is_unhurried=is_unhurried)
        self._server.ask(text, self._answered)

    def _answered(self, data: bytes, error: dict[str, str]) -> None:
        server = self._server
        if error.get("C") == _CANCELED and self._cancels < _MAX_CANCELS and not server.is_lost:
            # By the client's own statement_timeout, or by a cancel that came too late for its query.
            self._cancels += 1
            self._ask(is_unhurried=True)
            return
        answer = None
        if not error and not server.is_lost:
            try:
                answer = Answer.of(data)
            except (ServerProtocolError, ValueError) as fault:
                error = {"M": str(fault)}
        if answer is None or self._session.is_closing:
            self._fail(error)
            return
        server.stream.asks = 0
        self._learn(answer)
        if self._asks & SETTINGS and self._session.settings != server.settings:
            # RESET went back to the server's own values, where the client's startup message has others.
            server.apply(self._session.settings, self._applied)
        else:
            self._end()

    def _learn(self, answer: Answer) -> None:
        session, server, asks = self._session, self._server, self._asks
        if asks & SETTINGS:
            settings = answer.settings
            # A column is written as such a setting is: what PostgreSQL does not know need not be asked for again.
            session.custom_names = session.custom_names.intersection(settings)
            text = session.stream.statement_texts().lower()
            was_reset = asks & RESET or any(word in text for word in (b"reset", b"discard", b"default"))
            # SET ROLE NONE is not RESET ROLE, which goes back to the role of the startup message.
            if answer.role != "none" or (not was_reset and any(name == "role" for name, _ in session.startup_settings)):
                settings["role"] = answer.role
            if answer.session_user != session.held.endpoint.user:
                settings["session_authorization"] = answer.session_user
            server.settings = session.clients.interned(tuple(sorted(settings.items())))
            for name, value in session.startup_settings:
                # A custom setting that was reset is there, and empty, as one that was set to nothing.
                if name not in settings or (was_reset and "." in name and not settings[name]):
                    settings[name] = value
            session.settings = session.clients.interned(tuple(sorted(settings.items())))
            session.stream.reads_by(reading_settings(session.settings))
        if asks & PREPARED:
            self._learn_statements(answer)
        if asks & CHANNELS:
            self._channels = frozenset(name.encode() for name in answer.channels)
            if not (server.has_channels or asks & DISCARDED):
                self._channels |= session.channels  # LISTEN adds to them; it was told of none that there were before
            server.has_channels = bool(answer.channels)
        session.pins = session.pins & ~(asks & _PINNING) | answer.found
        statements = server.stream.pipeline.statements
        if session.pins & TEMPORARY:
            statements.is_reading_changed = True  # its tables hide others
        else:
            statements.reading_restored()

    def _learn_statements(self, answer: Answer) -> None:
        session, server = self._session, self._server
        by_sql = answer.sql_statements
        own = {name for name in answer.statements if not name.startswith(_OWN_PREFIX)}
        # Names of the client's that were put there for SQL's use and are gone: SQL has deallocated them.
        on_server = server.stream.pipeline.statements
        gone = on_server.sql_names - own - by_sql.keys()
        for name in gone:
            session.statement_names().pop(name.encode(), None)
        on_server.sql_names = own | by_sql.keys()
        # What was not brought to this server is still the client's.
        kept = {name: text for name, text in session.sql_statements.items() if name not in gone}
        session.sql_statements = known = {**kept, **by_sql}
        if all(is_single(text) for text in known.values()):
            session.pins &= ~PREPARED
        else:
            session.pins |= PREPARED  # its text is part of a longer one, which must not run again

    def _applied(self, server: ServerConnection, error: dict[str, str]) -> None:
        if server.is_lost or error or self._session.is_closing:
            self._fail(error)
            return
        changed = changed_parameters(self._parameters, server.stream.parameters)
        if changed:
            self._session.transport.write(changed)
        self._end()

    def _fail(self, error: dict[str, str]) -> None:
        if not self._server.is_lost:
            self._server.stream.is_tainted = True
            self._server.release()
        self._session.errand_failed(error_of(error))

    def _end(self) -> None:
        if not self._asks & CHANNELS:
            self._session.return_server(self._server)
            self._tell()
        elif self._server.has_channels:
            self._server.run_errand(query(b"UNLISTEN *"), (QUERY,), self._unlistened)
        else:
            self._unlistened(self._server, {})

    def _unlistened(self, server: ServerConnection, error: dict[str, str]) -> None:
        """The listening server listens for the client, not this one."""
        session = self._session
        if server.is_lost or error or session.is_closing:
            self._fail(error)
            return
        server.has_channels = False
        server.stream.asks = 0
        # Before the hub confirms: if all servers of a pool waited for a listening server, there would never be one.
        session.return_server(server)
        if self._channels == session.channels:
            self._tell()
        else:
            session.listen(self._channels, self._tell)

    def _tell(self, error: PoolerError | None = None) -> None:
        transport = self._session.transport
        if error is not None:
            transport.write(error_response_for(error))
        transport.write(ready_for_query())
        self._session.errand_ended()


def replay(session: "ClientSession", server: ServerConnection) -> None:
    """Brings to the server what the text in front of which the client was stopped may name, then lets it go on."""
    text = session.stream.text_to_replay_for()
    messages: list[bytes] = []
    tags: list[int] = []
    on_server = server.stream.pipeline.statements
    before = set(on_server.sql_names)
    for raw, known in session.statement_names().items():
        name = name_in_sql(raw)
        if raw in text and name not in on_server.sql_names and known.body is not None:
            messages.append(message(b"P", raw + b"\0" + known.body) + message(b"S"))
            tags += (PARSE, SYNC)
            on_server.sql_names.add(name)
    for sql in _texts_to_replay(session, server):
        messages.append(query(sql.encode()))
        tags.append(QUERY)
    session.stream.replayed()
    if not messages:
        session.resume()
        return

    is_reading_changed = on_server.is_reading_changed
    asks = server.stream.asks  # of what the client ran before, in this loan

    def replayed(server: ServerConnection, error: dict[str, str]) -> None:
        if server.is_lost:
            session.errand_failed(error_of(error))
        elif session.is_closing:
            server.stream.is_tainted = True
            server.release()
        else:
            server.stream.asks = asks | CHANNELS if server.has_channels else asks
            if error:
                # What failed is not there, and the client's statement will say so; but nobody has deallocated it. Which
                # one it was is not known: what is there now, PostgreSQL will say.
                on_server.sql_names = before
                server.stream.asks |= PREPARED
            on_server.is_reading_changed = is_reading_changed
            session.keep(server)
            session.resume()

    session.lend_for_errand(server)
    server.run_errand(b"".join(messages), tags, replayed)


def _texts_to_replay(session: "ClientSession", server: ServerConnection) -> list[str]:
    """Statements that prepare what the client has prepared by SQL, and listen to its channels."""
    texts = []
    sql_names = server.stream.pipeline.statements.sql_names
    for name, statement in session.sql_statements.items():
        if name not in sql_names:
            texts.append(statement)
            sql_names.add(name)
    if session.channels and not server.has_channels:
        names = [quoted(name.decode()) for name in sorted(session.channels)]
        texts.append("; ".join(f"LISTEN {name}" for name in names))
        server.has_channels = True
    encoding = server.stream.parameters.get(b"client_encoding", _UTF8)
    if texts and encoding != _UTF8:  # they are kept in UTF-8, as `session_state` reads them
        texts = ["SET client_encoding TO 'UTF8'", *texts, f"SET client_encoding TO {literal(encoding.decode())}"]
    return texts

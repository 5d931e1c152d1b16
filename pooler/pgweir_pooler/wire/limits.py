"""Upper bounds on everything a peer may make us buffer, each with its precedent.

Lengths are the value of the message's own length field unless said otherwise, so they include its four bytes.
"""

# MAX_STARTUP_PACKET_LENGTH in PostgreSQL's libpq/pqcomm.h: StartupMessage, SSLRequest, GSSENCRequest,
# CancelRequest.
STARTUP_PACKET_MAX_BYTES = 10_000

# PG_MAX_SASL_MESSAGE_LENGTH in PostgreSQL's libpq/sasl.h: what it reads of one SASL message (body without the
# length).
SASL_MESSAGE_MAX_BYTES = 1_024

# PG_MAX_AUTH_TOKEN_LENGTH in PostgreSQL's libpq/auth.h: what it reads of one password message (same).
PASSWORD_MESSAGE_MAX_BYTES = 65_535

# Protocol 3.2 (PostgreSQL 18): a cancel key has at least 4 and at most 256 bytes.
CANCEL_KEY_MIN_BYTES = 4
CANCEL_KEY_MAX_BYTES = 256

# What a client may send ahead while its secret is looked up. A client that waits for its turn sends nothing.
EARLY_BYTES_MAX = 16_384

# All that a server may send from the startup message to its first ReadyForQuery. PostgreSQL sends under 2
# KiB; notices of login event triggers may add to it.
SERVER_LOGIN_MAX_BYTES = 1_048_576

# scram_iterations of PostgreSQL goes to 2**31-1, which would hold us for a quarter of an hour: 10 million
# take seconds.
SCRAM_ITERATIONS_MAX = 10_000_000
# What is worked out at once, in some milliseconds; more takes a thread.
SCRAM_ITERATIONS_AT_ONCE = 20_480

# The settings of a client are replayed to a server in one startup message, so they must leave room there.
SETTINGS_MAX_COUNT = 128
SETTINGS_MAX_BYTES = 8_192
SETTING_NAME_MAX_BYTES = 127

"""uvloop protocols: the only place where bytes meet sockets. They feed `session` and obey `pool`."""

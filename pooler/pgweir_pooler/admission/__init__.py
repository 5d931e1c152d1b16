"""Who may come in: addresses, networks, failed logins, and when a failure is told. Pure: `now` is an argument."""

"""Who has which server. The ledger decides, the pool carries it out; neither knows the protocol or a socket."""

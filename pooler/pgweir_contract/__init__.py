"""What the operator writes and the pooler reads: models of the mounted files, and shared names."""

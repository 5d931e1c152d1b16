"""The console script `pgweir`. It starts each side with `python -m` and imports neither."""

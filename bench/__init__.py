"""pgbench through pgweir and through PgBouncer, in turns, against one PostgreSQL: `python -m bench` at the root."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The bench measures the source tree that it is in, whatever is installed, and stands on the tests' harness.
for _folder in ("operator", "pooler", "tests"):
    if str(ROOT / _folder) not in sys.path:
        sys.path.insert(0, str(ROOT / _folder))

"""pgbench through pgweir and through PgBouncer, in turns, against one PostgreSQL: `python -m bench` at the root."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The bench runs from the source tree, installed or not, and stands on the tests' harness.
for _folder in ("operator", "pooler", "tests"):
    if str(ROOT / _folder) not in sys.path:
        sys.path.append(str(ROOT / _folder))

"""`operator/` is a folder, never a package: as a package it would shadow the standard library's `operator` module.

Every plain install would then break, while an editable one may look fine.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_standard_librarys_operator_is_found_from_the_root() -> None:
    code = "import operator; assert operator.itemgetter(0)('ab') == 'a'; print(operator.__file__)"
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, env={}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert not Path(run.stdout.strip()).is_relative_to(ROOT)


def test_no_folder_is_a_package_named_operator() -> None:
    assert (ROOT / "operator").is_dir()
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not (ROOT / "pooler" / "__init__.py").exists()
    assert not (ROOT / "tests" / "operator").exists()

"""Whether files with secrets can be read by others on the same machine.

Only files that belong to us are of interest: we, or who started us, could close them. kubelet's Secret volumes belong
to root, are mounted for one pod alone, and have 0644 or 0640 by default; so a mounted directory is passed over, too. A
directory on the way that others may not enter protects what is in it.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

GROUP: Final = 0o070
OTHERS: Final = 0o007


def exposed(file_mode: int, folder_modes: Iterable[int]) -> int:
    """The bits of the mode that give group or others something, through the folders on the way to the file."""
    bits = file_mode & (GROUP | OTHERS)
    for mode in folder_modes:
        if not mode & 0o001:
            bits &= ~OTHERS
            if not mode & 0o010:
                bits &= ~GROUP
    return bits


def wide_files(folder: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    """(file, what is wrong with its mode) for the files of a configuration that are there."""
    if os.path.ismount(folder):
        return []
    found = []
    for name in names:
        try:
            path = (folder / name).resolve(strict=True)
            file = path.stat()
            folders = [parent.stat().st_mode for parent in path.parents]
        except OSError:
            continue  # it is gone, or never was
        if file.st_uid == os.geteuid() and exposed(file.st_mode, folders):
            mode = stat.S_IMODE(file.st_mode)
            found.append((name, f"has secrets and is open to other users of this machine (mode {mode:04o}): use 0600"))
    return found

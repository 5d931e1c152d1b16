"""A directory that changes in one step, the way kubelet changes a mounted Secret.

The files are in a folder named after the time, the link `..data` points at it, and each file is a link to
`..data/FILE`. A change makes a new folder and renames a new link over `..data`: readers see all old files or all
new ones. Folders are 0700 and files 0600, for there are passwords in them.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path


class ConfigDirectory:
    """The directory at `path`, which is made; only one process may write to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700)

    def write(self, files: Mapping[str, bytes]) -> None:
        """Replaces all files in one step; files that are not named disappear. OSError: nothing has changed."""
        folder = Path(tempfile.mkdtemp(prefix=time.strftime("..%Y_%m_%d_%H_%M_%S.", time.gmtime()), dir=self.path))
        try:
            for name, data in files.items():
                _write_private(folder / name, data)
            data_link = self.path / "..data"
            old = data_link.readlink() if data_link.is_symlink() else None
            new_link = self.path / "..data_tmp"
            new_link.unlink(missing_ok=True)
            new_link.symlink_to(folder.name)
            new_link.replace(data_link)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._link(files)
        if old is not None:
            shutil.rmtree(self.path / old)

    def _link(self, files: Mapping[str, bytes]) -> None:
        for name in files:
            link = self.path / name
            if not link.is_symlink():
                link.symlink_to(Path("..data") / name)
        for link in self.path.iterdir():
            if not link.name.startswith("..") and link.name not in files:
                link.unlink()


def _write_private(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)

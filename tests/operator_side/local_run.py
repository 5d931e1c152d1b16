"""`python -m pgweir_operator.local` as a process under test."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

END_TIMEOUT_S = 30.0


class LocalRun:
    """A running one; its output is read from files, so that it never blocks."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pgweir_operator.local", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """All of standard output so far."""
        return self._out.read_text()

    @property
    def errors(self) -> str:
        """All of standard error so far."""
        return self._err.read_text()

    def wait_for(self, pattern: str, timeout_s: float = 20.0) -> re.Match[str]:
        """Waits until the pattern is in the output."""
        deadline = time.monotonic() + timeout_s
        while (match := re.search(pattern, self.output)) is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no {pattern!r} in:\n{self.output}\n{self.errors}")
            time.sleep(0.02)
        return match

    def found(self, pattern: str) -> re.Match[str]:
        """The pattern's first match in the output, which must be there."""
        match = re.search(pattern, self.output)
        assert match is not None, f"no {pattern!r} in:\n{self.output}\n{self.errors}"
        return match

    def wait_end(self) -> int:
        """The exit code, once it has one."""
        return self._process.wait(END_TIMEOUT_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends the signal; the exit code."""
        self._process.send_signal(number)
        return self.wait_end()

    def kill(self) -> None:
        """Ends it the hard way, when it still runs; the kernel then ends its children."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(END_TIMEOUT_S)

    def child_pid(self, module: str) -> int:
        """The process that it has started as `python -m module`."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return next(int(pid) for pid in children if module in command_line(int(pid)))


def command_line(pid: int) -> list[str]:
    """What everybody on the machine can see of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]

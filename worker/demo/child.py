"""A program that runs beside this one and never outlives it, however this one ends."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_OUTPUT_SHOWN_BYTES = 4000

# Asks the kernel to kill it with its parent, then becomes the program. A process of its own does this, because code
# between fork and exec must not run in a parent that has threads. If the parent has died already, so does it.
_TIE_TO_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class ChildProcess:
    """A started program; it is killed when this process ends, by whatever means (on Linux: prctl(2), PDEATHSIG).

    It has a process group of its own, so that Ctrl-C on the terminal doesn't reach it. Its output goes to a nameless
    temporary file.
    """

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None) -> None:
        """Start `command`, whose first word is the path of a program. Raises `OSError` where it cannot be started."""
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
        self._started = threading.Event()
        self._failure: OSError | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # The kernel ties the child to the thread that started it: a thread that lives as long as the child does.
        self._keeper = threading.Thread(
            target=self._keep, args=(list(command), dict(env), cwd), name="child-keeper", daemon=True
        )
        self._keeper.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def _keep(self, command: list[str], env: dict[str, str], cwd: Path | None) -> None:
        tied = [sys.executable, "-I", "-S", "-c", _TIE_TO_PARENT, str(os.getpid()), *command]
        try:
            self._process = subprocess.Popen(
                tied,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            self._failure = error
            return
        finally:
            self._started.set()
        self._process.wait()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the program has not ended yet."""
        return self._keeper.is_alive()

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal; nothing happens where the program has ended."""
        assert self._process is not None
        self._process.send_signal(signal_number)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the program has ended, at most `timeout` seconds; return whether it has."""
        self._keeper.join(timeout)
        return not self.running

    def output(self) -> str:
        """Return the end of what the program has written so far."""
        end = self._output.seek(0, 2)
        self._output.seek(max(0, end - _OUTPUT_SHOWN_BYTES))
        return self._output.read().decode(errors="replace")

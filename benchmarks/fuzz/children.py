"""Work in a child process that may not hang, grow, or touch what is none of its business."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import torch

from benchmarks.fuzz.failures import failure, ours

_STACK_SECONDS = 0.3
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "http.client.connect")
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pickle.find_class")
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "shutil.rmtree")
_SYSTEM = tuple(os.path.realpath(path) for path in ("/proc", "/sys", "/dev", "/etc", "/usr"))


@dataclass
class Trespasses:
    """Collects, by audit events, what a process does that it must not.

    Attributes:
        readable: Folders whose files it may read, beside those of Python and of the system.
        seen: The classes of what it did.
    """

    readable: Sequence[str]
    seen: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Begins, for good."""
        roots = (*self.readable, sys.prefix, sys.base_prefix, *filter(None, sys.path), *_SYSTEM)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in _NETWORK:
                self.seen.append("the network was used")
            elif event in _PROGRAMS:
                self.seen.append(f"a program was run ({event})")
            elif event in _CHANGES:
                self.seen.append(f"files were changed ({event})")
            elif event == "open" and isinstance(arguments[0], (str, bytes)):
                self._opened(os.path.abspath(os.fsdecode(arguments[0])), int(arguments[2] or 0), roots)

        sys.addaudithook(hook)

    def _opened(self, path: str, flags: int, roots: Sequence[str]) -> None:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and path != os.devnull:
            self.seen.append("a file was written")
        elif path.endswith(".py") and path.startswith(tuple(self.readable)):
            self.seen.append("code of the folder was read")
        elif not path.startswith(tuple(roots)):
            self.seen.append("a file outside of the folder was read")


def run(work: Callable[[], Any], *, seconds: float, memory: int, readable: Sequence[Path]) -> Any:
    """Does some work in a fork of this process, and returns what it returns.

    Args:
        work: The work; what it returns, or raises, must pickle.
        seconds: Longest time that it may take.
        memory: Bytes of address space that it may take beyond what this process has.
        readable: Folders whose files it may read.

    Raises:
        Failure: If it hangs, dies, or does what it must not.
    """
    with tempfile.TemporaryFile("w+") as stack:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        arguments = (sender, work, memory, [str(path) for path in readable], stack)
        child = multiprocessing.get_context("fork").Process(target=_work, args=arguments, daemon=True)
        child.start()
        sender.close()
        try:
            if not receiver.poll(seconds):
                os.kill(child.pid or 0, signal.SIGUSR1)
                time.sleep(_STACK_SECONDS)
                raise failure(f"a hang in {_site(stack)}", f"over {seconds} s")
            answer, trespasses = receiver.recv()
        except EOFError:
            child.join()
            code = child.exitcode or 0
            died_of = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise failure(f"the process died of {died_of} in {_site(stack)}") from None
        finally:
            child.kill()
            child.join()
            child.close()
            receiver.close()
    if trespasses:
        raise failure(trespasses[0], trespasses)
    return answer


def limit_memory(more: int) -> int:
    """Gives this process so many bytes of address space beyond what it has; returns the limit before, or -1."""
    size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + more, most))
    return before


def _site(stack: IO[str]) -> str:
    """Finds the innermost of our functions on the main thread, in what `faulthandler` wrote."""
    stack.seek(0)
    main = stack.read().rpartition("(most recent call first):")[2]
    return ours((file, name) for file, name in reversed(re.findall(r'File "(.+)", line \d+ in (.+)', main)))


def _work(sender: Connection, work: Callable[[], Any], memory: int, readable: Sequence[str], stack: IO[str]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    torch.set_num_threads(1)  # those of this process did not come along
    faulthandler.enable(stack)
    faulthandler.register(signal.SIGUSR1, stack)
    limit_memory(memory)
    trespasses = Trespasses(readable)
    trespasses.watch()
    answer = work()
    sender.send((answer, list(dict.fromkeys(trespasses.seen))))

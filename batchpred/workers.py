"""How one listening socket is served by several processes: forked, watched, replaced, and ended together."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

# A worker that dies at once, again and again, is not replaced faster than this.
_PAUSE_SECONDS = 1.0


def run_workers(count: int, work: Callable[[], None]) -> None:
    """Do the work in this process, or in `count` children until SIGTERM or SIGINT ends them all.

    Call it before any thread or event loop exists: children are forks of this process.
    """
    if count == 1:
        work()
        return
    ending = False
    children: set[int] = set()

    def end(*_: object) -> None:
        nonlocal ending
        ending = True
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    for _ in range(count):
        children.add(_fork(work))
    while children:
        if ending:  # also one that was forked while the signal came
            end()
        ended, _ = os.wait()
        children.discard(ended)
        if not ending:
            time.sleep(_PAUSE_SECONDS)
            if not ending:
                children.add(_fork(work))


def _fork(work: Callable[[], None]) -> int:
    # A signal that comes while the child still has the parent's handlers would be lost on it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    child = os.fork()
    if not child:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent passes the end on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return child or _work(work)


def _work(work: Callable[[], None]) -> NoReturn:
    """Do the work as a child, which never returns into the parent's code."""
    code = 1
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    finally:
        sys.stderr.flush()
        os._exit(code)

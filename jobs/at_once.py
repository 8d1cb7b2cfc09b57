"""Calls of one function for several things at once, in threads of which the caller's is one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
R = TypeVar("R")


def at_once(call: Callable[[T], R], things: Sequence[T], threads: int) -> list[R]:
    """Return `call(thing)` of each, in their order, where up to `threads` calls are under way at a time.

    Raises the first error of any call, or KeyboardInterrupt; no further call begins then, and none is under way,
    unless the interrupt came while nothing but other threads' calls was left to wait for.
    """
    if threads == 1 or len(things) == 1:
        return [call(thing) for thing in things]
    waiting = iter(range(len(things)))
    results: dict[int, R] = {}
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not errors and (place := next(waiting, None)) is not None:
                results[place] = call(things[place])
        except BaseException as error:  # noqa: BLE001  # raised again below, in the caller's thread
            errors.append(error)

    others = [
        threading.Thread(target=work, name="batchpred-scoring") for _ in range(min(threads, len(things)) - 1)
    ]
    try:
        for thread in others:
            thread.start()
        work()
    finally:
        for _ in waiting:  # an interrupt may have come between two calls
            pass
        for thread in others:
            if thread.ident is not None:
                thread.join()
    if errors:
        raise errors[0]
    return [results[place] for place in range(len(things))]

"""Stages that work at the same time, each in a thread of its own, in order.

OpenCV, FFmpeg and the networks work beside the interpreter, so that threads suffice::

    frames = in_background(read_frames("a.mp4"))
    for result in overlapped(compose, overlapped(generate, frames)):
        ...                                # while the next ones are being made
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import repeat
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def overlapped(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int = 1
) -> Iterator[Result]:
    """Calls a function on each item, in a thread, ahead of whoever wants the results.

    Args:
        function: called on one item after the other, never on two at a time.
        items: they are taken in the thread of whoever wants the results.
        ahead: results made in advance, at least 1.

    Yields:
        The results, in the order of the items. An exception of the function is raised
        where its result would be. No call is under way any more once it is closed.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1) as thread:
        try:
            for item in items:
                waiting.append(thread.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def in_background(items: Iterable[Item], ahead: int = 1) -> Iterator[Item]:
    """Takes items in a thread, ahead of whoever wants them.

    Args:
        items: for example frames, which take time to decode.
        ahead: items taken in advance, at least 1.

    Yields:
        The items, in their order. Once it is closed nothing is taken any more.
    """
    iterator, end = iter(items), object()
    taken = overlapped(lambda _: next(iterator, end), repeat(None), ahead)
    with closing(taken):
        for item in taken:
            if item is end:
                return
            yield item

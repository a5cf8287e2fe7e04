"""Stages that work at the same time, each in a thread of its own, in order.

OpenCV, FFmpeg and the networks release the interpreter's lock, so threads suffice::

    frames = prefetch(read_frames("a.mp4"))
    for result in prefetch_map(compose, prefetch_map(generate, frames)):
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


def prefetch_map(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int = 1
) -> Iterator[Result]:
    """Call a function on each item in a background thread.

    Args:
        function: called on one item after the other, never on two at a time.
        items: taken in the thread of the consumer.
        ahead: results computed in advance, at least 1.

    Yields:
        The results, in the order of the items. An exception of the function is raised
        where its result would be. Once closed, no call is running any more.
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


def prefetch(items: Iterable[Item], ahead: int = 1) -> Iterator[Item]:
    """Take items from an iterable in a background thread.

    Args:
        items: for example frames, which take time to decode.
        ahead: items taken in advance, at least 1.

    Yields:
        The items, in their order. Once closed, nothing is taken any more.
    """
    # The package prefetch_generator cannot be closed: its thread would stay blocked,
    # with the video open, for as long as the program runs.
    iterator, end = iter(items), object()
    taken = prefetch_map(lambda _: next(iterator, end), repeat(None), ahead)
    with closing(taken):
        for item in taken:
            if item is end:
                return
            yield item

"""Stages that work at the same time, each in a thread of its own, in order.

OpenCV, FFmpeg and the networks release the interpreter's lock, so threads suffice.
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
        function: called on one item after the other.
        items: taken in the thread of the consumer.
        ahead: results computed in advance, at least 1.

    Yields:
        The results, in order. An exception of the function is raised where its result
        would be. Once closed, no call is running any more.
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
    """Take items, such as the frames of a video, in a background thread.

    Args:
        items: any iterable.
        ahead: items taken in advance, at least 1.

    Yields:
        The items, in order. Once closed, nothing is taken any more.
    """
    iterator, end = iter(items), object()
    with closing(
        prefetch_map(lambda _: next(iterator, end), repeat(None), ahead)
    ) as taken:
        for item in taken:
            if item is end:
                return
            yield item

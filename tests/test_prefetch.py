import threading
import time
from contextlib import closing
from functools import partial
from itertools import count

import pytest

from fsgan.media.prefetch import prefetch, prefetch_map


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("length", [0, 1, 2, 20])
def test_results_come_in_the_order_of_the_items(ahead, length):
    def slower_at_first(item):
        time.sleep(0.002 if item < 3 else 0)
        return item * item

    results = prefetch_map(slower_at_first, range(length), ahead)
    assert list(results) == [item * item for item in range(length)]


def test_background_items_come_in_their_order():
    assert list(prefetch(iter("frames"))) == list("frames")
    assert list(prefetch([])) == []
    assert list(prefetch([None, None])) == [None, None]


def test_stages_and_their_user_work_at_the_same_time():
    begun = [[threading.Event() for _ in range(4)] for _ in range(2)]

    def stage(number, item):
        begun[number][item].set()
        return item

    first = prefetch_map(partial(stage, 0), range(4))
    second = prefetch_map(partial(stage, 1), first)
    assert next(second) == 0
    # The user is still at 0.
    assert begun[1][1].wait(10)
    assert begun[0][2].wait(10)
    assert not begun[0][3].is_set()


def test_no_more_is_taken_than_was_asked_for():
    taken = []

    def items():
        for item in count():
            taken.append(item)
            yield item

    with closing(prefetch_map(str, items(), ahead=2)) as results:
        assert next(results) == "0"
        assert taken == [0, 1, 2]
        assert next(results) == "1"
        assert taken == [0, 1, 2, 3]


def test_an_error_is_raised_where_its_result_would_be():
    results = prefetch_map(lambda item: 1 / (2 - item), range(5))
    assert [next(results), next(results)] == [0.5, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_error_of_the_items_is_raised_where_the_item_would_be():
    def items():
        yield "first"
        raise OSError("disk gone")

    background = prefetch(items())
    assert next(background) == "first"
    with pytest.raises(OSError, match="disk gone"):
        next(background)


def test_closing_ends_the_threads():
    before = threading.active_count()
    background = prefetch(count())
    results = prefetch_map(str, background)
    assert next(results) == "0"
    assert threading.active_count() == before + 2
    results.close()
    background.close()
    assert threading.active_count() == before

import threading
from contextlib import closing
from functools import partial
from itertools import count

import pytest

from fsgan.media.prefetch import prefetch, prefetch_map


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("length", [0, 1, 2, 20])
def test_results_and_items_come_in_order(ahead, length):
    results = prefetch_map(lambda item: item * item, range(length), ahead)
    assert list(results) == [item * item for item in range(length)]
    assert list(prefetch([None] * length, ahead)) == [None] * length
    assert list(prefetch(range(length), ahead)) == list(range(length))


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
    items = (taken.append(item) or item for item in count())
    with closing(prefetch_map(str, items, ahead=2)) as results:
        assert next(results) == "0"
        assert taken == [0, 1, 2]
        assert next(results) == "1"
        assert taken == [0, 1, 2, 3]


def test_an_error_is_raised_where_its_result_would_be():
    results = prefetch_map(lambda item: 1 / (2 - item), range(5))
    assert [next(results), next(results)] == [0.5, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    items = prefetch(1 / (2 - item) for item in range(5))
    assert [next(items), next(items)] == [0.5, 1]
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_closing_ends_the_threads():
    before = threading.active_count()
    background = prefetch(count())
    results = prefetch_map(str, background)
    assert next(results) == "0"
    assert threading.active_count() == before + 2
    results.close()
    background.close()
    assert threading.active_count() == before

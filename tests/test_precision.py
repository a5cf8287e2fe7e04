import keras
import pytest

from fsgan.models import precision
from fsgan.models.precision import (
    computing_in,
    fastest_precision,
    renamed_out_of_memory,
)


def allocate_too_much():
    keras.ops.zeros((2**25, 2**25))  # 4 PiB, more than can be addressed


def fail(message):
    raise RuntimeError(message)


@pytest.mark.parametrize(
    ("run", "raised"),
    [
        (allocate_too_much, MemoryError),
        (lambda: fail("DefaultCPUAllocator: can't allocate memory"), MemoryError),
        (lambda: fail("RESOURCE_EXHAUSTED: allocating 42 bytes"), MemoryError),
        (lambda: fail("no room on the disk"), RuntimeError),
    ],
)
def test_only_a_lack_of_memory_is_renamed(run, raised):
    message = "smaller" if raised is MemoryError else "no room"
    with pytest.raises(raised, match=message), renamed_out_of_memory("smaller"):
        run()


@pytest.mark.parametrize(
    ("backend", "instructions", "graphics_card", "fastest"),
    [
        ("tensorflow", True, False, "bfloat16"),
        ("tensorflow", True, True, "float32"),
        ("tensorflow", False, False, "float32"),
        ("torch", True, False, "bfloat16"),
        ("jax", True, False, "float32"),
    ],
)
def test_bfloat16_is_for_processors_that_have_it(
    backend, instructions, graphics_card, fastest, monkeypatch
):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(precision, "_has_bfloat16", lambda: instructions)
    monkeypatch.setattr(precision, "has_graphics_card", lambda: graphics_card)
    assert fastest_precision() == fastest


def test_the_precision_holds_while_networks_are_built_even_if_that_fails():
    before = keras.config.dtype_policy().name
    with pytest.raises(ZeroDivisionError), computing_in("bfloat16"):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
        raise ZeroDivisionError
    assert keras.config.dtype_policy().name == before


def test_another_precision_is_refused():
    message = "precision must be 'float32' or 'bfloat16', got 'half'"
    with pytest.raises(ValueError, match=message), computing_in("half"):
        pass

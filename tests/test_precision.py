import subprocess
import sys

import keras
import pytest

from fsgan.models import precision
from fsgan.models.precision import (
    computing_in,
    fastest_precision,
    renamed_out_of_memory,
)

HUGE_TENSOR = """
import resource
import tensorflow as tf
from fsgan.models.precision import renamed_out_of_memory

tf.zeros(1)
resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
with renamed_out_of_memory("try a smaller batch"):
    tf.zeros((2**12, 2**20))  # 16 GiB
"""


def test_tensorflow_running_out_of_memory_gets_one_name():
    done = subprocess.run(
        [sys.executable, "-c", HUGE_TENSOR], capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last == "MemoryError: try a smaller batch"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (MemoryError("Unable to allocate 16 GiB, out of memory"), MemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError),
        (RuntimeError("RESOURCE_EXHAUSTED: allocating 42 bytes"), MemoryError),
        (RuntimeError("no room on the disk"), RuntimeError),
    ],
)
def test_only_a_lack_of_memory_is_renamed(error, raised):
    message = "smaller" if raised is MemoryError else "no room"
    with pytest.raises(raised, match=message), renamed_out_of_memory("smaller"):
        raise error


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
    monkeypatch.setattr(precision, "_has_graphics_card", lambda: graphics_card)
    assert fastest_precision() == fastest


def test_the_precision_holds_while_networks_are_built_even_if_that_fails():
    before = keras.config.dtype_policy().name
    with pytest.raises(ZeroDivisionError), computing_in("bfloat16"):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
        raise ZeroDivisionError
    assert keras.config.dtype_policy().name == before


def test_another_precision_is_refused():
    with (
        pytest.raises(ValueError, match="precision must be 'float32' or 'bfloat16'"),
        computing_in("half"),
    ):
        pass

import subprocess
import sys

import pytest

from fsgan.training.hardware import explained_out_of_memory, fastest_precision

HUGE_STEP = """
import resource
import tensorflow as tf
from fsgan.training.hardware import explained_out_of_memory

tf.zeros(1)
resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
with explained_out_of_memory(512, 256):
    tf.zeros((2**12, 2**20))  # 16 GiB
"""


def test_running_out_of_memory_says_what_failed_and_what_to_try():
    done = subprocess.run(
        [sys.executable, "-c", HUGE_STEP], capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("MemoryError: out of memory at batch_size=512")
    assert "resolution=256: try a smaller batch_size" in last


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 16 GiB, out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 42 bytes"),
    ],
)
def test_every_backends_way_of_saying_so_is_understood(error):
    with (
        pytest.raises(MemoryError, match="batch_size=4 and resolution=64"),
        explained_out_of_memory(4, 64),
    ):
        raise error


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="no room"), explained_out_of_memory(4, 64):
        raise RuntimeError("no room on the disk")


def test_the_precision_is_one_of_the_two():
    assert fastest_precision() in ("float32", "bfloat16")

"""What the machine at hand is good for: number formats and memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
_SIGNS_OF_NO_MEMORY = (
    "resource_exhausted",
    "out of memory",
    "oom when",
    "can't allocate",
)


def fastest_precision() -> str:
    """Tells which precision trains faster here.

    Measured on CPUs: those with bfloat16 instructions are faster with it on TensorFlow
    and PyTorch, none is on JAX. Graphics cards were not measured.

    Returns:
        "bfloat16" or "float32".
    """
    if keras.backend.backend() == "jax" or _has_graphics_card():
        return "float32"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "bfloat16" if _BFLOAT16_FLAGS.intersection(flags) else "float32"


@contextmanager
def explained_out_of_memory(batch_size: int, resolution: int) -> Iterator[None]:
    """Says what to try where the memory does not suffice.

    Args:
        batch_size: faces of each person in an update.
        resolution: side of the network's images, pixels.

    Yields:
        Nothing.

    Raises:
        MemoryError: the block ran out of the memory of the machine or graphics card.
    """
    with renamed_out_of_memory(
        f"out of memory at batch_size={batch_size} and resolution={resolution}: "
        "try a smaller batch_size, then capacity='lite', attention=False or a "
        "smaller resolution in the model; the last checkpoint is good"
    ):
        yield


@contextmanager
def renamed_out_of_memory(message: str) -> Iterator[None]:
    """Gives every backend's way of running out of memory one name.

    Args:
        message: one sentence for the user.

    Yields:
        Nothing.

    Raises:
        MemoryError: the block ran out of the memory of the machine or graphics card.
    """
    try:
        yield
    # Each backend has its own class for it, without a common ancestor but this.
    except Exception as error:
        text = f"{type(error).__name__}: {error}".lower()
        if not any(sign in text for sign in _SIGNS_OF_NO_MEMORY):
            raise
        raise MemoryError(message) from error


def _has_graphics_card() -> bool:
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))

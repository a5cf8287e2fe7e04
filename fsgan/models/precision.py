"""What the networks compute in, and what running out of memory is called."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import keras

from fsgan.validation import check

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # of Keras
_SIGNS_OF_NO_MEMORY = "resource_exhausted|out of memory|oom when|can't allocate"


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Builds networks that compute in a precision; their weights are float32.

    Args:
        precision: "float32" or "bfloat16".

    Raises:
        ValueError: The precision is neither.
    """
    check("precision", precision, Literal[*_POLICIES])
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def fastest_precision() -> str:
    """Tells which precision is faster on this machine, "bfloat16" or "float32".

    Processors with bfloat16 instructions are faster with it on TensorFlow and PyTorch;
    all others emulate it slowly.
    """
    if keras.backend.backend() == "jax" or not _has_bfloat16() or has_graphics_card():
        return "float32"
    return "bfloat16"


@contextmanager
def renamed_out_of_memory(message: str) -> Iterator[None]:
    """Gives every backend's way of running out of memory one name.

    Args:
        message: One sentence for the user.

    Raises:
        MemoryError: The block ran out of the memory of the machine or graphics card.
    """
    try:
        yield
    # Each backend has its own class for it, without a common ancestor but this.
    except Exception as error:
        text = f"{type(error).__name__}: {error}".lower()
        if not re.search(_SIGNS_OF_NO_MEMORY, text):
            raise
        raise MemoryError(message) from error


def _has_bfloat16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def has_graphics_card() -> bool:
    """Tells whether Keras' backend computes on a card: NVIDIA's, or JAX's own."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() != "cpu"
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))

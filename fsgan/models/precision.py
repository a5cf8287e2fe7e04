"""What the networks compute in and on, and what running out of memory is called."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import cv2
import keras

from fsgan.validation import check

_POLICIES = {  # of Keras
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
_SIGNS_OF_NO_MEMORY = "resource_exhausted|out of memory|oom when|can't allocate"


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Builds networks that compute in a precision; their weights are float32.

    Args:
        precision: "float32", "bfloat16" or "float16".

    Raises:
        ValueError: The precision is none of these.
    """
    check("precision", precision, Literal[*_POLICIES])
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def fastest_precision() -> str:
    """Tells which precision is fastest on this machine.

    Returns:
        On a graphics card "bfloat16" from Ampere on, "float16" on Volta and Turing (T4)
        and "float32" on older ones; "bfloat16" on other accelerators of JAX. On a
        processor "bfloat16" with TensorFlow or PyTorch where it has instructions for
        it, else, as it would emulate it slowly, "float32".
    """
    if has_graphics_card():
        generation = _compute_capability()
        return {7: "float16"}.get(
            generation, "bfloat16" if generation > 7 else "float32"
        )
    if keras.backend.backend() == "jax" or not _has_bfloat16():
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


def machine() -> dict[str, str | int]:
    """Says on what and with what is computed: device, memory, versions, date."""
    named = re.search(r"model name\s*: (.+)", _cpuinfo())
    backend = keras.backend.backend()
    facts = {"card": _card()} if has_graphics_card() else {}
    facts["processor"] = named[1] if named else platform.machine()
    facts["cores"] = cv2.getNumberOfCPUs()  # that this process may use
    if hasattr(os, "sysconf"):
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        facts["memory"] = f"{size / 2**30:.0f} GB"
    return facts | {
        "fsgan": version("fsgan"),
        "keras": keras.__version__,
        backend: sys.modules[backend].__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _cpuinfo() -> str:
    """What Linux says of the processor; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _card() -> str:
    """Name, memory and driver of the first card."""
    query = "--query-gpu=name,memory.total,driver_version"
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", query, "--format=csv,noheader"]
        return subprocess.check_output(command, text=True).splitlines()[0]
    return "unknown"


def _has_bfloat16() -> bool:
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpuinfo().split())


def _compute_capability() -> int:
    """Of the card, its whole part: 7 is Volta or Turing, 8 Ampere, 0 not known."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.get_device_capability()[0]
    if keras.backend.backend() == "jax":
        import jax

        whole = getattr(jax.devices()[0], "compute_capability", "").partition(".")[0]
        return int(whole) if whole.isdigit() else 8  # a TPU, AMD's: bfloat16, too
    import tensorflow as tf

    card = tf.config.list_physical_devices("GPU")[0]
    details = tf.config.experimental.get_device_details(card)
    return details.get("compute_capability", (0, 0))[0]


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

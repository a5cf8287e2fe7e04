import re
import sys
from types import SimpleNamespace

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
    ("backend", "instructions", "fastest"),
    [
        ("tensorflow", True, "bfloat16"),
        ("tensorflow", False, "float32"),
        ("torch", True, "bfloat16"),
        ("jax", True, "float32"),
    ],
)
def test_bfloat16_is_for_processors_that_have_it(
    backend, instructions, fastest, monkeypatch
):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(precision, "_has_bfloat16", lambda: instructions)
    monkeypatch.setattr(precision, "has_graphics_card", lambda: False)
    assert fastest_precision() == fastest


def module_of(backend, capability):
    """What a backend's package is asked for, where there is a card."""
    numbers = capability and tuple(map(int, re.findall(r"\d+", capability)))
    if backend == "torch":
        cuda = {"is_available": lambda: True, "get_device_capability": lambda: numbers}
        return SimpleNamespace(cuda=SimpleNamespace(**cuda))
    if backend == "jax":
        found = {"compute_capability": capability} if capability else {}
        devices = [SimpleNamespace(**found)]
        return SimpleNamespace(default_backend=lambda: "gpu", devices=lambda: devices)
    details = {"compute_capability": numbers} if numbers else {}
    experimental = SimpleNamespace(get_device_details=lambda card: details)
    config = {"list_physical_devices": lambda kind: ["a card"]}
    return SimpleNamespace(config=SimpleNamespace(experimental=experimental, **config))


@pytest.mark.parametrize(
    ("backend", "capability", "fastest"),
    [
        *((name, "9.0", "bfloat16") for name in ("torch", "jax", "tensorflow")),
        *((name, "7.5", "float16") for name in ("torch", "jax", "tensorflow")),
        *((name, "6.1", "float32") for name in ("torch", "jax", "tensorflow")),
        ("torch", "8.0", "bfloat16"),
        ("jax", "12.0", "bfloat16"),
        ("jax", "gfx942", "bfloat16"),
        ("jax", None, "bfloat16"),  # a TPU
        ("tensorflow", None, "float32"),
    ],
)
def test_a_card_computes_in_what_its_generation_is_fastest_in(
    backend, capability, fastest, monkeypatch
):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setitem(sys.modules, backend, module_of(backend, capability))
    assert fastest_precision() == fastest


def test_the_precision_holds_while_networks_are_built_even_if_that_fails():
    before = keras.config.dtype_policy().name
    with pytest.raises(ZeroDivisionError), computing_in("bfloat16"):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
        raise ZeroDivisionError
    assert keras.config.dtype_policy().name == before


def test_another_precision_is_refused():
    message = "precision must be 'float32', 'bfloat16' or 'float16', got 'half'"
    with pytest.raises(ValueError, match=message), computing_in("half"):
        pass

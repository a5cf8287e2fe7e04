import logging
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from fsgan.models.networks import ModelConfig
from fsgan.training import memory
from fsgan.training.gan import FaceSwapGAN
from fsgan.training.memory import explained_out_of_memory, largest_batch
from fsgan.training.recipes import recipe


class Card:
    """A graphics card on which an update takes `base` bytes, and so many a face."""

    def __init__(self, size, base, face, peak=0):
        self.size, self.base, self.face = size, base, face
        self.tried, self.peak = [], peak

    def update(self, gan, batch_size):
        self.tried.append(batch_size)
        taken = self.base + self.face * batch_size
        self.peak = max(self.peak, taken)
        if taken > self.size:
            raise MemoryError

    def memory(self):
        return self.peak, self.size


@pytest.fixture
def put_in(monkeypatch):
    def put_in_a_card(*numbers):
        card = Card(*numbers)
        monkeypatch.setattr(memory, "has_graphics_card", lambda: True)
        monkeypatch.setattr(memory, "_update", card.update)
        monkeypatch.setattr(memory, "_card_memory", card.memory)
        return card

    return put_in_a_card


@pytest.mark.parametrize(
    ("size", "face", "tried"),
    [
        (1000, 10, [8, 16, 80]),  # 100 + 80·10 are nine tenths
        (1000, 10.1, [8, 16, 72]),
        (10**6, 10, [8, 16, 512]),
        (350, 10, [8, 16, 16]),
        (200, 10, [8, 16, 8]),  # 16 do not fit
        (150, 10, [8, 8, 4]),
        (110, 10, [8, 8, 4, 2, 1]),
    ],
)
def test_the_largest_batch_leaves_a_tenth_of_the_card_free(size, face, tried, put_in):
    card = put_in(size, 100, face)
    assert largest_batch(None) == tried[-1]
    assert card.tried == tried


def test_a_batch_that_does_not_fit_after_all_is_halved(put_in):
    card = put_in(1000, 100, 10, 500)  # what was there before hides what a face takes
    assert largest_batch(None) == 64
    assert card.tried == [8, 16, 512, 256, 128, 64]


def test_not_even_one_face_fits(put_in):
    card = put_in(100, 100, 10)
    with pytest.raises(MemoryError):
        largest_batch(None)
    assert card.tried[-1] == 1


def test_the_batch_divides_among_the_devices_that_share_it(put_in, monkeypatch):
    three = SimpleNamespace(device_mesh=SimpleNamespace(devices=np.arange(3)))
    monkeypatch.setattr(keras.distribution, "distribution", lambda: three)
    put_in(10**6, 100, 10)
    assert largest_batch(None) == 504
    card = put_in(200, 100, 10)
    assert largest_batch(None) == 6
    assert card.tried == [24, 24, 12, 6]


def test_without_a_card_it_is_8_and_the_log_says_so(monkeypatch, caplog):
    monkeypatch.setattr(memory, "has_graphics_card", lambda: False)
    caplog.set_level(logging.INFO, "fsgan")
    assert largest_batch(None) == 8
    assert "batch_size is 8, as no graphics card is there" in caplog.text


@pytest.mark.slow
def test_a_model_is_left_as_it_was(monkeypatch, caplog):
    model, settings = recipe("single", capacity="lite")
    gan = FaceSwapGAN(model, settings.losses)
    before = [np.array(variable) for variable in gan.all_variables()]
    sizes, update = [], gan.train_on_batches

    def update_at_most_8(*batches):
        sizes.append(len(batches[0].sides[0].warped))
        losses = update(*batches)
        if sizes[-1] > 8:
            raise RuntimeError("RESOURCE_EXHAUSTED: allocating 42 bytes")
        return losses

    gan.train_on_batches = update_at_most_8
    monkeypatch.setattr(memory, "has_graphics_card", lambda: True)
    monkeypatch.setattr(memory, "_card_memory", lambda: (0, 0))
    monkeypatch.setattr(memory, "LOG_EVERY", 1)
    caplog.set_level(logging.INFO, "fsgan")
    tf.config.run_functions_eagerly(True)
    try:
        assert largest_batch(gan) == 8
    finally:
        tf.config.run_functions_eagerly(False)
    assert sizes == [8, 16, 8]
    assert "batch_size is 8, the largest that fits" in caplog.text
    assert gan.iteration == 0
    for variable, value in zip(gan.all_variables(), before, strict=True):
        assert np.array_equal(np.array(variable), value)


def modules_of(backend):
    """What a backend's package is asked for: at most 30 bytes were used, of our 100."""
    if backend == "torch":
        cuda = SimpleNamespace(
            max_memory_allocated=lambda: 30,
            reset_peak_memory_stats=lambda: None,
            mem_get_info=lambda: (60, 120),  # another program has 20
            memory_reserved=lambda: 40,
        )
        return {"torch": SimpleNamespace(cuda=cuda)}
    if backend == "jax":
        told = {"peak_bytes_in_use": 30, "bytes_limit": 100}
        device = SimpleNamespace(memory_stats=lambda: told)
        return {"jax": SimpleNamespace(local_devices=lambda: [device])}
    experimental = SimpleNamespace(
        get_memory_info=lambda device: {"current": 20, "peak": 30},
        reset_memory_stats=lambda device: None,
    )
    config = SimpleNamespace(experimental=experimental)
    devices = [
        SimpleNamespace(device_type="CPU", memory_limit=1),
        SimpleNamespace(device_type="GPU", memory_limit=100),
    ]
    client = SimpleNamespace(
        device_lib=SimpleNamespace(list_local_devices=lambda: devices)
    )
    return {
        "tensorflow": SimpleNamespace(config=config),
        "tensorflow.python.client": client,
    }


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_each_backend_tells_what_is_used_of_the_card(backend, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    for name, module in modules_of(backend).items():
        monkeypatch.setitem(sys.modules, name, module)
    assert memory._card_memory() == (30, 100)


QUICK = recipe("quick").model


@pytest.mark.parametrize(
    ("batch_size", "model", "remedy"),
    [
        (
            4,
            ModelConfig(128),
            "a smaller batch_size, then capacity='lite', then attention=False, then a "
            "smaller resolution",
        ),
        (1, ModelConfig(64, "lite"), "attention=False"),
        (8, QUICK, "a smaller batch_size"),
        (1, QUICK, "a machine with more"),
    ],
)
def test_running_out_of_memory_says_what_can_be_lowered_in_order(
    batch_size, model, remedy
):
    message = (
        f"out of memory at batch_size={batch_size} and resolution={model.resolution}: "
        f"try {remedy}; the last checkpoint, if any, is good"
    )
    with (
        pytest.raises(MemoryError) as caught,
        explained_out_of_memory(batch_size, model),
    ):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 42 bytes")
    assert str(caught.value) == message

"""What fits into the memory: the largest batch, and what to lower where none does."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np
from keras import ops

from fsgan.data.dataset import Batch, Samples
from fsgan.models.networks import RESOLUTIONS, ModelConfig
from fsgan.models.precision import has_graphics_card, renamed_out_of_memory
from fsgan.training.gan import FaceSwapGAN, Phase
from fsgan.training.monitor import LOG_EVERY

log = logging.getLogger(__name__)

MOST = 512  # often all that there are of a person: more would be the same again
_USED = 0.9  # share of the card's memory; previews and fragments take some of the rest


def largest_batch(gan: FaceSwapGAN) -> int:
    """Finds the largest batch that fits into a graphics card, before a training.

    What a face takes is the difference between updates on 8 and on 16. The batch that
    then leaves a tenth of the memory free is tried, and halved until it fits.

    Args:
        gan: The model; it is left as it was.

    Returns:
        Faces of each person, a multiple of the devices that share a batch: a multiple
        of 8 up to 512, or less than 8 where that does not fit. Without a card it is 8:
        a program that takes too much of the machine's memory is killed, not told.

    Raises:
        MemoryError: Not even one face fits; the message says what to lower.
    """
    devices = _devices()
    step = math.lcm(8, devices)
    if not has_graphics_card():
        log.info("batch_size is %d, as no graphics card is there to be filled", step)
        return step
    size = _estimate(gan, step)
    while True:
        try:
            _update(gan, size)
        except MemoryError:
            if size == devices:
                raise
        else:
            log.info("batch_size is %d, the largest that fits", size)
            return size
        half = size // 2
        size = half // step * step or half // devices * devices or devices


@contextmanager
def explained_out_of_memory(batch_size: int, model: ModelConfig) -> Iterator[None]:
    """Says what to try where the memory does not suffice.

    Args:
        batch_size: Faces of each person in an update.
        model: The architecture.

    Yields:
        Nothing.

    Raises:
        MemoryError: The block ran out of the memory of the machine or graphics card.
    """
    levers = {
        "a smaller batch_size": batch_size > _devices(),
        "capacity='lite'": model.capacity != "lite",
        "attention=False": model.attention,
        "a smaller resolution": model.resolution > RESOLUTIONS[model.network][0],
    }
    remedy = ", then ".join(lever for lever, helps in levers.items() if helps)
    with renamed_out_of_memory(
        f"out of memory at batch_size={batch_size} and resolution={model.resolution}: "
        f"try {remedy or 'a machine with more'}; the last checkpoint, if any, is good"
    ):
        yield


def _devices() -> int:
    """How many devices share a batch."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.device_mesh.devices.size


def _estimate(gan: FaceSwapGAN, step: int) -> int:
    """The batch that should fit, a multiple of `step`."""
    _, available = _card_memory()
    peaks = []
    try:
        for size in (step, 2 * step):
            _update(gan, size)
            peaks.append(_card_memory()[0])
    except MemoryError:
        return step
    of_step = peaks[1] - peaks[0]
    most = MOST // step
    # What took more before may hide the difference.
    fitting = 2 + (_USED * available - peaks[1]) // of_step if of_step > 0 else most
    return step * int(max(1, min(fitting, most)))


def _update(gan: FaceSwapGAN, size: int) -> None:
    """Updates on noise as often as one call of a training does, and undoes it."""
    shape = (size, gan.config.resolution, gan.config.resolution, 3)
    noise = np.random.default_rng(0).random(shape, np.float32)
    sides = (Samples(noise, noise, noise),) * gan.config.people
    batch = Batch(sides, np.float32(0.5), np.float32(0.5))
    variables, iteration = gan.all_variables(), gan.iteration
    before = [ops.convert_to_numpy(variable).copy() for variable in variables]
    gan.enter_phase(Phase(perceptual=True))  # takes most
    try:
        with explained_out_of_memory(size, gan.config):
            batches = [batch] * LOG_EVERY * gan.batches_per_step
            for losses in gan.train_on_batches(*batches).values():
                ops.convert_to_numpy(losses)  # waits for the card
    finally:
        gan.iteration = iteration
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def _card_memory() -> tuple[int, int]:
    """Most bytes in use since the last call, and those of the card; 0 if not told.

    JAX tells the most since the program began.
    """
    if keras.backend.backend() == "torch":
        from torch import cuda

        peak, free = cuda.max_memory_allocated(), cuda.mem_get_info()[0]
        cuda.reset_peak_memory_stats()
        return peak, free + cuda.memory_reserved()
    if keras.backend.backend() == "jax":
        import jax

        told = jax.local_devices()[0].memory_stats() or {}
        return told.get("peak_bytes_in_use", 0), told.get("bytes_limit", 0)
    import tensorflow as tf
    from tensorflow.python.client import device_lib  # what else tells the limit?

    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    tf.config.experimental.reset_memory_stats("GPU:0")
    devices = device_lib.list_local_devices()
    return peak, next(it.memory_limit for it in devices if it.device_type == "GPU")

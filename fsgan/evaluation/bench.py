"""How fast this machine trains and converts, as a table to compare and to post."""

import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import keras
from keras import ops
from pydantic import Field
from tqdm.auto import tqdm

from fsgan.data.dataset import Batch, batches, load_faces, make_batch
from fsgan.data.extract import extract_faces
from fsgan.data.sample import make_sample_clips
from fsgan.media.files import write_beside
from fsgan.models.checkpoint import save_checkpoint
from fsgan.models.layers import SelfAttention
from fsgan.models.networks import DIVISORS, RESOLUTIONS, build_networks
from fsgan.models.precision import (
    fastest_precision,
    has_graphics_card,
    machine,
    renamed_out_of_memory,
)
from fsgan.swap.convert import convert_video
from fsgan.swap.swapper import FaceSwapper
from fsgan.training.gan import FaceSwapGAN, Phase
from fsgan.training.memory import MOST
from fsgan.training.monitor import LOG_EVERY
from fsgan.training.recipes import Recipe
from fsgan.training.recipes import recipe as find_recipe
from fsgan.validation import checked

# Forward passes that the passes of an update take as long as: backward to weights and
# input counts two. A discriminator sees two pictures of each face twice, the second
# time without a gradient of its weights.
_PASSES = {"encoder": 3, "decoder_a": 3, "expression": 3, "discriminator_a": 10}
_FIRST_BATCH = 8


@dataclass(frozen=True)
class TrainingSpeed:
    """How fast a model is trained.

    Attributes:
        recipe: "quick" or "v2.2".
        capacity: "standard" or "lite".
        resolution: of the networks' images, pixels.
        batch_size: faces of each person in an update.
        faces_per_second: 2 x batch size x updates a second, which others call EG/s;
            None: out of memory.
        matrix_share: of the rate of a large matrix product, likewise.
    """

    recipe: str
    capacity: str
    resolution: int
    batch_size: int
    faces_per_second: float | None = None
    matrix_share: float | None = None

    def __str__(self) -> str:
        """A row of the table."""
        cells = [f"{self.recipe} {self.capacity}", self.resolution, self.batch_size]
        if self.faces_per_second is None:
            return _row(*cells, "out of memory", "", "")
        milliseconds = 2000 * self.batch_size / self.faces_per_second
        speed = f"{self.faces_per_second:.1f}", f"{milliseconds:.1f}"
        return _row(*cells, *speed, f"{self.matrix_share:.1%}")


@dataclass(frozen=True)
class Benchmark:
    """What `benchmark` measured; printed or shown, it is a table in Markdown.

    Attributes:
        machine: device and versions, by name.
        precision: what the networks computed in.
        matrix_tflops: rate of a large matrix product in that precision, 10^12
            operations a second, a multiply-add counting two.
        training: each model and batch size, in the order measured.
        augmentation: samples a second, by recipe and resolution ("quick 64").
        conversion: frames a second of the sample, 640x360, from film to film.
    """

    machine: dict[str, str | int]
    precision: str
    matrix_tflops: float
    training: list[TrainingSpeed]
    augmentation: dict[str, float]
    conversion: float

    def __str__(self) -> str:
        """The table."""
        heads = "recipe", "pixels", "batch", "EG/s", "ms an update", "of matrix rate"
        product = f"{self.matrix_tflops:.3g} TFLOP/s"
        facts = self.machine | {f"matrix product, {self.precision}": product}
        for name, speed in self.augmentation.items():
            facts[f"augmentation, {name}"] = f"{speed:.0f} samples/s"
        facts["conversion, 640x360, quick 64"] = f"{self.conversion:.1f} frames/s"
        lines = [_row(*heads), _row(*["---"] * len(heads)), *map(str, self.training)]
        lines += ["", _row("device", ""), _row("---", "---")]
        return "\n".join(lines + [_row(*fact) for fact in facts.items()])

    _repr_markdown_ = __str__  # notebooks show it


@checked
def benchmark(
    out: str | Path | None = None,
    *,
    recipe: Literal["quick", "v2.2"] | None = None,
    resolution: Literal[64, 96, 128, 256] | None = None,
    capacity: Literal[*DIVISORS] | None = None,
    largest_batch: Annotated[int, Field(ge=1, le=4096)] | None = None,
    seconds: Annotated[float, Field(gt=0, le=60)] = 5.0,
) -> Benchmark:
    """Measures training, augmentation and conversion on this machine.

    Updates are those of the recipe without the perceptual loss, in the precision that
    training chooses, on one batch again and again: so the device is measured, with the
    copy of a batch to it, and not what makes batches. The share of the matrix rate
    counts the operations of convolutions, dense layers and attention's two products:
    forward once, backward twice, nothing that is computed again (model FLOPs).

    Args:
        out: JSON file for the figures, which replaces an older one; None: none.
        recipe: "quick" or "v2.2"; None takes both.
        resolution: pixels; None takes 64, 128 and 256, on a processor 64 and 128, as
            far as the recipe has them.
        capacity: "standard" or "lite"; None takes the recipe's, on a processor "lite".
        largest_batch: where doubling the batch from 8 on ends, if the memory does not
            end it; None takes 512, on a processor 8.
        seconds: how long each figure is measured at least, up to 60; conversion that
            of so much footage, at most 8.

    Returns:
        The figures.

    Raises:
        ValueError: an argument is wrong, or the recipe has no such resolution.
        OSError: `out` cannot be written.
    """
    card = has_graphics_card()
    capacity = capacity or (None if card else "lite")
    usual = (64, 128, 256) if card else (64, 128)
    cases = [
        (name, find_recipe(name, pixels, capacity))
        for name in ([recipe] if recipe else ["quick", "v2.2"])
        for pixels in ([resolution] if resolution else usual)
        if (recipe and resolution) or pixels in RESOLUTIONS[name]
    ]
    largest = largest_batch or (MOST if card else _FIRST_BATCH)
    with (
        nullcontext() if out is None else write_beside(out) as file,
        tempfile.TemporaryDirectory() as folder,
    ):
        done = _measure(cases, largest, seconds, Path(folder))
        if file:
            file.write_text(json.dumps(asdict(done), indent=1), encoding="utf-8")
    return done


def flops_of_a_face(networks: Mapping[str, keras.Model]) -> int:
    """Counts the floating-point operations that a fused update makes of each face.

    Args:
        networks: as of `build_networks`, for two persons or one.

    Returns:
        Twice the multiply-adds of convolutions, dense layers and attention's products,
        times the passes; what is small or computed again is not counted.
    """
    return sum(
        2 * passes * _multiply_adds(networks[name])
        for name, passes in _PASSES.items()
        if name in networks
    )


def _multiply_adds(network: keras.Model) -> int:
    """Of one face forward: each kernel at each place of its layer's output."""
    total = 0
    for layer in network.layers:
        shapes = [weight.shape for weight in getattr(layer, "trainable_weights", [])]
        if kernels := [prod(shape) for shape in shapes if len(shape) > 1]:
            *places, channels = layer.output.shape[1:]
            total += prod(places) * sum(kernels)
            if isinstance(layer, SelfAttention):  # queries by keys, and by values
                total += prod(places) ** 2 * (channels // 8 + channels)
    return total


def _measure(
    cases: Sequence[tuple[str, Recipe]], largest: int, seconds: float, folder: Path
) -> Benchmark:
    """Measures the recipes, given with their names, on the sample."""
    precision = fastest_precision()
    rate = _matrix_rate(precision, seconds)
    clips = make_sample_clips(folder, seconds=min(seconds, 8.0))
    for clip in clips:
        extract_faces(clip, clip.with_suffix(""))
    training, augmentation = [], {}
    for name, (model, settings) in tqdm(cases, desc="bench", unit="model"):
        seen = {"resolution": model.resolution, "coverage": model.coverage}
        faces = [
            load_faces(it.with_suffix(""), None, **seen, draw_missing=True)
            for it in clips
        ]
        how = seen | {"settings": settings.augmentation, "seed": 0}
        with batches(faces, _FIRST_BATCH, **how) as stream:
            each = _seconds_each(partial(next, stream), seconds)
        augmentation[f"{name} {model.resolution}"] = 2 * _FIRST_BATCH / each
        gan = FaceSwapGAN(model, settings.losses, precision=precision)
        flops = flops_of_a_face(gan.networks)
        draw = partial(make_batch, faces, 0, **how)
        for batch_size, speed in _training_speeds(gan, draw, largest, seconds):
            share = speed and speed * flops / rate
            row = name, model.capacity, model.resolution, batch_size
            training.append(TrainingSpeed(*row, speed, share))
        del gan
        gc.collect()  # the next model needs its memory
    frames = _conversion_speed(folder, clips[0])
    return Benchmark(machine(), precision, rate / 1e12, training, augmentation, frames)


def _training_speeds(
    gan: FaceSwapGAN, draw: Callable[..., Batch], largest: int, seconds: float
) -> Iterator[tuple[int, float | None]]:
    """Batch sizes and faces a second, up to the first that does not fit: None."""
    gan.enter_phase(Phase(hinge_margin=0.4))
    at_once = LOG_EVERY if has_graphics_card() else 1  # as training does
    size, speed = min(_FIRST_BATCH, largest), 0.0
    while size <= largest and speed is not None:
        try:
            with renamed_out_of_memory("too large"):
                update = partial(
                    gan.train_on_batches, *[draw(batch_size=size)] * at_once
                )
                speed = 2 * size * at_once / _seconds_each(update, seconds)
        except MemoryError:
            speed = None
        yield size, speed
        size *= 2


def _conversion_speed(folder: Path, clip: Path) -> float:
    """Frames a second of a clip, by an untrained model; its first second warms up."""
    model = find_recipe("quick").model
    settings = {"model": model, "iteration": 0}
    save_checkpoint(folder / "model", build_networks(model), {}, settings)
    swapper = FaceSwapper(folder / "model")
    convert_video(clip, folder / "first.mp4", swapper, end=1.0)
    return convert_video(clip, folder / "swap.mp4", swapper).frames_per_second


def _matrix_rate(precision: str, seconds: float) -> float:
    """Operations a second of a product of two large matrices."""
    side = 8192 if has_graphics_card() else 2048
    matrix = keras.random.normal((side, side), dtype=precision)
    product = lambda: ops.matmul(matrix, matrix)[0, 0]  # noqa: E731
    return 2 * side**3 / _seconds_each(product, seconds)


def _seconds_each(begin: Callable[[], Any], seconds: float) -> float:
    """Seconds of a call, of as many in a row as take so long; the last is awaited."""

    def run(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            result = begin()
        keras.tree.map_structure(ops.convert_to_numpy, result)
        return time.perf_counter() - began

    run(1)  # it is compiled
    calls = 1
    while (took := run(calls)) < seconds:
        calls *= 2
    return took / calls


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"

"""Measures the stages on this machine and prints one table of times and ratios.

Times of one run may be compared with each other; of different machines or days, only
the ratios. Run by `make bench`.
"""

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import keras
import numpy as np
from keras import KerasTensor as Tensor
from keras import ops
from mtcnn import MTCNN
from skimage.data import astronaut

import fsgan.layers
from fsgan import AugmentationSettings, LossWeights, ModelConfig, convert_video
from fsgan.augmentation import sample
from fsgan.checkpoint import load_generator, save_checkpoint
from fsgan.dataset import FaceSet, make_batch
from fsgan.detection import FaceDetector
from fsgan.gan import FaceSwapGAN
from fsgan.objective import PhaseTerms
from fsgan.sample import make_sample_clips

FACE = cv2.resize(astronaut()[40:200, 140:300], (100, 100))
SETTINGS = AugmentationSettings()


def median_seconds(function: Callable[[], object], runs: int) -> float:
    """Times a function, after one call that does not count."""
    function()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def report(name: str, value: float, unit: str, base: float | None = None) -> None:
    """Prints a row; the ratio is to the first row of its group."""
    ratio = f"{value / base:6.2f}x" if base else ""
    print(f"{name:<60}{value:>10.1f} {unit:<13}{ratio}", flush=True)


def bench_import() -> None:
    """How long `import fsgan` takes, in fresh interpreters."""
    code = "import time; t = time.perf_counter(); import fsgan; "
    code += "print(time.perf_counter() - t)"
    times = [
        float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5)
    ]
    report("import fsgan", 1000 * float(np.median(times)), "ms")


def bench_augmentation() -> None:
    """Training samples a second on one core."""
    cv2.setNumThreads(1)
    rng, mask = np.random.default_rng(0), np.zeros((100, 100), np.uint8)

    def hundred() -> None:
        for _ in range(100):
            sample(FACE, mask, FACE, SETTINGS, 64, rng)

    report("augmentation, one core, 64", 100 / median_seconds(hundred, 9), "samples/s")
    cv2.setNumThreads(-1)


STEPS = (  # updates, precision, attention
    ("separate", "float32", "plain"),  # as the original
    ("fused", "float32", "plain"),
    ("fused", "float32", "blocks"),
    ("fused", "bfloat16", "blocks"),
    ("fused", "float32", "no"),
)


def bench_training() -> None:
    """Times of an update, batch 8, and what it needs of memory.

    Each row is a process of its own, which alone can tell its memory.
    """
    for resolution, capacity in product((64, 128), ("lite", "standard")):
        base = None
        for case in STEPS:
            output = subprocess.check_output(
                [sys.executable, __file__, "step", str(resolution), capacity, *case],
                text=True,
            )
            ms, gigabytes = map(float, output.split()[-2:])
            base = base or ms
            updates, precision, attention = case
            name = f"step, {resolution} {capacity}, {updates}, {precision}"
            name += f", {attention} attention"
            report(name, ms, f"ms  {gigabytes:4.1f} GB", base)


def measure_step(
    resolution: str, capacity: str, updates: str, precision: str, attention: str
) -> None:
    """Prints milliseconds of an update and the process' peak memory in gigabytes."""
    if attention == "plain":
        fsgan.layers.attend = plain_attention
    faces = FaceSet(np.stack([FACE] * 8), np.zeros((8, 100, 100), np.uint8), ["f"] * 8)
    model = ModelConfig(int(resolution), capacity, attention=attention != "no")
    gan = FaceSwapGAN(model, updates=updates, precision=precision)
    chosen = [
        make_batch([faces, faces], i, 8, model.resolution, SETTINGS, 0)
        for i in range(gan.batches_per_step)
    ]
    terms = PhaseTerms.of(LossWeights(), 0.4, False)
    seconds = median_seconds(partial(gan.train_on_batch, terms, *chosen), 5)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(1000 * seconds, kilobytes / 1e6)


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The formula as it stands, with the whole map in memory."""
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 1)))
    return ops.matmul(ops.softmax(scores), value)


def bench_detection() -> None:
    """Milliseconds a frame with one face: the package, a search, a video."""
    for width, height in ((1280, 720), (640, 360)):
        frame = cv2.resize(astronaut()[:288], (width, height))
        name = f"detection, {width}x{height}, "
        base = 1000 * median_seconds(partial(MTCNN().detect_faces, frame), 9)
        report(name + "package mtcnn", base, "ms", base)
        detector = FaceDetector(30)
        ms = 1000 * median_seconds(partial(detector.detect, frame), 9)
        report(name + "search", ms, "ms", base)
        ms = 1000 * median_seconds(partial(twelve_frames, detector, frame), 5) / 12
        report(name + "video, a search every 12 frames", ms, "ms", base)


def twelve_frames(detector: FaceDetector, frame: np.ndarray) -> None:
    """Searches once, then aims."""
    faces = []
    for index in range(12):
        boxes = [face.box for face in faces]
        faces = detector.find(frame, boxes, search=index == 0)


def bench_conversion(folder: Path) -> None:
    """Generator and whole road, with attention."""
    for capacity in ("lite", "standard"):
        gan = FaceSwapGAN(ModelConfig(64, capacity))
        model_dir = folder / capacity
        checkpoint = save_checkpoint(model_dir, gan, {"coverage": 0.8}, 1, 5000)
        generator = load_generator(checkpoint, "b")
        base = None
        for count in (1, 16):
            faces = np.zeros((count, 64, 64, 3), np.float32)
            seconds = median_seconds(partial(generator.predict_on_batch, faces), 9)
            ms = 1000 * seconds / count
            base = base or ms
            report(f"generator, 64 {capacity}, batch {count}", ms, "ms/face", base)
    clip, _ = make_sample_clips(folder / "sample", seconds=4.0)
    result = convert_video(clip, folder / "swap.mp4", folder / "lite")
    report("convert_video, 640x360, 64 lite", result.frames_per_second, "frames/s")


def main() -> None:
    """Runs every measurement."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Keras {keras.__version__}")
    print("ratios are to the first row of a group\n")
    bench_import()
    bench_augmentation()
    bench_training()
    bench_detection()
    with tempfile.TemporaryDirectory() as folder:
        bench_conversion(Path(folder))


if __name__ == "__main__":
    measure_step(*sys.argv[2:]) if sys.argv[1:2] == ["step"] else main()

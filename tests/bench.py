"""Measures the stages on this machine and prints one table of times and ratios.

Times of one run may be compared with each other; of different machines or days, only
the ratios. Run by `make bench`.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import keras
import numpy as np
from skimage.data import astronaut

from fsgan import AugmentationSettings, LossWeights, ModelConfig, convert_video
from fsgan.augmentation import sample
from fsgan.checkpoint import load_generator, save_checkpoint
from fsgan.dataset import FaceSet, make_batch
from fsgan.detection import FaceDetector
from fsgan.gan import FaceSwapGAN, MaskTerms
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
    print(f"{name:<52}{value:>10.1f} {unit:<10}{ratio}", flush=True)


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


def bench_training() -> None:
    """Seconds of one update, batch 8."""
    faces = FaceSet(np.stack([FACE] * 8), np.zeros((8, 100, 100), np.uint8), ["f"] * 8)
    base = None
    for capacity, attention in (
        ("lite", False),
        ("lite", True),
        ("standard", False),
        ("standard", True),
    ):
        gan = FaceSwapGAN(ModelConfig(64, capacity, attention=attention))
        batch = make_batch(faces, faces, 0, 8, 64, SETTINGS, 0)
        terms = MaskTerms.of(LossWeights(), 0.4)
        seconds = median_seconds(partial(gan.train_on_batch, batch, terms), 5)
        base = base or 1000 * seconds
        name = f"training step, 64 {capacity}, {'' if attention else 'no '}attention"
        report(name, 1000 * seconds, "ms", base)
        keras.utils.clear_session()


def bench_detection() -> None:
    """Milliseconds a frame of 1280x720 with one face."""
    frame = cv2.resize(astronaut()[:288], (1280, 720))
    base = None
    for min_face in (20, 40, 80):
        detector = FaceDetector(min_face)
        ms = 1000 * median_seconds(partial(detector.detect, frame), 9)
        base = base or ms
        report(f"detection, 1280x720, min_face={min_face}", ms, "ms", base)


def bench_conversion(folder: Path) -> None:
    """Generator and whole road, 64 lite with attention."""
    gan = FaceSwapGAN(ModelConfig(64, "lite"))
    checkpoint = save_checkpoint(folder, gan, {"coverage": 0.8}, keep=1, backup=5000)
    generator = load_generator(checkpoint, "b")
    base = None
    for count in (1, 16):
        faces = np.zeros((count, 64, 64, 3), np.float32)
        seconds = median_seconds(partial(generator.predict_on_batch, faces), 9)
        base = base or 1000 * seconds
        report(
            f"generator, 64 lite, batch {count}",
            1000 * seconds / count,
            "ms/face",
            base,
        )
    clip, _ = make_sample_clips(folder / "sample", seconds=4.0)
    result = convert_video(clip, folder / "swap.mp4", folder)
    report("convert_video, 640x360", result.frames_per_second, "frames/s")


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
    main()

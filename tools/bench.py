"""Measures what the package gains: one table of times and ratios, and a JSON file.

Times of one run may be compared with each other; of different machines or days, only
the ratios. Run by `make bench`, which writes `build/bench.json` beside. How fast the
machine is, recipe by recipe, `fsgan bench` tells.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain, count, islice, product
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import keras
import numpy as np
from keras import KerasTensor as Tensor
from keras import ops
from mtcnn import MTCNN
from skimage.data import astronaut

import fsgan.models.layers
from fsgan import (
    AugmentationSettings,
    ConvertSettings,
    FaceSwapper,
    convert_video,
    make_sample_clips,
    recipe,
)
from fsgan.data.dataset import FaceSet, make_batch
from fsgan.evaluation.bench import machine
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import crop_matrix
from fsgan.media.reader import probe, read_frames
from fsgan.media.writer import VideoWriter
from fsgan.models.checkpoint import latest_checkpoint, load_generator, save_checkpoint
from fsgan.models.precision import fastest_precision
from fsgan.swap.color import ColorMatcher
from fsgan.swap.compositing import feather
from fsgan.swap.generator import FaceGenerator
from fsgan.training.gan import FaceSwapGAN, Phase

ROWS: list[dict] = []
OUT = Path(__file__).parents[1] / "build" / "bench.json"
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


def report(
    name: str,
    value: float,
    unit: str,
    base: float | None = None,
    megabytes: float | None = None,
) -> None:
    """Prints a row and keeps it; the ratio is to the first row of its group."""
    ratio = f"{value / base:6.2f}x" if base else " " * 7
    memory = f"{megabytes:7.0f} MB" if megabytes else ""
    print(f"{name:<60}{value:>10.1f} {unit:<10}{ratio}{memory}", flush=True)
    row = {"name": name, "value": value, "unit": unit, "peak_megabytes": megabytes}
    ROWS.append(row | {"ratio": value / base if base else None})


def bench_import() -> None:
    """How long `import fsgan` takes, in fresh interpreters."""
    code = "import time; t = time.perf_counter(); import fsgan; "
    code += "print(time.perf_counter() - t)"
    times = [
        float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5)
    ]
    report("import fsgan", 1000 * float(np.median(times)), "ms")


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
            if "bfloat16" in case and fastest_precision() == "float32":
                continue  # emulated, it takes minutes
            ms, megabytes = measured("step", resolution, capacity, *case)
            base = base or ms
            updates, precision, attention = case
            name = f"step, {resolution} {capacity}, {updates}, {precision}"
            name += f", {attention} attention"
            report(name, ms, "ms", base, megabytes)


def measure_step(
    resolution: str,
    capacity: str,
    updates: str,
    precision: str,
    attention: str,
) -> None:
    """Prints milliseconds of an update and the process' peak memory in megabytes."""
    if attention == "plain":
        fsgan.models.layers.attend = plain_attention
    images = np.stack([FACE] * 8)
    faces = FaceSet(images, np.zeros_like(images), ["f"] * 8)
    model, settings = recipe("v2.2", int(resolution), capacity)
    model = replace(model, attention=attention != "no")
    gan = FaceSwapGAN(model, settings.losses, updates=updates, precision=precision)
    chosen = [
        make_batch([faces, faces], i, 8, model.resolution, 0.8, SETTINGS, 0)
        for i in range(gan.batches_per_step)
    ]
    gan.enter_phase(Phase(hinge_margin=0.4))

    def update() -> None:
        for losses in gan.train_on_batches(*chosen).values():
            ops.convert_to_numpy(losses)  # waits for a card

    seconds = median_seconds(update, 5)
    print(1000 * seconds, peak_megabytes())


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
        faces = detector.detect_next(frame, boxes, search=index == 0)


MODELS = ("v2.2 lite", "v2.2 standard", "quick lite")


def bench_generator(folder: Path) -> None:
    """Milliseconds a face, one by one and many at once, as Keras has it and as here."""
    faces = np.random.default_rng(0).integers(0, 255, (16, 64, 64, 3), np.uint8)
    for model in MODELS:
        checkpoint = save_model(folder / model, *model.split())
        keras_model = load_generator(checkpoint, "b")
        x = faces.astype(np.float32) / 127.5 - 1
        name = f"generator, {model}, 64, "
        one = partial(keras_model.predict_on_batch, x[:1])
        base = 1000 * median_seconds(one, 9)
        report(name + "Keras, one by one", base, "ms/face", base)
        many = partial(keras_model.predict_on_batch, x)
        report(name + "Keras, 16", 1000 * median_seconds(many, 9) / 16, "ms/face", base)
        for engine in ("float32", "mixed", "bfloat16"):
            if engine != "float32" and fastest_precision() == "float32":
                continue
            ours = FaceGenerator(checkpoint, "b", engine)
            ms = 1000 * median_seconds(partial(ours, faces), 9) / 16
            report(f"{name}{engine}, 16", ms, "ms/face", base)


POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
CLIPS = ((1280, 720, 4.0), (640, 360, 8.0))  # seconds


def bench_conversion(folder: Path) -> None:
    """The whole road, H.264 in and out, against the one the original took.

    Each row is a process of its own, which alone can tell its memory.
    """
    for width, height, seconds in CLIPS:
        clip = make_clip(folder / f"{height}.mp4", seconds, (width, height))
        name = f"conversion, {width}x{height}, 64, "
        base, megabytes = measured("frame_by_frame", clip, folder / MODELS[1])
        report(name + "v2.2, frame by frame", base, "frames/s", base, megabytes)
        for model in MODELS[1:]:
            fps, megabytes = measured("convert", clip, folder / model)
            report(name + model, fps, "frames/s", base, megabytes)
    for seconds in (12.0, 120.0):  # 300 and 3000 frames
        clip = make_clip(folder / "long.mp4", seconds, (320, 180))
        fps, megabytes = measured("convert", clip, folder / MODELS[0])
        name = f"conversion, 320x180, 64 v2.2 lite, {25 * seconds:.0f} frames"
        report(name, fps, "frames/s", None, megabytes)


def make_clip(clip: Path, seconds: float, size: tuple[int, int]) -> Path:
    """Shows the sample again and again, at another size."""
    sample, _ = make_sample_clips(clip.parent / "sample")
    endless = chain.from_iterable(read_frames(sample) for _ in count())
    with VideoWriter(clip, *size, 25) as writer:
        for frame in islice(endless, round(25 * seconds)):
            writer.write(cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA))
    return clip


def save_model(model_dir: Path, name: str, capacity: str) -> Path:
    """An untrained model of 64 pixels; its checkpoint."""
    gan = FaceSwapGAN(recipe(name, 64, capacity).model)
    settings = {"model": gan.config, "iteration": 0}
    return save_checkpoint(model_dir, gan.networks, {}, settings)


def peak_megabytes() -> float:
    """Most memory that this process held; resource's figure is its parent's, too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1000


def measured(what: str, *arguments: object) -> tuple[float, float]:
    """What a process of its own measures, and its peak in megabytes."""
    command = [sys.executable, __file__, what, *map(str, arguments)]
    output = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)
    value, megabytes = map(float, output.split()[-2:])
    return value, megabytes


def measure_conversion(road: str, clip: str, model_dir: str) -> None:
    """Prints frames a second, without start-up, and the process' peak in megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        if road == "convert":
            # What "auto" picks for every model trained so far.
            engine = "mixed" if fastest_precision() == "bfloat16" else "float32"
            swapper = FaceSwapper(model_dir, ConvertSettings(engine=engine))
            swapper.swap([astronaut()[:300, 60:400]])  # what happens once, happens now
            result = convert_video(clip, Path(folder, "swap.mp4"), swapper)
            fps = result.frames_per_second
        else:
            fps = frame_by_frame(clip, Path(folder, "swap.mp4"), model_dir)
    print(fps, peak_megabytes())


def frame_by_frame(clip: str, out: Path, model_dir: str) -> float:
    """Converts a clip on the original's road: one frame after the other, whole ones.

    Returns:
        Frames a second.
    """
    checkpoint = latest_checkpoint(model_dir)
    generator, detector = load_generator(checkpoint, "b"), MTCNN()
    detector.detect_faces(astronaut())
    generator.predict_on_batch(np.zeros((1, 64, 64, 3)))
    fade, info = feather(64), probe(clip)
    began, frames = time.perf_counter(), 0
    with VideoWriter(out, info.width, info.height, info.fps, audio_from=clip) as writer:
        for frame in read_frames(clip):
            picture = frame.image
            for face in detector.detect_faces(frame.image):
                picture = paste(picture, face["keypoints"], generator, fade)
            writer.write(picture, frame.time)
            frames += 1
    return frames / (time.perf_counter() - began)


def paste(
    frame: np.ndarray, keypoints: dict, generator: keras.Model, fade: np.ndarray
) -> np.ndarray:
    """Swaps one face; mask and face are warped and mixed on the whole frame."""
    landmarks = np.array([keypoints[name] for name in POINTS], float)
    matrix = crop_matrix(landmarks, 64, 0.8)
    crop = cv2.warpAffine(frame, matrix, (64, 64))
    alpha, rgb = generator.predict_on_batch(crop[None].astype(np.float32) / 127.5 - 1)
    alpha = alpha[0] * fade
    rgb = ColorMatcher("hist_match").match((rgb[0] + 1) * 127.5, crop, alpha)
    size, flags = frame.shape[1::-1], cv2.WARP_INVERSE_MAP | cv2.INTER_CUBIC
    alpha = cv2.warpAffine(alpha, matrix, size, flags=flags)[..., None]
    rgb = cv2.warpAffine(rgb, matrix, size, flags=flags)
    return (alpha * rgb + (1 - alpha) * frame).clip(0, 255).astype(np.uint8)


def main() -> None:
    """Runs every measurement."""
    where = machine()
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    print("ratios are to the first row of a group\n")
    bench_import()
    bench_training()
    bench_detection()
    with tempfile.TemporaryDirectory() as folder:
        bench_generator(Path(folder))
        bench_conversion(Path(folder))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"machine": where, "rows": ROWS}, indent=1) + "\n")
    print(f"\nwritten to {OUT}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case ["step", *case]:
            measure_step(*case)
        case [road, clip, model_dir]:
            measure_conversion(road, clip, model_dir)

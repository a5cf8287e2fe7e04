"""Short clips, written straight with PyAV, to test reader and writer apart."""

from fractions import Fraction

import av
import numpy as np
from PIL import Image

from fsgan.faces.geometry import MEAN_LANDMARKS
from fsgan.media.reader import probe, read_frames
from fsgan.media.writer import VideoWriter

NTSC = Fraction(30000, 1001)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
FLASHES = (20, 45)  # frames that are white, and have a click


def make_clip(
    path,
    pictures,
    *,
    fps=25,
    times=None,
    codec="libx264",
    pixels="yuv420p",
    options=None,
    container=None,
    setup=None,
    tags=None,
    sound=None,
    rate=44_100,
    heard_from=0,
):
    """Write RGB pictures, or frames in `pixels`, and a click at each flash.

    The sound begins at `heard_from` seconds.
    """
    frames = [
        p if isinstance(p, av.VideoFrame) else av.VideoFrame.from_ndarray(p, "rgb24")
        for p in pictures
    ]
    fps = Fraction(fps)
    times = times or [k / fps for k in range(len(frames))]
    with av.open(str(path), "w", options=container or {}) as made:
        stream = made.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height = frames[0].width, frames[0].height
        stream.pix_fmt = pixels
        time_base = Fraction(1, 90_000) if codec == "libx264" else 1 / Fraction(fps)
        stream.codec_context.time_base = time_base
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if setup:
            setup(stream)
        track = made.add_stream(sound, rate=rate) if sound else None
        if track:
            track.layout = "mono"
        for frame, time in zip(frames, times, strict=True):
            frame.pts, frame.time_base = round(time / time_base), time_base
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
        if track:
            samples = np.zeros((1, round((times[-1] + 1 / fps) * rate)), np.float32)
            for index in (k for k in FLASHES if k < len(frames)):
                begin = round(times[index] * rate)
                samples[0, begin : begin + 100] = 0.9 * np.sin(np.arange(100) * 0.5)
            for begin in range(round(heard_from * rate), samples.shape[1], 1024):
                piece = np.ascontiguousarray(samples[:, begin : begin + 1024])
                frame = av.AudioFrame.from_ndarray(piece, "fltp", "mono")
                frame.pts, frame.sample_rate = begin, rate
                frame.time_base = Fraction(1, rate)
                made.mux(track.encode(frame))
            made.mux(track.encode(None))
    return path


def gray_pictures(count, height=48, width=64):
    """Pictures that tell their own number by their brightness."""
    return [np.full((height, width, 3), 16 + 3 * k, np.uint8) for k in range(count)]


def flash_pictures(count=60):
    pictures = [np.full((48, 64, 3), 20, np.uint8) for _ in range(count)]
    for index in FLASHES:
        pictures[index][:] = 255
    return pictures


def noise_pictures(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(count)]


def moving_pictures(count=40):
    """A texture that wanders, so that each frame builds on the one before it."""
    rng = np.random.default_rng(0)
    large = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    large = np.asarray(large.resize((300, 200), Image.Resampling.BICUBIC))
    return [large[k : k + 96, 2 * k : 2 * k + 128].copy() for k in range(count)]


def corner_card(height=48, width=64):
    card = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    card[:top, :left], card[:top, left:] = RED, GREEN
    card[top:, :left], card[top:, left:] = BLUE, WHITE
    return card


def copy(source, path, start=0.0, end=None, **options):
    info = probe(source)
    size = info.width, info.height
    limits = dict(start=start, end=end)
    with VideoWriter(
        path, *size, info.fps, audio_from=source, **limits, **options
    ) as writer:
        for frame in read_frames(source, start, end):
            writer.write(frame.image, frame.time)
    return path


def times_of(path):
    return [frame.time for frame in read_frames(path)]


def flashes(path):
    return [f.time for f in read_frames(path) if f.image.mean() > 127]


def clicks(path):
    """Return when sound begins after silence, on the clock the pictures use."""
    times, levels = [], []
    with av.open(str(path)) as container:
        origin = min(s.start_time * s.time_base for s in container.streams)
        for frame in container.decode(audio=0):
            level = np.abs(frame.to_ndarray().astype(float))[0]
            begin = float(frame.pts * frame.time_base - origin)
            times.append(begin + np.arange(level.size) / frame.sample_rate)
            levels.append(level)
    times, levels = np.concatenate(times), np.concatenate(levels)
    loud = times[levels > levels.max() / 2]
    return loud[np.diff(loud, prepend=-1) > 0.2]


def packets_of(path, kind="video"):
    """Return (pts, key, bytes) of all packets of one kind."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        found = [p for p in container.demux(stream) if p.size]
        return [(p.pts, p.is_keyframe, bytes(p)) for p in found]


def face_entry(file, **changes):
    """What `faces.json` says of a crop."""
    return {
        "file": file,
        "source": "clip.mp4",
        "frame": 0,
        "time": 0.0,
        "box": [10, 20, 110, 150],
        "landmarks": (100 * MEAN_LANDMARKS).tolist(),
        "confidence": 0.99,
    } | changes

"""The passes of an evaluation over a video and its swap, in step."""

from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from fsgan.evaluation.comparison import Comparison
from fsgan.evaluation.faces import evenly
from fsgan.faces.tracks import FaceTracks
from fsgan.media.prefetch import prefetch
from fsgan.media.reader import Frame, probe, read_frames, time_limits
from fsgan.swap.swapper import FaceSwapper

Part = tuple[float, float | None]
"""First second of a video, and the one to stop at; None goes on to the end."""

_SURROUNDINGS = 1.8  # sides of a face's box that a picture of it shows


def compare_videos(
    videos: tuple[Path, Path],
    part: Part,
    followed: FaceTracks,
    tracks: Collection[int] | None,
    swapper: FaceSwapper | None,
    count: int,
) -> tuple[Comparison, tuple[int, int]]:
    """Goes over a video and its swap in step.

    Args:
        videos: the source and its swap.
        part: of the source that was swapped.
        followed: the faces of the source.
        tracks: numbers of those that were swapped; None stands for all.
        swapper: makes the masks again; None estimates them.
        count: frames to cut faces out of, at most; they are evenly chosen.

    Returns:
        What was found, and the number of frames of both.

    Raises:
        ValueError: a video cannot be read, or no face is found in what they share.
    """
    source, swapped = videos
    last = max(track.last for track in followed.tracks)
    with_face = [index for index in range(last + 1) if followed.faces(index, tracks)]
    comparison = Comparison(swapper, evenly(with_face, count))
    counts = [0, 0]
    total = probe(swapped).frame_count
    for before, after in tqdm(_pairs(videos, part), "evaluate", total, unit="frame"):
        counts[0] += before is not None
        counts[1] += after is not None
        if before and after:
            faces = followed.faces(before.index, tracks)
            comparison.add(before, after.image, faces)
        else:
            comparison.flicker.cut()
    if not comparison.frames:
        raise ValueError(
            f"{swapped} shows no moment of {source} in which a face is found: give the "
            "start, end and tracks of the conversion"
        )
    return comparison, (counts[0], counts[1])


def cut_out_frames(
    videos: tuple[Path, Path],
    part: Part,
    followed: FaceTracks,
    tracks: Collection[int] | None,
    indices: Collection[int],
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Cuts the faces of some frames and what is around them out of both videos.

    Args:
        videos: the source and its swap.
        part: of the source that was swapped.
        followed: the faces of the source.
        tracks: numbers of those that were swapped; None stands for all.
        indices: of frames of the source that both videos have, with a face in each.

    Returns:
        For each of them, in the order of `indices`, the index and its part of the
        source and of the swapped frame, RGB uint8 (height, width, 3).

    Raises:
        ValueError: a video cannot be read.
    """
    found: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}
    for before, after in _pairs(videos, part) if indices else ():
        if before and after and before.index in indices:
            boxes = np.stack(
                [face.box for face in followed.faces(before.index, tracks)]
            )
            place = _surroundings(boxes, before.image.shape[:2])
            pictures = (frame.image[place].copy() for frame in (before, after))
            found[before.index] = (before.index, *pictures)
        if len(found) == len(indices):
            break
    return [found[index] for index in indices]


def in_step(
    source: Iterator[Frame],
    swapped: Iterator[Frame],
    start: Fraction,
    tolerance: Fraction,
) -> Iterator[tuple[Frame | None, Frame | None]]:
    """Pairs the frames of two videos by their times.

    Args:
        source: its frames, from `start` on.
        swapped: frames whose times count from `start`.
        start: seconds.
        tolerance: seconds between two frames of a pair, at most.

    Yields:
        Frames of one time, and with None those that the other video lacks, in the order
        of their times.
    """
    waiting = next(swapped, None)
    for frame in source:
        while waiting and waiting.time + start < frame.time - tolerance:
            yield None, waiting
            waiting = next(swapped, None)
        if waiting and waiting.time + start <= frame.time + tolerance:
            yield frame, waiting
            waiting = next(swapped, None)
        else:
            yield frame, None
    while waiting:
        yield None, waiting
        waiting = next(swapped, None)


def _pairs(
    videos: tuple[Path, Path], part: Part
) -> Iterator[tuple[Frame | None, Frame | None]]:
    """The frames of both videos in step, decoded ahead."""
    source, swapped = videos
    return in_step(
        prefetch(read_frames(source, *part), ahead=4),
        prefetch(read_frames(swapped), ahead=4),
        time_limits(*part)[0],
        1 / (2 * probe(source).fps),
    )


def _surroundings(boxes: np.ndarray, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns around some boxes (n, 4), within a frame of that shape."""
    corners = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    middle = (corners[0] + corners[1]) / 2
    reach = _SURROUNDINGS * (corners[1] - corners[0]).max() / 2
    left, top = np.maximum(middle - reach, 0).astype(int)
    right, bottom = np.minimum(middle + reach, shape[::-1]).astype(int)
    return slice(top, bottom), slice(left, right)

"""Stage: many photos or videos through one model."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fsgan.faces.identity import Identity
from fsgan.media.images import list_images
from fsgan.media.video_formats import PICTURE_SUFFIXES
from fsgan.swap.convert import ConvertedVideo, convert_image, convert_video
from fsgan.swap.convert_settings import ConvertSettings
from fsgan.swap.swapper import FaceSwapper

log = logging.getLogger(__name__)

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".gif", ".mts",
})
# fmt: on


@dataclass(frozen=True)
class ConvertedFiles:
    """What became of many files; printed, it is a table, failures last.

    Attributes:
        converted: by source, what `convert_video` returned; of a photo, the number of
            faces swapped.
        failed: by source, why not.
    """

    converted: dict[Path, ConvertedVideo | int] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Draws the table."""
        rows = [
            (path.name, done if isinstance(done, ConvertedVideo) else f"faces: {done}")
            for path, done in self.converted.items()
        ]
        rows += [(path.name, f"FAILED: {why}") for path, why in self.failed.items()]
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join(f"{name:<{width}}  {what}" for name, what in rows)


def convert_images(
    sources: str | Path | Sequence[str | Path],
    out_dir: str | Path,
    model: str | Path | FaceSwapper,
    settings: ConvertSettings | None = None,
    *,
    only: str | Path | Identity | None = None,
    overwrite: bool = False,
) -> ConvertedFiles:
    """Swaps the faces in many photos, each for itself.

    Pictures that follow each other in time are a video: give their folder to
    `fsgan.convert_video`.

    Args:
        sources: a folder of photos, or photos.
        out_dir: folder to write to, under the same names; as .png where photos of that
            kind are not written.
        model: folder given to `fsgan.train`, or a swapper; it is loaded once.
        settings: how to convert; None takes the defaults, or the swapper's.
        only: whose face to swap, as of `fsgan.convert_image`.
        overwrite: whether the pictures may be there already.

    Returns:
        A table of what was done; a photo that fails does not stop the others.

    Raises:
        FileNotFoundError: the folder, the model or the reference is missing.
        ValueError: a setting is wrong, or two photos would be written to one file.
    """
    if isinstance(sources, str | Path):
        sources = list_images(sources)
    names = {
        path: path.name
        if path.suffix.lower() in PICTURE_SUFFIXES
        else f"{path.stem}.png"
        for path in map(Path, sources)
    }
    return _convert_each(
        convert_image, names, out_dir, model, settings, only, overwrite
    )


def convert_videos(
    sources: str | Path | Sequence[str | Path],
    out_dir: str | Path,
    model: str | Path | FaceSwapper,
    settings: ConvertSettings | None = None,
    *,
    only: str | Path | Identity | None = None,
    suffix: str = ".mp4",
    overwrite: bool = False,
) -> ConvertedFiles:
    """Swaps the faces in many videos.

    Args:
        sources: a folder of videos, or videos.
        out_dir: folder to write to, under the same names.
        model: folder given to `fsgan.train`, or a swapper; it is loaded once.
        settings: how to convert; None takes the defaults, or the swapper's.
        only: whose face to swap, as of `fsgan.convert_video`; no numbers of tracks.
        suffix: kind of the videos to write, as of `fsgan.convert_video`.
        overwrite: whether they may be there already.

    Returns:
        A table of what was done; a video that fails does not stop the others.

    Raises:
        FileNotFoundError: the folder, the model or the reference is missing.
        ValueError: a setting is wrong, or two videos would be written to one file.
    """
    if isinstance(sources, str | Path):
        sources = _list_videos(Path(sources))
    names = {path: path.stem + suffix for path in map(Path, sources)}
    return _convert_each(
        convert_video, names, out_dir, model, settings, only, overwrite
    )


def _convert_each(
    convert: Callable[..., ConvertedVideo | int],
    names: dict[Path, str],
    out_dir: str | Path,
    model: str | Path | FaceSwapper,
    settings: ConvertSettings | None,
    only: str | Path | Identity | None,
    overwrite: bool,
) -> ConvertedFiles:
    """Converts file after file; what fails is named and the rest is done."""
    sources: dict[str, Path] = {}
    for source, name in names.items():
        if name in sources:
            raise ValueError(
                f"{sources[name]} and {source} would both be written to {name}: give "
                "them different names or convert them one by one"
            )
        sources[name] = source
    swapper = FaceSwapper.of(model, settings)
    person = Identity.of(only) if isinstance(only, str | Path) else only
    files = ConvertedFiles()
    for source, name in names.items():
        out = Path(out_dir, name)
        try:
            done = convert(source, out, swapper, only=person, overwrite=overwrite)
            files.converted[source] = done
        except (OSError, ValueError, MemoryError) as error:
            files.failed[source] = str(error)
    for source, why in files.failed.items():
        log.error("%s failed: %s", source, why)
    return files


def _list_videos(folder: Path) -> list[Path]:
    """The videos in a folder, by their suffix."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder of videos; check the name")
    found = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES
    )
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no videos ({' '.join(sorted(VIDEO_SUFFIXES))})"
        )
    return found

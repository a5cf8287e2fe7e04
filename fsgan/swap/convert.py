"""Stage: from footage and a trained model to swapped footage."""

import html
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from fsgan.faces.geometry import CROP_SIZE, align, crop_matrix
from fsgan.faces.identity import Identity
from fsgan.faces.pose import without_profiles
from fsgan.faces.tracks import FaceTracks, follow_faces
from fsgan.media.credentials import check_certificate, sign
from fsgan.media.files import check_output, write_beside
from fsgan.media.images import (
    PICTURE_SUFFIXES,
    check_picture,
    encode_image,
    list_images,
    picture_html,
    read_image,
)
from fsgan.media.provenance import (
    image_xmp,
    sidecar_path,
    video_metadata,
    write_sidecar,
)
from fsgan.media.reader import list_videos, probe
from fsgan.media.writer import ResumableWriter, remove_leftovers
from fsgan.swap.render import Renderer
from fsgan.swap.swapper import ConvertSettings, FaceSwapper
from fsgan.tasks import Cluster, Results, run_each
from fsgan.validation import AboveZero, AtLeastZero, checked

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvertedVideo:
    """What `convert_video` did.

    Attributes:
        path: the swapped video.
        frames: frames written.
        frames_with_face: those of them in which a face was swapped.
        frames_damaged: those that are damaged in the source and left as they are.
        frames_in_profile: those in which a face is too far turned, and left as it is.
        frames_per_second: speed of the conversion, both passes together.
        swapped: numbers of the tracks whose faces were swapped.
        faces: all that were found, with their contact sheet.
    """

    path: Path
    frames: int
    frames_with_face: int
    frames_damaged: int
    frames_in_profile: int
    frames_per_second: float
    swapped: tuple[int, ...]
    faces: FaceTracks

    def __str__(self) -> str:
        """One line for a table."""
        left = {"in profile": self.frames_in_profile, "damaged": self.frames_damaged}
        left_as_they_are = "".join(f", {n} {why}" for why, n in left.items() if n)
        return (
            f"face in {self.frames_with_face} of {self.frames} frames"
            f"{left_as_they_are}, {self.frames_per_second:.1f} frames/s"
        )

    def __repr__(self) -> str:
        """One line."""
        return f"ConvertedVideo({self.path}: {self})"

    def _repr_html_(self) -> str:
        """That line and the contact sheet of the faces."""
        sheet = self.faces.contact_sheet
        picture = "" if sheet is None else picture_html(sheet)
        return f"<p>{html.escape(f'{self.path}: {self}')}</p>{picture}"


@checked
def convert_image(
    source: str | Path,
    out: str | Path,
    model: str | Path | FaceSwapper,
    settings: ConvertSettings | None = None,
    *,
    only: str | Path | Identity | None = None,
    overwrite: bool = False,
) -> int:
    """Swaps the faces in a photo.

    Args:
        source: the photo; its EXIF rotation is honoured.
        out: the picture to write, .png, .jpg or .webp; marked as synthetic.
        model: folder given to `fsgan.train`, or a swapper, which is loaded already.
        settings: how to convert; None takes the defaults, or the swapper's.
        only: whose face to swap: another photo, or a folder of face crops, of the
            person; None swaps all.
        overwrite: whether `out` may be there already.

    Returns:
        The number of faces swapped, none in profile; 0 leaves the photo as it is, and
        unmarked.

    Raises:
        FileExistsError: `out` is there already.
        FileNotFoundError: `source`, the model or the reference is missing.
        ValueError: `source` is not a photo, the model knows one person, or a setting is
            wrong.
        OSError: `out` cannot be written.
    """
    source, out = Path(source), Path(out)
    _check_output(source, out, overwrite)
    check_picture(out, (1, 1))
    swapper = load_swapper(model, settings)
    person = _person(only)
    image = read_image(source)
    height, width = image.shape[:2]
    check_picture(out, (height, width * swapper.settings.layout))
    detected = swapper.detector.detect(image)
    faces = without_profiles(detected)
    if len(faces) < len(detected):
        log.warning(
            "%s: faces in profile are left as they are: %d",
            source,
            len(detected) - len(faces),
        )
    if person is not None:
        crops = [
            align(image, crop_matrix(face.landmarks), CROP_SIZE)[None] for face in faces
        ]
        faces = list(compress(faces, person.choose(crops, [(0, 0)] * len(faces))))
    [(picture, layers)] = swapper.swap([image], [faces])
    marked = _is_marked(swapper.settings, source, bool(layers))
    with write_beside(out) as path:
        path.write_bytes(encode_image(out, picture, image_xmp() if marked else None))
        if marked:
            finish_output(swapper.settings, source, out, path)
    if not marked:
        sidecar_path(out).unlink(missing_ok=True)
    return len(layers)


@checked
def convert_video(
    source: str | Path,
    out: str | Path,
    model: str | Path | FaceSwapper,
    settings: ConvertSettings | None = None,
    *,
    only: str | Path | Identity | int | Collection[int] | None = None,
    faces: str | Path | None = None,
    start: AtLeastZero = 0.0,
    end: AboveZero | None = None,
    fps: Fraction | AboveZero | None = None,
    overwrite: bool = False,
) -> ConvertedVideo:
    """Swaps the faces in a video and carries sound, subtitles and chapters over.

    The first pass finds and tracks the faces (`fsgan.follow_faces`); what it finds
    stays beside the output: `<out>.tracks.json`, with which a second conversion need
    not search again, and `<out>.tracks.png`, which shows each track with its number.
    The second pass swaps them. The output takes its name when it is complete; a
    conversion that was stopped or killed goes on where it was if it is called again
    with the same arguments.

    Args:
        source: the video, or a folder of pictures that follow each other in time.
        out: the video to write, .mp4, .mov, .mkv or .webm; or a folder, for numbered
            pictures; marked as synthetic.
        model: folder given to `fsgan.train`, or a swapper, which is loaded already.
        settings: how to convert; None takes the defaults, or the swapper's.
        only: whose face to swap: a photo or a folder of face crops of the person, or
            the number of a track, or several. None swaps all.
        faces: name given to `fsgan.follow_faces`; None takes that of `out`.
        start: first second to convert.
        end: second to stop at; None goes on to the end.
        fps: frames a second of a folder of pictures; None takes 25.
        overwrite: whether `out` may be there already.

    Returns:
        Counts, speed and the faces found.

    Raises:
        FileExistsError: `out` is there already.
        FileNotFoundError: `source`, the model or the reference is missing.
        ValueError: `source` is not a video, no frame lies between `start` and `end`,
            the reference shows no face or several, there is no track of that number,
            the model knows one person, or a setting is wrong.
        OSError: `out` cannot be written, or the disk is full.
    """
    source, out = Path(source), Path(out)
    _check_output(source, out, overwrite)
    if not 0 <= start < (np.inf if end is None else end):
        raise ValueError(f"start must be in [0, end), got start={start}, end={end}")
    stretch = {"start": start, "end": end, "fps": fps}
    info = probe(source, fps)
    swapper = load_swapper(model, settings)
    settings, only = swapper.settings, _person(only)
    writer = partial(
        ResumableWriter,
        out,
        info.width * settings.layout,
        info.height,
        info.fps,
        audio_from=source if info.has_more else None,
        start=start,
        end=end,
        crf=settings.crf,
        lossless=settings.lossless,
        encoder=settings.encoder,
    )
    writer(settings={})  # fails before the first pass
    began = time.perf_counter()
    found = follow_faces(
        source,
        faces or out,
        min_face=settings.min_face,
        min_confidence=settings.min_confidence,
        smoothing=settings.smoothing,
        search_every=settings.search_every,
        **stretch,
    )
    chosen = _choose(found, only)
    marked = _is_marked(settings, source, bool(chosen))
    as_it_is = not chosen and not start and end is None and source.is_file()
    same_kind = source.suffix.lower() == out.suffix.lower() and not settings.lossless
    if as_it_is and same_kind and settings.layout == 1:
        with write_beside(out) as path:
            shutil.copyfile(source, path)
        counts = Counter({"all": info.frame_count})
    else:
        layers_dir = out.with_suffix(".layers") if settings.layers else None
        renderer = Renderer(swapper, info, found, chosen, stretch, layers_dir)
        finish = partial(finish_output, settings, source, out)
        marks = {"metadata": video_metadata(), "xmp": image_xmp(), "finish": finish}
        marks = marks if marked else {}
        with writer(settings=renderer.depends_on, **marks) as opened:
            renderer.run(opened)
        counts = renderer.counts
    if not marked:
        sidecar_path(out).unlink(missing_ok=True)
    return ConvertedVideo(
        out,
        counts["all"],
        counts["with face"],
        counts["damaged"],
        found.frames_in_profile(None if only is None else chosen),
        counts["all"] / (time.perf_counter() - began),
        tuple(sorted(chosen)),
        found,
    )


@checked
def convert_images(
    sources: str | Path | Sequence[str | Path],
    out_dir: str | Path,
    model: str | Path | FaceSwapper,
    settings: ConvertSettings | None = None,
    *,
    only: str | Path | Identity | None = None,
    overwrite: bool = False,
) -> Results:
    """Swaps the faces in many photos, each for itself.

    Args:
        sources: a folder of photos, or photos.
        out_dir: folder to write to, under the same names; as .png where photos of that
            kind are not written.
        model: as of `fsgan.convert_image`, like all that follows; it is loaded once.
        settings: how to convert.
        only: whose face to swap.
        overwrite: whether the pictures may be there already.

    Returns:
        A table of what was done; a photo that fails does not stop the others.

    Raises:
        FileNotFoundError: the folder, the model or the reference is missing.
        ValueError: a setting is wrong, or two photos would be written to one file.
    """
    if isinstance(sources, str | Path):
        sources = list_images(sources)
    outputs = {path: Path(out_dir, path.name) for path in map(Path, sources)}
    for path, out in outputs.items():
        if out.suffix.lower() not in PICTURE_SUFFIXES:
            outputs[path] = out.with_suffix(".png")
    return _convert_each(convert_image, outputs, model, settings, only, overwrite)


@checked
def convert_videos(
    sources: str | Path | Sequence[str | Path],
    out_dir: str | Path,
    model: str | Path | FaceSwapper,
    settings: ConvertSettings | None = None,
    *,
    only: str | Path | Identity | None = None,
    suffix: str = ".mp4",
    overwrite: bool = False,
    cluster: str | Cluster | None = None,
) -> Results:
    """Swaps the faces in many videos, one after the other or on many machines.

    Args:
        sources: a folder of videos, or videos.
        out_dir: folder to write to, under the same names.
        model: as of `fsgan.convert_video`, like all that follows; it is loaded once.
        settings: how to convert.
        only: whose face to swap; no numbers of tracks.
        suffix: kind of the videos to write.
        overwrite: whether they may be there already.
        cluster: a client or a cluster of `distributed`, or the address of its
            scheduler, whose workers convert a video each; all files must lie in folders
            that its machines share. None converts here.

    Returns:
        A table of what was done; a video that fails does not stop the others. If a
        worker dies, another one goes on from the parts that are finished.

    Raises:
        FileNotFoundError: the folder, the model or the reference is missing.
        ImportError: Dask is not installed.
        ValueError: a setting is wrong, two videos would be written to one file, or the
            cluster cannot be reached, has no processes, or does not see a file.
    """
    outputs = {path: Path(out_dir, path.stem + suffix) for path in list_videos(sources)}
    return _convert_each(
        convert_video, outputs, model, settings, only, overwrite, cluster
    )


def _convert_each(
    convert: Callable[..., ConvertedVideo | int],
    outputs: dict[Path, Path],
    model: str | Path | FaceSwapper,
    settings: ConvertSettings | None,
    only: str | Path | Identity | None,
    overwrite: bool,
    cluster: str | Cluster | None = None,
) -> Results:
    """Converts file after file; what fails is named and the rest is done."""
    needs = [*outputs]
    if cluster is not None:
        if isinstance(model, FaceSwapper):
            raise ValueError(
                "a swapper cannot be sent to a cluster: give the model's folder, each "
                "worker loads it"
            )
        model = Path(model).absolute()
        only = Path(only).absolute() if isinstance(only, str | Path) else only
        needs += [it for it in (model, only) if isinstance(it, Path)]
    # What is not there yet may be replaced: a worker that has died may have made it.
    tasks = {
        source: (out, source, overwrite or not out.exists())
        for source, out in outputs.items()
    }
    return run_each(
        partial(_convert_one, convert),
        tasks,
        partial(_prepare, model, settings, only),
        cluster=cluster,
        needs=needs,
        gpu=True,
    )


def _prepare(
    model: str | Path | FaceSwapper,
    settings: ConvertSettings | None,
    only: str | Path | Identity | None,
) -> dict:
    """What is loaded once for many files."""
    return {"model": load_swapper(model, settings), "only": _person(only)}


def _convert_one(
    convert: Callable, out: Path, source: Path, overwrite: bool, **prepared: Any
) -> ConvertedVideo | int:
    """Converts one of many files."""
    return convert(source, out, overwrite=overwrite, **prepared)


def _check_output(source: Path, out: Path, overwrite: bool) -> None:
    """Raises where the output cannot be, or would replace something."""
    check_output(sidecar_path(out))
    check_output(out)
    remove_leftovers(out)
    if os.path.realpath(source) == os.path.realpath(out):
        raise ValueError(f"{out} is the source itself: give the output another name")
    if out.exists() and not overwrite and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(
            f"{out} exists already: give another name, or say overwrite=True"
        )


def load_swapper(
    model: str | Path | FaceSwapper, settings: ConvertSettings | None
) -> FaceSwapper:
    """The swapper; raises where a certificate of the user's own cannot sign."""
    if not isinstance(model, FaceSwapper):
        model = FaceSwapper(model, settings)
    elif settings not in (None, model.settings):
        raise ValueError("settings are the swapper's own: give None, or a folder")
    if model.settings.certificate is not None:
        check_certificate(model.settings.certificate, model.settings.private_key)
    return model


def _person(only: object) -> object:
    """The person whom a photo or a folder of crops shows; anything else as it is."""
    return Identity.of(only) if isinstance(only, str | Path) else only


def _choose(
    found: FaceTracks, only: Identity | int | Collection[int] | None
) -> set[int]:
    """Numbers of the tracks to swap."""
    tracks = found.tracks
    numbers = [track.number for track in tracks]
    if only is None:
        return set(numbers)
    if isinstance(only, Identity):
        spans = [(track.first, track.last) for track in tracks]
        return set(compress(numbers, only.choose(found.crops(tracks), spans)))
    wanted = set(only) if isinstance(only, Collection) else {only}
    if unknown := wanted.difference(numbers):
        raise ValueError(
            f"only must name tracks of {found.source}: there is no {min(unknown)} "
            f"among {sorted(numbers)}; look at the picture of the tracks"
        )
    return wanted


def _is_marked(settings: ConvertSettings, source: Path, swapped: bool) -> bool:
    """Whether the output is marked as synthetic; the log says why not."""
    if not swapped:
        log.warning("no face found to swap in %s: left as it is, not marked", source)
    elif not settings.mark:
        log.warning("marks are off: say yourself that %s was swapped", source)
    return swapped and settings.mark


def finish_output(
    settings: ConvertSettings,
    source: Path,
    out: Path,
    path: Path,
    again: Sequence[dict] = (),
) -> None:
    """Signs what will be called `out`, and writes its sidecar: no output without one.

    If signing fails, the marks are still in it.

    Args:
        settings: how it was made, and what to sign with.
        source: what it was made of.
        out: its name to be.
        path: where it lies.
        again: as of `write_sidecar`.
    """
    for file in list_images(path) if path.is_dir() else [path]:
        try:
            sign(
                file,
                title=out.name,
                certificate=settings.certificate,
                private_key=settings.private_key,
            )
        except ValueError as error:
            log.warning("%s is marked, but not signed: %s", out, error)
    write_sidecar(out, source, asdict(settings), path, again)

"""Marks that say "this is synthetic", written into every result, and reading them back.

Metadata is honest, not tamper-proof: encoding a file anew may lose it.
"""

import hashlib
import importlib.metadata
import json
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from fsgan.media.images import IMAGE_SUFFIXES, list_images, write_beside
from fsgan.media.xmp import embed_xmp, read_gif_xmp

SOURCE_TYPE = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/"
    "compositeWithTrainedAlgorithmicMedia"
)
STATEMENT = (
    "Synthetic media: faces in this file were replaced by a neural network (fsgan)."
)
# IPTC's names for what is made by a model or put together with such a thing.
_SYNTHETIC_TYPES = {
    "algorithmicMedia",
    "compositeSynthetic",
    "compositeWithTrainedAlgorithmicMedia",
    "trainedAlgorithmicMedia",
}
# Each mark's name here, and its element in XMP.
_XMP_NAMES = {
    "comment": "{http://purl.org/dc/elements/1.1/}description",
    "software": "{http://ns.adobe.com/xap/1.0/}CreatorTool",
    "DigitalSourceType": (
        "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    ),
    "date": "{http://ns.adobe.com/xap/1.0/}CreateDate",
}


def video_metadata() -> dict[str, str]:
    """Return the marks for a video's container, as `VideoWriter` takes them.

    Returns:
        `comment` (a plain sentence), `software` (name and version),
        `DigitalSourceType` (IPTC's address for composites with trained models) and
        `date` (now, ISO 8601, UTC).

    Source:
        IPTC Digital Source Type NewsCodes.
    """
    try:
        version = importlib.metadata.version("fsgan")
    except importlib.metadata.PackageNotFoundError:
        version = "(not installed)"  # run from a bare checkout
    return {
        "comment": STATEMENT,
        "software": f"fsgan {version}",
        "DigitalSourceType": SOURCE_TYPE,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def image_xmp() -> bytes:
    """Return the same marks as an XMP packet, as `write_image` takes it.

    Returns:
        A whole XMP packet, UTF-8.

    Source:
        ISO 16684-1 (XMP); IPTC Photo Metadata Standard.
    """
    marks = {name: escape(text) for name, text in video_metadata().items()}
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
   <dc:description><rdf:Alt>
     <rdf:li xml:lang="x-default">{marks["comment"]}</rdf:li>
   </rdf:Alt></dc:description>
   <xmp:CreatorTool>{marks["software"]}</xmp:CreatorTool>
   <xmp:CreateDate>{marks["date"]}</xmp:CreateDate>
   <Iptc4xmpExt:DigitalSourceType>{marks["DigitalSourceType"]}\
</Iptc4xmpExt:DigitalSourceType>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>""".encode()


def mark_file(path: str | Path) -> None:
    """Add the XMP packet to a finished video, in place, where it is not there yet.

    MP4, M4V and MOV get it as a `uuid` box at their end, so that nothing in them moves;
    GIF, which has no tags, as an application extension, with a comment. Pictures got
    theirs from `write_image`, and Matroska and WebM have tags only: such files are left
    as they are. Mark a file before it takes its name, and before it is signed.

    Args:
        path: the video file.

    Raises:
        FileNotFoundError: no file is at `path`.
        ValueError: it is not a whole file of the kind that its suffix names.
    """
    path = Path(path)
    _check_file(path)
    embed_xmp(path, image_xmp(), STATEMENT)


def draw_label(image: np.ndarray, text: str = "AI face swap") -> np.ndarray:
    """Burn a small label into the lower left corner of a picture.

    White letters on black, so that it can be read on anything and is the same in every
    frame of a video. The letters are 4 % of the shorter side high, at least 9 pixels,
    and shrink where the text would be wider than the picture.

    Args:
        image: RGB uint8 `(height, width, 3)`; it is not changed.
        text: what to say.

    Returns:
        A copy with the label, RGB uint8 `(height, width, 3)`.
    """
    height, width = image.shape[:2]
    label = _label(text, max(9, round(0.04 * min(height, width))), width)
    label = label[-height:, :width]
    labelled = image.copy()
    labelled[height - label.shape[0] :, : label.shape[1]] = label
    return labelled


@lru_cache(maxsize=16)
def _label(text: str, size: int, width: int) -> np.ndarray:
    """The label alone, at most `width` pixels wide where letters of 5 pixels allow."""
    while True:
        font = ImageFont.load_default(size)
        margin = -(-size // 4)
        label_width = round(font.getlength(text)) + 2 * margin
        if label_width <= width or size <= 5:
            break
        size -= 1
    label = Image.new("RGB", (label_width, size + 2 * margin))
    middle = (label_width / 2, label.height / 2)
    ImageDraw.Draw(label).text(middle, text, fill="white", font=font, anchor="mm")
    return np.array(label)


def write_sidecar(path: str | Path, source: str | Path | None, settings: dict) -> Path:
    """Write the marks beside a finished output, as `<name>.synthetic.json`.

    Encoding a file anew loses what is in it; this file stays. Write it last, when the
    output has its marks, its signature and its name.

    Args:
        path: the output; or the folder of an image sequence.
        source: what it was made of, of which the name alone is noted; None: unknown.
        settings: how it was made; what JSON does not know is noted as text.

    Returns:
        The file: `video_metadata`, and `file` (name), `sha256` (of the output; of a
        folder, that of the text `sha256sum` prints of its pictures in the order of
        their names), `source` and `settings`.

    Raises:
        FileNotFoundError: nothing is at `path`, or the folder holds no picture.
        OSError: the folder cannot be written to.
    """
    path = Path(path)
    record = video_metadata() | {
        "file": path.name,
        "sha256": _digest(path),
        "source": None if source is None else Path(source).name,
        "settings": settings,
    }
    sidecar = sidecar_path(path)
    text = json.dumps(record, indent=2, ensure_ascii=False, default=str)
    with write_beside(sidecar) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return sidecar


def sidecar_path(path: str | Path) -> Path:
    """Name the file that `write_sidecar` writes for an output.

    Args:
        path: the output, a file or a folder.

    Returns:
        `<name>.synthetic.json` beside it.
    """
    path = Path(path)
    if path.name in ("", ".."):  # a folder named by where one stands
        path = path.resolve()
    return path.with_name(f"{path.name}.synthetic.json")


def read_sidecar(path: str | Path) -> tuple[dict, bool] | None:
    """Read what `write_sidecar` wrote, and see whether it speaks of this very file.

    Args:
        path: the output, a file or a folder.

    Returns:
        The record and whether the output is, byte for byte, the one it was written for;
        None where there is no such file.

    Raises:
        FileNotFoundError: nothing is at `path`.
        ValueError: the sidecar is damaged.
    """
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return None
    try:
        record = json.loads(sidecar.read_text(encoding="utf-8"))
        expected = record["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{sidecar} is damaged; delete it") from error
    return record, expected == _digest(Path(path))


def _digest(path: Path) -> str:
    if path.is_dir():
        names = sorted(image.name for image in list_images(path))
        listing = "".join(f"{_digest(path / name)}  {name}\n" for name in names)
        return hashlib.sha256(listing.encode()).hexdigest()
    _check_file(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_marks(path: str | Path) -> dict[str, str]:
    """Read back the marks of a picture, a video or a folder of pictures.

    Args:
        path: picture (by its suffix, `images.IMAGE_SUFFIXES`), video file, or folder.

    Returns:
        Those of the keys of `video_metadata` that the file carries, in its tags or its
        XMP packet; of a folder, those of the first picture that does not say that it is
        synthetic, else of the first. Empty if there are none.

    Raises:
        FileNotFoundError: nothing is at `path`, or the folder holds no picture.
        ValueError: the file is neither a picture nor a video.
    """
    path = Path(path)
    if path.is_dir():
        return min(map(read_marks, list_images(path)), key=says_synthetic)
    _check_file(path)
    try:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            with Image.open(path) as image:
                packet = image.info.get("xmp", b"")
            return _parse_xmp(read_gif_xmp(path) if image.format == "GIF" else packet)
        with av.open(
            f"file:{path}", options={"export_xmp": "1"}, metadata_errors="replace"
        ) as container:
            # Matroska writes its keys in capitals.
            found = {key.lower(): text for key, text in container.metadata.items()}
    except (UnidentifiedImageError, Image.DecompressionBombError, FFmpegError) as error:
        raise ValueError(
            f"{path} is neither a picture nor a video that can be read"
        ) from error
    tags = {name: found[name.lower()] for name in _XMP_NAMES if name.lower() in found}
    return _parse_xmp(found.get("xmp", "")) | tags


def says_synthetic(marks: dict[str, str]) -> bool:
    """Tell whether marks say that the file is synthetic.

    Args:
        marks: as `read_marks` returns them.

    Returns:
        Whether `DigitalSourceType` is one of IPTC's for media made, or put together,
        with a model or by an algorithm.
    """
    kind = marks.get("DigitalSourceType", "").rsplit("/", 1)[-1]
    return kind in _SYNTHETIC_TYPES


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there or not a file; check the name")


def _parse_xmp(packet: bytes | str) -> dict[str, str]:
    text = packet if isinstance(packet, bytes) else packet.encode()
    try:
        root = ElementTree.fromstring(text.strip(b"\0 \n"))
    except ElementTree.ParseError:
        return {}
    marks = {}
    for name, tag in _XMP_NAMES.items():
        for element in root.iter():  # XMP allows an element or an attribute
            if element.tag == tag:
                marks[name] = "".join(element.itertext()).strip()
            elif tag in element.attrib:
                marks[name] = element.attrib[tag]
    return marks

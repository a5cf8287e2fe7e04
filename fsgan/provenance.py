"""Marks that say "this is synthetic", written into every result, and reading them back.

Metadata is honest, not tamper-proof: encoding a file anew may lose it.
"""

import importlib.metadata
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import av
from av.error import FFmpegError
from PIL import Image, UnidentifiedImageError

from fsgan.images import IMAGE_SUFFIXES

SOURCE_TYPE = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/"
    "compositeWithTrainedAlgorithmicMedia"
)
STATEMENT = (
    "Synthetic media: faces in this file were replaced by a neural network (fsgan)."
)
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


def read_marks(path: str | Path) -> dict[str, str]:
    """Read back the marks of a picture or a video.

    Args:
        path: picture (by its suffix, `images.IMAGE_SUFFIXES`) or video file.

    Returns:
        Those of the keys of `video_metadata` that the file carries; without
        `DigitalSourceType` it does not say that it is synthetic. Empty if none.

    Raises:
        FileNotFoundError: no file is at `path`.
        ValueError: the file is neither a picture nor a video.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there or not a file; check the name")
    try:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            with Image.open(path) as image:
                return _parse_xmp(image.info.get("xmp", b""))
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            # Matroska writes its keys in capitals.
            found = {key.lower(): text for key, text in container.metadata.items()}
    except (UnidentifiedImageError, FFmpegError) as error:
        raise ValueError(f"{path} is neither a picture nor a video") from error
    return {name: found[name.lower()] for name in _XMP_NAMES if name.lower() in found}


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

"""Marks that say "this is synthetic", written into every result, and reading them back.

Metadata is honest, not tamper-proof: encoding a file anew may lose it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NotRequired
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from typing_extensions import TypedDict

from fsgan.media.credentials import (
    SOURCE_TYPE,
    STATEMENT,
    Credentials,
    installed,
    is_synthetic,
    read_credentials,
    software,
)
from fsgan.media.decoding import open_media
from fsgan.media.files import write_beside
from fsgan.media.images import IMAGE_SUFFIXES, list_images, open_image
from fsgan.validation import read_json

# Each mark's name here, and its element in XMP.
_XMP_NAMES = {
    "comment": "{http://purl.org/dc/elements/1.1/}description",
    "software": "{http://ns.adobe.com/xap/1.0/}CreatorTool",
    "DigitalSourceType": (
        "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    ),
    "date": "{http://ns.adobe.com/xap/1.0/}CreateDate",
}
_LARGEST_SIDECAR = 1_000_000  # bytes
_SECRETS = ("certificate", "private_key")  # settings that name files of the user's own


class _Sidecar(TypedDict):
    again: NotRequired[list[dict[str, Any]]]
    comment: str
    software: str
    DigitalSourceType: str
    date: str
    file: str
    sha256: str
    source: str | None
    settings: dict[str, Any]


def video_metadata() -> dict[str, str]:
    """Returns the marks for a video's container, as `VideoWriter` takes them.

    Returns:
        `comment` (a plain sentence), `software` (name and version),
        `DigitalSourceType` (IPTC's address) and `date` (now, ISO 8601, UTC).
    """
    return {
        "comment": STATEMENT,
        "software": software(),
        "DigitalSourceType": SOURCE_TYPE,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def image_xmp() -> bytes:
    """Returns the same marks as a whole XMP packet, UTF-8, as `write_image` takes it.

    Source: ISO 16684-1 (XMP); IPTC Photo Metadata Standard.
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


def draw_label(image: np.ndarray, text: str = "AI face swap") -> np.ndarray:
    """Draws a small label, white on black, into the lower left corner of a picture.

    The letters are 4 % of the shorter side high, at least 9 pixels, and smaller where
    the text would be wider than the picture.

    Args:
        image: RGB uint8 (height, width, 3); it is not changed.
        text: what to say.

    Returns:
        A copy with the label, RGB uint8 (height, width, 3).
    """
    label = _label(text, *image.shape[:2])
    labelled = image.copy()
    labelled[-label.shape[0] :, : label.shape[1]] = label
    return labelled


@lru_cache(maxsize=16)
def _label(text: str, height: int, width: int) -> np.ndarray:
    """The label alone, for pictures of a size."""
    size = max(9, round(0.04 * min(height, width)))
    length = ImageFont.load_default(size).getlength(text) + size / 2
    size = max(5, int(size * min(1, width / length)))
    font = ImageFont.load_default(size)
    label = Image.new("RGB", (round(font.getlength(text) + size / 2), 3 * size // 2))
    middle = (label.width / 2, label.height / 2)
    ImageDraw.Draw(label).text(middle, text, fill="white", font=font, anchor="mm")
    return np.array(label)[-height:, :width]


def write_sidecar(
    path: str | Path,
    source: str | Path | None,
    settings: dict,
    content: Path | None = None,
    again: Sequence[dict] = (),
) -> Path:
    """Writes the marks beside an output, as `<name>.synthetic.json`.

    Encoding a file anew loses what is in it; this file stays.

    Args:
        path: the output, marked, signed and named; or a folder of pictures.
        source: what it was made of, of which the name alone is noted; None: unknown.
        settings: how it was made; where certificate and key lie is left out.
        content: where the output still lies; None: under its name.
        again: of each part that was converted again, how; noted if there is any.

    Returns:
        The file: `video_metadata`, and `file` (name), `sha256` (of a folder, that of
        the text `sha256sum` prints of its pictures in the order of their names),
        `source` and `settings`.

    Raises:
        FileNotFoundError: there is no output, or the folder holds no picture.
    """
    path = Path(path)
    record = video_metadata() | {
        "file": path.name,
        "sha256": _digest(path if content is None else content),
        "source": None if source is None else Path(source).name,
        "settings": {k: v for k, v in settings.items() if k not in _SECRETS},
    }
    if again:
        record["again"] = list(again)
    sidecar = sidecar_path(path)
    text = json.dumps(record, indent=2, ensure_ascii=False, default=str)
    with write_beside(sidecar) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return sidecar


def sidecar_path(path: str | Path) -> Path:
    """Returns the name of an output's sidecar: `<name>.synthetic.json` beside it."""
    path = Path(path)
    if path.name in ("", ".."):  # a folder named by where one stands
        path = path.resolve()
    return path.with_name(f"{path.name}.synthetic.json")


def read_sidecar(path: str | Path) -> tuple[dict, bool] | None:
    """Reads what `write_sidecar` wrote for an output.

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
    if sidecar.stat().st_size > _LARGEST_SIDECAR:
        raise ValueError(f"{sidecar} is far too large: delete it")
    record = read_json(sidecar, _Sidecar, "delete it")
    return record, record["sha256"] == _digest(Path(path))


def _digest(path: Path) -> str:
    if path.is_dir():
        names = sorted(image.name for image in list_images(path))
        listing = "".join(f"{_digest(path / name)}  {name}\n" for name in names)
        return hashlib.sha256(listing.encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_marks(path: str | Path) -> dict[str, str]:
    """Reads back the marks of a picture, a video or a folder of pictures.

    Returns:
        Those of the keys of `video_metadata` that the file carries; of a folder, those
        of the first picture that does not say that it is synthetic, else of the first.

    Raises:
        FileNotFoundError: nothing is at `path`, or the folder holds no picture.
        ValueError: the file is neither a picture nor a video.
    """
    path = Path(path)
    if path.is_dir():
        return min(map(read_marks, list_images(path)), key=says_synthetic)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        with open_image(path) as image:
            return _parse_xmp(image.info.get("xmp", b""))
    with open_media(path) as container:
        # Matroska writes its keys in capitals.
        found = {key.lower(): text for key, text in container.metadata.items()}
    return {name: found[name.lower()] for name in _XMP_NAMES if name.lower() in found}


def _parse_xmp(packet: bytes) -> dict[str, str]:
    try:  # Expat refuses entities that grow
        root = ElementTree.fromstring(packet.strip(b"\0 \n"))
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


def says_synthetic(marks: dict[str, str]) -> bool:
    """Tells whether marks, as `read_marks` returns them, say "this is synthetic"."""
    return is_synthetic(marks.get("DigitalSourceType", ""))


@dataclass(frozen=True)
class Verification:
    """What `verify` found; as text, a block of lines that ends with a verdict.

    Attributes:
        path: the file or folder.
        marks: its metadata, as `read_marks` returns them.
        credentials: its signed manifest; None: there is none, or nobody looked.
        credentials_read: whether c2pa-python was there to look.
        sidecar: the record beside it; empty if there is none.
        sidecar_matches: whether the record is of this very file.
    """

    path: Path
    marks: dict[str, str]
    credentials: Credentials | None = None
    credentials_read: bool = True
    sidecar: dict = field(default_factory=dict)
    sidecar_matches: bool = False

    @property
    def synthetic(self) -> bool:
        """Whether marks, manifest or record say that it is synthetic."""
        signed = self.credentials is not None and self.credentials.synthetic
        return signed or says_synthetic(self.marks) or says_synthetic(self.sidecar)

    @property
    def tampered(self) -> bool:
        """Whether it was changed since it was signed, or since the record was made."""
        signed = self.credentials is not None and self.credentials.tampered
        return signed or (bool(self.sidecar) and not self.sidecar_matches)

    @property
    def verdict(self) -> str:
        """What to make of it, one sentence."""
        if self.synthetic and self.tampered:
            return "says that it is synthetic, and was changed after it said so"
        if self.tampered:
            return "was changed after it was signed"
        if self.synthetic:
            return "says that it is synthetic"
        return "carries no mark: this does not mean that it is genuine"

    def __str__(self) -> str:
        """Returns the block of lines."""
        found = [("metadata", f"{k}: {_short(v)}") for k, v in self.marks.items()]
        found = found or [("metadata", "none")]
        found += [("credentials", line) for line in self._signature()]
        beside = "none"
        if self.sidecar:
            matches = "matches" if self.sidecar_matches else "DOES NOT match this file"
            source = self.sidecar.get("source") or "an unnamed source"
            beside = f"{sidecar_path(self.path).name} {matches}; made of {source}"
        found += [("sidecar", beside), ("verdict", self.verdict)]
        lines = [f"  {part:<12} {line}" for part, line in found]
        return "\n".join([str(self.path), *lines])

    def _signature(self) -> list[str]:
        signed = self.credentials
        if not self.credentials_read:
            return ["not looked for: c2pa-python is not installed (extra provenance)"]
        if signed is None:
            return ["none"]
        meaning = {
            "Trusted": "unchanged since it was signed, by somebody trusted",
            "Valid": "unchanged since it was signed; nobody vouches for the signer",
        }.get(signed.state, "does not hold")
        named = {
            "signed by": signed.signer,
            "software": signed.software,
            "title": signed.title,
            "DigitalSourceType": ", ".join(map(_short, signed.source_types)),
            "checks failed": ", ".join(signed.problems),
        }
        lines = [f"{name}: {text}" for name, text in named.items() if text]
        return [f"{signed.state}: {meaning}", *lines]


def verify(path: str | Path, *, trusted: str | Path | None = None) -> Verification:
    """Reads all that a file says about its origin.

    Args:
        path: picture, video, or folder of pictures.
        trusted: root certificates to trust, PEM; None trusts nobody.

    Returns:
        What was found. Of the signatures of a folder, that of the first picture that
        was tampered with; else None if a picture has none; else that of the first.

    Raises:
        FileNotFoundError: nothing is at `path`, a folder is empty, or no `trusted`.
        ValueError: it is neither a picture nor a video, or its sidecar is damaged.
    """
    path = Path(path)
    marks = read_marks(path)
    files = list_images(path) if path.is_dir() else [path]
    credentials = [read_credentials(file, trusted=trusted) for file in files]
    worst = min(credentials, key=lambda it: 1 if it is None else 2 * (not it.tampered))
    record, matches = read_sidecar(path) or ({}, False)
    return Verification(path, marks, worst, installed(), record, matches)


def _short(text: str) -> str:
    """The last word of IPTC's long addresses."""
    return text.removeprefix(SOURCE_TYPE.rpartition("/")[0] + "/")

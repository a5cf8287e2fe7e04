"""XMP packets in the containers that neither Pillow nor FFmpeg writes them into."""

import mmap
import shutil
import struct
import uuid
from pathlib import Path

from fsgan.media.images import write_beside

_BOX = uuid.UUID("be7acfcb-97a9-42e8-9c71-999491e3afac").bytes
_EXTENSION = b"\x21\xff\x0bXMP DataXMP"
# Readers that know no XMP take its bytes for lengths of blocks: wherever they land in
# this ramp, it leads them to its end.
_RAMP = b"\1" + bytes(range(255, -1, -1)) + b"\0"


def embed_xmp(path: Path, packet: bytes, comment: str = "") -> None:
    """Put an XMP packet into a video, where it holds none and has a place for one.

    MP4, M4V and MOV get it as a `uuid` box at their end: nothing in them moves. GIF
    gets an application extension, and a plain comment, before its first picture. Other
    files are left as they are.

    Args:
        path: the video file, finished; an interruption may leave half a box at its end.
        packet: a whole XMP packet, UTF-8.
        comment: for GIF, at most 255 letters of ASCII.

    Raises:
        ValueError: the file is not a whole one of the kind that its suffix names.

    Source:
        XMP Specification Part 3 (MPEG-4; GIF); ISO 14496-12 (boxes); GIF89a.
    """
    suffix = path.suffix.lower()
    if suffix in (".mp4", ".m4v", ".mov"):
        _embed_in_boxes(path, packet)
    elif suffix == ".gif":
        _embed_in_gif(path, packet, comment)


def read_gif_xmp(path: Path) -> bytes:
    """Read the XMP packet of a GIF.

    Args:
        path: the file.

    Returns:
        The packet; empty if there is none.
    """
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        found = data.find(_EXTENSION)
        start = found + len(_EXTENSION)
        end = data.find(_RAMP[:9], start)
        return b"" if found < 0 or end < 0 else data[start:end]


def _embed_in_boxes(path: Path, packet: bytes) -> None:
    with open(path, "r+b") as file:
        size, end = path.stat().st_size, 0
        while end < size:
            file.seek(end)
            head = file.read(24).ljust(24, b"\0")
            length, kind = struct.unpack(">I4s", head[:8])
            if kind == b"uuid" and head[8:] == _BOX:
                return
            if length == 1:  # too long for 32 bits
                (length,) = struct.unpack(">Q", head[8:16])
            if length < 8:
                break
            end += length
        if end != size or not size:
            raise ValueError(f"{path} is not a whole {path.suffix} file; write it anew")
        file.seek(size)
        file.write(struct.pack(">I4s", 24 + len(packet), b"uuid") + _BOX + packet)


def _embed_in_gif(path: Path, packet: bytes, comment: str) -> None:
    with open(path, "rb") as file:
        head = file.read(13)
        if len(head) < 13 or not head.startswith((b"GIF87a", b"GIF89a")):
            raise ValueError(f"{path} is not a whole .gif file; write it anew")
        head = b"GIF89a" + head[6:]  # the older version has no extensions
        if read_gif_xmp(path):
            return
        if head[10] & 0x80:  # a table of colours for all pictures
            head += file.read(3 << (head[10] % 8 + 1))
        loop = file.read(19)
        if loop.startswith(b"\x21\xff\x0bNETSCAPE2.0"):  # players want it first
            head += loop
        else:
            file.seek(len(head))
        text = comment.encode("ascii")
        head += b"\x21\xfe" + bytes([len(text)]) + text + b"\0"
        with write_beside(path) as temporary, open(temporary, "wb") as marked:
            marked.write(head + _EXTENSION + packet + _RAMP)
            shutil.copyfileobj(file, marked)

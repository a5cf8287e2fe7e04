import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from fsgan.media.xmp import embed_xmp, read_gif_xmp

PACKET = b"<?xpacket begin=''?><x:xmpmeta xmlns:x='adobe:ns:meta/'/><?xpacket end='w'?>"


def write_clip(path, frames=8):
    """A video of growing brightness, with a tone where the container takes it."""
    codec, layout = {
        ".gif": ("gif", "rgb8"),
        ".webm": ("libvpx-vp9", "yuv420p"),
    }.get(path.suffix, ("libx264", "yuv420p"))
    options = {"movflags": "+faststart"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream(codec, rate=10)
        video.width, video.height, video.pix_fmt = 48, 32, layout
        if path.suffix in (".mp4", ".mov"):
            audio = container.add_stream("aac", rate=48_000)
        for index in range(frames):
            gray = np.full((32, 48, 3), 30 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(gray, format="rgb24")
            container.mux(video.encode(frame.reformat(format=layout)))
        container.mux(video.encode(None))
        if path.suffix in (".mp4", ".mov"):
            write_tone(container, audio)


def write_tone(container, audio):
    for index in range(30):
        phase = np.arange(1024 * index, 1024 * (index + 1)) * (440 / 48_000)
        tone = np.sin(2 * np.pi * phase).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 1024 * index
        frame.time_base = Fraction(1, 48_000)
        container.mux(audio.encode(frame))
    container.mux(audio.encode(None))


def content(path):
    """Times and pixels of all frames, times and bytes of all packets of sound."""
    with av.open(str(path)) as container:
        frames = [(f.pts, f.to_ndarray().tobytes()) for f in container.decode(video=0)]
    with av.open(str(path)) as container:
        tracks = container.streams.audio
        sound = [(p.pts, bytes(p)) for p in container.demux(tracks)] if tracks else []
    return frames, sound


def boxes(path):
    data, start, found = path.read_bytes(), 0, []
    while start < len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        found.append(kind)
        start += length
    return found


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".gif"])
def test_pictures_and_sound_are_what_they_were(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    write_clip(path)
    before = content(path)
    embed_xmp(path, PACKET, "synthetic")
    assert content(path) == before
    assert len(before[0]) == 8
    assert (len(before[1]) > 20) == (suffix != ".gif")


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_the_box_comes_last_and_nothing_before_it_moves(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    write_clip(path)
    before, kinds = path.read_bytes(), boxes(path)
    assert kinds.index(b"moov") < kinds.index(b"mdat")
    embed_xmp(path, PACKET)
    after = path.read_bytes()
    box = bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + PACKET
    head = struct.pack(">I", 8 + len(box)) + b"uuid"
    assert after == before + head + box


def test_ffmpeg_reads_the_box(tmp_path):
    write_clip(tmp_path / "clip.mp4")
    embed_xmp(tmp_path / "clip.mp4", PACKET)
    options = {"export_xmp": "1"}
    with av.open(str(tmp_path / "clip.mp4"), options=options) as container:
        assert container.metadata["xmp"].encode() == PACKET


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".gif"])
def test_a_second_packet_is_not_written(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    write_clip(path)
    embed_xmp(path, PACKET, "one")
    once = path.read_bytes()
    embed_xmp(path, b"another", "two")
    assert path.read_bytes() == once


def test_a_gif_gets_packet_and_comment_and_keeps_its_loop(tmp_path):
    path = tmp_path / "clip.gif"
    write_clip(path)
    assert read_gif_xmp(path) == b""
    embed_xmp(path, PACKET, "synthetic")
    assert read_gif_xmp(path) == PACKET
    data = path.read_bytes()
    assert data.index(b"NETSCAPE2.0") < data.index(b"synthetic") < data.index(PACKET)
    with Image.open(path) as image:
        assert image.info["comment"] == b"synthetic"
        assert image.info["loop"] == 0
        assert image.n_frames == 8


def test_a_gif_without_a_loop_or_a_table_of_colours_is_read_alike(tmp_path):
    path = tmp_path / "one.gif"
    Image.new("L", (8, 4), 77).save(path)
    data = bytearray(path.read_bytes())
    table = 3 << (data[10] % 8 + 1)
    place = 13 + table + 9  # a table of the one picture, in place of the common one
    assert data[13 + table] == 0x2C
    data[place] |= 0x80 | data[10] % 8
    data[place + 1 : place + 1] = data[13 : 13 + table]
    data[10] &= 0x7F
    del data[13 : 13 + table]
    path.write_bytes(data)
    embed_xmp(path, PACKET, "synthetic")
    assert read_gif_xmp(path) == PACKET
    assert path.read_bytes().startswith(b"GIF89a")
    with Image.open(path) as image:
        assert set(image.convert("L").tobytes()) == {77}


def test_a_box_of_more_than_32_bits_is_stepped_over(tmp_path):
    path = tmp_path / "long.mp4"
    long = struct.pack(">I4sQ", 1, b"mdat", 20) + b"data"
    path.write_bytes(struct.pack(">I4s", 8, b"free") + long)
    embed_xmp(path, PACKET)
    assert path.read_bytes().endswith(PACKET)


@pytest.mark.parametrize("suffix", [".webm", ".mkv"])
def test_matroska_is_left_as_it_is(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    write_clip(path)
    before = path.read_bytes()
    embed_xmp(path, PACKET)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("short.mp4", struct.pack(">I4s", 100, b"ftyp") + b"x"),
        ("endless.mp4", struct.pack(">I4s", 0, b"mdat") + b"x" * 50),
        ("text.mov", b"just words " * 9),
        ("empty.mp4", b""),
        ("text.gif", b"just words " * 9),
        ("empty.gif", b""),
    ],
)
def test_a_broken_file_is_refused_and_kept(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} is not a whole"):
        embed_xmp(tmp_path / name, PACKET)
    assert (tmp_path / name).read_bytes() == data

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from PIL import Image
from test_xmp import write_clip as write_bare_clip

from fsgan.media import images, provenance
from fsgan.media.writer import VideoWriter

SYNTHETIC = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/"
    "compositeWithTrainedAlgorithmicMedia"
)
GRAY = np.full((16, 24, 3), 128, np.uint8)


def write_clip(path, metadata=None):
    with VideoWriter(path, 24, 16, 25, metadata=metadata) as writer:
        writer.write(GRAY)


def assert_marked(marks):
    assert marks["DigitalSourceType"] == SYNTHETIC
    assert marks["software"].startswith("fsgan ")
    assert "Synthetic" in marks["comment"]
    age = datetime.now(UTC) - datetime.fromisoformat(marks["date"])
    assert timedelta(seconds=-1) < age < timedelta(minutes=5)
    assert set(marks) == {"comment", "software", "DigitalSourceType", "date"}


def test_a_video_comes_back_with_its_marks(tmp_path):
    metadata = provenance.video_metadata()
    write_clip(tmp_path / "marked.mp4", metadata)
    assert_marked(metadata)
    assert provenance.read_marks(tmp_path / "marked.mp4") == metadata


def test_the_marks_of_a_video_are_plain_container_tags(tmp_path):
    write_clip(tmp_path / "marked.mp4", provenance.video_metadata())
    with av.open(str(tmp_path / "marked.mp4")) as container:
        assert container.metadata["DigitalSourceType"] == SYNTHETIC
        assert "Synthetic" in container.metadata["comment"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_comes_back_with_its_marks(tmp_path, suffix):
    path = tmp_path / f"marked{suffix}"
    images.write_image(path, GRAY, xmp=provenance.image_xmp())
    assert_marked(provenance.read_marks(path))
    assert np.abs(images.read_image(path).astype(int) - 128).max() <= 1


def test_the_xmp_packet_is_well_formed_and_wrapped():
    packet = provenance.image_xmp()
    assert packet.startswith(b"<?xpacket begin=") and packet.endswith(b'end="w"?>')
    assert ElementTree.fromstring(packet).tag == "{adobe:ns:meta/}xmpmeta"


def test_marks_written_as_attributes_are_read_too(tmp_path):
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        'xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'i:DigitalSourceType="{SYNTHETIC}"/></x:xmpmeta>'
    )
    Image.fromarray(GRAY).save(tmp_path / "other.jpg", xmp=packet.encode())
    assert provenance.read_marks(tmp_path / "other.jpg") == {
        "DigitalSourceType": SYNTHETIC
    }


def test_files_without_marks_give_an_empty_dict(tmp_path):
    write_clip(tmp_path / "plain.mp4")
    images.write_image(tmp_path / "plain.png", GRAY)
    Image.fromarray(GRAY).save(tmp_path / "broken.jpg", xmp=b"<not xml")
    for name in ("plain.mp4", "plain.png", "broken.jpg"):
        assert provenance.read_marks(tmp_path / name) == {}


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        provenance.read_marks(tmp_path / "nowhere.png")


@pytest.mark.parametrize("name", ["text.png", "text.mp4"])
def test_a_file_of_text_is_refused(tmp_path, name):
    (tmp_path / name).write_text("just words\n" * 20)
    with pytest.raises(ValueError, match=f"{name} is neither a picture nor a video"):
        provenance.read_marks(tmp_path / name)


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".gif"])
def test_a_video_without_tags_is_marked_by_its_xmp_packet(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    write_bare_clip(path)
    assert provenance.read_marks(path) == {}
    provenance.mark_file(path)
    assert_marked(provenance.read_marks(path))


def test_tags_go_before_the_packet(tmp_path):
    metadata = provenance.video_metadata() | {"date": "2001-02-03T04:05:06+00:00"}
    write_clip(tmp_path / "clip.mp4", metadata)
    provenance.mark_file(tmp_path / "clip.mp4")
    assert provenance.read_marks(tmp_path / "clip.mp4") == metadata


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_matroska_needs_no_more_than_tags(tmp_path, suffix):
    metadata = provenance.video_metadata()
    write_bare_clip(tmp_path / "bare.mkv")
    path = tmp_path / f"clip{suffix}"
    with (
        av.open(str(tmp_path / "bare.mkv")) as bare,
        av.open(str(path), "w", format="matroska") as tagged,
    ):
        tagged.metadata.update(metadata)
        stream = tagged.add_stream_from_template(bare.streams.video[0])
        for packet in bare.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                tagged.mux(packet)
    before = path.read_bytes()
    provenance.mark_file(path)
    assert path.read_bytes() == before
    assert provenance.read_marks(path) == metadata


def test_a_missing_file_is_not_marked(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        provenance.mark_file(tmp_path / "nowhere.mp4")


def test_a_folder_says_what_all_its_pictures_say(tmp_path):
    for name in ("1.png", "2.jpg", "10.webp"):
        images.write_image(tmp_path / name, GRAY, xmp=provenance.image_xmp())
    assert_marked(provenance.read_marks(tmp_path))
    photo = provenance.image_xmp().replace(b"compositeWithTrained", b"un")
    images.write_image(tmp_path / "7.png", GRAY, xmp=photo)
    assert not provenance.says_synthetic(provenance.read_marks(tmp_path))
    images.write_image(tmp_path / "5.png", GRAY)
    assert provenance.read_marks(tmp_path) == {}


def test_a_folder_without_pictures_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        provenance.read_marks(tmp_path)


@pytest.mark.parametrize(
    ("kind", "synthetic"),
    [
        ("compositeWithTrainedAlgorithmicMedia", True),
        ("trainedAlgorithmicMedia", True),
        ("digitalCapture", False),
        ("", False),
    ],
)
def test_a_camera_does_not_say_that_it_is_synthetic(kind, synthetic):
    address = f"http://cv.iptc.org/newscodes/digitalsourcetype/{kind}"
    assert provenance.says_synthetic({"DigitalSourceType": address}) is synthetic
    assert not provenance.says_synthetic({"comment": kind})


@pytest.mark.parametrize("background", [0, 128, 255])
def test_the_label_is_white_on_black_in_the_corner_and_nowhere_else(background):
    image = np.full((720, 1280, 3), background, np.uint8)
    before = image.copy()
    labelled = provenance.draw_label(image)
    assert (image == before).all()
    corner = labelled[-45:, :180]
    assert (labelled[:-45] == background).all()
    assert (labelled[:, 180:] == background).all()
    assert corner.min() == 0 and corner.max() == 255
    # 4 % of 720 are 29 pixels: letters reach from 0.6 to 1.1 times that.
    rows = np.flatnonzero((corner[:, 10:170] > 200).any(axis=(1, 2)))
    assert 17 <= np.ptp(rows) + 1 <= 32


def test_the_label_is_the_same_in_every_frame():
    rng = np.random.default_rng(1)
    first, second = (
        provenance.draw_label(rng.integers(0, 256, (240, 320, 3), np.uint8))
        for _ in range(2)
    )
    same = (first == second).all(axis=2)
    rows, columns = np.flatnonzero(same[:, 0]), np.flatnonzero(same[-1])
    assert same[rows[-10] :, : columns[-10]].all()
    assert len(rows) >= 14 and len(columns) >= 50


@pytest.mark.parametrize("side", [1, 16, 64])
@pytest.mark.parametrize("text", ["AI face swap", "AI", "A far too long text " * 9])
def test_small_frames_take_the_label_they_have_room_for(side, text):
    labelled = provenance.draw_label(np.full((side, side, 3), 90, np.uint8), text)
    assert labelled.shape == (side, side, 3) and labelled.dtype == np.uint8
    assert (labelled[-1, 0] == 0).all()
    if side == 64:
        assert (labelled[:40] == 90).all() and labelled.max() > 150


def test_the_letters_shrink_until_the_text_fits():
    frame = np.full((720, 720, 3), 90, np.uint8)
    labelled = provenance.draw_label(frame, "faces in this video are artificial " * 2)
    columns = np.flatnonzero((labelled[:, :, 0] == 0).any(axis=0))
    assert 650 < columns[-1] < 719  # the end of the text is there, too


def test_the_sidecar_tells_what_the_file_would(tmp_path):
    path = tmp_path / "swap.mp4"
    path.write_bytes(b"a video")
    settings = {"crf": 18, "only": Path("person.jpg"), "color": None}
    sidecar = provenance.write_sidecar(path, "/videos/of mine/a.mp4", settings)
    assert sidecar == tmp_path / "swap.mp4.synthetic.json"
    assert sidecar == provenance.sidecar_path(path)
    record = json.loads(sidecar.read_text())
    assert record.pop("file") == "swap.mp4"
    assert record.pop("sha256") == hashlib.sha256(b"a video").hexdigest()
    assert record.pop("source") == "a.mp4"
    assert record.pop("settings") == {"crf": 18, "only": "person.jpg", "color": None}
    assert_marked(record)


def test_the_sidecar_belongs_to_one_file_byte_for_byte(tmp_path):
    path = tmp_path / "swap.mp4"
    path.write_bytes(b"a video")
    assert provenance.read_sidecar(path) is None
    provenance.write_sidecar(path, None, {})
    record, matches = provenance.read_sidecar(path)
    assert matches and record["source"] is None
    path.write_bytes(b"a videp")
    assert provenance.read_sidecar(path) == (record, False)


def test_the_sidecar_of_a_folder_is_of_all_its_pictures(tmp_path, monkeypatch):
    folder = tmp_path / "frames"
    for name in ("1.png", "10.png", "2.png"):
        images.write_image(folder / name, GRAY)
    sidecar = provenance.write_sidecar(folder, "a.mp4", {})
    assert sidecar == tmp_path / "frames.synthetic.json"
    digest = hashlib.sha256((folder / "1.png").read_bytes()).hexdigest()
    listing = "".join(f"{digest}  {name}\n" for name in ("1.png", "10.png", "2.png"))
    record, matches = provenance.read_sidecar(folder)
    assert record["sha256"] == hashlib.sha256(listing.encode()).hexdigest()
    monkeypatch.chdir(folder)
    assert provenance.read_sidecar(".") == (record, True) and matches
    (folder / "10.png").rename(folder / "3.png")
    assert provenance.read_sidecar(folder) == (record, False)


@pytest.mark.parametrize("text", ["{", "[1]", "{}"])
def test_a_damaged_sidecar_is_told(tmp_path, text):
    (tmp_path / "swap.png").write_bytes(b"a picture")
    (tmp_path / "swap.png.synthetic.json").write_text(text)
    with pytest.raises(ValueError, match=r"swap\.png\.synthetic\.json is damaged"):
        provenance.read_sidecar(tmp_path / "swap.png")


def test_a_missing_output_gets_no_sidecar(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        provenance.write_sidecar(tmp_path / "nowhere.mp4", None, {})
    assert list(tmp_path.iterdir()) == []


def test_a_picture_too_large_to_open_is_told(tmp_path, monkeypatch):
    images.write_image(tmp_path / "large.png", GRAY)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"large\.png is neither"):
        provenance.read_marks(tmp_path / "large.png")

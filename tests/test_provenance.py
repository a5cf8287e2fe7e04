from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from PIL import Image

from fsgan import images, provenance
from fsgan.video_writer import VideoWriter

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

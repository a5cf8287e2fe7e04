import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from test_credentials import own_certificate

from fsgan.media import credentials, images, provenance
from fsgan.media.credentials import Credentials, sign
from fsgan.media.provenance import (
    SOURCE_TYPE,
    STATEMENT,
    Verification,
    image_xmp,
    read_marks,
    verify,
    write_sidecar,
)
from fsgan.media.writer import VideoWriter

GRAY = np.full((16, 24, 3), 128, np.uint8)
MARKS = {"DigitalSourceType": SOURCE_TYPE}
YES = "says that it is synthetic"
CHANGED = "says that it is synthetic, and was changed after it said so"
NOTHING = "carries no mark: this does not mean that it is genuine"


def write_clip(path, metadata=None):
    with VideoWriter(path, 24, 16, 25, metadata=metadata) as writer:
        writer.write(GRAY)


def assert_marked(marks):
    assert marks["DigitalSourceType"] == SOURCE_TYPE
    assert marks["software"].startswith("fsgan ")
    assert "Synthetic" in marks["comment"]
    age = datetime.now(UTC) - datetime.fromisoformat(marks["date"])
    assert timedelta(seconds=-1) < age < timedelta(minutes=5)
    assert set(marks) == {"comment", "software", "DigitalSourceType", "date"}


# Metadata


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_a_video_comes_back_with_its_marks(tmp_path, suffix):
    metadata, path = provenance.video_metadata(), tmp_path / f"marked{suffix}"
    write_clip(path, metadata)
    assert_marked(metadata)
    assert read_marks(path) == metadata


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_comes_back_with_its_marks(tmp_path, suffix):
    path = tmp_path / f"marked{suffix}"
    images.write_image(path, GRAY, xmp=image_xmp())
    assert_marked(read_marks(path))
    assert np.abs(images.read_image(path).astype(int) - 128).max() <= 1


def test_the_xmp_packet_is_well_formed_and_wrapped():
    packet = image_xmp()
    assert packet.startswith(b"<?xpacket begin=") and packet.endswith(b'end="w"?>')
    assert ElementTree.fromstring(packet).tag == "{adobe:ns:meta/}xmpmeta"


def test_marks_written_as_attributes_are_read_too(tmp_path):
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        'xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'i:DigitalSourceType="{SOURCE_TYPE}"/></x:xmpmeta>'
    )
    Image.fromarray(GRAY).save(tmp_path / "other.jpg", xmp=packet.encode())
    assert read_marks(tmp_path / "other.jpg") == MARKS


def test_files_without_marks_give_an_empty_dict(tmp_path):
    write_clip(tmp_path / "plain.mp4")
    images.write_image(tmp_path / "plain.png", GRAY)
    Image.fromarray(GRAY).save(tmp_path / "broken.jpg", xmp=b"<not xml")
    for name in ("plain.mp4", "plain.png", "broken.jpg"):
        assert read_marks(tmp_path / name) == {}


def test_a_folder_says_what_all_its_pictures_say(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        read_marks(tmp_path)
    for name in ("1.png", "2.jpg", "10.webp"):
        images.write_image(tmp_path / name, GRAY, xmp=image_xmp())
    assert_marked(read_marks(tmp_path))
    photo = image_xmp().replace(b"compositeWithTrained", b"un")
    images.write_image(tmp_path / "7.png", GRAY, xmp=photo)
    assert not provenance.says_synthetic(read_marks(tmp_path))
    images.write_image(tmp_path / "5.png", GRAY)
    assert read_marks(tmp_path) == {}


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
    assert Credentials("Valid", source_types=(address,)).synthetic is synthetic


# The label


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
    rows = np.flatnonzero((corner[-43:, 10:160] > 200).any(axis=(1, 2)))
    assert 17 <= np.ptp(rows) + 1 <= 32


@pytest.mark.parametrize("side", [1, 16, 64])
@pytest.mark.parametrize("text", ["AI face swap", "AI", "A far too long text " * 9])
def test_small_frames_take_the_label_they_have_room_for(side, text):
    labelled = provenance.draw_label(np.full((side, side, 3), 90, np.uint8), text)
    assert labelled.shape == (side, side, 3) and labelled.dtype == np.uint8
    assert (labelled[-1, 0] == 0).all()
    if side == 64:
        assert (labelled[:40] == 90).all() and labelled.max() > 150


# The sidecar


def test_the_sidecar_says_what_the_file_would(tmp_path):
    path = tmp_path / "swap.mp4"
    path.write_bytes(b"a video")
    settings = {"crf": 18, "only": Path("person.jpg"), "color": None}
    sidecar = write_sidecar(path, "/videos/of mine/a.mp4", settings)
    assert sidecar == tmp_path / "swap.mp4.synthetic.json"
    assert sidecar == provenance.sidecar_path(path)
    record = json.loads(sidecar.read_text())
    assert record.pop("file") == "swap.mp4"
    assert record.pop("sha256") == hashlib.sha256(b"a video").hexdigest()
    assert record.pop("source") == "a.mp4"
    assert record.pop("settings") == {"crf": 18, "only": "person.jpg", "color": None}
    assert_marked(record)


def test_where_the_private_key_lies_stays_out_of_the_sidecar(tmp_path):
    path = tmp_path / "swap.mp4"
    path.write_bytes(b"a video")
    keys = {"certificate": "secret/me.pem", "private_key": Path("secret/me.key")}
    sidecar = write_sidecar(path, None, {"crf": 18} | keys)
    assert "secret" not in sidecar.read_text()
    assert json.loads(sidecar.read_text())["settings"] == {"crf": 18}


def test_the_sidecar_belongs_to_one_file_byte_for_byte(tmp_path):
    path = tmp_path / "swap.mp4"
    path.write_bytes(b"a video")
    assert provenance.read_sidecar(path) is None
    write_sidecar(path, None, {})
    record, matches = provenance.read_sidecar(path)
    assert matches and record["source"] is None
    path.write_bytes(b"a videp")
    assert provenance.read_sidecar(path) == (record, False)


def test_the_sidecar_of_a_folder_is_of_all_its_pictures(tmp_path, monkeypatch):
    folder = tmp_path / "frames"
    for name in ("1.png", "10.png", "2.png"):
        images.write_image(folder / name, GRAY)
    sidecar = write_sidecar(folder, "a.mp4", {})
    assert sidecar == tmp_path / "frames.synthetic.json"
    digest = hashlib.sha256((folder / "1.png").read_bytes()).hexdigest()
    listing = "".join(f"{digest}  {name}\n" for name in ("1.png", "10.png", "2.png"))
    record, matches = provenance.read_sidecar(folder)
    assert record["sha256"] == hashlib.sha256(listing.encode()).hexdigest()
    monkeypatch.chdir(folder)
    assert provenance.read_sidecar(".") == (record, True) and matches
    (folder / "10.png").rename(folder / "3.png")
    assert provenance.read_sidecar(folder) == (record, False)


# What all of it says together


@pytest.fixture
def swap(tmp_path):
    """A picture as `convert_image` leaves it, with its sidecar."""
    path = tmp_path / "swap.png"
    images.write_image(path, GRAY, xmp=image_xmp())
    sign(path)
    write_sidecar(path, "a.jpg", {"color": "none"})
    return path


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1
    path.write_bytes(data)


def test_all_that_was_written_is_found_and_printed(swap):
    found = verify(swap)
    assert found.sidecar["settings"] == {"color": "none"} and found.sidecar_matches
    assert found.synthetic and not found.tampered
    software, date = found.marks["software"], found.marks["date"]
    assert str(found).splitlines() == [
        str(swap),
        f"  metadata     comment: {STATEMENT}",
        f"  metadata     software: {software}",
        "  metadata     DigitalSourceType: compositeWithTrainedAlgorithmicMedia",
        f"  metadata     date: {date}",
        "  credentials  Valid: unchanged since it was signed; nobody vouches for the "
        "signer",
        "  credentials  signed by: fsgan, key made for this file",
        f"  credentials  software: {software}",
        "  credentials  title: swap.png",
        "  credentials  DigitalSourceType: compositeWithTrainedAlgorithmicMedia",
        "  credentials  checks failed: signingCredential.untrusted",
        "  sidecar      swap.png.synthetic.json matches; made of a.jpg",
        "  verdict      says that it is synthetic",
    ]


def test_a_changed_file_is_found_out_by_both(swap):
    flip_a_bit(swap)
    found = verify(swap)
    assert found.credentials.tampered and not found.sidecar_matches
    assert found.verdict == CHANGED
    assert "  credentials  Invalid: does not hold" in str(found)
    assert "assertion.dataHash.mismatch" in str(found)
    assert "swap.png.synthetic.json DOES NOT match this file" in str(found)


def test_an_unmarked_file_is_not_called_genuine(tmp_path):
    images.write_image(tmp_path / "plain.png", GRAY)
    found = verify(tmp_path / "plain.png")
    assert found == Verification(tmp_path / "plain.png", {})
    assert str(found).splitlines()[1:] == [
        "  metadata     none",
        "  credentials  none",
        "  sidecar      none",
        f"  verdict      {NOTHING}",
    ]


@pytest.mark.parametrize(
    ("marks", "signature", "sidecar", "matches", "verdict"),
    [
        (MARKS, None, {}, False, YES),
        ({}, Credentials("Valid", source_types=(SOURCE_TYPE,)), {}, False, YES),
        ({}, None, MARKS, True, YES),
        ({}, None, MARKS, False, CHANGED),
        (MARKS, Credentials("Invalid"), {}, False, CHANGED),
        ({}, Credentials("Invalid"), {}, False, "was changed after it was signed"),
        ({}, Credentials("Trusted"), {}, False, NOTHING),
        ({"software": "fsgan 0.1.0"}, None, {}, False, NOTHING),
    ],
)
def test_one_mark_is_enough_and_one_change_too(
    marks, signature, sidecar, matches, verdict
):
    found = Verification("file", marks, signature, True, sidecar, matches)
    assert found.verdict == verdict
    assert str(found).endswith(verdict)


def test_without_the_package_the_report_says_that_nobody_looked(swap, monkeypatch):
    monkeypatch.setattr(credentials, "c2pa", None)
    found = verify(swap)
    assert found.credentials is None and not found.credentials_read
    assert "credentials  not looked for: c2pa-python is not installed" in str(found)
    assert found.verdict == YES


def test_one_bad_picture_spoils_the_folder(tmp_path):
    folder = tmp_path / "frames"
    for name in ("1.png", "2.png", "3.png"):
        images.write_image(folder / name, GRAY, xmp=image_xmp())
        sign(folder / name)
    write_sidecar(folder, "a.mp4", {})
    assert verify(folder).verdict == YES
    assert verify(folder).credentials.title == "1.png"
    flip_a_bit(folder / "2.png")
    assert verify(folder).credentials.title == "2.png"
    assert verify(folder).verdict == CHANGED
    images.write_image(folder / "2.png", GRAY, xmp=image_xmp())
    assert verify(folder).credentials is None


def test_a_known_root_makes_it_trusted(tmp_path):
    path = tmp_path / "swap.png"
    images.write_image(path, GRAY, xmp=image_xmp())
    certificate, private_key, root = own_certificate(tmp_path)
    sign(path, certificate=certificate, private_key=private_key)
    found = verify(path, trusted=root)
    assert found.credentials.state == "Trusted"
    assert "Trusted: unchanged since it was signed, by somebody trusted" in str(found)


# Faults


@pytest.mark.parametrize("name", ["text.png", "text.mp4"])
def test_a_file_of_text_is_refused(tmp_path, name):
    (tmp_path / name).write_text("just words\n" * 20)
    with pytest.raises(ValueError, match=f"{name} is not a (picture|video)"):
        verify(tmp_path / name)


@pytest.mark.parametrize("text", ["{", "[1]", "{}", '{"sha256": 3}', "[" * 99_999])
def test_a_damaged_sidecar_is_refused(tmp_path, text):
    images.write_image(tmp_path / "swap.png", GRAY)
    (tmp_path / "swap.png.synthetic.json").write_text(text)
    with pytest.raises(ValueError, match=r"swap\.png\.synthetic\.json is damaged"):
        verify(tmp_path / "swap.png")


def test_a_huge_sidecar_is_refused_before_it_is_read(tmp_path):
    images.write_image(tmp_path / "swap.png", GRAY)
    with open(tmp_path / "swap.png.synthetic.json", "wb") as file:
        file.truncate(10**12)
    with pytest.raises(ValueError, match="far too large: delete it"):
        verify(tmp_path / "swap.png")


def test_a_bomb_of_entities_in_the_metadata_is_not_expanded(tmp_path):
    entities, name = '<!ENTITY a "lol">', "a"
    for following in "bcdefghijk":
        entities += f'<!ENTITY {following} "{10 * f"&{name};"}">'
        name = following
    packet = f"<!DOCTYPE x [{entities}]><x>&{name};</x>"
    Image.fromarray(GRAY).save(tmp_path / "bomb.webp", xmp=packet.encode())
    assert read_marks(tmp_path / "bomb.webp") == {}


def test_a_damaged_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with pytest.raises(ValueError, match=r"a\.png"):
        verify(tmp_path / "a.png")


def test_a_missing_file_is_named_and_gets_no_sidecar(tmp_path):
    for function in (verify, lambda path: write_sidecar(path, None, {})):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
            function(tmp_path / "nowhere.mp4")
    assert list(tmp_path.iterdir()) == []

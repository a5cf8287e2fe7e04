import json
import sys

import numpy as np
import pytest

from fsgan.media import images
from fsgan.media.certificates import certificate_path
from fsgan.media.content_credentials import Credentials, sign
from fsgan.media.provenance import (
    SOURCE_TYPE,
    STATEMENT,
    image_xmp,
    video_metadata,
    write_sidecar,
)
from fsgan.media.verification import Verification, verify

GRAY = np.full((16, 24, 3), 128, np.uint8)
MARKS = {"DigitalSourceType": SOURCE_TYPE}
TRUE = "says that it is synthetic"
CHANGED = "says that it is synthetic, and was changed after it said so"
NOTHING = "carries no mark: this does not mean that it is genuine"


@pytest.fixture(autouse=True)
def settings_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


@pytest.fixture
def swap(tmp_path):
    """A picture as `convert_image` leaves it, with its sidecar."""
    path = tmp_path / "swap.png"
    images.write_image(path, GRAY, xmp=image_xmp())
    sign(path)
    write_sidecar(path, "a.jpg", {"color": "none"})
    return path


def test_all_that_was_written_is_found(swap):
    found = verify(swap)
    assert set(found.marks) == set(video_metadata())
    assert found.credentials.state == "Valid" and found.credentials_read
    assert found.sidecar["settings"] == {"color": "none"} and found.sidecar_matches
    assert found.synthetic and not found.tampered
    assert found.verdict == TRUE


def test_the_report_is_readable(swap):
    report = str(verify(swap)).splitlines()
    software = verify(swap).marks["software"]
    date = verify(swap).marks["date"]
    assert report == [
        str(swap),
        f"  metadata     comment: {STATEMENT}",
        f"  metadata     software: {software}",
        "  metadata     DigitalSourceType: compositeWithTrainedAlgorithmicMedia",
        f"  metadata     date: {date}",
        "  credentials  Valid: unchanged since it was signed; nobody vouches for the "
        "signer",
        "  credentials  signed by: fsgan, self-made certificate, signer",
        f"  credentials  software: {software}",
        "  credentials  title: swap.png",
        "  credentials  actions: c2pa.opened, c2pa.edited",
        "  credentials  DigitalSourceType: compositeWithTrainedAlgorithmicMedia",
        "  credentials  note: signingCredential.untrusted",
        "  sidecar      swap.png.synthetic.json matches; made of a.jpg",
        "  verdict      says that it is synthetic",
    ]


def test_a_changed_file_is_found_out_by_both(swap):
    data = bytearray(swap.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1
    swap.write_bytes(data)
    found = verify(swap)
    assert found.credentials.tampered and not found.sidecar_matches
    assert found.verdict == CHANGED
    assert "  credentials  Invalid: does not hold" in str(found)
    assert "  credentials  failed: assertion.dataHash.mismatch" in str(found)
    assert "swap.png.synthetic.json DOES NOT match this file" in str(found)


def test_a_sidecar_alone_still_says_what_the_file_was(swap):
    images.write_image(swap, GRAY)  # encoded anew: all that was in it is lost
    found = verify(swap)
    assert found.marks == {} and found.credentials is None
    assert found.verdict == CHANGED


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
    ("marks", "credentials", "sidecar", "matches", "verdict"),
    [
        (MARKS, None, {}, False, TRUE),
        ({}, Credentials("Valid", source_types=(SOURCE_TYPE,)), {}, False, TRUE),
        ({}, None, MARKS, True, TRUE),
        ({}, None, MARKS, False, CHANGED),
        (MARKS, Credentials("Invalid"), {}, False, CHANGED),
        ({}, Credentials("Invalid"), {}, False, "was changed after it was signed"),
        ({}, Credentials("Trusted"), {}, False, NOTHING),
        ({"software": "fsgan 0.1.0"}, None, {}, False, NOTHING),
    ],
)
def test_one_word_is_enough_and_one_change_too(
    marks, credentials, sidecar, matches, verdict
):
    found = Verification("file", marks, credentials, True, sidecar, matches)
    assert found.verdict == verdict
    assert str(found).endswith(verdict)


def test_without_the_package_the_report_says_that_nobody_looked(swap, monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    found = verify(swap)
    assert found.credentials is None and not found.credentials_read
    assert "credentials  not looked for: c2pa-python is not installed" in str(found)
    assert found.verdict == TRUE


def test_one_bad_picture_spoils_the_folder(tmp_path):
    folder = tmp_path / "frames"
    for name in ("1.png", "2.png", "3.png"):
        images.write_image(folder / name, GRAY, xmp=image_xmp())
        sign(folder / name)
    write_sidecar(folder, "a.mp4", {})
    assert verify(folder).verdict == TRUE
    assert verify(folder).credentials.title == "1.png"
    data = bytearray((folder / "2.png").read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1
    (folder / "2.png").write_bytes(data)
    assert verify(folder).credentials.title == "2.png"
    assert verify(folder).verdict == CHANGED
    images.write_image(folder / "2.png", GRAY, xmp=image_xmp())
    assert verify(folder).credentials is None


def test_a_known_root_makes_it_trusted(swap):
    found = verify(swap, trusted=certificate_path())
    assert found.credentials.state == "Trusted"
    assert "Trusted: unchanged since it was signed, by somebody trusted" in str(found)


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        verify(tmp_path / "nowhere.mp4")
    (tmp_path / "text.mp4").write_text("just words\n" * 20)
    with pytest.raises(ValueError, match="neither a picture nor a video"):
        verify(tmp_path / "text.mp4")
    images.write_image(tmp_path / "a.png", GRAY)
    (tmp_path / "a.png.synthetic.json").write_text(json.dumps([]))
    with pytest.raises(ValueError, match="is damaged"):
        verify(tmp_path / "a.png")

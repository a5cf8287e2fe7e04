import logging
import sys

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from PIL import Image
from test_xmp import boxes, content, write_clip

from fsgan.media import content_credentials, images
from fsgan.media.certificates import certificate_path, self_made_certificate
from fsgan.media.content_credentials import (
    Credentials,
    check_certificate,
    read_credentials,
    sign,
)
from fsgan.media.provenance import SOURCE_TYPE, image_xmp, mark_file, read_marks

PICTURES = [".png", ".jpg", ".webp"]
VIDEOS = [".mp4", ".m4v", ".mov", ".gif"]


@pytest.fixture(autouse=True)
def settings_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    content_credentials._say_unsigned.cache_clear()


def write_media(path):
    if path.suffix in PICTURES:
        noise = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)
        images.write_image(path, noise, xmp=image_xmp())
    else:
        write_clip(path)
        mark_file(path)
    return path


@pytest.fixture
def picture(tmp_path):
    return write_media(tmp_path / "swap.png")


@pytest.fixture
def own(tmp_path):
    """Files of a chain and of its key, and of the root."""
    chain, key = self_made_certificate()
    certificate_path().unlink()
    root = chain[chain.rindex(b"-----BEGIN") :]
    paths = [tmp_path / name for name in ("own.pem", "own.key", "root.pem")]
    for path, text in zip(paths, (chain, key, root), strict=True):
        path.write_bytes(text)
    return paths


@pytest.mark.parametrize("suffix", PICTURES + VIDEOS)
def test_what_is_signed_says_who_did_what_with_which_result(tmp_path, suffix):
    path = write_media(tmp_path / f".hidden{suffix}")
    assert read_credentials(path) is None
    assert sign(path, title=f"swap{suffix}")
    found = read_credentials(path)
    assert found == Credentials(
        state="Valid",
        signer="fsgan, self-made certificate, signer",
        title=f"swap{suffix}",
        software=found.software,
        actions=("c2pa.opened", "c2pa.edited"),
        source_types=(SOURCE_TYPE,),
        problems=("signingCredential.untrusted",),
    )
    assert found.software.startswith("fsgan ")
    assert found.synthetic and not found.tampered
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "settings"]


@pytest.mark.parametrize("suffix", VIDEOS)
def test_a_signed_video_plays_as_before_and_keeps_its_marks(tmp_path, suffix):
    path = write_media(tmp_path / f"swap{suffix}")
    before, marks = content(path), read_marks(path)
    assert sign(path)
    assert content(path) == before
    assert read_marks(path) == marks != {}


def test_a_signed_video_still_starts_before_it_is_whole(tmp_path):
    path = write_media(tmp_path / "swap.mp4")
    sign(path)
    kinds = boxes(path)
    assert kinds[:3] == [b"ftyp", b"uuid", b"moov"] and kinds[-1] == b"uuid"


@pytest.mark.parametrize("suffix", PICTURES)
def test_a_signed_picture_has_the_same_pixels_and_marks(tmp_path, suffix):
    path = write_media(tmp_path / f"swap{suffix}")
    before, marks = images.read_image(path), read_marks(path)
    sign(path)
    assert (images.read_image(path) == before).all()
    assert read_marks(path) == marks != {}


@pytest.mark.parametrize("suffix", [*PICTURES, ".mp4", ".mov", ".gif"])
def test_a_flipped_bit_of_the_media_is_noticed(tmp_path, suffix):
    path = write_media(tmp_path / f"swap{suffix}")
    plain = path.read_bytes()
    sign(path)
    signed = path.read_bytes()
    for share in np.linspace(0.4, 0.8, 9):
        middle = int(share * len(plain))
        place = signed.index(plain[middle - 12 : middle + 12]) + 12
        changed = bytearray(signed)
        changed[place] ^= 4
        path.write_bytes(changed)
        found = read_credentials(path)
        assert found.state == "Invalid" and found.tampered, share
        assert any(problem.endswith("mismatch") for problem in found.problems)


def test_a_manifest_that_was_written_over_is_noticed(picture):
    sign(picture)
    data = picture.read_bytes()
    picture.write_bytes(data.replace(b"c2pa.edited", b"c2pa.editee"))
    assert read_credentials(picture).tampered


def test_a_certificate_that_has_run_out_is_not_tampering():
    assert not Credentials("Invalid", problems=("signingCredential.expired",)).tampered
    mixed = ("signingCredential.expired", "assertion.dataHash.mismatch")
    assert Credentials("Invalid", problems=mixed).tampered
    assert Credentials("Invalid").tampered
    assert not Credentials("Valid", problems=("assertion.odd",)).tampered


def test_a_photo_of_a_camera_is_not_synthetic():
    address = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
    assert not Credentials("Valid", source_types=(address,)).synthetic
    assert Credentials("Valid", source_types=(address, SOURCE_TYPE)).synthetic


def test_an_own_certificate_signs_and_is_trusted_by_those_who_know_its_root(
    picture, own
):
    certificate, private_key, root = own
    check_certificate(certificate, private_key)
    assert sign(picture, certificate=certificate, private_key=private_key)
    assert not certificate_path().exists()
    assert read_credentials(picture).state == "Valid"
    trusted = read_credentials(picture, trusted=root)
    assert trusted.state == "Trusted" and trusted.problems == ()
    assert read_credentials(picture).state == "Valid"  # trust is for one call


def test_a_certificate_needs_its_key(picture, own):
    before = picture.read_bytes()
    for only in ({"certificate": own[0]}, {"private_key": own[1]}):
        with pytest.raises(ValueError, match="must be given together"):
            sign(picture, **only)
    assert picture.read_bytes() == before


def test_a_certificate_not_made_for_c2pa_is_told_before_and_then(picture, own):
    certificate, private_key, _ = own
    key = load_pem_private_key(private_key.read_bytes(), password=None)
    old = x509.load_pem_x509_certificate(certificate.read_bytes())
    plain = (  # without any extension
        x509.CertificateBuilder()
        .issuer_name(old.issuer)
        .subject_name(old.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(plain.public_bytes(Encoding.PEM))
    before = picture.read_bytes()
    with pytest.raises(ValueError, match=r"own\.pem: no signature could be made"):
        check_certificate(certificate, private_key)
    with pytest.raises(ValueError, match=r"swap\.png: no signature could be made"):
        sign(picture, certificate=certificate, private_key=private_key)
    assert picture.read_bytes() == before


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_matroska_has_no_place_for_a_signature(tmp_path, suffix, caplog):
    path = tmp_path / f"swap{suffix}"
    write_clip(path)
    before = path.read_bytes()
    with caplog.at_level(logging.INFO):
        assert not sign(path) and not sign(path)
    assert path.read_bytes() == before
    assert [(it.levelname, it.getMessage()) for it in caplog.records] == [
        ("INFO", f"results carry no signature: {suffix} has no place for one")
    ]
    assert read_credentials(path) is None


def test_without_the_package_files_stay_unsigned_and_the_log_says_so_once(
    picture, own, caplog, monkeypatch
):
    monkeypatch.setitem(sys.modules, "c2pa", None)  # as if it were not installed
    before = picture.read_bytes()
    assert not content_credentials.installed()
    with caplog.at_level(logging.INFO):
        assert not sign(picture) and not sign(picture)
    (record,) = caplog.records
    assert record.levelname == "INFO" and "is not installed" in record.getMessage()
    assert picture.read_bytes() == before
    assert read_credentials(picture) is None
    with pytest.raises(ImportError, match=r"fsgan\[provenance\]"):
        check_certificate(*own[:2])


def test_a_missing_file_is_told(tmp_path):
    for function in (sign, read_credentials):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
            function(tmp_path / "nowhere.png")


def test_a_missing_or_useless_list_of_roots_is_told(picture, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.pem"):
        read_credentials(picture, trusted=tmp_path / "no.pem")
    with pytest.raises(ValueError, match=r"swap\.png holds no certificate"):
        read_credentials(picture, trusted=picture)


@pytest.mark.parametrize("kept", [0, 60])
def test_a_damaged_file_is_told_and_kept(tmp_path, kept):
    path = tmp_path / "swap.png"
    Image.new("RGB", (64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"swap\.png is damaged"):
        read_credentials(path)
    with pytest.raises(ValueError, match=r"swap\.png: no signature could be made"):
        sign(path)
    assert path.read_bytes() == before


def test_nothing_is_fetched_and_nothing_is_stamped():
    verify = content_credentials._SETTINGS["verify"]
    assert verify["remote_manifest_fetch"] is verify["ocsp_fetch"] is False


def test_the_signature_is_small(picture):
    before = picture.stat().st_size
    sign(picture)
    assert picture.stat().st_size - before < 5000  # no thumbnail

import logging
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from fsgan.media import credentials, images
from fsgan.media.credentials import (
    SOURCE_TYPE,
    Credentials,
    check_certificate,
    read_credentials,
    sign,
)
from fsgan.media.provenance import image_xmp, read_marks, video_metadata
from fsgan.media.reader import read_frames
from fsgan.media.writer import VideoWriter

PICTURES = [".png", ".jpg", ".webp"]
VIDEOS = [".mp4", ".mov"]
NOISE = np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)


@pytest.fixture(autouse=True)
def _log_anew():
    credentials._log_unsigned.cache_clear()


def write_media(path):
    if path.suffix in PICTURES:
        images.write_image(path, NOISE, xmp=image_xmp())
    else:
        with VideoWriter(path, 48, 32, 25, metadata=video_metadata()) as writer:
            for _ in range(4):
                writer.write(NOISE)
    return path


def pixels(path):
    if path.suffix in PICTURES:
        return [images.read_image(path)]
    return [frame.image for frame in read_frames(path)]


@pytest.fixture
def picture(tmp_path):
    return write_media(tmp_path / "swap.png")


def issue(key, issuer_key, days=365, root=False, for_c2pa=True):
    """A certificate of a root, or of a signer, as an authority would issue it."""
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Own Studio")
    names = [
        x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, name)])
        for name in ("root", "root" if root else "signer")
    ]
    usage = x509.KeyUsage(not root, *[False] * 4, root, root, False, False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(
        issuer_key.public_key()
    )
    mail = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(names[0])
        .subject_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=root, path_length=None), True)
    )
    if for_c2pa:
        builder = builder.add_extension(usage, True).add_extension(authority, False)
        builder = builder if root else builder.add_extension(mail, False)
    return builder.sign(issuer_key, hashes.SHA256())


def pem(item, secret=None):
    encoding = serialization.Encoding.PEM
    if isinstance(item, x509.Certificate):
        return item.public_bytes(encoding)
    encryption = serialization.NoEncryption()
    if secret:
        encryption = serialization.BestAvailableEncryption(secret)
    return item.private_bytes(encoding, serialization.PrivateFormat.PKCS8, encryption)


def own_certificate(folder, key=None, **settings):
    """Files of a chain, of its key and of the root that issued it."""
    root_key = ec.generate_private_key(ec.SECP256R1())
    key = key or ec.generate_private_key(ec.SECP256R1())
    root = issue(root_key, root_key, root=True)
    paths = [folder / name for name in ("own.pem", "own.key", "root.pem")]
    paths[0].write_bytes(pem(issue(key, root_key, **settings)) + pem(root))
    paths[1].write_bytes(pem(key))
    paths[2].write_bytes(pem(root))
    return paths


@pytest.mark.parametrize("suffix", PICTURES + VIDEOS)
def test_a_signed_file_is_as_before_and_says_what_it_is(tmp_path, suffix):
    path = write_media(tmp_path / f".hidden{suffix}")
    before, marks = pixels(path), read_marks(path)
    assert read_credentials(path) is None
    assert sign(path, title=f"swap{suffix}")
    found = read_credentials(path)
    assert found == Credentials(
        state="Valid",
        signer="fsgan, key made for this file",
        title=f"swap{suffix}",
        software=found.software,
        source_types=(SOURCE_TYPE,),
        problems=("signingCredential.untrusted",),
    )
    assert found.software.startswith("fsgan ")
    assert found.synthetic and not found.tampered
    assert np.array_equal(pixels(path), before)
    assert read_marks(path) == marks != {}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_two_files_share_nothing_and_nothing_is_kept(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(home))
    used, make = [], credentials._make_certificate

    def remember():
        used.append(make())
        return used[-1]

    monkeypatch.setattr(credentials, "_make_certificate", remember)
    for name in ("one.png", "two.png"):
        assert sign(write_media(tmp_path / name))
    one, two = (x509.load_pem_x509_certificate(chain) for chain, _ in used)
    assert one.public_key() != two.public_key()
    assert one.serial_number != two.serial_number
    identifier = x509.AuthorityKeyIdentifier
    assert one.extensions.get_extension_for_class(
        identifier
    ) != two.extensions.get_extension_for_class(identifier)
    assert one.subject == two.subject  # which names nobody
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".mp4"])
def test_a_flipped_bit_of_the_media_is_noticed(tmp_path, suffix):
    path = write_media(tmp_path / f"swap{suffix}")
    middle = int(0.6 * path.stat().st_size)
    part = path.read_bytes()[middle - 12 : middle + 12]
    sign(path)
    signed = bytearray(path.read_bytes())
    signed[signed.index(part) + 12] ^= 4
    path.write_bytes(signed)
    found = read_credentials(path)
    assert found.state == "Invalid" and found.tampered
    assert any(problem.endswith("mismatch") for problem in found.problems)


@pytest.mark.parametrize(
    ("state", "problems", "tampered"),
    [
        ("Invalid", ["signingCredential.expired"], False),
        ("Invalid", ["signingCredential.expired", "assertion.dataHash.mismatch"], True),
        ("Invalid", [], True),
        ("Valid", ["assertion.odd"], False),
    ],
)
def test_a_certificate_that_has_run_out_is_not_tampering(state, problems, tampered):
    assert Credentials(state, problems=tuple(problems)).tampered is tampered


@pytest.mark.parametrize(
    "key",
    [
        None,
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "Ed25519", "RSA"],
)
def test_an_own_certificate_signs_and_those_who_know_its_root_trust_it(
    picture, tmp_path, key
):
    certificate, private_key, root = own_certificate(tmp_path, key)
    check_certificate(certificate, private_key)
    assert sign(picture, certificate=certificate, private_key=private_key)
    trusted = read_credentials(picture, trusted=root)
    assert trusted.state == "Trusted" and trusted.problems == ()
    assert trusted.signer == "Own Studio, signer"
    assert read_credentials(picture).state == "Valid"  # trust is for one call


def expired(own):
    own_certificate(own[0].parent, days=-1)


def for_nothing(own):
    own_certificate(own[0].parent, for_c2pa=False)


def of_an_odd_curve(own):
    own_certificate(own[0].parent, ec.generate_private_key(ec.SECP256K1()))


def with_a_password(own):
    key = serialization.load_pem_private_key(own[1].read_bytes(), None)
    own[1].write_bytes(pem(key, b"secret"))


def of_another(own):
    own[1].write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda own: own[0].unlink(), FileNotFoundError, r"own\.pem is not there"),
        (lambda own: own[1].unlink(), FileNotFoundError, r"own\.key is not there"),
        (lambda own: own[0].write_text("?"), ValueError, r"own\.pem holds no certif"),
        (lambda own: own[1].write_text("?"), ValueError, r"own\.key holds no key"),
        (with_a_password, ValueError, r"own\.key holds no key"),
        (of_another, ValueError, r"own\.key is not the key of .*own\.pem"),
        (expired, ValueError, r"own\.pem is valid from .*: renew it"),
        (for_nothing, ValueError, "no signature could be made"),
        (of_an_odd_curve, ValueError, "private_key must be RSA, Ed25519"),
    ],
)
def test_a_certificate_that_cannot_sign_is_refused(
    picture, tmp_path, spoil, error, message
):
    own, before = own_certificate(tmp_path), picture.read_bytes()
    spoil(own)
    with pytest.raises(error, match=message):
        check_certificate(*own[:2])
    with pytest.raises(error, match=message):
        sign(picture, certificate=own[0], private_key=own[1])
    assert picture.read_bytes() == before


def test_a_certificate_needs_its_key(picture):
    for only in ({"certificate": "own.pem"}, {"private_key": "own.key"}):
        with pytest.raises(ValueError, match="must be given together"):
            sign(picture, **only)


def test_matroska_has_no_place_for_a_signature(tmp_path, caplog):
    path = write_media(tmp_path / "swap.mkv")
    before = path.read_bytes()
    with caplog.at_level(logging.INFO):
        assert not sign(path) and not sign(path)
    assert path.read_bytes() == before
    assert [(it.levelname, it.getMessage()) for it in caplog.records] == [
        ("INFO", "results carry no signature: .mkv has no place for one")
    ]
    assert read_credentials(path) is None


def test_without_the_package_files_stay_unsigned_and_the_log_says_so_once(
    picture, caplog, monkeypatch
):
    monkeypatch.setattr(credentials, "c2pa", None)  # as if it were not installed
    before = picture.read_bytes()
    with caplog.at_level(logging.INFO):
        assert not sign(picture) and not sign(picture)
    (record,) = caplog.records
    assert record.levelname == "INFO" and "is not installed" in record.getMessage()
    assert picture.read_bytes() == before
    assert read_credentials(picture) is None
    with pytest.raises(ImportError, match=r"fsgan\[provenance\]"):
        check_certificate("own.pem", "own.key")


def test_missing_files_and_useless_roots_are_named(picture, tmp_path):
    for function in (sign, read_credentials):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
            function(tmp_path / "nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"no\.pem"):
        read_credentials(picture, trusted=tmp_path / "no.pem")
    with pytest.raises(ValueError, match=r"swap\.png holds no certificate"):
        read_credentials(picture, trusted=picture)


@pytest.mark.parametrize("kept", [0, 60])
def test_a_damaged_file_is_refused_and_kept(tmp_path, kept):
    path = tmp_path / "swap.png"
    Image.new("RGB", (64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"swap\.png is damaged"):
        read_credentials(path)
    with pytest.raises(ValueError, match=r"swap\.png: no signature could be made"):
        sign(path)
    assert path.read_bytes() == before

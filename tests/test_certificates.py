import logging
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from fsgan.media import certificates
from fsgan.media.certificates import (
    certificate_path,
    load_certificate,
    read_chain,
    self_made_certificate,
)


@pytest.fixture(autouse=True)
def settings_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    return tmp_path / "settings" / "fsgan"


@pytest.fixture
def own(tmp_path, settings_folder):
    """Files of a chain and of its key."""
    chain, key = self_made_certificate()
    certificate_path().unlink()
    (tmp_path / "own.pem").write_bytes(chain)
    (tmp_path / "own.key").write_bytes(key)
    return tmp_path / "own.pem", tmp_path / "own.key"


def test_the_certificate_is_made_once_and_for_the_user_alone(settings_folder):
    assert certificate_path() == settings_folder / "certificate.pem"
    first = self_made_certificate()
    assert stat.S_IMODE(certificate_path().stat().st_mode) == 0o600
    assert [path.name for path in settings_folder.iterdir()] == ["certificate.pem"]
    assert self_made_certificate() == first


def test_it_is_signed_by_a_root_and_names_nobody():
    leaf, root = x509.load_pem_x509_certificates(self_made_certificate()[0])
    leaf.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert leaf.subject.rfc4514_string() == "CN=signer,O=fsgan\\, self-made certificate"
    assert root.subject.rfc4514_string() == "CN=root,O=fsgan\\, self-made certificate"
    days = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days
    assert days == 10 * 365 + 1


def test_the_key_of_the_root_is_kept_nowhere():
    chain, _ = self_made_certificate()
    text = certificate_path().read_bytes()
    assert text.count(b"PRIVATE KEY-----") == 2  # one key: begin and end
    leaf, root = x509.load_pem_x509_certificates(chain)
    key = load_pem_private_key(text, password=None)
    assert key.public_key() == leaf.public_key() != root.public_key()


def test_an_expired_one_is_made_anew(monkeypatch):
    monkeypatch.setattr(certificates, "_YEARS", 0)
    first = self_made_certificate()
    monkeypatch.setattr(certificates, "_YEARS", 1)
    second = self_made_certificate()
    assert second != first
    assert self_made_certificate() == second


def test_a_damaged_one_is_made_anew():
    first = self_made_certificate()
    certificate_path().write_text("damaged")
    second = self_made_certificate()
    assert second != first
    assert self_made_certificate() == second


def test_without_a_place_to_keep_it_serves_once(settings_folder, caplog):
    settings_folder.parent.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        chain, _ = self_made_certificate()
    assert chain.startswith(b"-----BEGIN CERTIFICATE-----")
    assert "serves for this once" in caplog.text


def test_an_own_certificate_is_read(own):
    chain, key = load_certificate(*own)
    assert chain == own[0].read_bytes() and key == own[1].read_bytes()


def test_a_chain_is_read_from_among_other_things(own, tmp_path):
    (tmp_path / "both.pem").write_bytes(own[1].read_bytes() + own[0].read_bytes())
    chain, first = read_chain(tmp_path / "both.pem")
    assert chain == own[0].read_bytes()
    assert chain.startswith(first.public_bytes(Encoding.PEM))


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_file_is_told(own, missing):
    own[missing].unlink()
    with pytest.raises(FileNotFoundError, match=f"{own[missing].name} is not there"):
        load_certificate(*own)


def test_a_certificate_that_is_none_is_told(own):
    own[0].write_text("words")
    with pytest.raises(ValueError, match=r"own\.pem holds no certificate"):
        load_certificate(*own)


def test_a_key_that_is_none_or_has_a_password_is_told(own):
    key = load_pem_private_key(own[1].read_bytes(), password=None)
    secret = BestAvailableEncryption(b"secret")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
    for text in (b"words", pem):
        own[1].write_bytes(text)
        with pytest.raises(ValueError, match=r"own\.key holds no key"):
            load_certificate(*own)


def test_a_key_of_another_certificate_is_told(own):
    own[1].write_bytes(self_made_certificate()[1])
    with pytest.raises(ValueError, match=r"own\.key is not the key of .*own\.pem"):
        load_certificate(*own)


def test_an_expired_certificate_is_told(own, monkeypatch):
    monkeypatch.setattr(certificates, "_YEARS", 0)
    chain, key = self_made_certificate()
    own[0].write_bytes(chain)
    own[1].write_bytes(key)
    with pytest.raises(ValueError, match=r"own\.pem is valid from .* only; renew it"):
        load_certificate(*own)

import io

import numpy as np
import pytest
from clips import BLUE, GREEN, RED, WHITE, corner_card
from PIL import Image, ImageFile

from fsgan.media import images


def exif(orientation):
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def noise(height, width):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- reading ---


@pytest.mark.parametrize(
    ("orientation", "corners"),
    [
        (1, (RED, GREEN, BLUE, WHITE)),
        (2, (GREEN, RED, WHITE, BLUE)),
        (3, (WHITE, BLUE, GREEN, RED)),
        (4, (BLUE, WHITE, RED, GREEN)),
        (5, (RED, BLUE, GREEN, WHITE)),
        (6, (BLUE, RED, WHITE, GREEN)),
        (7, (WHITE, GREEN, BLUE, RED)),
        (8, (GREEN, WHITE, RED, BLUE)),
    ],
)
def test_the_exif_rotation_is_applied(tmp_path, orientation, corners):
    for suffix in (".png", ".jpg", ".webp"):
        path = tmp_path / f"card{suffix}"
        Image.fromarray(corner_card(32, 48)).save(path, exif=exif(orientation))
        read = images.read_image(path)
        assert read.shape == ((32, 48, 3) if orientation < 5 else (48, 32, 3))
        assert images.image_size(path) == read.shape[1::-1]
        found = (read[4, 4], read[4, -4], read[-4, 4], read[-4, -4])
        np.testing.assert_allclose(found, corners, atol=6)


def test_the_size_needs_only_the_head_of_a_file(tmp_path):
    images.write_image(tmp_path / "card.png", noise(32, 48))
    head = (tmp_path / "card.png").read_bytes()[:60]
    (tmp_path / "card.png").write_bytes(head)
    assert images.image_size(tmp_path / "card.png") == (48, 32)


def palette():
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    return picture


DEEP = Image.fromarray(np.array([[0, 257, 128 * 257, 65535]], np.uint16))
CLEAR = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)


@pytest.mark.parametrize(
    ("picture", "options", "expected"),
    [
        (DEEP, {}, [[0] * 3, [1] * 3, [128] * 3, [255] * 3]),
        (Image.fromarray(CLEAR), {}, [[200, 0, 0], WHITE, [204] * 3]),
        (palette(), {}, [[10, 20, 30], [40, 50, 60]]),
        (palette(), {"transparency": 1}, [[10, 20, 30], WHITE]),
    ],
)
def test_deep_clear_and_palette_pixels_become_rgb(tmp_path, picture, options, expected):
    picture.save(tmp_path / "a.png", **options)
    read = images.read_image(tmp_path / "a.png")
    assert read.dtype == np.uint8 and read.flags.writeable
    np.testing.assert_array_equal(read[0], expected)


def test_a_16_bit_pgm_is_scaled_by_its_own_maximum(tmp_path):
    values = np.array([0, 341, 1023], ">u2")
    (tmp_path / "gray.pgm").write_bytes(b"P5\n3 1\n1023\n" + values.tobytes())
    read = images.read_image(tmp_path / "gray.pgm")
    np.testing.assert_array_equal(read[0], [[v] * 3 for v in (0, 85, 255)])


@pytest.mark.parametrize(
    ("mode", "suffix", "expected"),
    [
        ("L", ".png", [76, 150, 29]),
        ("LA", ".png", [76, 150, 29]),
        ("1", ".png", [0, 255, 0]),
        ("CMYK", ".tif", [RED, GREEN, BLUE]),
        ("CMYK", ".jpg", [RED, GREEN, BLUE]),
        ("RGB", ".webp", [RED, GREEN, BLUE]),
        ("RGB", ".BMP", [RED, GREEN, BLUE]),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(tmp_path, mode, suffix, expected):
    blocks = np.repeat([[RED, GREEN, BLUE]], 16, axis=0).repeat(16, axis=1)
    picture = Image.fromarray(blocks.astype(np.uint8))
    path = tmp_path / f"name with späce & ünicode{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    picture.convert(mode, dither=Image.Dither.NONE).save(path, **options)
    read = images.read_image(path)
    wanted = np.broadcast_to(np.reshape(expected, (3, -1)), (3, 3))
    assert read.shape == (16, 48, 3)
    np.testing.assert_allclose(read[8, 8::16], wanted, atol=2)


def test_a_truncated_picture_gives_what_decodes_and_one_warning(tmp_path, caplog):
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, "JPEG", quality=95)
    (tmp_path / "whole.jpg").write_bytes(buffer.getvalue())
    (tmp_path / "half.jpg").write_bytes(buffer.getvalue()[: buffer.tell() // 2])
    whole, nothing = images.read_damaged_image(tmp_path / "whole.jpg")
    half, damage = images.read_damaged_image(tmp_path / "half.jpg")
    assert nothing is None and "truncated" in str(damage)
    np.testing.assert_array_equal(half[:12], whole[:12])
    assert half.shape == whole.shape and (half[-8:] != whole[-8:]).any()
    assert not caplog.records
    np.testing.assert_array_equal(images.read_image(tmp_path / "half.jpg"), half)
    assert len(caplog.records) == 1 and "half.jpg is damaged" in caplog.text
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("empty.jpg", b"", ValueError, "is empty"),
        ("text.jpg", b"just words", ValueError, "is not a picture"),
        ("header.png", b"\x89PNG\r\n\x1a\n", ValueError, "is not a picture"),
        ("float.tif", None, ValueError, "floating point"),
        ("bomb.pgm", b"P5\n60000 60000\n255\n", ValueError, "is too large"),
        ("nowhere.png", None, FileNotFoundError, "does not exist"),
        ("folder", None, IsADirectoryError, "is a folder"),
    ],
)
def test_a_file_without_a_picture_is_told_in_one_sentence(
    tmp_path, name, content, error, message
):
    (tmp_path / "folder").mkdir()
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tif")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message) as raised:
        images.read_image(tmp_path / name)
    assert name in str(raised.value) and "\n" not in str(raised.value)


# --- writing ---


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG"])
def test_a_jpeg_keeps_its_colours_at_full_resolution(tmp_path, name):
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = RED, BLUE  # halved chroma would mix these
    images.write_image(tmp_path / "new" / name, stripes)
    read = images.read_image(tmp_path / "new" / name)
    assert np.abs(read.astype(int) - stripes).mean() < 6


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_png_is_exact_and_may_be_gray_or_have_alpha(tmp_path, channels, mode):
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, channels), np.uint8)
    images.write_image(tmp_path / "a.png", picture, b"<a/>", compress_level=1)
    with Image.open(tmp_path / "a.png") as read:
        assert (read.mode, read.info["xmp"]) == (mode, b"<a/>")
        np.testing.assert_array_equal(np.asarray(read), picture.squeeze())


def test_a_picture_of_a_hundred_million_pixels_is_opened_without_a_warning(tmp_path):
    (tmp_path / "large.pgm").write_bytes(b"P5\n10000 10000\n255\n")
    assert images.image_size(tmp_path / "large.pgm") == (10_000, 10_000)


@pytest.mark.parametrize(
    ("name", "image", "error", "message"),
    [
        ("a.txt", np.zeros((2, 2, 3), np.uint8), ValueError, "must end in"),
        ("a.png", np.zeros((2, 2, 3), np.float32), ValueError, "got float32"),
        ("a.png", np.zeros((2, 2), np.uint8), ValueError, r"got uint8 \(2, 2\)"),
        ("a.png", np.zeros((2, 2, 2), np.uint8), ValueError, "1 or 4 channels"),
        ("a.jpg", np.zeros((2, 2, 4), np.uint8), ValueError, "must be RGB"),
        ("a.jpg", np.zeros((1, 65501, 3), np.uint8), ValueError, "65500 a side: .*png"),
        ("a.webp", np.zeros((16384, 1, 3), np.uint8), ValueError, "hold 1x16384 pix"),
        ("file/a.png", np.zeros((2, 2, 3), np.uint8), OSError, "cannot be written"),
        ("folder.png", np.zeros((2, 2, 3), np.uint8), OSError, "is a folder"),
    ],
)
def test_what_cannot_be_written_is_told(tmp_path, name, image, error, message):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(error, match=message):
        images.write_image(tmp_path / name, image)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


# --- folders and sheets ---


def test_pictures_are_listed_in_natural_order(tmp_path):
    names = ["Frame1.JPG", "frame2.png", "frame10.webp", "frame10b3.jpg", "x²7.Png"]
    for name in [*reversed(names), ".hidden.png", "notes.txt"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in images.list_images(tmp_path)] == names
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        images.list_images(tmp_path / "folder.png")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        images.list_images(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="is a file"):
        images.list_images(tmp_path / "notes.txt")


def test_a_contact_sheet_puts_the_pictures_row_by_row():
    pictures = [np.full((10, 10, 3), c, np.uint8) for c in (RED, GREEN, BLUE)]
    sheet = images.contact_sheet(pictures, columns=2, size=4)
    tiles = [sheet[:4, :4], sheet[:4, 4:], sheet[4:, :4], sheet[4:, 4:]]
    assert sheet.shape == (8, 8, 3) and sheet.dtype == np.uint8
    for tile, colour in zip(tiles, (RED, GREEN, BLUE, (0, 0, 0)), strict=True):
        assert (tile == colour).all()
    sheet = images.contact_sheet([np.full((10, 20, 3), 255, np.uint8)], size=8)
    assert sheet.shape == (8, 8, 3)
    np.testing.assert_array_equal(sheet[:, 4, 0], [0, 0, 255, 255, 255, 255, 0, 0])


def test_labels_are_written_under_their_own_picture():
    pictures = [np.zeros((10, 10, 3), np.uint8)] * 2
    sheet = images.contact_sheet(pictures, size=40, labels=["", "a very long label"])
    assert sheet.shape == (56, 80, 3)
    assert (sheet[:40] == 0).all() and (sheet[:, :40] == 0).all()
    assert sheet[40:, 40:].max() > 200


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (0, {}, "at least one picture"),
        (1, {"columns": 0}, "at least 1, got 0, 96"),
        (1, {"size": 0}, "at least 1, got 8, 0"),
        (2, {"labels": ["one"]}, "one for each of 2 images, got 1"),
    ],
)
def test_a_contact_sheet_refuses_what_it_cannot_lay_out(count, options, message):
    with pytest.raises(ValueError, match=message):
        images.contact_sheet([np.zeros((4, 4, 3), np.uint8)] * count, **options)

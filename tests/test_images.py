import io
import logging
import threading

import numpy as np
import pytest
from PIL import Image, ImageFile

from fsgan.media import images

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def card():
    """A picture whose corners all differ: red, green / blue, white."""
    card = np.zeros((32, 48, 3), np.uint8)
    card[:16, :24], card[:16, 24:], card[16:, :24], card[16:, 24:] = (
        RED,
        GREEN,
        BLUE,
        WHITE,
    )
    return card


def noise(height, width):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- exact numbers ---


def test_a_png_comes_back_exactly(tmp_path, card):
    images.write_image(tmp_path / "card.png", card)
    read = images.read_image(tmp_path / "card.png")
    assert read.dtype == np.uint8 and read.flags.writeable
    np.testing.assert_array_equal(read, card)


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
def test_the_exif_rotation_is_applied(tmp_path, card, orientation, corners):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(card).save(tmp_path / "card.png", exif=exif)
    read = images.read_image(tmp_path / "card.png")
    assert read.shape == ((32, 48, 3) if orientation < 5 else (48, 32, 3))
    found = (read[0, 0], read[0, -1], read[-1, 0], read[-1, -1])
    assert [tuple(corner) for corner in found] == list(corners)


def test_16_bit_gray_uses_its_full_range(tmp_path):
    gray = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    read = images.read_image(tmp_path / "gray.png")
    np.testing.assert_array_equal(read[0], [[v] * 3 for v in (0, 1, 128, 255)])


def test_a_16_bit_pgm_is_scaled_by_its_own_maximum(tmp_path):
    values = np.array([0, 341, 1023], ">u2")
    header = b"P5\n3 1\n1023\n"
    (tmp_path / "gray.pgm").write_bytes(header + values.tobytes())
    read = images.read_image(tmp_path / "gray.pgm")
    np.testing.assert_array_equal(read[0], [[v] * 3 for v in (0, 85, 255)])


def test_transparent_parts_are_laid_over_white(tmp_path):
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    read = images.read_image(tmp_path / "cut.png")
    np.testing.assert_array_equal(read[0], [[200, 0, 0], [255] * 3, [204] * 3])


def test_a_palette_with_a_transparent_colour_is_read(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "clear.png", transparency=1)
    plain = images.read_image(tmp_path / "plain.png")
    np.testing.assert_array_equal(plain[0], [[10, 20, 30], [40, 50, 60]])
    clear = images.read_image(tmp_path / "clear.png")
    np.testing.assert_array_equal(clear[0], [[10, 20, 30], [255] * 3])


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
    picture = picture.convert(mode, dither=Image.Dither.NONE)
    path = tmp_path / f"name with späce & ünicode{suffix}"
    picture.save(path, **({"lossless": True} if suffix == ".webp" else {}))
    read = images.read_image(path)
    middle = read[8, 8::16].astype(int)
    wanted = np.broadcast_to(np.reshape(expected, (3, -1)), (3, 3))
    assert read.shape == (16, 48, 3)
    assert np.abs(middle - wanted).max() <= 2


def test_the_size_is_told_without_decoding(tmp_path, card):
    exif = Image.Exif()
    for orientation in (1, 3, 6, 8):
        exif[0x0112] = orientation
        for suffix in (".png", ".jpg", ".webp"):
            path = tmp_path / f"card{orientation}{suffix}"
            Image.fromarray(card).save(path, exif=exif)
            height, width = images.read_image(path).shape[:2]
            assert images.image_size(path) == (width, height)
    images.write_image(tmp_path / "card.png", noise(32, 48))
    head = (tmp_path / "card.png").read_bytes()[:60]
    (tmp_path / "card.png").write_bytes(head)
    assert images.image_size(tmp_path / "card.png") == (48, 32)


# --- damaged files ---


def jpeg_bytes():
    buffer = io.BytesIO()
    flat = np.full((64, 64, 3), 200, np.uint8)
    flat[:, ::2] = noise(64, 32)
    Image.fromarray(flat).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_a_truncated_picture_gives_what_decodes_and_one_warning(tmp_path, caplog):
    data = jpeg_bytes()
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    whole = images.read_image(tmp_path / "whole.jpg")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        half = images.read_image(tmp_path / "half.jpg")
    assert len(caplog.records) == 1
    assert "half.jpg is damaged" in caplog.text
    assert half.shape == whole.shape
    np.testing.assert_array_equal(half[:12], whole[:12])
    assert (half[-8:] != whole[-8:]).any()
    _, nothing = images.read_damaged_image(tmp_path / "whole.jpg")
    again, damage = images.read_damaged_image(tmp_path / "half.jpg")
    assert nothing is None and "truncated" in str(damage)
    np.testing.assert_array_equal(again, half)
    assert len(caplog.records) == 1


def test_the_setting_of_pillow_is_left_as_it_was(tmp_path):
    data = jpeg_bytes()
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    threads = [
        threading.Thread(target=images.read_image, args=(tmp_path / "half.jpg",))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jpg", b"", "is empty"),
        ("text.jpg", b"just words", "is not a picture"),
        ("header.png", b"\x89PNG\r\n\x1a\n", "is not a picture"),
        ("float.tif", None, "floating point"),
    ],
)
def test_a_file_without_a_picture_is_told_in_one_sentence(
    tmp_path, name, content, message
):
    if content is None:
        Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        images.read_image(tmp_path / name)
    assert name in str(raised.value) and "\n" not in str(raised.value)


def test_a_decompression_bomb_is_refused(tmp_path):
    header = b"P5\n60000 60000\n255\n"
    (tmp_path / "bomb.pgm").write_bytes(header)
    with pytest.raises(ValueError, match=r"bomb\.pgm is too large"):
        images.read_image(tmp_path / "bomb.pgm")


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png does not exist"):
        images.read_image(tmp_path / "nowhere.png")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        images.read_image(tmp_path)


# --- writing ---


@pytest.mark.parametrize(("name", "most"), [("a.jpg", 1.5), ("a.JPEG", 1.5)])
def test_a_jpeg_keeps_its_colours_at_full_resolution(tmp_path, name, most):
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = RED, BLUE  # halved chroma would mix these
    images.write_image(tmp_path / "new" / name, stripes)
    read = images.read_image(tmp_path / "new" / name)
    assert np.abs(read.astype(int) - stripes).mean() < 6
    smooth = np.tile(np.arange(64, dtype=np.uint8)[:, None, None] * 4, (1, 64, 3))
    images.write_image(tmp_path / name, smooth)
    read = images.read_image(tmp_path / name)
    assert np.abs(read.astype(int) - smooth).mean() < most


@pytest.mark.parametrize("channels", [1, 4])
def test_a_png_may_be_gray_or_have_alpha(tmp_path, channels):
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, channels), np.uint8)
    images.write_image(tmp_path / "a.png", picture, b"<a/>", compress_level=1)
    with Image.open(tmp_path / "a.png") as read:
        assert read.mode == {1: "L", 4: "RGBA"}[channels]
        assert read.info["xmp"] == b"<a/>"
        np.testing.assert_array_equal(np.asarray(read), picture.squeeze())


def test_nothing_half_written_is_left_when_writing_fails(tmp_path, card):
    images.write_image(tmp_path / "card.png", card)
    before = (tmp_path / "card.png").read_bytes()
    with (
        pytest.raises(KeyboardInterrupt),
        images.write_beside(tmp_path / "card.png") as temporary,
    ):
        assert temporary.parent == tmp_path and temporary.name.startswith(".")
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["card.png"]
    assert (tmp_path / "card.png").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "image", "error", "message"),
    [
        ("a.txt", np.zeros((2, 2, 3), np.uint8), ValueError, "must end in"),
        ("a.png", np.zeros((2, 2, 3), np.float32), ValueError, "got float32"),
        ("a.png", np.zeros((2, 2), np.uint8), ValueError, r"got uint8 \(2, 2\)"),
        ("a.png", np.zeros((2, 2, 2), np.uint8), ValueError, "1 or 4 channels"),
        ("a.jpg", np.zeros((2, 2, 4), np.uint8), ValueError, "must be RGB"),
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


# --- folders ---


def test_pictures_are_listed_in_natural_order(tmp_path):
    names = ["Frame1.JPG", "frame2.png", "frame10.webp", "frame10b3.jpg", "x²7.Png"]
    for name in [*reversed(names), ".hidden.png", "notes.txt"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in images.list_images(tmp_path)] == names


def test_a_folder_without_pictures_is_told(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        images.list_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        images.list_images(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="is a file"):
        images.list_images(tmp_path / "notes.txt")


# --- contact sheet ---


def test_a_contact_sheet_puts_the_pictures_row_by_row():
    colours = [RED, GREEN, BLUE]
    pictures = [np.full((10, 10, 3), colour, np.uint8) for colour in colours]
    sheet = images.contact_sheet(pictures, columns=2, size=4)
    assert sheet.shape == (8, 8, 3) and sheet.dtype == np.uint8
    assert (sheet[:4, :4] == RED).all()
    assert (sheet[:4, 4:] == GREEN).all()
    assert (sheet[4:, :4] == BLUE).all()
    assert (sheet[4:, 4:] == 0).all()


def test_a_contact_sheet_keeps_proportions_and_is_no_wider_than_needed():
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

"""The cases of `fuzz.py`: what is drawn, what it does to a folder, and that folder."""

import inspect
import json
import os
import re
import shutil
import sys
import typing
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

# The argument that a command may change if it is one of these; all else is input.
CHANGED = {"extract": 2, "examine": 1, "restore": 1, "train": 3, "convert": 2}
CHANGED |= {"review": 2}
GOES_ON = ("faces/a", "faces/c", "model", "swap.mp4", "half.mp4")
ENDLESS = ("iterations", "minutes", "batch_size")  # a right value may take days

SCENES = [
    line.split()
    for line in """
extract clips/a.mp4 out
extract photos out
extract photo.jpg faces/a
extract-videos clips out
examine faces/a --faces_b faces/b
examine faces/a --apply true
restore faces/c
curate photos out --min_group 1
curate faces/a out --min_group 1
masks faces/a out
recipe quick
train faces/a faces/b out --config train.yaml
train faces/a faces/b out --config train.yaml --start_from model
train faces/a faces/b model --settings.iterations 3
train-pairs faces out --pairs [[a,b]] --config pairs.yaml
convert clips/a.mp4 out.mp4 model
convert clips/a.mp4 swap.mp4 model --overwrite true
convert clips/a.mp4 half.mp4 model
convert clips/a.mp4 out.webm model --only faces/a
convert photos out model --fps 5
convert-image photo.jpg out.png model
convert-image photo.jpg out.jpg model --only faces/a
convert-videos clips out model
convert-images photos out model
live model --source clips/a.mp4 --show null
follow clips/a.mp4 out
evaluate clips/a.mp4 swap.mp4 faces/a faces/b out --model model
review clips/a.mp4 swap.mp4
review clips/a.mp4 swap.mp4 --model model --out out.mp4 --limit 0.5
verify swap.mp4 swap.png
export model out.dfm
export model out.onnx --target onnx
bench --out out.json --recipe quick --resolution 64 --seconds 0.01 --largest_batch 1
import-legacy legacy out
sample out --seconds 0.2 --size [96,64]
""".strip().splitlines()
]


class Case(NamedTuple):
    """A command line, and calls of functions here that make its folder odd."""

    arguments: list[str]
    changes: tuple[list, ...] = ()
    endless: bool = False  # it is interrupted after a while, which is no fault


# --- what is drawn ---


def draw_case(seed: int, number: int, base: Path) -> Case:
    """Draws a case; the families take turns, so that each gets its share."""
    import hypothesis
    from hypothesis import strategies as st

    kinds = [odd_value] * 7 + [odd_file] * 6 + [odd_media] * 4 + [odd_path] * 3
    rounds, place = divmod(number, len(kinds))
    kind = kinds[place]
    turn = rounds * kinds.count(kind) + place - kinds.index(kind)
    made = []

    @hypothesis.seed(1_000_000 * seed + number)
    @hypothesis.settings(
        max_examples=2,  # the first is always the simplest
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.data())
    def draw(data: Any) -> None:
        made.append(kind(data.draw, st, base, turn))

    draw()
    return made[-1]


def odd_value(draw: Any, st: Any, base: Path, turn: int) -> Case:
    """Any value for an option or a field of settings; each has its turn."""
    import yaml

    name, kind, scenes, words = _options()[turn % len(_options())]
    strange = [None, True, "", "null", "..", "-x", "%s{0}", "a\nb", "a" * 5000, "äÖ€😀"]
    strange += [float("nan"), float("inf"), -float("inf"), -0.0, 1e308, 5e-324, 1e9]
    strange += [-1, 0, 1.5, 10**9, 10**40, -(10**40), "٣", "1_0", [], [1, 2], [None]]
    strange += [{}, {"a": 1}, "nan", "x.y", "out.mp4", "photo.jpg"]
    letters = st.characters(exclude_categories=["Cs"], exclude_characters="/\0")
    value = draw(
        st.sampled_from(strange)
        | st.sampled_from(words)
        | st.floats(0, 1)
        | st.integers(-3, 300)
        | st.text(letters, max_size=30)
        | (st.from_type(kind) if kind is not str else st.nothing())
    )
    if isinstance(value, Fraction):
        value = str(value)
    elif not isinstance(value, str | int | float | list | dict | None):
        value = list(value)
    scene = draw(st.sampled_from(scenes))
    endless = name.endswith(ENDLESS) or scene[0] == "bench"
    if draw(st.integers(0, 3)):
        text = value
        if not isinstance(value, str):
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
            text = text.removesuffix("...\n").strip()
        return Case([*scene, f"--{name}={text}"], endless=endless)
    for part in reversed(name.split(".")):
        value = {part: value}
    changes = (["write", "odd.yaml", yaml.safe_dump(value, allow_unicode=True)],)
    return Case([*scene, "--config", "odd.yaml"], changes, endless)


@cache
def _options() -> list[tuple[str, Any, list[list[str]], list[str]]]:
    """Every option: its name, type, the scenes that take it, words of its help."""
    import fsgan
    from fsgan.__main__ import COMMANDS, _typed

    found: dict = {}

    def note(owner: Any, name: str, kind: Any, scene: list[str]) -> None:
        plain = [it for it in typing.get_args(kind) or [kind] if it is not type(None)]
        if is_dataclass(plain[0]):
            for it in fields(plain[0]):
                hints = typing.get_type_hints(plain[0], include_extras=True)
                note(plain[0], f"{name}.{it.name}", hints[it.name], scene)
        else:
            words = re.findall(r'"([\w.]+)"', owner.__doc__) or ["lab"]
            key = owner, name
            found.setdefault(key, (name, _typed(kind, False), [], words))
            found[key][2].append(scene)

    for scene in SCENES:
        function = getattr(fsgan, COMMANDS[scene[0]].function)
        hints = typing.get_type_hints(function, include_extras=True)
        for it in inspect.signature(function).parameters.values():
            if it.default is not it.empty and it.name not in ("on_preview", "trusted"):
                note(function, it.name, hints[it.name], scene)
    mixed = list(found.values())
    Random(0).shuffle(mixed)
    return mixed


def odd_file(draw: Any, st: Any, base: Path, turn: int) -> Case:
    """Damage in a file that a scene reads."""
    scenes = [it for it in SCENES if _inputs(it, base)]
    scene = scenes[turn % len(scenes)]
    by_kind = defaultdict(list)  # many crops count as one
    for name in _inputs(scene, base):
        by_kind[re.sub(r"\w*\d\w*\.(png|jpg)", "#", name)].append(name)
    name = draw(st.sampled_from(draw(st.sampled_from(list(by_kind.values())))))
    kinds = ["flip", "cut", "zero", "garbage", "empty", "missing", "folder", "other"]
    if name.endswith((".json", ".csv", ".yaml", ".npz", ".h5", ".png", ".jpg")):
        kinds += ["content"] * 8
    change = ["damage", name, draw(st.sampled_from(kinds)), draw(st.integers(0, 9999))]
    return Case(scene, (change,))


def _inputs(scene: list[str], base: Path) -> list[str]:
    """Files that a scene may read."""
    found = {it for word in scene for it in [base / word] if it.exists() and word}
    if "half.mp4" in scene or "swap.mp4" in scene:
        found |= {*base.glob(f".{scene[2]}*"), *base.glob("swap.mp4*.json")}
    if scene[0] == "train":
        found.add(base / "masks")
    files = {file for it in found for file in ([it] if it.is_file() else it.rglob("*"))}
    return sorted(str(it.relative_to(base)) for it in files if it.is_file())


def odd_media(draw: Any, st: Any, base: Path, turn: int) -> Case:
    """Footage or a photo of any kind in the place of a scene's own."""
    wanted = ("clips/a.mp4", "photo.jpg")
    scenes = [it for it in SCENES if {*wanted} & {*it}]
    scene = list(scenes[turn % len(scenes)])
    name = next(word for word in wanted if word in scene)
    if name == "photo.jpg" and draw(st.booleans()):
        mode = draw(st.sampled_from(MODES))
        suffix = draw(st.sampled_from(PHOTOS))
        more = draw(st.sampled_from(SIZES)), draw(st.integers(0, 9))
        change = ["picture", f"odd.{suffix}", mode, *more]
    else:
        suffix, codec = draw(st.sampled_from(FILMS))
        change = ["film", f"odd.{suffix}", codec, draw(st.sampled_from(SIZES))]
        change.append(draw(st.sampled_from([0, 1, 2, 7, 12])))
        change.append(draw(st.sampled_from(RATES)))
        change.append(draw(st.sampled_from(["", *SOUNDS])))
        change.append(draw(st.sampled_from(["even", "late", "jumps", "negative"])))
        change.append(draw(st.sampled_from([1, 1, 1, 0.9, 0.5, 0.1])))
    scene[scene.index(name)] = change[1]
    if scene[2].startswith("out."):
        kinds = [
            "mp4",
            "mkv",
            "webm",
            "mov",
            "m4v",
            "MP4",
            "avi",
            "gif",
            "png",
            "jpg",
            "webp",
            "xyz",
        ]
        scene[2] = f"out.{draw(st.sampled_from(kinds))}"
    return Case(scene, (change,))


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"]
PHOTOS = ["png", "jpg", "webp", "bmp", "tiff", "gif", "avif", "ppm"]
OUTPUTS = ["mp4", "mkv", "webm", "mov", "m4v", "MP4", "avi", "gif", *PHOTOS, "xyz"]
RATES = ["1/1000", "1", "24000/1001", "25", "60", "1000"]
SIZES = [(1, 1), (2, 2), (16, 20), (161, 91), (240, 136), (240, 136), (90, 240)]
SIZES += [(8192, 16), (3, 400), (640, 360)]
SOUNDS = [
    "aac",
    "libopus",
    "flac",
    "pcm_s16le",
    "libmp3lame",
    "ac3",
    "mp2",
    "libvorbis",
]
FILMS = [
    (suffix, codec)
    for line in """
mp4 libx264 mpeg4 libvpx-vp9 mjpeg
mkv libx264 mpeg4 libvpx-vp9 mjpeg ffv1 mpeg2video rawvideo
webm libvpx libvpx-vp9
mov libx264 mjpeg png rawvideo
avi mpeg4 mjpeg ffv1 rawvideo
mpg mpeg1video mpeg2video
ts libx264 mpeg2video
nut ffv1 libx264 rawvideo
gif gif
webp libwebp_anim
apng apng
""".strip().splitlines()
    for suffix, *codecs in [line.split()]
    for codec in codecs
]


def odd_path(draw: Any, st: Any, base: Path, turn: int) -> Case:
    """An odd name in the place of one that a scene reads or writes."""
    scenes = [it for it in SCENES if it[0] != "recipe"]
    scene = list(scenes[turn % len(scenes)])
    named = [k for k, it in enumerate(scene) if re.search(r"[/.]|out|model|photos", it)]
    named = [k for k in named if k and not re.match(r"--|\[|[\d.]+$", scene[k])]
    place = draw(st.sampled_from(named))
    suffix = Path(scene[place]).suffix
    bare = [f"new/folder{suffix}", f"a b'\"ä😀{suffix}", "", ".", "..", f"-x{suffix}"]
    bare += [f"new\nline{suffix}", f"\udcff\udcfe{suffix}", "a" * 300 + suffix]
    bare += ["y" * (255 - len(suffix)) + suffix, "y" * (240 - len(suffix)) + suffix]
    bare += [f"/proc/none{suffix}", f"missing{suffix}", f"{scene[place]}/x", "~none/x"]
    bare += [scene[1], f"{scene[1]}/.", f"%d%s{suffix}", f".hidden{suffix}"]
    made = ["loop", "fifo", "folder", "file", "link", "hardlink", "dangling", "locked"]
    name = draw(st.sampled_from(bare) | st.sampled_from(made))
    changes = []
    if name in made:
        changes = [["special", f"odd{suffix}", name, scene[1]]]
        name = f"odd{suffix}"
    elif Path(scene[place]).suffix and name.startswith(("a b", "new\n", "\udcff", "y")):
        changes = [["rename", scene[place], name]]
    scene[place] = name
    return Case(scene, tuple(changes))


# --- changes of a folder, by name, as a case lists them ---


def write(name: str, text: str) -> None:
    """Writes a text."""
    Path(name).write_text(text, encoding="utf-8")


def rename(name: str, other: str) -> None:
    """Gives another name, where the system allows it."""
    with suppress(OSError):
        os.rename(name, other)


def special(name: str, kind: str, source: str) -> None:
    """Makes what is no plain file of its own."""
    path = Path(name)
    with suppress(OSError):  # a folder has no hard links
        match kind:
            case "loop":
                path.symlink_to(name)
            case "dangling":
                path.symlink_to("nowhere")
            case "link":
                path.symlink_to(source)
            case "hardlink":
                path.hardlink_to(source)
            case "fifo":
                os.mkfifo(path)
            case "file":
                path.write_text("mine", encoding="utf-8")
            case "folder" | "locked":
                path.mkdir()
                (path / "mine.txt").write_text("mine")
                path.chmod(0o755 if kind == "folder" else 0o500)


def damage(name: str, kind: str, number: int) -> None:
    """Damages a file: some bytes, all of it, or what it says."""
    random, path = Random(number), Path(name)
    content = bytearray(path.read_bytes())
    path.unlink()  # it may be a link to the base's
    size = len(content)
    match kind:
        case "missing":
            return
        case "folder":
            return path.mkdir()
        case "empty":
            content = b""
        case "garbage":
            content = random.randbytes(random.choice([1, 100, 5000]))
        case "cut":
            content = content[: random.randrange(size + 1)]
        case "zero":
            begin, length = random.randrange(size), random.choice([1, 64, size])
            content[begin : begin + length] = bytes(len(content[begin:][:length]))
        case "flip":
            for _ in range(random.choice([1, 3, 30])):
                content[random.randrange(size)] ^= 1 << random.randrange(8)
        case "other":  # whole, but of another kind or person
            others = [it for it in Path().rglob("*") if it.is_file()]
            content = random.choice(others).read_bytes()
    path.write_bytes(content)
    if kind == "content":
        with suppress(OSError, ValueError):  # it is not what its name says
            SPOIL.get(path.suffix, _spoil_lines)(path, random)


def _spoil_json(path: Path, random: Random) -> None:
    """Sets, removes or adds a value anywhere in the tree."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = node if isinstance(node, dict) else range(len(node))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(whole := [tree])
    node, key = random.choice(places)
    odd = [None, True, "", "../x", "\0", "a" * 999, -1, 0, 3, 1.5, 10**40, [], {}]
    odd += [float("nan"), float("inf"), [1, 2], {"file": 3}, 1e308, [[1, "2"]]]
    match random.randrange(5):
        case 0 if isinstance(node, dict):
            del node[key]
        case 1 if isinstance(node, dict):
            node["unknown"] = random.choice(odd)
        case 2 if isinstance(node, list):
            node.append(random.choice(odd))
        case _:
            node[key] = random.choice(odd)
    path.write_text(json.dumps(whole[0]), encoding="utf-8")


def _spoil_npz(path: Path, random: Random) -> None:
    """Removes an array or gives it other contents; one would run code if unpickled."""
    import numpy as np

    with np.load(path) as file:
        arrays = dict(file)
    name = random.choice(list(arrays))
    odd = [np.nan, -1, "text", np.zeros((3, 0)), np.array([None]), arrays[name][None]]
    arrays[name] = random.choice(odd)
    if random.randrange(4) == 0:
        del arrays[name]
    np.savez(path, **arrays)


def _spoil_h5(path: Path, random: Random) -> None:
    """Removes a weight, or fills it with what is no weight."""
    import h5py
    import numpy as np

    with h5py.File(path, "r+") as file:
        names: list[str] = []
        kind = h5py.Dataset
        file.visititems(
            lambda name, it: names.append(name) if isinstance(it, kind) else None
        )
        name = random.choice(names)
        shape = file[name].shape
        odd = [np.full(shape, it, "float32") for it in (np.nan, np.inf, 1e30, 0)]
        odd += [np.zeros((*shape, 2)), np.full(shape, b"x", "S1"), None]
        del file[name]
        if (content := random.choice(odd)) is not None:
            file[name] = content


def _spoil_picture(path: Path, random: Random) -> None:
    """Changes size or kind of a picture."""
    from PIL import Image

    with Image.open(path) as picture:
        mode = random.choice(["1", "L", "RGBA", "P", "I;16", "RGB"])
        if mode != "I;16":
            picture = picture.convert(mode if path.suffix == ".png" else "L")
        side = random.choice([1, 2, 63, 255, 300, picture.width])
        picture.resize((side, random.choice([1, side]))).save(path)


def _spoil_lines(path: Path, random: Random) -> None:
    """Puts another word into a text."""
    words = re.split(r"([,:\s]+)", path.read_text(encoding="utf-8"))
    odd = ["", "nan", "x", "-1", "{", "[", "!!python/object:os.system", "\0", "1e99"]
    words[random.randrange(len(words))] = random.choice(odd)
    path.write_text("".join(words), encoding="utf-8")


SPOIL = {".json": _spoil_json, ".npz": _spoil_npz, ".h5": _spoil_h5}
SPOIL |= {".png": _spoil_picture, ".jpg": _spoil_picture}


def picture(name: str, mode: str, size: tuple[int, int], turned: int) -> None:
    """Writes the photo in another kind."""
    from PIL import Image

    with Image.open("photo.jpg") as photo, suppress(OSError, ValueError, KeyError):
        odd = photo.resize(size)
        odd = odd.convert("I").convert(mode) if mode == "I;16" else odd.convert(mode)
        exif = Image.Exif()
        exif[0x0112] = turned
        odd.save(name, exif=exif)


def film(
    name: str, codec: str, size: tuple[int, int], frames: int, fps: str, *more: Any
) -> None:
    """Writes the clip anew; what the container refuses leaves what there is."""
    import av
    import numpy as np

    sound, times, share = more
    rate = Fraction(fps)
    with av.open("clips/a.mp4") as clip:
        pictures = list(clip.decode(video=0))
    refusals = OSError, ValueError, av.error.FFmpegError
    with suppress(*refusals), av.open(name, "w") as out:
        stream = out.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        kinds = [it.name for it in stream.codec.video_formats or []] or ["yuv420p"]
        stream.pix_fmt = "yuv420p" if "yuv420p" in kinds else kinds[0]
        track = out.add_stream(sound, rate=48_000) if sound else None
        for number in range(frames):
            frame = pictures[number % len(pictures)].reformat(*size, stream.pix_fmt)
            jump = 7 * (number // 3) if times == "jumps" else 0
            shift = {"late": 50, "negative": -3}.get(times, 0)
            frame.pts, frame.time_base = number + jump + shift, 1 / rate
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if track:
            wave = np.sin(np.arange(24_000) / 20)[None]
            piece = av.AudioFrame.from_ndarray(wave.astype("f4"), "fltp", "mono")
            piece.sample_rate, piece.pts = 48_000, 0
            out.mux(track.encode(piece))
            out.mux(track.encode(None))
    path = Path(name)
    if share < 1 and path.exists():
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


# --- the folder ---


def build_base(folder: Path, main: Any) -> None:
    """Makes footage, faces, masks, a model, and what each stage made of them."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import yaml
    from PIL import Image
    from test_checkpoint import write_keras2
    from test_legacy import SMALL, hollow_layers

    from fsgan.media.reader import read_frames
    from fsgan.models.networks import build_decoder, build_encoder
    from fsgan.swap.swapper import FaceSwapper
    from fsgan.training.recipes import recipe

    shutil.rmtree(folder, ignore_errors=True)
    unfinished = folder.with_name("unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "photos").mkdir(parents=True)
    os.chdir(unfinished)

    def run(line: str, status: int = 0) -> None:
        if main(line.split()) != status:
            raise SystemExit(f"the base material cannot be made: {line}")

    run("sample clips --seconds 0.5 --size [240,136]")
    for index, frame in enumerate(read_frames("clips/b.mp4")):
        photo = Image.fromarray(frame.image)
        photo.save("photo.jpg") if index == 6 else None
        photo.save(f"photos/{index}.png") if index % 4 == 0 else None
    for person, source in (("a", "clips/a.mp4"), ("b", "clips/b.mp4")):
        run(f"extract {source} faces/{person} --every 2")
        run(f"masks faces/{person} masks/{person}")
    shutil.copytree("faces/a", "faces/c")
    copies = "--settings.near_duplicate 50 --settings.reject_near_duplicates true"
    run(f"examine faces/c --apply true {copies}")
    plan = recipe("quick")._asdict()
    config = yaml.safe_load(yaml.safe_dump({k: asdict(it) for k, it in plan.items()}))
    short = dict(iterations=2, batch_size=1, preview_every=1, validation=0.2)
    config["settings"] |= short | {"precision": "float32"}
    write("train.yaml", yaml.safe_dump(config))
    write("pairs.yaml", yaml.safe_dump({"settings": short}))
    run("train faces/a faces/b model --config train.yaml")
    run("convert clips/a.mp4 swap.mp4 model")
    run("convert-image photo.jpg swap.png model")
    compose, calls = FaceSwapper._compose, []

    def stop(self: Any, chunk: Any) -> Any:
        calls.append(chunk)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compose(self, chunk)

    FaceSwapper._compose = stop
    run("convert clips/a.mp4 half.mp4 model", 130)
    FaceSwapper._compose = compose
    Path("legacy").mkdir()
    write_keras2("legacy/encoder.h5", hollow_layers(build_encoder, SMALL))
    for side in "AB":
        layers = hollow_layers(build_decoder, SMALL)
        write_keras2(f"legacy/decoder_{side}.h5", layers)
    os.chdir(folder.parent)
    unfinished.rename(folder)

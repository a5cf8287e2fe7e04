import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import fsgan

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def project_texts():
    """Every text file of the project, whether or not git knows it yet."""
    for folder in (
        ".",
        ".ci",
        "colab",
        "docs",
        "fsgan",
        "notebooks",
        "tests",
        "weights",
    ):
        for path in (ROOT / folder).glob("*" if folder == "." else "**/*"):
            named = path.name in ("Makefile", "LICENSE", "run", ".gitignore")
            kinds = (".py", ".md", ".toml", ".txt", ".yml", ".ipynb", ".json")
            if path.is_file() and (named or path.suffix in kinds):
                yield path


def pins(file="constraints.txt"):
    lines = (ROOT / file).read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?<![\w./~-])/(home|root|Users|work|tmp|mnt)/\w",
        # Taken apart, so that this file does not find itself.
        "|".join(
            re.escape(".".join(host))
            for host in (
                ("pypi", "org"),
                ("pythonhosted", "org"),
                ("anaconda", "org"),
                ("debian", "org"),
                ("npmjs", "org"),
            )
        ),
    ],
    ids=["path of a machine", "host of a registry"],
)
def test_no_text_of_the_project_names_a(pattern):
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in project_texts()
        if (match := re.search(pattern, path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_the_search_for_texts_reaches_every_kind_of_file():
    names = {path.relative_to(ROOT).as_posix() for path in project_texts()}
    assert names >= {
        ".ci/run",
        "Makefile",
        "constraints.txt",
        "environment.yml",
        "fsgan/__init__.py",
        "tests/test_project.py",
        "weights/README.md",
    }


@pytest.mark.parametrize("part", ["core", *EXTRAS])
def test_every_dependency_is_pinned_to_a_version_it_allows(part):
    for text in PROJECT["dependencies"] if part == "core" else EXTRAS[part]:
        requirement = Requirement(text)
        assert requirement.specifier, f"{text} has no lower bound"
        version = pins()[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{text} against {version}"


@pytest.mark.parametrize("part", ["core", *sorted(set(EXTRAS) - {"dev", "docs"})])
def test_every_lower_bound_is_what_make_test_oldest_installs(part):
    oldest = pins("constraints-oldest.txt")
    for text in PROJECT["dependencies"] if part == "core" else EXTRAS[part]:
        requirement = Requirement(text)
        if requirement.name in ("torch", "face-alignment"):
            continue  # too large: never installed in so old a version
        [bound] = (it.version for it in requirement.specifier if it.operator == ">=")
        found = oldest[canonicalize_name(requirement.name)]
        assert Version(found) == Version(bound), text


def test_both_tensorflows_are_pinned_to_one_version():
    assert pins()["tensorflow"] == pins()["tensorflow-cpu"]


def test_one_opencv_is_pinned():
    assert [name for name in pins() if name.startswith("opencv")] == ["opencv-python"]


def test_the_conda_environment_installs_this_project_with_the_tested_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    (python,) = (
        Requirement(item.replace("=", "=="))
        for item in environment["dependencies"]
        if str(item).startswith("python=")
    )
    (version,) = (clause.version for clause in python.specifier)
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(
        version
    )
    (by_pip,) = (
        item["pip"] for item in environment["dependencies"] if isinstance(item, dict)
    )
    constraints, project = by_pip
    assert constraints == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[(.+)\]", project)[1].split(",")
    assert set(extras) <= set(EXTRAS)
    assert f"[$(TENSORFLOW),{','.join(extras[1:])}]" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("heavy", ["tensorflow", "keras", "torch", "cv2", "av"])
def test_importing_the_package_does_not_start(heavy):
    code = f"import sys, fsgan; assert {heavy!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# The names that docs/api.md lists, and arguments that may not vanish.
PUBLIC = """
AugmentationSettings: rotation zoom shift flip color_match motion_blur
ConvertSettings: direction color color_smoothing blend min_alpha feather sharpen
    enhance smoothing min_face min_confidence search_every layout layers crf
    lossless encoder mark label certificate private_key engine
DoctorSettings: blur min_confidence min_size near_duplicate
FaceSwapper: model_dir settings
LossWeights: adversarial reconstruction eyes edge perceptual cyclic sparsity hinge
    total_variation
ModelConfig: resolution capacity norm attention mask discriminators people latent
TrainSettings: iterations batch_size learning_rate adversarial_loss perceptual
    swap_decoders updates precision validation preview_every backup_every keep seed
    augmentation losses
benchmark: out recipe resolution capacity largest_batch seconds
compare: source swapped
convert_image: source out model settings only overwrite
convert_images: sources out_dir model settings only overwrite
convert_video: source out model settings only faces start end fps overwrite
convert_videos: sources out_dir model settings only suffix overwrite cluster
curate: source out_dir every min_face min_confidence min_group threshold
evaluate: source swapped faces_a faces_b out_dir direction model distractors tracks
    start end
examine_faces: faces_a faces_b settings apply out
export: model out direction target size color morph overwrite
extract_faces: source out_dir every min_face min_confidence seconds most
extract_videos: sources out_dir every min_face min_confidence seconds most cluster
follow_faces: source out min_face min_confidence smoothing search_every start end
    fps
import_legacy: weights_dir model_dir norm coverage
live: model source show settings drop
make_masks: faces_dir masks_dir method
make_sample_clips: folder seconds
make_timelapse: model_dir out fps
plot_training: model_dir
read_losses: model_dir
read_validation: model_dir
recipe: name resolution capacity
restore_faces: faces_dir
review: source swapped model settings out limit most identity_every tracks start
    end
train: faces_a faces_b model_dir recipe minutes masks_a masks_b model settings resume
    start_from transfer on_preview
train_pairs: people out_dir pairs recipe minutes model settings cluster
verify: path
"""
PUBLIC = dict(
    line.split(": ", 1) for line in PUBLIC.replace("\n    ", " ").strip().splitlines()
)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_takes_the_arguments_it_took(name):
    taken = inspect.signature(getattr(fsgan, name)).parameters
    assert set(PUBLIC[name].split()) <= set(taken)


def test_the_package_is_small():
    modules = list((ROOT / "fsgan").rglob("*.py"))
    lines = sum(len(path.read_text().splitlines()) for path in modules)
    assert len(modules) <= 69
    assert lines <= 17_900


def test_converting_loads_neither_training_nor_keras():
    code = (
        "import sys, fsgan.swap.convert; "
        "assert not [m for m in sys.modules if m.startswith('fsgan.training')]; "
        "assert 'keras' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

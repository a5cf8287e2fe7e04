"""README and the pages of docs/: links, names, commands and settings are real."""

import ast
import dataclasses
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import fsgan
from fsgan.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "colab/README.md", ROOT / "weights/README.md"]
TEXTS += PAGES


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def anchors(text: str) -> set[str]:
    """Of the headings, as Markdown's usual slugs."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", text), re.M)
    bare = (re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles)
    return {re.sub(r"\s+", "-", title) for title in bare}


def broken_links(path: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        found = target.exists() and (
            not anchor or anchor in anchors(target.read_text(encoding="utf-8"))
        )
        if not found:
            broken.append(link)
    return broken


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path):
    assert broken_links(path) == []


def test_a_link_without_file_or_heading_is_found(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(
        "# One `word`, two\n[a](none.md) [b](#one-word-two) [c](#two) ![d](none.png)"
    )
    assert broken_links(path) == ["none.md", "#two", "none.png"]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_calls_public_names_with_arguments_they_take(path):
    for code in blocks(path.read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and ast.unparse(node.func)[:6] == "fsgan.":
                called = ast.unparse(node.func).removeprefix("fsgan.")
                taken = inspect.signature(getattr(fsgan, called)).parameters
                assert {keyword.arg for keyword in node.keywords} <= set(taken), called


def test_every_command_has_its_line_and_no_other_is_named():
    listed = re.findall(r"^\| (`.+?) \|", page("commands"), re.M)
    assert set(re.findall(r"`([\w-]+)`", " ".join(listed))) == set(COMMANDS)
    for path in TEXTS:
        for code in blocks(path.read_text(encoding="utf-8"), "sh"):
            for command in re.findall(r"^fsgan (\S+)", code, re.M):
                assert command in COMMANDS, f"{path.name}: fsgan {command}"


def test_every_setting_of_conversion_is_explained():
    told = page("conversion") + page("provenance")
    for field in dataclasses.fields(fsgan.ConvertSettings):
        assert f"`{field.name}`" in told, field.name


def test_every_extra_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in project["optional-dependencies"]:
        assert f"| `{extra}` |" in page("install"), extra


def test_every_public_name_is_in_the_api():
    listed = re.findall(r"^::: fsgan\.([\w.]+)\.(\w+)$", page("api"), re.M)
    assert all(name == getattr(fsgan, name).__name__ for _, name in listed)
    public = {
        name for name in fsgan.__all__ if not inspect.ismodule(getattr(fsgan, name))
    }
    assert {name for _, name in listed} | {"DoctorSettings"} == public


def test_every_page_is_in_the_navigation():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert set(re.findall(r"[\w.-]+\.md", str(nav))) == {path.name for path in PAGES}


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("zensical", reason="the extra docs is not installed")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "fsgan").symlink_to(ROOT / "fsgan")
    build = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = [
        path.read_text(encoding="utf-8")
        for path in (tmp_path / "build/site").glob("*.html")
    ]
    assert any('id="fsgan.swap.convert.convert_video"' in page for page in pages)
    loaded = r"<(?:script|img|link)\b[^>]*(?:src|href)=.?https?:"
    assert not re.search(loaded, "".join(pages))

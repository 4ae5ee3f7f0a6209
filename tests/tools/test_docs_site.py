"""The site of docs/: its pages, links between the repository's places, and that it fetches nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="tools/setup.sh --extras docs is not installed")

from espnet_larm.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]
# What a page loads by itself, links that a reader follows left out.
LOADED = re.compile(r'<(?:script|img|iframe)[^>]*\ssrc="([^"]+)"|<link[^>]*rel="stylesheet"[^>]*href="([^"]+)"')


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def text_of(page):
    return page.read_text(encoding="utf-8")


def test_pages_load_nothing_from_elsewhere(site):
    loaded = [one or other for page in site.rglob("*.html") for one, other in LOADED.findall(text_of(page))]
    assert len(loaded) > 10 and not [address for address in loaded if re.match(r"(\w+:)?//", address)]


def test_results_are_pages_with_their_pictures(site):
    page = site / "egs/an4/RESULTS"
    pictures = re.findall(r'<img[^>]* src="([^"]+)"', text_of(page / "index.html"))
    assert "../wer_by_loops.png" in pictures
    assert not [picture for picture in pictures if not (page / picture).resolve().is_file()]


def test_a_link_to_a_file_that_is_no_page_stays_as_its_text(site):
    text = text_of(site / "howto/looped_encoder/index.html")
    assert "conf/an4/train_larm.yaml" in text and 'train_larm.yaml"' not in text
    assert 'href="../../egs/an4/RESULTS/#baselines-trained-alike"' in text


def test_every_command_has_its_help(site):
    _, *sections = text_of(site / "commands/index.html").split("<h2 ")
    assert len(sections) == len(COMMANDS)
    for name, section in zip(COMMANDS, sections, strict=True):
        assert section.startswith(f'id="{name}') and "Examples:" in section, name


def test_the_reference_has_what_docstrings_say(site):
    text = text_of(site / "api/index.html")
    for words in ("A pack (", "Samples", "Log-probability", "An option is wrong"):
        assert words in re.sub(r"<[^>]+>", "", text), words

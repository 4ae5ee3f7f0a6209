"""Hooks of mkdocs.yml: pages that do not lie in docs/, and links that hold in the repository and on the site.

The README, the changes and every RESULTS.md become pages at the same paths below the site, the README as its start. The
page of commands is made from their `--help`. A link to a file that is no page stays as its text.
"""

import contextlib
import io
import posixpath
import re
import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files, InclusionLevel

from espnet_larm.cli.commands import COMMANDS, STAGE, describe_commands

ROOT = Path(__file__).parents[1]
HOME, COMMANDS_PAGE = "index.md", "commands.md"
# Files of the repository that are pages or pictures, beside those of docs/.
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "egs/*/RESULTS.md", "egs/*/*.png", "tools/bench/RESULTS.md")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]+)?\)")
FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
COLUMNS = "96"
_sources = tempfile.TemporaryDirectory(prefix="espnet_larm_docs.")


@event_priority(100)  # before mkdocstrings' own
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let mkdocstrings read a copy of the package whose folders have an __init__.py: it passes others over."""
    package = Path(_sources.name) / "espnet_larm"
    shutil.copytree(ROOT / "espnet_larm", package, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    for folder in package.glob("**/"):
        (folder / "__init__.py").touch()
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [_sources.name]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures that do not lie in docs/."""
    files.append(File.generated(config, HOME, abs_src_path=str(ROOT / "README.md")))
    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        inclusion = InclusionLevel.INCLUDED if path.suffix == ".md" else InclusionLevel.NOT_IN_NAV
        uri = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(path), inclusion=inclusion))
    files.append(File.generated(config, COMMANDS_PAGE, content=format_commands()))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001  # mkdocs' names
    """Point the links of a page at pages of the site, code blocks left out."""
    source = page.file.src_uri
    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(lambda link: _on_site(link, source, files), part) for part in parts[::2]]
    return "".join(parts)


def format_commands() -> str:
    """The page of commands: all of them in groups, then the help of each."""
    lines = [
        "# Commands\n",
        "`espnet-larm COMMAND`, or `python -m espnet_larm COMMAND`. This page is made from `--help`.\n",
        f"```\n{describe_commands().strip()}\n```\n",
    ]
    for name, command in COMMANDS.items():
        title = f"{name} (a stage of recipes)" if command.group == STAGE else name
        lines.append(f"## {title}\n\n```\n{help_of(name)}\n```\n")
    return "\n".join(lines)


def help_of(name: str) -> str:
    """The text of `espnet-larm NAME --help`.

    Raises:
        ValueError: The command has no help.
    """
    from unittest.mock import patch

    said = io.StringIO()
    arguments = {"COLUMNS": COLUMNS}
    with (
        patch.dict("os.environ", arguments),
        patch("sys.argv", [f"espnet-larm {name}"]),
        contextlib.redirect_stdout(said),
        contextlib.suppress(SystemExit),
    ):
        import_module(COMMANDS[name].module).main(["--help"])
    if not said.getvalue().strip():
        raise ValueError(f"espnet-larm {name} --help prints nothing")
    return said.getvalue().strip()


def _on_site(link: re.Match[str], source: str, files: Files) -> str:
    """A link of a page, as it is on the site."""
    mark, text, target, anchor = link.groups(default="")
    if not target or re.match(r"\w+:", target):
        return link[0]
    here = repository_path(source)
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    uri = site_path(wanted)
    if files.get_file_from_path(uri) is None:
        return text
    return f"{mark}[{text}]({posixpath.relpath(uri, posixpath.dirname(source) or '.')}{anchor})"


def repository_path(uri: str) -> str:
    """Where a page of the site lies in the repository."""
    if uri == HOME:
        return "README.md"
    return uri if (ROOT / uri).is_file() else f"docs/{uri}"


def site_path(path: str) -> str:
    """Where a file of the repository lies on the site, if it does."""
    return HOME if path == "README.md" else path.removeprefix("docs/")

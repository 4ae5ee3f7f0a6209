"""Make a recipe folder that runs as it stands, for a known corpus or for your own recordings.

Examples:
    espnet-larm init-recipe my_asr --manifests my_recordings
    espnet-larm init-recipe my_asr --corpus librispeech

--manifests names a folder with a table of recordings for each set: train, dev, and one or more that begin with test. It
is NAME.tsv, whose first line names the columns audio, text and (if you know it) speaker, or NAME.jsonl with these keys.
Paths of audio are relative to the table. The new folder gets the pipeline, its configurations and a README.md with the
next command; it needs no clone of the repository. Its path.sh names the Python that made it.
"""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from espnet_larm.files.atomic import folder_beside
from espnet_larm.version import __version__

PACKAGE = Path(__file__).resolve().parents[1]


class Recipe(NamedTuple):
    """A recipe that can be copied.

    Attributes:
        sentence: What it is for.
        options: Options of run.sh that it needs; empty for none.
    """

    sentence: str
    options: str = ""


LIBRISPEECH_LAYOUT = (
    '--corpus /data/LibriSpeech --train train-clean-100 --dev dev-clean --tests "clean=test-clean other=test-other"'
)
RECIPES = {
    "an4": Recipe("CMU AN4, 42 minutes of spelled names and numbers, which is downloaded (64 MB)"),
    "librispeech": Recipe("LibriSpeech (downloaded without --librispeech)", "--librispeech /data/LibriSpeech"),
    "mini": Recipe("a synthetic corpus, which eSpeak NG makes (pip install espeakng-loader)"),
    "read_speech": Recipe("a corpus in LibriSpeech's layout, split/speaker/chapter/*.trans.txt", LIBRISPEECH_LAYOUT),
}
# The recipe that reads tables.
OF_TABLES = "read_speech"
TABLES = (".tsv", ".jsonl")
# They compare trainings with programs of the repository that are not installed; the plans that these read are the only
# configurations whose names do not begin with TRAININGS.
STUDIES = ("run_baselines.sh", "run_study.sh")
TRAININGS = "train_"
# In the repository a recipe's folder lies beside the pipeline, and its configurations at the root.
MOVED = (("../asr.sh", "./asr.sh"), ("../utils/", "utils/"))
# What asr.sh does in the repository.
OF_REPOSITORY = re.compile(r" The first time (it makes )?the repository's \.venv (is made )?\(minutes, 7 GB\)\.")
SHEBANG = "#!"


def get_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder to make; one that holds something is refused")
    kinds = parser.add_mutually_exclusive_group(required=True)
    listed = "; ".join(f"{name}: {recipe.sentence}" for name, recipe in RECIPES.items())
    kinds.add_argument("--corpus", choices=tuple(RECIPES), help=listed)
    kinds.add_argument("--manifests", type=Path, help="instead: folder of the tables of your own recordings")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Make the folder and print the next command."""
    args = get_parser().parse_args(cmd)
    if args.folder.exists() and not (args.folder.is_dir() and not any(args.folder.iterdir())):
        raise FileExistsError(f"{args.folder} is there and is not empty; name another folder, which will be made.")
    if args.manifests is None:
        name, recipe, defaults = args.corpus, RECIPES[args.corpus], dict[str, str]()
    else:
        defaults = _options_of_tables(args.manifests)
        name, recipe = OF_TABLES, Recipe(f"the recordings of {args.manifests.resolve()}")
    target = args.folder.resolve()
    with folder_beside(target) as beside:
        made = beside / target.name
        _copy_recipe(recipes_root(), name, made, defaults)
        (made / "path.sh").write_text(_format_path_sh(), encoding="utf-8")
        (made / "README.md").write_text(_format_readme(target.name, recipe), encoding="utf-8")
        made.replace(target)
    print(f"{args.folder}: a recipe for {recipe.sentence}; README.md says what is there.")
    print(f"next: cd {shlex.quote(str(args.folder))} && {' '.join(filter(None, ['./run.sh', recipe.options]))}")
    return 0


def recipes_root() -> Path:
    """The folder that holds egs/ and conf/: that of the installed package, or the checkout's root.

    Raises:
        FileNotFoundError: Neither is there.
    """
    for root in (PACKAGE / "_recipes", PACKAGE.parent):
        if (root / "egs/asr.sh").is_file():
            return root
    raise FileNotFoundError(f"{PACKAGE} was installed without recipes; install espnet-larm again, as a wheel.")


def _options_of_tables(folder: Path) -> dict[str, str]:
    """Defaults of run.sh that name the tables of a folder.

    Args:
        folder: The folder.

    Raises:
        FileNotFoundError: There is no such folder, or a set has no table.
        ValueError: A table is none, a set has two, or the path holds a space, which the recipe's options separate by.
    """
    from espnet_larm.recipe.corpora.manifest import read_manifests

    if not folder.is_dir():
        raise FileNotFoundError(f"--manifests {folder} is no folder; name the one that holds train.tsv, dev.tsv, ...")
    absolute = str(folder.resolve())
    if re.search(r"\s", absolute):
        raise ValueError(f"--manifests {absolute} holds a space; name a folder without, a link to it for example.")
    found = sorted(path for path in folder.iterdir() if path.suffix in TABLES)
    tables = {path.stem: path.name for path in found}
    if len(tables) < len(found):
        raise ValueError(f"--manifests {folder} holds two tables of one name; leave one: {', '.join(_names(found))}.")
    tests = [name for name in tables if re.fullmatch(r"test\w*", name)]
    if lacking := [name for name in ("train", "dev") if name not in tables] + ["test"] * (not tests):
        raise FileNotFoundError(
            f"--manifests {folder} has no table {', '.join(lacking)} ({' or '.join(TABLES)}); there are: "
            f"{', '.join(_names(found)) or 'none'}."
        )
    for name in ("train", "dev", *tests):
        print(f"{folder / tables[name]}: {len(read_manifests([folder / tables[name]]))} recordings")
    pairs = " ".join(f"{name}={tables[name]}" for name in tests)
    return {"manifests": absolute, "train": tables["train"], "dev": tables["dev"], "tests": pairs}


def _copy_recipe(root: Path, name: str, folder: Path, defaults: dict[str, str]) -> None:
    """Copy a recipe with the pipeline and its configurations into one folder.

    Args:
        root: The folder that holds egs/ and conf/.
        name: Folder of the recipe in egs/.
        folder: The folder to make.
        defaults: Other defaults of options of run.sh.
    """
    moved = (*MOVED, (f"conf/{name}/", "conf/"))
    for source, inside in files_of(root, name):
        text = source.read_text(encoding="utf-8")
        if source.is_relative_to(root / "egs" / name) or source.suffix == ".yaml":
            for before, after in moved:
                text = text.replace(before, after)
            text = OF_REPOSITORY.sub("", text)
        if inside == "run.sh":
            for option, value in defaults.items():
                text = _with_default(text, option, value)
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        if text.startswith(SHEBANG):
            target.chmod(0o755)


def files_of(root: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Files of a recipe, and their names in the folder to make."""
    egs, conf = root / "egs", root / "conf"
    recipe = egs / name
    yield egs / "asr.sh", "asr.sh"
    places = (
        (egs, egs.glob("utils/*.sh")),
        (recipe, recipe.glob("*.sh")),
        (recipe, recipe.glob("local/*")),
        (root, conf.glob("*.yaml")),
    )
    for base, paths in places:
        yield from ((path, str(path.relative_to(base))) for path in sorted(paths) if path.name not in STUDIES)
    yield from ((path, f"conf/{path.name}") for path in sorted((conf / name).glob(f"{TRAININGS}*.yaml")))


def _format_path_sh() -> str:
    """The recipe's path.sh, which names the Python that runs here, and the package's folder if it needs that."""
    python = Path(sys.executable)
    command = [sys.executable, "-I", "-c", "import espnet_larm; print(espnet_larm.__path__[0])"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    is_installed = done.returncode == 0 and Path(done.stdout.strip()).resolve() == PACKAGE
    path = (
        "" if is_installed else f'export PYTHONPATH={shlex.quote(str(PACKAGE.parent))}"${{PYTHONPATH:+:$PYTHONPATH}}"\n'
    )
    return (
        "# shellcheck shell=bash disable=SC2034\n"
        "# The Python that made this recipe, with espnet_larm. Sourced by asr.sh unless --python is given.\n"
        f'PATH={shlex.quote(str(python.parent))}:$PATH\n{path}python="{python.name} -m espnet_larm"\n'
    )


def _format_readme(name: str, recipe: Recipe) -> str:
    """The README.md of a recipe's folder."""
    command = " ".join(filter(None, ["./run.sh", recipe.options]))
    return f"""# {name}

A recipe of espnet-larm {__version__} for {recipe.sentence}.

```sh
# Data and tokens alone: what is wrong with them is said within minutes.
{command} --stop_stage tokens
# Everything: data, tokens, training, decoding, scores. Without a GPU, add --ngpu 0.
{command}
# All options.
./run.sh --help
```

The same command goes on where it was interrupted. Error rates by loops stand in `exp/*/RESULTS.md`, and
`--stage pack --stop_stage pack` makes one file of the model, which `espnet_larm.load`
and `espnet-larm transcribe --model` read.

`conf/` has the configurations; the head of each says for how much speech and which machine it is meant. `cmd.sh` says
where jobs run (here, or Slurm), `path.sh` which Python runs them. `asr.sh` and `utils/` are the pipeline.
"""


def _with_default(script: str, option: str, value: str) -> str:
    return re.sub(
        rf"^{option}=.*?(?=  # )", lambda _: f"{option}={shlex.quote(value)}", script, count=1, flags=re.MULTILINE
    )


def _names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]

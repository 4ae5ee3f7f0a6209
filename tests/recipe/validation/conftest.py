"""A sound data folder to damage, and what the validation then says."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_larm.data.kaldi_dir import Utterance, write_dir, write_tables
from espnet_larm.recipe.make_tokens import character_tokens, train_bpe
from espnet_larm.recipe.validation.folder import Wanted, validate_folders
from espnet_larm.recipe.validation.report import Problem, Report
from espnet_larm.recipe.validation.text import Tokens

TEXTS = {"ann-1": "ONE TWO", "ann-2": "THREE FOUR", "bob-1": "FIVE", "bob-2": "SIX SEVEN"}


class Folder:
    """`set/` below the working directory, with its audio in `audio/` and tokens in `tokens/`; numbers are of lines."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        return self.root / "set" / name

    def line(self, name: str, number: int, text: str) -> None:
        """Replace a line."""
        lines = self.path(name).read_text().splitlines()
        lines[number - 1] = text
        self.write(name, *lines)

    def lines(self, name: str) -> list[str]:
        return self.path(name).read_text().splitlines()

    def write(self, name: str, *lines: str) -> None:
        self.path(name).write_text("".join(f"{line}\n" for line in lines))

    def drop(self, name: str, number: int) -> None:
        lines = self.lines(name)
        del lines[number - 1]
        self.write(name, *lines)

    def swap(self, name: str, old: bytes, new: bytes) -> None:
        """Replace bytes of a file."""
        data = self.path(name).read_bytes()
        assert old in data
        self.path(name).write_bytes(data.replace(old, new))

    def rename(self, old: str, new: str, *names: str) -> None:
        """Another id in some files."""
        for name in names:
            self.swap(name, old.encode(), new.encode())

    def text(self, text: str) -> None:
        """Another transcript for ann-2, line 2."""
        self.line("text", 2, f"ann-2 {text}")

    def source(self, source: str) -> None:
        """Another path for ann-2, line 2."""
        self.line("wav.scp", 2, f"ann-2 {source}")

    def audio(self, samples: Sequence[float] | np.ndarray, rate: int = 16000, subtype: str = "PCM_16") -> None:
        """Other audio for ann-2, line 2, as a WAV file."""
        soundfile.write(self.root / "audio/other.wav", np.asarray(samples), rate, subtype=subtype)
        self.source("audio/other.wav")

    def content(self, data: bytes, name: str = "other.flac") -> None:
        """Other bytes for ann-2, line 2."""
        (self.root / "audio" / name).write_bytes(data)
        self.source(f"audio/{name}")

    def tokens(self, *tokens: str) -> None:
        (self.root / "tokens/tokens.txt").write_text("".join(f"{token}\n" for token in tokens))

    def token_list(self) -> list[str]:
        return (self.root / "tokens/tokens.txt").read_text().splitlines()


@pytest.fixture(scope="session")
def sound_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every test gets a copy of."""
    root = tmp_path_factory.mktemp("sound")
    for name in ("audio", "tokens"):
        (root / name).mkdir()
    noise = np.random.default_rng(0)
    for key in TEXTS:
        soundfile.write(root / f"audio/{key}.flac", noise.uniform(-0.5, 0.5, 16000), 16000)
    write_dir(root / "set", [Utterance(key, key[:3], f"audio/{key}.flac", text) for key, text in TEXTS.items()])
    write_tables(root / "tokens", {"text": TEXTS})
    (root / "tokens/tokens.txt").write_text("".join(f"{token}\n" for token in character_tokens(TEXTS.values())))
    listed = train_bpe([*TEXTS.values()] * 5, root / "tokens/bpe.model", 20, "unigram")
    (root / "tokens/bpe.txt").write_text("".join(f"{token}\n" for token in listed))
    return root


@pytest.fixture
def folder(sound_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A fresh copy, with the working directory beside it."""
    shutil.copytree(sound_folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


CHARACTERS = Tokens(Path("tokens/tokens.txt"))
PIECES = Tokens(Path("tokens/bpe.txt"), Path("tokens/bpe.model"))


def problems(tokens: Tokens | None = None, *folders: str) -> list[Problem]:
    """All problems of `set`, or of other folders."""
    report = Report()
    validate_folders([Path(name) for name in folders or ("set",)], Wanted(tokens=tokens), 1, report)
    return [problem for kept in report.kept.values() for problem in kept]

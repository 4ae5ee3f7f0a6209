"""The synthetic corpus; needs eSpeak NG, the extra `mini`."""

import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from espnet_larm.data.librispeech import read_librispeech
from espnet_larm.data.synthesis import READERS, synthesise_corpus

pytest.importorskip("espeakng_loader", reason="eSpeak NG is not installed (extra `mini`)")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    roots = [tmp_path_factory.mktemp("synthetic") / "corpus" for _ in range(2)]
    for root in roots:
        # A process each: the library keeps state from one utterance to the next.
        program = [sys.executable, "-m", "espnet_larm.bin.synthesise_speech", "--minutes", "0.2", "--out", str(root)]
        subprocess.run(program, check=True, capture_output=True)
    return roots


def test_the_seed_decides_every_byte(corpora: list[Path]) -> None:
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*") if path.is_file()} for root in corpora
    )
    assert first == second


def test_it_is_laid_out_as_librispeech_and_audible(corpora: list[Path]) -> None:
    for utterance in read_librispeech(corpora[0], ["train-mini", "dev-mini", "test-mini"]):
        samples, rate = soundfile.read(utterance.audio)
        assert rate == 16000 and len(samples) > 8000 and 0.1 < abs(samples).max() < 0.8


def test_it_is_called_synthetic(corpora: list[Path]) -> None:
    assert (corpora[0] / "README").read_text().startswith("Synthetic speech")


def test_dev_and_test_variants_are_not_heard_in_training() -> None:
    variants: dict[str, set[str]] = {}
    for reader in READERS:
        variants.setdefault(reader.split, set()).add(reader.voice.name.partition("+")[2])
    assert not variants["train-mini"] & (variants["dev-mini"] | variants["test-mini"])
    assert not variants["dev-mini"] & variants["test-mini"]


def test_an_existing_corpus_is_not_overwritten(corpora: list[Path]) -> None:
    with pytest.raises(ValueError, match="is there already"):
        synthesise_corpus(corpora[0], minutes=0.1, seed=1)

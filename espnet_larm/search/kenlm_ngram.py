"""N-grams over a model's tokens, read and asked by kenlm: the only import of it."""

import gzip
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

# The end of a text, as ARPA files and kenlm spell it.
END = "</s>"


class KenlmNgram:
    """An ARPA file or a binary one of kenlm's. A `search.ngram_scorer.Ngram`.

    Args:
        path: The file, plain or `.gz`.
        tokens: Names of a model's tokens.
        eos: The token that ends a text, `</s>` for the n-gram.

    Raises:
        ImportError: kenlm is not installed.
        FileNotFoundError: The file is not there.
        ValueError: kenlm cannot read it.
    """

    def __init__(self, path: Path, tokens: Sequence[str], eos: int) -> None:
        self._kenlm = import_kenlm()
        if not path.is_file():
            raise FileNotFoundError(f"the n-gram {path} is missing; stage 9 (--use_ngram true) makes one.")
        config = self._kenlm.Config()
        config.show_progress = False
        config.arpa_complain = self._kenlm.ARPALoadComplain.NONE
        try:
            self.model = self._kenlm.Model(str(path), config)
        # Its message holds bytes of the file, which may be no text.
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"the n-gram {path} is no ARPA file and none of kenlm's binary ones: {error}. Stage 9 (--use_ngram "
                "true) makes one."
            ) from error
        self.words = [END if index == eos else token for index, token in enumerate(tokens)]

    @property
    def order(self) -> int:
        """Words of its longest n-grams."""
        order: int = self.model.order
        return order

    def knows(self, words: Iterable[str]) -> list[bool]:
        """Whether each is in its vocabulary."""
        return [word in self.model for word in words]

    def nothing(self) -> Hashable:
        """The state in which a word's probability is that of the word alone."""
        state = self._kenlm.State()
        self.model.NullContextWrite(state)
        return state

    def start(self) -> Hashable:
        """The state at the start of a text."""
        state = self._kenlm.State()
        self.model.BeginSentenceWrite(state)
        return state

    def score(self, state: Any, token: int) -> tuple[float, Hashable]:
        """The logarithm, to base 10, of the probability that a token comes next, and the state after it."""
        after = self._kenlm.State()
        return self.model.BaseScore(state, self.words[token], after), after

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> tuple[float, int]:
        """The perplexity of words, each sentence's end among them, and their number."""
        total, number = 0.0, 0
        for words in sentences:
            total += self.model.score(" ".join(words), bos=True, eos=True)
            number += len(words) + 1
        return 10 ** (-total / number), number


def words_of(path: Path) -> list[str] | None:
    """List the single words of an ARPA file, those that stand for starts and ends too; None for kenlm's binary files.

    Args:
        path: The file, plain or `.gz`.
    """
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    words: list[bytes] = []
    is_there = False
    with gzip.open(path, "rb") if is_packed else path.open("rb") as lines:
        for line in lines:
            if line.startswith(b"\\"):
                if is_there:
                    return [word.decode() for word in words]
                is_there = line.startswith(b"\\1-grams:")
            elif is_there and b"\t" in line:
                words.append(line.split(b"\t")[1].strip())
            elif not is_there and line.startswith(b"mmap lm"):
                return None
    return None


def import_kenlm() -> Any:
    """The package.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import kenlm
    except ImportError as error:
        raise ImportError(
            'n-grams need kenlm (a C++ compiler, Python 3.12): pip install "espnet-larm[ngram]", or '
            'pip install "kenlm>=0.2".'
        ) from error
    return kenlm

"""The n-gram of a search: whether a file is one over an LM's tokens, or over words for CTC, and its weight."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_larm.errors import name_some
from espnet_larm.recognize.config import NGRAM, DecodeConfig
from espnet_larm.recognize.output.words import SPACE, WORD_STARTS
from espnet_larm.search.ctc.fusion import Fusion, Weights
from espnet_larm.search.ctc.lexicon import NOTHING, Lexicon, Spelled
from espnet_larm.search.kenlm_ngram import END, KenlmNgram, words_of

# Of the model's tokens; an n-gram of a small text, made by other programs, lacks some.
LEAST_KNOWN = 0.5
UNKNOWN = "<unk>"
# On read speech's development set, with weights of 0.5, 1 and 1.5, penalties of 10 and 15 were better than 2 and 5.
OOV_PENALTY, HOTWORD_WEIGHT = 10.0, 5.0
REMEDY = "train one over this model's tokens: stage 9 (--use_ngram true), or python -m espnet_larm train-ngram"


class Fused(NamedTuple):
    """An n-gram whose score is added.

    Attributes:
        name: Name of its file.
        weight: Weight of its logarithms to base 10, 0 or more; 0 leaves it out.
        ngram: The n-gram.
    """

    name: str
    weight: float
    ngram: KenlmNgram


def load_ngram(path: Path, weight: float, tokens: Sequence[str], eos: int, special: Collection[int]) -> Fused:
    """Read a file, and compare its words with a model's tokens.

    Args:
        path: A file of ARPA's format, or kenlm's binary one.
        weight: Weight of the n-gram's logarithms to base 10, as ESPnet has it.
        tokens: The model's tokens.
        eos: The token that ends a hypothesis.
        special: Tokens that stand in no hypothesis.

    Raises:
        ValueError: The file is no n-gram, or of another vocabulary or case.
        FileNotFoundError: It is not there.
        ImportError: kenlm is not installed.
    """
    ngram = KenlmNgram(path, tokens, eos)
    _check_vocabulary(ngram, path, [token for index, token in enumerate(tokens) if index not in special])
    return Fused(path.name, weight, ngram)


def _check_vocabulary(ngram: KenlmNgram, path: Path, tokens: Sequence[str]) -> None:
    """Refuse an n-gram that knows too few of a model's tokens.

    Raises:
        ValueError: With how many it knows, and whether it knows them in the other case.
    """
    num_known = sum(ngram.knows(tokens))
    if num_known >= LEAST_KNOWN * len(tokens):
        return
    head = f"ngram_file {path} knows {num_known} of the model's {len(tokens)} tokens"
    swapped = sum(map(any, zip(ngram.knows(tokens), ngram.knows(map(str.swapcase, tokens)), strict=True)))
    if swapped >= LEAST_KNOWN * len(tokens):
        raise ValueError(
            f"{head}, and {swapped} if capitals and small letters are exchanged: its text is of the other case. "
            f"Convert the text, and {REMEDY}."
        )
    raise ValueError(f"{head}: it is of other tokens, words perhaps. Instead, {REMEDY}.")


class WordFusion(NamedTuple):
    """Words that are scored in CTC's prefix beam.

    Attributes:
        name: Name of the n-gram's file; None for a lexicon or hotwords alone.
        fusion: What scores them.
    """

    name: str | None
    fusion: Fusion

    def stats(self) -> dict[str, object]:
        """What `stats.json` says of it."""
        return {
            "ngram_file": self.name,
            "ngram_weight": self.fusion.weights.ngram,
            "word_bonus": self.fusion.weights.word_bonus,
            "oov_penalty": self.fusion.weights.oov_penalty,
            "num_words": len(self.fusion.lexicon.words),
            "num_hotwords": len(self.fusion.hotwords),
            "hotword_weight": self.fusion.weights.hotword if self.fusion.hotwords else 0.0,
            "is_open": self.fusion.is_open,
        }


def load_word_fusion(config: DecodeConfig, tokens: Sequence[str]) -> WordFusion | None:
    """Read the n-gram, lexicon and hotwords that options name; None if they name none.

    Args:
        config: The options.
        tokens: The CTC head's tokens.

    Raises:
        ValueError: The tokens do not tell words, the beam has one hypothesis, a file is no n-gram or lists no words,
            too few of its words can be spelled in the tokens, or a hotword cannot.
        FileNotFoundError: A file is not there.
        ImportError: kenlm is not installed.
    """
    if config.ngram_file is None and config.lexicon is None and config.hotwords is None:
        return None
    if config.beam_size == 1:
        raise ValueError(
            "ngram_file, lexicon and hotwords score the words of a prefix beam, and beam_size is 1, which is greedy; "
            "set beam_size: 10, for example."
        )
    spelled = spell_tokens(tokens)
    ngram_file = None if config.ngram_file is None else Path(config.ngram_file)
    listed = _listed_words(config.lexicon, ngram_file)
    _check_spelled(listed, spelled, ngram_file if config.lexicon in (None, NGRAM) else config.lexicon)
    hotwords = (config.hotwords or "").replace(",", " ").split()
    if strange := [word for word in hotwords if not _letters_of(spelled).issuperset(word)]:
        raise ValueError(
            f"hotwords: the CTC head's tokens cannot spell {name_some(strange)}; write them as transcripts of the "
            "training have them, in their case."
        )
    words = list(dict.fromkeys([*listed, *hotwords]))
    hot = frozenset(map(words.index, hotwords))
    weights = Weights(
        0.0 if ngram_file is None else config.ngram_weight,
        config.word_bonus or 0.0,
        0.0 if ngram_file is None else OOV_PENALTY if config.oov_penalty is None else config.oov_penalty,
        HOTWORD_WEIGHT if config.hotword_weight is None else config.hotword_weight,
    )
    ngram, unknown = None, frozenset[int]()
    if ngram_file is not None:
        ngram = KenlmNgram(ngram_file, [*words, UNKNOWN, END], len(words) + 1)
        unknown = frozenset(index for index, is_known in enumerate(ngram.knows(words)) if not is_known)
        if len(unknown - hot) > (1 - LEAST_KNOWN) * len(words):
            raise ValueError(
                f"ngram_file {ngram_file} knows {len(words) - len(unknown)} of the {len(words)} words of lexicon "
                f"{config.lexicon}: it is of the other case, or of tokens; name one over such words."
            )
    fusion = fuse(words, spelled, ngram, weights, hot, unknown, is_open=config.lexicon is None)
    return WordFusion(None if ngram_file is None else ngram_file.name, fusion)


def fuse(
    words: Sequence[str],
    spelled: Sequence[Spelled | None],
    ngram: KenlmNgram | None,
    weights: Weights,
    hotwords: frozenset[int],
    unknown: frozenset[int],
    *,
    is_open: bool,
) -> Fusion:
    """Make what scores words, from words that are known by their index.

    Args:
        words: All words.
        spelled: How tokens are spelled.
        ngram: Model of the words, then of an unknown one and the end.
        weights: Weights of the terms.
        hotwords: Indices of words with a bonus.
        unknown: Indices of words that the n-gram does not know.
        is_open: Whether there may be others.
    """
    log10s = [0.0] * (len(words) + 1)
    if ngram is not None:
        alone = ngram.nothing()
        log10s = [ngram.score(alone, len(words) if index in unknown else index)[0] for index in range(len(words) + 1)]
    # What each word adds where nothing is known of those before it, and last what an unknown one does.
    scores = [weights.ngram * log10 + weights.word_bonus for log10 in log10s]
    for index in (*unknown - hotwords, len(words)):
        scores[index] -= weights.oov_penalty
    for index in hotwords:
        scores[index] += weights.hotword
    lexicon = Lexicon(words, spelled, scores[:-1], scores[-1] if is_open else NOTHING)
    return Fusion(lexicon, ngram, weights, hotwords, unknown, is_open)


def spell_tokens(tokens: Sequence[str]) -> list[Spelled | None]:
    """How tokens are spelled; None for those in angle brackets, which are no part of a word.

    Raises:
        ValueError: No token begins a word.
    """
    spelled: list[Spelled | None] = []
    for token in tokens:
        if token == SPACE or token.startswith(WORD_STARTS):
            spelled.append(Spelled("" if token == SPACE else token[1:], True))
        elif token.startswith("<") and token.endswith(">"):
            spelled.append(None)
        else:
            spelled.append(Spelled(token, False))
    if not any(token is not None and token.starts for token in spelled):
        raise ValueError(
            "ngram_file, lexicon and hotwords need tokens that tell where words begin, characters with <space> or "
            "pieces of sentencepiece, and the CTC head has others; leave them out."
        )
    return spelled


def _listed_words(lexicon: str | None, ngram_file: Path | None) -> list[str]:
    if lexicon is not None and lexicon != NGRAM:
        if not Path(lexicon).is_file():
            raise FileNotFoundError(f"lexicon {lexicon} is missing; name a file with a word at the start of each line.")
        lines = Path(lexicon).read_text(encoding="utf-8").splitlines()
        if not (words := list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))):
            raise ValueError(f"lexicon {lexicon} has no words; name a file with a word at the start of each line.")
        return words
    if ngram_file is None:
        return []
    if not ngram_file.is_file():
        raise FileNotFoundError(f"the n-gram {ngram_file} is missing; train one (train-ngram --token_type word).")
    found = words_of(ngram_file)
    if found is None:
        raise ValueError(
            f"ngram_file {ngram_file} does not list its words, as binary files of kenlm's do not; name its ARPA file, "
            "or set lexicon to a file of its words."
        )
    return [word for word in dict.fromkeys(found) if word not in ("<s>", END, UNKNOWN)]


def _check_spelled(words: Sequence[str], spelled: Sequence[Spelled | None], path: Path | str | None) -> None:
    """Refuse words most of which the tokens cannot spell."""
    letters = _letters_of(spelled)

    def count(some: Sequence[str]) -> int:
        return sum(letters.issuperset(word) for word in some)

    if not words or count(words) >= LEAST_KNOWN * len(words):
        return
    head = f"the CTC head's tokens can spell {count(words)} of the {len(words)} words of {path}"
    swapped = count([word.swapcase() for word in words])
    if swapped >= LEAST_KNOWN * len(words):
        raise ValueError(
            f"{head}, and {swapped} if capitals and small letters are exchanged: it is of the other case. Convert its "
            "text, and train it again (train-ngram --token_type word)."
        )
    raise ValueError(f"{head}: it is of another language, or of tokens; name one over words.")


def _letters_of(spelled: Sequence[Spelled | None]) -> set[str]:
    return {letter for token in spelled if token is not None for letter in token.letters}

"""Everything that can be set in decoding, as one frozen object."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from espnet_larm.options import check_options, option

ORDINARY, PREFIX = BEAM_TYPES = ("ordinary", "prefix")
HEADS, CTC, LONGER, NONE = SOURCES = ("heads", "ctc", "longer", "none")
VERIFIED, THRESHOLD, RELAXED = ACCEPTS = ("verified", "threshold", "relaxed")
HEAD, PRODUCT = TAUS_OF = ("head", "product")
AUTO = "auto"
NGRAM = "ngram"
LOOP_RULES = ("unchanged", "divergence", "confidence", "state", "head")
UNCHANGED, DIVERGENCE, CONFIDENCE, STATE, HALTING = LOOP_RULES
AUTOREGRESSIVE, EDIT = SEARCHES = ("autoregressive", "edit")
MOST_PASSES = 3


@dataclass(frozen=True)
class DecodeConfig:
    """How a trained model decodes; `Recognizer.plan` checks it against one.

    Options of an LM's search have no effect, and are refused, where CTC decodes alone.

    Raises:
        ValueError: An option is out of its range.
        TypeError: An option is of another type.
    """

    num_loops: int | str | None = option(
        None,
        "last loop of the looped encoder; auto lets each utterance leave at the checkpoint loop that a rule chooses",
        least=1,
        most=1000,
        unset="as trained",
        words=(AUTO,),
    )
    beam_size: int = option(1, "hypotheses in the beam", least=1, most=10_000, note="1 is greedy", is_apart=True)
    nbest: int = option(
        1, "hypotheses to keep of each utterance", least=1, most=10_000, note="beam_size at most", is_apart=True
    )
    ctc_weight: float | None = option(
        None,
        "weight of CTC beside the LM; with search edit, in the choice among the best edits and CTC hypotheses",
        least=0.0,
        most=1.0,
        note="1.0 is CTC alone, and with an LM 0.0 is the LM alone",
        unset="0.0 with an LM, 1.0 without",
        is_apart=True,
    )
    ngram_file: str | None = option(
        None,
        "n-gram, ARPA or kenlm's binary: over the LM's tokens, or where CTC decodes alone over words",
        is_apart=True,
    )
    ngram_weight: float = option(
        0.9, "weight of the n-gram's logarithms to base 10", least=0.0, note="0.0 leaves it out", is_apart=True
    )
    lm_train_config: str | None = option(
        None, "where CTC decodes alone, config.yaml of the text LM that lm_file has the weights of", is_apart=True
    )
    lm_file: str | None = option(
        None,
        "where CTC decodes alone, weights of a text LM of ESPnet's over the CTC head's tokens, which rescores the beam",
        is_apart=True,
    )
    lm_weight: float = option(
        1.0, "weight of that LM's natural logarithms", least=0.0, note="0.0 leaves it out", is_apart=True
    )
    word_bonus: float | None = option(
        None, "added to CTC's prefix beam for each word, natural logarithm; above 0 for more words", unset="0"
    )
    oov_penalty: float | None = option(
        None,
        "taken off CTC's prefix beam for each word that the n-gram does not know, natural logarithm",
        least=0.0,
        unset="10",
    )
    lexicon: str | None = option(
        None,
        "words that CTC's prefix beam may find: a file, the first word of each line, or ngram for those of ngram_file",
        unset="any words, those that the n-gram does not know with oov_penalty",
    )
    hotwords: str | None = option(
        None, "words that CTC's prefix beam prefers, such as names: separated by commas or spaces"
    )
    hotword_weight: float | None = option(
        None, "added to CTC's prefix beam for each of hotwords, natural logarithm", least=0.0, unset="5"
    )
    with_words: bool = option(False, "find times of words; --write_ctm of the command", is_apart=True)
    search: str | None = option(
        None,
        "how an LM decodes: token by token, or by editing the CTC hypothesis, all of it in one call",
        choices=SEARCHES,
        unset="autoregressive; edit for a model that learned nothing else, by edit_only",
    )
    edit_passes: int | None = option(
        None,
        "calls of search edit; each after the first edits what the call before gave",
        least=1,
        most=MOST_PASSES,
        unset="1",
    )
    beam_type: str | None = option(
        None,
        "kind of an LM's beam: hypotheses of one length, or of different lengths with several tokens a call",
        choices=BEAM_TYPES,
        unset=ORDINARY,
    )
    drafts: str | None = option(
        None,
        "source of drafts of an LM's next tokens: its draft heads, the CTC hypothesis, the longer of both, or none",
        choices=SOURCES,
        unset="heads if the model has some, ctc beside accept relaxed if not, and none in an ordinary beam",
    )
    tokens_per_call: int | None = option(
        None, "most tokens that one call of the LM may yield", least=1, unset="the number of heads"
    )
    accept: str = option(
        VERIFIED,
        "rule for drafts: verified by the LM, which changes no hypothesis; taken above a threshold, which may; or "
        "relaxed, which may, too: the CTC hypothesis is taken where CTC is sure of it or the LM believes it, and "
        "elsewhere the LM goes on behind what it believes, with verified drafts",
        choices=ACCEPTS,
    )
    draft_tau: float | None = option(
        None, "least probability of what draft heads draft", least=0.0, unset="0, and 0.5 with drafts longer"
    )
    draft_tau_of: str = option(
        HEAD, "what draft_tau bounds: each head's probability, or their product", choices=TAUS_OF
    )
    relaxed_entropy: float | None = option(
        None,
        "with accept relaxed, entropy in nats below which every frame must stay for the CTC hypothesis to be taken",
        least=0.0,
        note="0 takes none; any above the logarithm of the number of CTC's tokens takes all, which is CTC alone",
        unset="what espnet-larm calibrate-drafts found",
    )
    relaxed_tau: float | None = option(
        None,
        "with accept relaxed, probability above which the LM must find each token of the CTC hypothesis and its end",
        least=0.0,
        most=1.0,
        note="0 takes all, 1 none",
        unset="what espnet-larm calibrate-drafts found",
    )
    max_tokens_per_second: float = option(
        24.0, "most tokens of an LM's hypothesis a second of speech; 8 are always allowed", above=0.0
    )
    least_ctc_share: float = option(
        0.5,
        "fraction of the CTC hypothesis's characters that an LM's hypothesis must have before it may end",
        least=0.0,
        most=1.0,
        note="0 is off",
    )
    stops_loops: bool = option(True, "cut an LM's repetitions back to their first copy")
    prefix: str | None = option(None, "text before the speech; any of these three replaces the prompt of training")
    suffix: str | None = option(None, "text after the speech", unset="the token that begins a text")
    instruction: str | None = option(None, "what a chat model is asked, instead of prefix and suffix")
    pooling: Mapping[str, Any] | None = option(
        None,
        "pooling of the speech that an LM reads, all of it, instead of decoder_conf: pooling: input.tau=0.9, again "
        "with deep.layer=6, deep.tau=0.8; in a YAML nested, {input: {tau: 0.9}}; input=null for none",
        unset="as trained",
        is_apart=True,
    )
    loop_rule: str | None = option(
        None,
        "with auto loops, when an utterance leaves: its CTC hypothesis did not change, its CTC posteriors changed "
        "little, the CTC head is confident, the encoder's state moves on evenly, or a head that espnet-larm "
        "train-halting-head has trained expects nothing of deeper loops",
        choices=LOOP_RULES,
        unset="what espnet-larm calibrate-loops chose",
    )
    loop_threshold: float | None = option(
        None,
        "threshold of loop_rule: mean divergence in nats, mean log-probability of the best tokens, relative second "
        "difference, or probability that a deeper loop is better; unchanged has none",
        unset="what espnet-larm calibrate-loops found",
    )
    skip_blank: float = option(
        1.0,
        "frames that a checkpoint loop's CTC head says are blank with more than this probability skip the feed-forward "
        "layers of the loops up to the next",
        least=0.0,
        most=1.0,
        note="1 skips none",
    )
    long_seconds: float = option(40.0, "longer audio is cut at silences and joined, in seconds", least=0.0)
    longest_piece: float = option(30.0, "longest piece of cut audio, in seconds", above=0.0)
    shortest_piece: float = option(1.0, "shortest piece of cut audio, in seconds", above=0.0)
    overlap: float = option(4.0, "overlap of pieces without a silence between them, in seconds", above=0.0)

    def __post_init__(self) -> None:
        check_options(self)
        if self.nbest > self.beam_size:
            raise ValueError(f"nbest is {self.nbest}; allowed: 1 to beam_size, which is {self.beam_size}.")
        if 2 * self.overlap + self.shortest_piece > self.longest_piece:
            raise ValueError(
                f"longest_piece is {self.longest_piece:g}; allowed: at least shortest_piece and twice overlap, which "
                f"are {self.shortest_piece:g} and {self.overlap:g}."
            )
        if self.ngram_file is None:
            self._refuse("ngram_file", "word_bonus", "oov_penalty")
        if self.hotwords is None:
            self._refuse("hotwords", "hotword_weight")
        if self.lexicon == NGRAM and self.ngram_file is None:
            raise ValueError("lexicon is ngram, which needs ngram_file; set it, or name a file of words.")
        if self.lm_train_config is None:
            self._refuse("lm_train_config", "lm_file")
        if self.lm_file is None:
            self._refuse("lm_file", "lm_train_config")
        if self.num_loops != AUTO:
            self._refuse(f"num_loops: {AUTO}", "loop_rule", "loop_threshold")
        if self.accept != RELAXED:
            self._refuse(f"accept: {RELAXED}", "relaxed_entropy", "relaxed_tau")

    def _refuse(self, needed: str, *names: str) -> None:
        """Refuse options, all None by default, that mean nothing without another one."""
        for name in names:
            if (value := getattr(self, name)) is not None:
                raise ValueError(f"{name} is {value}, which needs {needed}; set it, or leave {name} out.")

    @property
    def fixed_loops(self) -> int | None:
        """The last loop of all utterances; None for the trained number, or where each has its own."""
        return self.num_loops if isinstance(self.num_loops, int) else None

    @property
    def is_beam(self) -> bool:
        """Whether an LM is searched with a beam; a prefix beam of one hypothesis is not greedy search."""
        return self.beam_size > 1 or self.beam_type == PREFIX

    @property
    def names_drafts(self) -> bool:
        """Whether any option of drafts differs from its default."""
        chosen = (self.drafts, self.tokens_per_call, self.draft_tau)
        return any(value is not None for value in chosen) or (self.accept, self.draft_tau_of) != (VERIFIED, HEAD)

    def set_options(self, *names: str) -> dict[str, Any]:
        """The values of the named options that are not at their defaults."""
        default = asdict(DecodeConfig())
        return {name: value for name in names if (value := getattr(self, name)) != default[name]}


# Options of a search that goes token by token.
TOKEN_OPTIONS = (
    *("beam_type", "drafts", "tokens_per_call", "accept", "draft_tau", "draft_tau_of"),
    *("relaxed_entropy", "relaxed_tau", "max_tokens_per_second", "least_ctc_share", "stops_loops", "ngram_file"),
)
LLM_OPTIONS = (
    *("search", "edit_passes"),
    *("beam_type", "drafts", "tokens_per_call", "accept", "draft_tau", "draft_tau_of"),
    *("relaxed_entropy", "relaxed_tau", "max_tokens_per_second", "least_ctc_share", "stops_loops"),
    *("prefix", "suffix", "instruction", "pooling"),
)
# Options of CTC's prefix beam.
WORD_OPTIONS = ("word_bonus", "oov_penalty", "lexicon", "hotwords", "hotword_weight", "lm_train_config", "lm_file")


@dataclass(frozen=True)
class Batching:
    """How a data folder is read and decoded in batches.

    Raises:
        ValueError: An option is out of its range.
    """

    batch_seconds: float = option(60.0, "padded audio in a batch, in seconds", above=0.0)
    batch_size: int = option(1, "most utterances in a batch", least=1, note="1 is any number", is_apart=True)
    num_workers: int = option(1, "threads that read audio ahead; 0 reads it in turn", least=0, is_apart=True)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def most_utterances(self) -> int | None:
        """Most utterances in a batch; None for no bound."""
        return None if self.batch_size == 1 else self.batch_size

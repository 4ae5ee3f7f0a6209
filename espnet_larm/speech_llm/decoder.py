"""A causal LM as decoder of encoder frames: prefix, speech, suffix, text.

The first token is predicted by the last position of the suffix: ESPnet's start symbol is a placeholder that is never
embedded. A batch gives what each utterance gives alone, whatever its padding.
Shapes: B utterances (rows), T frames, E encoder size, D model size of the LM, L text positions, V tokens.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from typeguard import typechecked

from espnet2.asr.decoder.abs_decoder import AbsDecoder

from espnet_larm.adaptation.export import RECORD
from espnet_larm.adaptation.llm_weights import LORA_PREFIX, METHODS, adapt, frozen_names, is_own
from espnet_larm.draws import forget_draws
from espnet_larm.llm.backbone import DTYPES, Backbone, load_tokenizer
from espnet_larm.llm.tokens import special_tokens
from espnet_larm.options import Option, check_parameters
from espnet_larm.pooling.affinity import Kept
from espnet_larm.pooling.in_llm import AtInput, SpeechPooling, speech_pooling_of
from espnet_larm.pooling.sampling import RetentionSampling, pooling_of_step
from espnet_larm.pooling.weights import path_of
from espnet_larm.speech_llm.editing.editor import Editor
from espnet_larm.speech_llm.editing.layout import Layout
from espnet_larm.speech_llm.heads import KINDS as HEADS
from espnet_larm.speech_llm.heads import MAX_HEADS, DraftHeads
from espnet_larm.speech_llm.hypotheses import Hypothesis, SpeechHypotheses, positions_of
from espnet_larm.speech_llm.projector import KINDS as PROJECTORS
from espnet_larm.speech_llm.projector import CtcEmbeddings, Projected, Projector
from espnet_larm.speech_llm.prompt import ContextError, Packed, Prompt, make_prompt, pack
from espnet_larm.speech_llm.spelling import Pieces
from espnet_larm.upstream import BatchScorerInterface


class TextRead(NamedTuple):
    """What the LM makes of prompts and texts.

    Attributes:
        hidden: Hidden states behind the start symbol and each token (B, L, D).
        kept: What pooling left of the speech, by site.
    """

    hidden: torch.Tensor
    kept: dict[str, Kept]


class DraftRead(NamedTuple):
    """What the LM makes of prompts and drafts that it reads both ways.

    Attributes:
        hidden: Hidden states at the positions of drafts and their blanks (B, N, D).
        prompt_lens: Positions before them that the LM's first layer reads (B,).
        kept: What pooling left of the speech, by site.
    """

    hidden: torch.Tensor
    prompt_lens: torch.Tensor
    kept: dict[str, Kept]


class SpeechLlmDecoder(AbsDecoder, BatchScorerInterface):
    """Decodes speech with a causal LM of Hugging Face.

    Args:
        vocab_size: Tokens of the token list, as many as the LM's head has rows; ESPnet sets it.
        encoder_output_size: E; ESPnet sets it.
        llm: Meaning and range of this and all other options stand at the parameters; `espnet-larm list
            --name speech_llm` prints them.

    Attributes:
        prompt: The prompt, unless another is given to a call.
        pooling: The pooling of speech, unless another is given to a call.
        editor: How it edits drafts; None if it does not.

    Raises:
        ValueError: An option is out of its range, the token list is not that of the LM, or the folder of the LM holds
            added layers, too.
        FileNotFoundError: The LM or its tokenizer cannot be had.
    """

    # How the CTC head's own tokens are spelled in the LM's; None if they are the LM's.
    piece_ids: torch.Tensor | None
    piece_shares: torch.Tensor | None

    @typechecked
    def __init__(
        self,
        vocab_size: int,
        encoder_output_size: int,
        llm: Annotated[str | None, Option("folder or hub id of the LM and of its tokenizer")] = None,
        llm_config: Annotated[
            dict[str, Any] | None,
            Option(
                "instead of `llm`, a configuration to build random weights from, as config.json has it (`model_type` "
                "at least); the tokenizer is then that of `tokenizer`"
            ),
        ] = None,
        tokenizer: Annotated[str | None, Option("folder or hub id of the tokenizer; `llm` by default")] = None,
        revision: Annotated[str | None, Option("revision of `llm` on the hub; the newest by default")] = None,
        dtype: Annotated[str, Option("type of the LM's weights; others have ESPnet's", choices=DTYPES)] = "float32",
        adaptation: Annotated[
            str, Option("the LM's weights that learn, or what is added to it", choices=METHODS)
        ] = "frozen",
        lora_conf: Annotated[
            dict[str, Any] | None,
            Option(
                "options of peft's LoraConfig, such as `{r: 16}`; or `{match: {...}}` with a depth_upscaling_conf, for "
                "the rank that gives as many weights as those added layers have"
            ),
        ] = None,
        depth_upscaling_conf: Annotated[
            dict[str, Any] | None,
            Option(
                "options of the layers that are inserted (docs/options.md), such as `{share: 0.5}`. They are copies of "
                "the LM's layers as it is built: with `llm_config`, of random ones, even if `--init_param` then loads "
                "an LM"
            ),
        ] = None,
        projector: Annotated[
            str,
            Option("from frames to embeddings; `posterior` needs a CTC head", choices=PROJECTORS),
        ] = "stack",
        projector_frames: Annotated[
            int, Option("frames an embedding; 4 for frames of 40 ms makes 6 embeddings a second", least=1)
        ] = 4,
        prefix: Annotated[str, Option("text before the speech")] = "",
        suffix: Annotated[str | None, Option("text after the speech; by default the token that begins a text")] = None,
        instruction: Annotated[
            str | None,
            Option("for chat models, instead of prefix and suffix: what is asked, put into the chat template"),
        ] = None,
        activation_checkpointing: Annotated[
            bool,
            Option(
                "recompute the LM's layers in the backward pass: a twelfth of their activations or less stays in "
                "memory (tools/bench/memory.py), for another forward pass of the LM"
            ),
        ] = False,
        num_heads: Annotated[
            int,
            Option(
                "K, tokens that one hidden state predicts: head 1 is the LM's; the others draft for a search",
                least=1,
                most=MAX_HEADS,
            ),
        ] = 1,
        head_type: Annotated[str, Option("kind of heads 2 to K", choices=HEADS)] = "latent",
        pooling: Annotated[
            dict[str, Any] | None,
            Option(
                "pooling of the speech that the LM reads; none by default. `input` pools the projector's embeddings, "
                "`deep` what is left of them, behind `layer` of the LM's layers (1 to one less than it has); each "
                "with the options of pooling (docs/options.md), such as "
                "`{input: {tau: 0.9}, deep: {layer: 6, tau: 0.8, window: 3}}`"
            ),
        ] = None,
        editing: Annotated[
            dict[str, Any] | None,
            Option(
                "let the LM edit drafts of the CTC head (`search: edit` in decoding, `model_conf: edit_weight` in "
                "training): its options (docs/options.md), `{}` for their defaults"
            ),
        ] = None,
    ) -> None:
        check_parameters(SpeechLlmDecoder.__init__, locals(), "decoder_conf")
        super().__init__()
        if (llm is None) == (llm_config is None):
            raise ValueError("decoder_conf: give llm (a folder or hub id) or llm_config (random weights), one of them.")
        named_tokenizer = tokenizer or llm
        if named_tokenizer is None:
            raise ValueError("decoder_conf: llm_config needs tokenizer, a folder or hub id.")
        if llm is not None:
            _check_folder(llm)
            self.backbone = Backbone.from_pretrained(llm, revision, dtype, activation_checkpointing)
        else:
            self.backbone = Backbone.from_config(llm_config or {}, dtype, activation_checkpointing)
        if self.backbone.vocab_size != vocab_size:
            raise ValueError(
                f"the token list has {vocab_size} tokens, but the LM's head has {self.backbone.vocab_size} rows; name "
                "the LM that the list was made from, or make it from this LM's tokenizer, a token a row."
            )
        adapt(self.backbone, adaptation, lora_conf, llm is not None, depth_upscaling_conf)
        self.adaptation = adaptation
        self.tokenizer = load_tokenizer(named_tokenizer, revision if tokenizer is None else None)
        self.special_tokens = special_tokens(self.tokenizer)
        self.prompt = make_prompt(self.tokenizer, prefix, suffix, instruction)
        self.pooling = speech_pooling_of(pooling, self.backbone, "decoder_conf: pooling")
        self.sampling = RetentionSampling() if self.pooling.is_sampled else None
        self.register_load_state_dict_pre_hook(forget_draws)
        self.projector = Projector(projector, encoder_output_size, self.backbone.hidden_size, projector_frames)
        self.heads = DraftHeads(head_type, num_heads, self.backbone.model.get_output_embeddings())
        self.editor = None if editing is None else Editor(self.backbone, editing, self.special_tokens.eos)
        # Of the model's CTC head, in a tuple: it is not this module's own. See `read_from`.
        self._ctc_head: tuple[torch.nn.Linear, ...] = ()
        self.register_buffer("piece_ids", None, persistent=False)
        self.register_buffer("piece_shares", None, persistent=False)
        self._none_id = 0

    @property
    def reads_posteriors(self) -> bool:
        """Whether the projector reads the posteriors of the model's CTC head."""
        return self.projector.kind == "posterior"

    def read_from(self, ctc_head: torch.nn.Linear, pieces: Pieces | None = None) -> None:
        """Take the layer whose posteriors `projector: posterior` and pooling read; its owner keeps it.

        Args:
            ctc_head: From E to the CTC head's tokens, the blank first.
            pieces: How these are spelled in the LM's tokens; None if they are the LM's.
        """
        self._ctc_head = (ctc_head,)
        if pieces is not None:
            self.piece_ids, self.piece_shares, self._none_id = pieces

    def check_ctc(self, pooling: SpeechPooling, where: str) -> None:
        """Refuse pooling that reads the CTC head of a model without.

        Args:
            pooling: The pooling.
            where: The YAML key of its options, for the message.

        Raises:
            ValueError: There is no CTC head, and pooling needs it.
        """
        if pooling.needs_ctc and not self._ctc_head:
            raise ValueError(
                f"{where}: weight or boundaries is ctc, but the model has no CTC head; train it with model_conf: "
                "ctc_weight above 0, or take weight: change and boundaries: cosine."
            )

    def drawn_pooling(self) -> AbstractContextManager[None]:
        """While it is entered in training, whatever reads the speech of a batch pools it with retentions drawn once."""
        return self.sampling.step(self.pooling) if self.sampling is not None and self.training else nullcontext()

    def forward(
        self, hs_pad: torch.Tensor, hlens: torch.Tensor, ys_in_pad: torch.Tensor, ys_in_lens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict each token from those before it.

        Args:
            hs_pad: Encoder frames (B, T, E).
            hlens: Valid frames (B,).
            ys_in_pad: Start symbol and tokens (B, L), any token behind them.
            ys_in_lens: Valid entries of ys_in_pad (B,), the start symbol counted.

        Returns:
            Logits (B, L, V), what is behind ys_in_lens meaning nothing; ys_in_lens.

        Raises:
            ContextError: Prompt and text are longer than the LM's context.
        """
        return self.backbone.logits(self.read_text(hs_pad, hlens, ys_in_pad, ys_in_lens).hidden), ys_in_lens

    def logits_of(self, head: int, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of head 1 to K from hidden states, (..., D) to (..., V)."""
        if head == 1:
            return self.backbone.logits(hidden)
        if self.heads.kind == "projection":
            return self.backbone.bounded(self.heads.project(head, hidden))
        return self.backbone.logits(self.heads.latent(head, hidden))

    def draft_logits(self, hidden: torch.Tensor, num_heads: int) -> torch.Tensor:
        """Logits of heads 2 to `num_heads`, all in one product: (..., D) to (..., num_heads - 1, V)."""
        heads = range(2, num_heads + 1)
        if self.heads.kind == "projection":
            return torch.stack([self.logits_of(head, hidden) for head in heads], dim=-2)
        return self.backbone.logits(torch.stack([self.heads.latent(head, hidden) for head in heads], dim=-2))

    def read_text(
        self, hs_pad: torch.Tensor, hlens: torch.Tensor, ys_in_pad: torch.Tensor, ys_in_lens: torch.Tensor
    ) -> TextRead:
        """The hidden states that the heads predict from, with the arguments and errors of `forward`."""
        text_lens = ys_in_lens - 1
        pooling = pooling_of_step(self.pooling)
        prompt, at_input = self._prompt_parts(hs_pad, hlens, self.prompt, pooling)
        packed = pack([*prompt, (self.backbone.embed(ys_in_pad[:, 1:]), text_lens, False)])
        self._check_context(packed)
        after_layer = pooling.after_layer(at_input.path)
        hidden, _, lens, speech = self.backbone(
            packed.embeddings, positions_of(packed), packed.lens, packed.speech, None, after_layer
        )
        states = _columns(hidden, lens - text_lens.to(lens.device) - 1, ys_in_pad.size(1))
        return TextRead(states, pooling.kept(at_input.kept, packed.speech, speech))

    def read_draft(
        self,
        speech: tuple[torch.Tensor, torch.Tensor] | None,
        layout: Layout,
        prompt: Prompt | None = None,
        pooling: SpeechPooling | None = None,
    ) -> DraftRead:
        """Read prompt, speech and draft, each position with those before and behind it, in this call alone.

        Args:
            speech: Encoder frames (B, T, E) and valid frames (B,), which `text_only` leaves aside; None for none.
            layout: Drafts with their blanks.
            prompt: What stands around the speech; None as in training.
            pooling: How speech is pooled; None as in training.

        Raises:
            ContextError: Prompt, speech and draft are longer than the LM's context.
        """
        assert self.editor is not None
        prompt = self.prompt if prompt is None else prompt
        pooling = pooling_of_step(self.pooling) if pooling is None else pooling
        tokens = layout.tokens.to(self.backbone.model.device)
        num_new = layout.lens.to(tokens.device)
        if speech is None or self.editor.options.text_only:
            parts, kept, path = [self._embed_all(each, tokens) for each in prompt], None, None
        else:
            parts, (_, _, kept, path) = self._prompt_parts(*speech, prompt, pooling)
        packed = pack([*parts, (self.backbone.embed(tokens), num_new, False)])
        self._check_context(packed)
        is_speech = packed.speech if len(parts) > len(prompt) else None
        hidden, _, lens, left = self.backbone(
            packed.embeddings,
            positions_of(packed),
            packed.lens,
            is_speech,
            after_layer=pooling.after_layer(path),
            both_ways=True,
        )
        states = _columns(hidden, lens - num_new, tokens.size(1))
        return DraftRead(states, packed.lens - num_new, pooling.kept(kept, packed.speech, left))

    def start(
        self,
        hs_pad: torch.Tensor,
        hlens: torch.Tensor,
        prompt: Prompt | None = None,
        pooling: SpeechPooling | None = None,
    ) -> SpeechHypotheses:
        """Read the prompts of a batch; hypotheses can then go on behind them.

        Args:
            hs_pad: Encoder frames (B, T, E).
            hlens: Valid frames (B,).
            prompt: What stands around the speech; None as in training.
            pooling: How speech is pooled; None as in training.

        Raises:
            ContextError: A prompt is longer than the LM's context.
        """
        pooling = pooling_of_step(self.pooling) if pooling is None else pooling
        packed, at_input = self._pack_prompt(hs_pad, hlens, prompt, pooling)
        return SpeechHypotheses(self.backbone, packed, pooling, at_input)

    def read_prompt(
        self,
        hs_pad: torch.Tensor,
        hlens: torch.Tensor,
        prompt: Prompt | None = None,
        pooling: SpeechPooling | None = None,
    ) -> Packed:
        """Embeddings of prefix, speech and suffix (B, N, D), with the arguments and errors of `start`."""
        pooling = pooling_of_step(self.pooling) if pooling is None else pooling
        return self._pack_prompt(hs_pad, hlens, prompt, pooling)[0]

    def _pack_prompt(
        self, hs_pad: torch.Tensor, hlens: torch.Tensor, prompt: Prompt | None, pooling: SpeechPooling
    ) -> tuple[Packed, AtInput]:
        parts, at_input = self._prompt_parts(hs_pad, hlens, self.prompt if prompt is None else prompt, pooling)
        packed = pack(parts)
        self._check_context(packed)
        return packed, at_input

    def project(self, hs_pad: torch.Tensor, hlens: torch.Tensor) -> Projected:
        """Embeddings of speech as the LM would read them, before any are pooled.

        Args:
            hs_pad: Encoder frames (B, T, E).
            hlens: Valid frames (B,).
        """
        from_ctc = self._ctc_embeddings(hs_pad) if self.reads_posteriors else None
        return self.projector(hs_pad, hlens, from_ctc)

    def score(self, y: torch.Tensor, state: Any, x: torch.Tensor) -> tuple[torch.Tensor, Any]:  # noqa: ARG002
        """Log-probabilities (V,) of the next token of y (L,) for frames x (T, E), from the start: slow, for ESPnet."""
        lens = torch.tensor([len(x)], device=x.device), torch.tensor([len(y)], device=x.device)
        hidden = self.read_text(x.unsqueeze(0), lens[0], y.unsqueeze(0), lens[1]).hidden
        return self.backbone.logits(hidden[0, -1]).log_softmax(-1), None

    def batch_score(
        self, ys: torch.Tensor, states: list[Any], xs: torch.Tensor
    ) -> tuple[torch.Tensor, list[Hypothesis]]:
        """Score the next tokens of hypotheses of one utterance, as ESPnet's BatchBeamSearch asks for it.

        Args:
            ys: Start symbol and tokens of each hypothesis (B, L).
            states: What the call before returned for the hypotheses that each of these goes on; None at the start.
            xs: The utterance's frames, repeated (B, T, E).

        Returns:
            Log-probabilities (B, V) and a state a hypothesis. The states of the call before are used up.

        Raises:
            ValueError: States are used a second time, or are of different utterances.
        """
        if states[0] is None:
            texts = self.start(xs[:1], torch.tensor([xs.size(1)], device=xs.device))
            texts.select(torch.zeros(len(ys), dtype=torch.long))
            new = ys[:, 1:]
        else:
            texts = states[0].texts
            if any(state.texts is not texts or state.num_steps != texts.num_steps for state in states):
                raise ValueError("states of batch_score are used a second time, or are of different utterances.")
            texts.select(torch.tensor([state.row for state in states]))
            new = ys[:, -1:]
        if new.size(1):
            texts.read(new, torch.full((len(ys),), new.size(1)))
        return texts.logits.log_softmax(-1), [Hypothesis(texts, row) for row in range(len(ys))]

    def frozen_names(self) -> list[str]:
        """Parameters that `adaptation` leaves as they are; training checks that they are frozen."""
        return [f"backbone.{name}" for name in frozen_names(self.backbone, self.adaptation)]

    def part_of(self, name: str) -> str:
        """What a parameter is counted as in tables: `projector`, `LM`, or what was added to that."""
        part, _, rest = name.partition(".")
        if part != "backbone":
            return part
        if is_own(rest):
            return "LM"
        return "LoRA" if LORA_PREFIX in rest else "added layers"

    def reload_pretrained_parameters(self) -> None:
        """ESPnet calls it after an `init`, which has overwritten the LM.

        Raises:
            ValueError: Always.
        """
        raise ValueError("init would overwrite the weights of the LM; leave it out, or set init: null.")

    def _prompt_parts(
        self, hs_pad: torch.Tensor, hlens: torch.Tensor, prompt: Prompt, pooling: SpeechPooling
    ) -> tuple[list[tuple[torch.Tensor, torch.Tensor, bool]], AtInput]:
        path = None
        if pooling.needs_ctc:
            self.check_ctc(pooling, "pooling")
            path = path_of(self._posteriors(hs_pad), hlens.to(hs_pad.device), self.projector.frames)
        at_input = pooling.pool_input(*self.project(hs_pad, hlens), path)
        before, after = (self._embed_all(tokens, hs_pad) for tokens in prompt)
        return [before, (at_input.speech.to(before[0].dtype), at_input.lens, True), after], at_input

    def _posteriors(self, hs_pad: torch.Tensor) -> torch.Tensor:
        """The CTC head's posteriors in frames (B, T, E)."""
        (head,) = self._ctc_head
        return head(hs_pad.to(head.weight.dtype)).float().softmax(-1)

    def _ctc_embeddings(self, hs_pad: torch.Tensor) -> CtcEmbeddings:
        """The CTC head's posteriors in frames (B, T, E), as embeddings of the LM."""
        posteriors = self._posteriors(hs_pad)
        if self.piece_ids is not None and self.piece_shares is not None:
            shares = posteriors @ self.piece_shares.float()
            table = self.backbone.embed(self.piece_ids)
            none = self.backbone.embed(self.piece_ids.new_tensor(self._none_id))
            return CtcEmbeddings(shares.to(table.dtype) @ table, shares.sum(-1), none)
        posteriors = posteriors[..., 1:]
        return CtcEmbeddings(self.backbone.embed_mixture(posteriors, first=1), posteriors.sum(-1))

    def _embed_all(self, tokens: Sequence[int], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """The same tokens for each row."""
        ids = torch.tensor(tokens, dtype=torch.long).to(like.device, non_blocking=True)
        rows = self.backbone.embed(ids).expand(len(like), -1, -1)
        return rows, torch.full((len(like),), len(tokens), device=like.device), False

    def _check_context(self, packed: Packed) -> None:
        if packed.embeddings.size(1) > self.backbone.max_positions:
            raise ContextError(
                f"prompt, speech and text take {packed.embeddings.size(1)} positions, more than the "
                f"{self.backbone.max_positions} of the LM's context; take shorter audio (--max_wav_duration of the "
                "recipe, --longest_piece in decoding), pool its tokens (pooling: input), or train with more "
                "projector_frames."
            )


def _columns(hidden: torch.Tensor, starts: torch.Tensor, number: int) -> torch.Tensor:
    """So many states of each row from a start (B,) on, (B, L, D) to (B, number, D); any state behind the last."""
    columns = starts.unsqueeze(1) + torch.arange(number, device=starts.device)
    return hidden.gather(1, columns.clamp(max=hidden.size(1) - 1).unsqueeze(-1).expand(-1, -1, hidden.size(2)))


def _check_folder(llm: str) -> None:
    """Refuse to leave out what would be taken for a part of the LM."""
    if (Path(llm) / RECORD).is_file():
        raise ValueError(
            f"decoder_conf: llm {llm} holds {RECORD}: layers that were added to the LM beside them, which Python loads "
            "(load_upscaled) and decoder_conf does not; name the LM without (save_base writes it), or take those files "
            "away to begin with it."
        )

"""CTC and a causal LM on one encoder: ESPnet's model with the LM's own special tokens.

The CTC head has the LM's tokens, or tokens of its own (`ctc_token_list`), whose text a preprocessor adds to each
utterance. Losses are sums over an utterance's tokens and means over utterances, so that two processes with half a batch
each make the step of one.
Shapes: B utterances, L tokens, D model size, V tokens of the LM, C tokens of the CTC head.
"""

import dataclasses
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from torch.nn import functional
from typeguard import typechecked

from espnet2.asr.ctc import CTC
from espnet2.asr.decoder.abs_decoder import AbsDecoder
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.asr.postencoder.abs_postencoder import AbsPostEncoder
from espnet2.asr.preencoder.abs_preencoder import AbsPreEncoder
from espnet2.asr.specaug.abs_specaug import AbsSpecAug
from espnet2.layers.abs_normalize import AbsNormalize
from espnet2.torch_utils.device_funcs import force_gatherable

from espnet_larm.llm.chunks import by_chunks
from espnet_larm.llm.stream import freeze_modes
from espnet_larm.llm.tokens import CTC_TEXT, DRAFT
from espnet_larm.options import Option, check_parameters
from espnet_larm.speech_llm.clock import Clock
from espnet_larm.speech_llm.editing.drafts import CtcDrafts, dropout_on, unpadded
from espnet_larm.speech_llm.losses.alignment import Alignment, check_alone
from espnet_larm.speech_llm.losses.edit import Editing, edit_loss
from espnet_larm.speech_llm.losses.mwer import Mwer, figures, find_nbest, mwer_loss, score_nbest
from espnet_larm.speech_llm.losses.own import OWN, REFERENCE, TARGETS, find_own
from espnet_larm.speech_llm.losses.text_kl import TextKl, TextKlOptions
from espnet_larm.speech_llm.spelling import pieces_of, token_of_none
from espnet_larm.speech_llm.within_lengths import WithinLengthsModel
from espnet_larm.upstream import ErrorCalculator, add_sos_eos

BLANK = "<blank>"


class DecoderLoss(NamedTuple):
    """The LM's part of the loss.

    Attributes:
        loss: With gradient.
        stats: For train.log, without: `acc`, the share of tokens that head 1 predicts right, what the loss is of, and
            which share of its speech tokens each place that pools left (`retention_input`, `retention_deep`).
    """

    loss: torch.Tensor
    stats: dict[str, torch.Tensor]


@dataclasses.dataclass
class _Call:
    """What one call of `forward` carries through ESPnet's own, which hands it to none of its parts.

    Attributes:
        speech: Samples (B, N) and their lengths (B,).
        draft: Drafts in the LM's tokens (B, L) and their lengths (B,), if the data have some.
        ctc_text: Tokens (B, L) of a CTC head that has its own, and their lengths (B,).
        stats: Further figures of the losses, by name.
    """

    speech: tuple[torch.Tensor, torch.Tensor] | None = None
    draft: tuple[torch.Tensor, torch.Tensor] | None = None
    ctc_text: tuple[torch.Tensor, torch.Tensor] | None = None
    stats: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)


_CALL: ContextVar[_Call | None] = ContextVar("call of a speech LLM", default=None)


class SpeechLlmModel(WithinLengthsModel):
    """The model of `decoder: speech_llm`.

    Args:
        vocab_size: V; ESPnet sets it, as all others up to joint_network.
        token_list: Names of the LM's tokens.
        frontend: Features.
        specaug: Their augmentation.
        normalize: Their normalisation.
        preencoder: None, or before the encoder.
        encoder: Any of ESPnet's or ours.
        postencoder: None, or between encoder and both heads.
        decoder: A `speech_llm`.
        ctc: The CTC head that ESPnet makes; replaced by one of C tokens if the CTC head has its own.
        joint_network: None.
        ctc_weight: Meaning and range of this and all other options stand at the parameters; `espnet-larm list
            --name speech_llm` prints them.

    Raises:
        ValueError: An option is out of its range, the decoder is of another kind, or token 0 cannot be CTC's blank.
        FileNotFoundError: ctc_token_list is not there.

    Attributes:
        text_kl: The penalty on text; None without.
    """

    ctc: CTC | None

    @typechecked
    def __init__(
        self,
        vocab_size: int,
        token_list: tuple[str, ...] | list[str],
        frontend: AbsFrontend | None,
        specaug: AbsSpecAug | None,
        normalize: AbsNormalize | None,
        preencoder: AbsPreEncoder | None,
        encoder: AbsEncoder,
        postencoder: AbsPostEncoder | None,
        decoder: AbsDecoder | None,
        ctc: CTC,
        joint_network: torch.nn.Module | None,
        ctc_weight: Annotated[
            float, Option("weight of the CTC loss; the LM's loss has the rest", least=0.0, below=1.0)
        ] = 0.3,
        interctc_weight: Annotated[
            float,
            Option(
                "weight of the earlier checkpoints in the CTC loss; (n - 1) / n with n checkpoint loops",
                least=0.0,
                below=1.0,
            ),
        ] = 0.0,
        ctc_token_list: Annotated[
            str | None, Option("file of the CTC head's own tokens, `<blank>` first; the LM's tokens by default")
        ] = None,
        lsm_weight: Annotated[float, Option("label smoothing of the LM's loss", least=0.0, below=1.0)] = 0.0,
        head_weight: Annotated[
            float,
            Option("base of the draft heads' weights: head k's loss has head_weight^(k - 1)", above=0.0, most=1.0),
        ] = 0.9,
        heads_target: Annotated[
            str,
            Option(
                "tokens that draft heads learn to draft: the reference's, or the model's own, against which drafts are "
                "verified; greedy search finds them at each step (losses/own.py)",
                choices=TARGETS,
                note="own takes a search and another pass through the LM at each step",
            ),
        ] = REFERENCE,
        mwer_weight: Annotated[
            float,
            Option(
                "weight of the loss that counts word errors of N-best hypotheses (mwer.py). For fine-tuning: it takes "
                "a model that finds hypotheses. The LM's loss is then mwer_weight MWER + mwer_ce_weight cross-entropy; "
                "with edit_only hypotheses are edits, and CTC takes the place of cross-entropy",
                least=0.0,
                most=1.0,
                note="0 is off",
            ),
        ] = 0.0,
        mwer_ce_weight: Annotated[
            float,
            Option(
                "weight of all heads' cross-entropy if mwer_weight is above 0; 0.01 to 0.1 is usual. The CTC losses "
                "stay as ctc_weight says, and are best made as much smaller",
                above=0.0,
                most=1.0,
                note="draft heads learn by the cross-entropy alone",
            ),
        ] = 0.05,
        mwer_nbest: Annotated[
            int,
            Option(
                "N, hypotheses that are compared. A step reads N + 1 texts where cross-entropy reads one, which takes "
                "memory: lower batch_bins, or decoder_conf: activation_checkpointing",
                least=2,
            ),
        ] = 4,
        mwer_beam_size: Annotated[int, Option("width of the search for them, N or more", least=2)] = 4,
        mwer_in_validation: Annotated[
            bool,
            Option(
                "search in validation, whatever mwer_weight is, for `wer_expected`, `wer_best` and `wer_oracle`; it is "
                "then as slow as decoding with a beam. Without, validation's loss has no MWER"
            ),
        ] = False,
        alignment_weight: Annotated[
            float,
            Option(
                "weight of a loss that draws the projector's embeddings to those of the transcript's tokens "
                "(alignment.py), which is added to the LM's",
                least=0.0,
                note="0 is off",
            ),
        ] = 0.0,
        alignment_only: Annotated[
            bool,
            Option(
                "leave the LM's own loss out, and with it the pass through the LM: a cheap start for a projector, "
                "whose weights a second training begins with"
            ),
        ] = False,
        edit_weight: Annotated[
            float,
            Option(
                "weight of the loss of editing drafts (edit.py), added to the LM's; it teaches `search: edit`. "
                "Drafts are the data's `draft` (a Kaldi text), else the CTC head's, made with dropout",
                least=0.0,
                note="0 is off",
            ),
        ] = 0.0,
        edit_copy_weight: Annotated[
            float, Option("weight, in that loss, of giving each token of the draft again", least=0.0)
        ] = 0.02,
        edit_only: Annotated[
            bool,
            Option(
                "leave the LM's own loss out: the model then decodes with `search: edit` by default. With `editing: "
                "{text_only: true}` data need no speech: texts and drafts"
            ),
        ] = False,
        text_kl_weight: Annotated[
            float,
            Option(
                "weight of KL(base || model) on lines of text (text_kl.py), in nats a predicted token, which keeps the "
                "LM's text ability; for `adaptation` full, lora and depth_upscaling. It is added to the LM's loss in "
                "training; validation draws no lines, and its loss is the same as without",
                least=0.0,
                note="0 is off",
            ),
        ] = 0.0,
        text_kl_text: Annotated[
            str | None,
            Option(
                "file of that text, plain or .gz, one sentence a line in the LM's style; of a file called `text`, each "
                "line begins with an id"
            ),
        ] = None,
        text_kl_lines: Annotated[
            int,
            Option(
                "lines that are drawn for each batch in each process; one that is longer than the LM's context is cut",
                least=1,
            ),
        ] = 8,
        text_kl_max_lines: Annotated[
            int, Option("first lines of the file that are read; in memory they take 4 bytes a token", least=1)
        ] = 100_000,
        ignore_id: Annotated[int, Option("padding of texts")] = -1,
        extract_feats_in_collect_stats: Annotated[bool, Option("ESPnet's option of this name")] = True,
    ) -> None:
        check_parameters(SpeechLlmModel.__init__, locals(), "model_conf")
        special = getattr(decoder, "special_tokens", None)
        if special is None:
            raise ValueError(f"model: speech_llm needs decoder: speech_llm; got {type(decoder).__name__}.")
        super().__init__(
            vocab_size=vocab_size,
            token_list=list(token_list),
            frontend=frontend,
            specaug=specaug,
            normalize=normalize,
            preencoder=preencoder,
            encoder=encoder,
            postencoder=postencoder,
            decoder=decoder,
            ctc=ctc,
            joint_network=joint_network,
            ctc_weight=ctc_weight,
            interctc_weight=interctc_weight,
            ignore_id=ignore_id,
            lsm_weight=lsm_weight,
            report_cer=False,
            report_wer=False,
            extract_feats_in_collect_stats=extract_feats_in_collect_stats,
        )
        self.lsm_weight = lsm_weight
        self.head_weight = head_weight
        if heads_target == OWN and self.decoder.heads.num_heads == 1:
            raise ValueError(
                "model_conf: heads_target is own, but the model has no draft heads; set decoder_conf: num_heads, 2 or "
                "more, or leave it out."
            )
        self.heads_target = heads_target
        self.mwer = Mwer(mwer_weight, mwer_ce_weight, mwer_nbest, mwer_beam_size, mwer_in_validation)
        if alignment_only:
            check_alone(self.decoder, alignment_weight, mwer_weight)
        self.alignment_weight, self.alignment_only = alignment_weight, alignment_only
        self.alignment = None
        if alignment_weight > 0:
            self.alignment = Alignment(self.decoder.backbone.hidden_size, token_of_none(self.decoder.tokenizer))
        self.editing = Editing(edit_weight, edit_copy_weight, edit_only)
        alone = {
            "alignment_only": alignment_only,
            "decoder_conf: num_heads": self.decoder.heads.num_heads > 1 and self.decoder.heads.num_heads,
        }
        self.editing.check(self.decoder, alone)
        text_kl = TextKlOptions(text_kl_weight, text_kl_text, text_kl_lines, text_kl_max_lines)
        self.text_kl = TextKl(self.decoder, text_kl) if text_kl_weight > 0 else None
        self.sos = self.eos = special.eos
        self.blank_id = 0
        self.ctc_token_list: list[str] = list(token_list)
        self.has_own_ctc_tokens = ctc_token_list is not None
        if ctc_token_list is not None:
            self._take_own_tokens(_read_tokens(Path(ctc_token_list)))
        elif ctc_weight > 0 and not special.can_be_blank:
            raise ValueError(
                f"model_conf: token 0 of the LM, {token_list[0]!r}, can stand in a transcript, and ESPnet's CTC takes "
                "token 0 for its blank; give the CTC head tokens of its own with ctc_token_list."
            )
        self._hand_over_ctc()
        own_tokens = self.ctc_token_list if self.has_own_ctc_tokens else None
        self.draft = CtcDrafts(self.decoder.tokenizer, own_tokens)
        if self.ctc is not None:
            # In validation, the CTC head's errors are counted in its own tokens.
            self.error_calculator = ErrorCalculator(
                self.ctc_token_list, "<space>", self.ctc_token_list[0], report_cer=True, report_wer=False
            )

    def forward(
        self,
        speech: torch.Tensor | None = None,
        speech_lengths: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        text_lengths: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """ESPnet's, where the CTC losses may have a text of their own, and the LM a draft.

        Args:
            speech: Samples (B, N); None where the LM learns to edit text alone.
            speech_lengths: Valid samples (B,).
            text: The LM's tokens (B, L).
            text_lengths: Valid tokens (B,).
            kwargs: `ctc_text` and `ctc_text_lengths`, if the CTC head has its own tokens; perhaps `draft` and
                `draft_lengths`.

        Raises:
            ValueError: The CTC head has its own tokens and the batch no text of them, or there is no speech that the
                losses need.
        """
        assert text is not None and text_lengths is not None
        draft = (kwargs[DRAFT], kwargs[f"{DRAFT}_lengths"]) if DRAFT in kwargs else None
        if speech is None or speech_lengths is None:
            return self._edit_text(draft, text, text_lengths)
        call = _Call(speech=(speech, speech_lengths), draft=draft)
        if self.has_own_ctc_tokens and self.ctc is not None:
            if CTC_TEXT not in kwargs:
                raise ValueError(
                    "the CTC head has tokens of its own, but the data no ctc_text: preprocessor: speech_llm."
                )
            lengths = kwargs[f"{CTC_TEXT}_lengths"]
            call.ctc_text = (kwargs[CTC_TEXT][:, : lengths.max()], lengths)
        token = _CALL.set(call)
        try:
            loss, stats, weight = super().forward(speech, speech_lengths, text, text_lengths, **kwargs)
        finally:
            _CALL.reset(token)
        # As ESPnet makes its own: tensors of one number on the loss's device.
        stats.update({name: value.to(loss.device).view(1) for name, value in call.stats.items()})
        return loss, stats, weight

    def train(self, mode: bool = True) -> "SpeechLlmModel":
        """Set the mode; a part with weights of which none learns stays in eval mode, without dropout."""
        super().train(mode)
        if mode:
            freeze_modes(self, mode)
        return self

    def _calc_ctc_loss(
        self,
        encoder_out: torch.Tensor,
        encoder_out_lens: torch.Tensor,
        ys_pad: torch.Tensor,
        ys_pad_lens: torch.Tensor,
    ) -> tuple[torch.Tensor, float | None]:
        """The CTC loss of one read-out, and in validation its error rate in the CTC head's tokens."""
        if (call := _CALL.get()) is not None and call.ctc_text is not None:
            ys_pad, ys_pad_lens = call.ctc_text
        return super()._calc_ctc_loss(encoder_out, encoder_out_lens, ys_pad, ys_pad_lens)

    def _calc_att_loss(
        self,
        encoder_out: torch.Tensor,
        encoder_out_lens: torch.Tensor,
        ys_pad: torch.Tensor,
        ys_pad_lens: torch.Tensor,
    ) -> tuple[torch.Tensor, float, None, None]:
        """The LM's loss and the fraction of tokens that it predicts right."""
        loss, stats = self.decoder_loss(encoder_out, encoder_out_lens, ys_pad, ys_pad_lens)
        accuracy = stats.pop("acc").item()
        if (call := _CALL.get()) is not None:
            call.stats.update(stats)
        return loss, accuracy, None, None

    def decoder_loss(
        self,
        encoder_out: torch.Tensor,
        encoder_out_lens: torch.Tensor,
        ys_pad: torch.Tensor,
        ys_pad_lens: torch.Tensor,
    ) -> DecoderLoss:
        """The LM's whole loss from what the encoder gives: cross-entropy of all heads, MWER, KL on text.

        In eval mode it is validation's. In training, pooling with `retention_sampling` draws its retentions once.

        Args:
            encoder_out: (B, T, E).
            encoder_out_lens: Valid frames (B,).
            ys_pad: The LM's tokens (B, L), ignore_id behind them.
            ys_pad_lens: Valid tokens (B,).
        """
        given = encoder_out, encoder_out_lens, ys_pad, ys_pad_lens
        with self.decoder.drawn_pooling():
            loss, stats = (encoder_out.new_zeros(()), {}) if self.alignment_only else self._lm_loss(*given)
        if self.alignment is not None:
            aligned = self.alignment(*self.decoder.project(*given[:2]), *given[2:], self.decoder.backbone.embed)
            loss = loss + self.alignment_weight * aligned.loss
            stats |= {
                "loss_align": aligned.loss,
                "acc" if self.alignment_only else "acc_align": aligned.accuracy,
                "align_distance": aligned.distance,
                "align_without_room": aligned.without_room,
            }
        return DecoderLoss(loss, {name: value.detach() for name, value in stats.items()})

    def _lm_loss(self, *given: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The losses of what the LM says, from the arguments of `decoder_loss`."""
        stats: dict[str, torch.Tensor] = {}
        if self.editing.only:
            loss = given[0].new_zeros(())
        elif self.mwer.weight == 0 and not self.mwer.in_validation:
            loss, stats = self._cross_entropy(*given)
        else:
            loss, stats = self._cross_entropy_and_mwer(*given)
        if self.editing.weight > 0:
            speech = given[0], given[1]
            edited = self._edit_loss(speech, self._drafts(*speech), unpadded(*given[2:]))
            loss, stats = loss + edited.loss, {**stats, **edited.stats}
        return self._with_text_kl(loss, stats)

    def _with_text_kl(
        self, loss: torch.Tensor, stats: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A loss and its figures with the penalty on text, if there is one."""
        if self.text_kl is None or not self.training:
            return loss, stats
        penalty = self.text_kl(self.decoder)
        return loss + self.text_kl.options.weight * penalty, {**stats, "loss_text_kl": penalty}

    def _edit_text(
        self, draft: tuple[torch.Tensor, torch.Tensor] | None, text: torch.Tensor, text_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """What `forward` gives of texts and drafts without speech."""
        if not self.editing.only or not self.decoder.editor.options.text_only or draft is None:
            raise ValueError(
                f"the data have no speech{'' if draft else ' and no draft'}; without, an LM learns only to edit text, "
                f"from data called text and {DRAFT}: model_conf: edit_only: true, decoder_conf: editing: {{text_only: "
                "true}."
            )
        loss, stats = self._with_text_kl(*self._edit_loss(None, unpadded(*draft), unpadded(text, text_lengths)))
        stats = {name: value.detach() for name, value in (*stats.items(), ("loss", loss))}
        gathered: tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor] = force_gatherable(
            (loss, stats, len(text)), loss.device
        )
        return gathered

    def _edit_loss(
        self,
        speech: tuple[torch.Tensor, torch.Tensor] | None,
        drafts: list[list[int]],
        references: list[list[int]],
    ) -> DecoderLoss:
        """The loss of editing with its weight; where it is alone, MWER is of edits."""
        mwer = self.mwer if self.editing.only and self._searches else None
        loss, more, stats = edit_loss(self.decoder, speech, drafts, references, self.editing.copy_weight, mwer)
        if self.editing.only:
            stats["acc"] = (1.0 - stats["wer_edit"]).clamp(min=0.0)
            loss = loss if self.mwer.weight == 0 else self.mwer.ce_weight * loss
        loss = loss if more is None else loss + self.mwer.weight * more
        return DecoderLoss(self.editing.weight * loss, stats)

    @property
    def _searches(self) -> bool:
        """Whether MWER's hypotheses are searched in this mode."""
        return self.mwer.weight > 0 if self.training else self.mwer.in_validation

    @torch.no_grad()
    def _drafts(self, encoder_out: torch.Tensor, encoder_out_lens: torch.Tensor) -> list[list[int]]:
        """The data's drafts, or those of the CTC head, in training with dropout."""
        call = _CALL.get() or _Call()
        if call.draft is not None:
            return unpadded(*call.draft)
        if self.ctc is None:
            raise ValueError(
                f"model_conf: edit_weight is {self.editing.weight}, but the model has no CTC head that makes drafts, "
                f"and the data no {DRAFT}; set ctc_weight above 0, or add `<file>,{DRAFT},text` to the data."
            )
        parts = [part for part in (self.frontend, self.encoder) if part is not None]
        is_frozen = not any(each.requires_grad for part in parts for each in part.parameters())
        # What learns has read the speech with dropout already.
        if self.training and is_frozen and call.speech is not None:
            with dropout_on(self):
                found, encoder_out_lens = self.encode(*call.speech)
            encoder_out = found[0] if isinstance(found, tuple) else found
        return self.draft(self.ctc.ctc_lo(encoder_out), encoder_out_lens)

    def _cross_entropy_and_mwer(
        self,
        encoder_out: torch.Tensor,
        encoder_out_lens: torch.Tensor,
        ys_pad: torch.Tensor,
        ys_pad_lens: torch.Tensor,
    ) -> DecoderLoss:
        """Both with their weights."""
        clock = Clock(encoder_out.device)
        # Before the search: autocast of older torch keeps what it casts first, also without gradient (issue 105211).
        loss, stats = self._cross_entropy(encoder_out, encoder_out_lens, ys_pad, ys_pad_lens)
        stats |= {"loss_ce": loss, "ce_time": clock.lap()}
        loss = loss if self.mwer.weight == 0 else self.mwer.ce_weight * loss
        if self._searches:
            references = [text[:length] for text, length in zip(ys_pad.tolist(), ys_pad_lens.tolist(), strict=True)]
            found = find_nbest(self.decoder, encoder_out, encoder_out_lens, references, self.eos, self.mwer)
            stats["search_time"] = clock.lap()
            log_probs = score_nbest(self.decoder, encoder_out, encoder_out_lens, found, self.eos, self.ignore_id)
            more = mwer_loss(log_probs, found.errors, found.mask).mean()
            loss = loss + self.mwer.weight * more
            stats |= {"loss_mwer": more, **figures(log_probs, found), "rescore_time": clock.lap()}
        return DecoderLoss(loss, stats)

    def _cross_entropy(
        self,
        encoder_out: torch.Tensor,
        encoder_out_lens: torch.Tensor,
        ys_pad: torch.Tensor,
        ys_pad_lens: torch.Tensor,
    ) -> DecoderLoss:
        """The loss of all heads."""
        ys_in_pad, ys_out_pad = add_sos_eos(ys_pad, self.sos, self.eos, self.ignore_id)
        hidden, kept = self.decoder.read_text(encoder_out, encoder_out_lens, ys_in_pad, ys_pad_lens + 1)
        loss, accuracy = self._head_loss(1, hidden, ys_out_pad)
        stats = {"acc": accuracy, **{f"retention_{place}": each.retention for place, each in kept.items()}}
        if self.decoder.heads.num_heads > 1:
            stats["loss_head1"] = loss
        if self.heads_target == OWN:
            clock = Clock(encoder_out.device)
            given = self.decoder, encoder_out, encoder_out_lens, ys_pad_lens.tolist()
            ys_in_pad, ys_in_lens, ys_out_pad = find_own(*given, self.eos, self.ignore_id)
            hidden = self.decoder.read_text(encoder_out, encoder_out_lens, ys_in_pad, ys_in_lens).hidden
            stats["own_time"] = clock.lap()
        for head in range(2, self.decoder.heads.num_heads + 1):
            more, share = self._head_loss(head, hidden, ys_out_pad)
            stats |= {f"loss_head{head}": more, f"acc_head{head}": share}
            loss = loss + self.head_weight ** (head - 1) * more
        return DecoderLoss(loss, stats)

    def _head_loss(
        self, head: int, hidden: torch.Tensor, ys_out_pad: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of tokens `head` places behind each state (B, L, D), and the fraction that is predicted right.

        A head whose tokens would all be behind the end has neither: 0 and 0. Padding has no logits.
        """
        targets = ys_out_pad[:, head - 1 :]
        is_token = targets != self.ignore_id

        def predict(states: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.decoder.logits_of(head, states)  # (m, V)
            # ESPnet's own smoothing loss makes three tensors of the logits' size; torch's makes none.
            losses = functional.cross_entropy(logits, tokens, label_smoothing=self.lsm_weight, reduction="none")
            return losses, logits.detach().argmax(-1) == tokens

        given = hidden[:, : targets.size(1)][is_token], targets[is_token]
        # One tensor of logits at a time, however many heads there are.
        losses, is_right = by_chunks(predict, self.decoder.backbone.vocab_size, *given, recomputes=head > 1)
        return losses.sum() / len(ys_out_pad), is_right.sum() / max(len(is_right), 1)

    def _hand_over_ctc(self) -> None:
        """Let the decoder read the CTC head, or refuse one that would and cannot."""
        if self.ctc is not None:
            is_spelled = self.decoder.reads_posteriors and self.has_own_ctc_tokens
            own = pieces_of(self.ctc_token_list, self.decoder.tokenizer) if is_spelled else None
            self.decoder.read_from(self.ctc.ctc_lo, own)
        elif self.decoder.reads_posteriors:
            raise ValueError(
                "decoder_conf: projector is posterior, which reads a CTC head; set model_conf: ctc_weight above 0, "
                "or take projector: stack."
            )
        self.decoder.check_ctc(self.decoder.pooling, "decoder_conf: pooling")

    def _take_own_tokens(self, tokens: list[str]) -> None:
        """Make the CTC head, and the layer that feeds it back, of another size."""
        if not tokens or tokens[0] != BLANK:
            raise ValueError(f"model_conf: ctc_token_list begins with {tokens[:1]}; allowed: {BLANK} first.")
        self.ctc_token_list = tokens
        if self.ctc is not None:
            # All else of it is as ctc_conf says.
            self.ctc.ctc_lo = torch.nn.Linear(self.ctc.ctc_lo.in_features, len(tokens))
            self.ctc.__class__ = OwnTokensCtc
        if getattr(self.encoder, "interctc_use_conditioning", False):
            self.encoder.conditioning_layer = torch.nn.Linear(len(tokens), self.encoder.output_size())


class OwnTokensCtc(CTC):
    """A CTC head whose tokens are not the LM's."""

    def log_softmax(self, hs_pad: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """What ESPnet's searches begin with, which add scores of the same token from all scorers.

        Raises:
            ValueError: Always; the search of this package scores the spelling instead.
        """
        raise ValueError(
            "the CTC head has tokens of its own (model_conf: ctc_token_list), which ESPnet's beam search would take "
            "for the LM's: decode with ctc_weight 0 there, or with python -m espnet_larm -m espnet2.bin.asr_inference."
        )


def _read_tokens(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"model_conf: ctc_token_list {path} is missing; run the stage that makes tokens.")
    # Not splitlines, which ends lines at characters that may be tokens, too.
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n")

"""Greedy CTC hypotheses of speech, on wish with the dropout and the SpecAugment of training."""

import argparse
import contextlib
from collections.abc import Mapping
from typing import Any

import torch

from espnet_larm.recognize.model.encoding import encode
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.speech_llm.editing.drafts import dropout_on


def load_recogniser(args: argparse.Namespace) -> Recognizer:
    """The recogniser that `asr_train_config`, `asr_model_file`, `llm`, `encoder` and `ngpu` name.

    Raises:
        ValueError: There is no GPU, or the model has no CTC head.
    """
    if args.ngpu and not torch.cuda.is_available():
        raise ValueError("--ngpu 1: no GPU can be seen (nvidia-smi, CUDA_VISIBLE_DEVICES); --ngpu 0 takes the CPU.")
    device = "cuda" if args.ngpu else "cpu"
    found = Recognizer.from_files(
        args.asr_train_config, args.asr_model_file, device, llm=args.llm, encoder=args.encoder
    )
    if found.model.ctc is None:
        raise ValueError(f"{args.asr_train_config} has no CTC head (model_conf: ctc_weight 0.0), which makes drafts.")
    return found


@torch.no_grad()
def drafts_of(recogniser: Recognizer, waveforms: Mapping[str, Any], errs: bool) -> dict[str, str]:
    """The CTC hypothesis of each utterance; an empty one where the audio is too short.

    Args:
        recogniser: The recogniser.
        waveforms: Samples (N,) by utterance.
        errs: Whether dropout is on and features are masked as in training, where the model has SpecAugment.
    """
    model = recogniser.model
    found = dict.fromkeys(waveforms, "")
    with dropout_on(model) if errs else contextlib.nullcontext():
        frames = encode(model, waveforms, augments=errs and model.specaug is not None)
    if frames:
        hs_pad = torch.nn.utils.rnn.pad_sequence([*frames.values()], batch_first=True)
        hlens = torch.tensor([len(each) for each in frames.values()])
        weight = model.ctc.ctc_lo.weight
        hs_pad, hlens = hs_pad.to(weight.device, weight.dtype), hlens.to(weight.device)
        for key, (best,) in zip(frames, recogniser.heads.ctc.find(hs_pad, hlens), strict=True):
            found[key] = " ".join(best.text.split())
    return found

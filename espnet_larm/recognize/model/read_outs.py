"""Read-outs: the outputs that an encoder gives to the CTC head, at checkpoint loops of ours, at layers of ESPnet's.

An encoder with a method `read_outs` has loops, and promises that a batch gives what each utterance gives alone.
Shapes: B utterances, T frames, F features, D model size.
"""

import torch

from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.preencoder.linear import LinearProjection

from espnet_larm.recognize.output.words import FrameTimes
from espnet_larm.streaming.read_out import ReadOut, ReadOuts, next_read_out

# Divisible by 2, 3, 4, 6 and 8.
MEASURED_FRAMES = 240


def has_loops(encoder: AbsEncoder) -> bool:
    """Whether the number of loops can be chosen."""
    return hasattr(encoder, "read_outs")


def ignores_padding(model: ESPnetASRModel) -> bool:
    """Whether a padded batch gives what each utterance gives alone. ESPnet's own encoders do not promise it."""
    alone = model.preencoder is None or isinstance(model.preencoder, LinearProjection)
    keeps = has_loops(model.encoder) or getattr(model.encoder, "ignores_padding", False)
    return keeps and alone and model.postencoder is None


def read_out_numbers(encoder: AbsEncoder, num_loops: int | None = None) -> list[int]:
    """The loops or layers that `read_outs` yields, in order.

    Args:
        encoder: With or without loops.
        num_loops: The last loop; the encoder's own number by default.
    """
    if has_loops(encoder):
        return encoder.allowed_loops(num_loops or encoder.num_loops)
    layers = sorted(getattr(encoder, "interctc_layer_idx", None) or [])
    return [*layers, len(getattr(encoder, "encoders", [])) or max(layers, default=0) + 1]


def read_outs(
    model: ESPnetASRModel,
    xs_pad: torch.Tensor,
    ilens: torch.Tensor,
    num_loops: int | None = None,
    skip_blank: float = 1.0,
    by_chunk: bool = False,
) -> ReadOuts:
    """Encode a batch as `ESPnetASRModel.encode` does after its features.

    A loop is yielded as soon as it is computed; layers of ESPnet's encoders only after the whole encoder.
    A postencoder sees the last trained loop or layer (and loops beyond it), as in training. A reader of loops may send
    back which utterances stay, as to `LarmEncoder.read_outs`.

    Args:
        model: The model, in eval mode.
        xs_pad: Features (B, T, F).
        ilens: Valid frames (B,).
        num_loops: The last loop; the encoder's own number by default, None for an encoder without loops.
        skip_blank: Probability of blank above which frames skip feed-forward layers; 1 for an encoder without loops.
        by_chunk: Whether chunks of a stream's context leave, not utterances.

    Raises:
        TooShortUttError: An utterance is shorter than the subsampling needs.
    """
    if model.preencoder is not None:
        xs_pad, ilens = model.preencoder(xs_pad, ilens)
    if has_loops(model.encoder):
        # Said in each call: what `looped` gives to ESPnet's own programs does not count here.
        last = num_loops or model.encoder.num_loops
        loops = model.encoder.read_outs(xs_pad, ilens, model.ctc, last, skip_blank, by_chunk=by_chunk)
        stays = None
        while (read := next_read_out(loops, stays)) is not None:
            if read.number >= model.encoder.num_loops:
                hs_pad, hlens = _post_encode(model, read.hs_pad, read.hlens)
                read = read._replace(hs_pad=hs_pad, hlens=hlens)
            stays = yield read
        return
    *layers, last = read_out_numbers(model.encoder)
    needs_ctc = any(getattr(model.encoder, name, False) for name in ("interctc_use_conditioning", "ctc_trim"))
    output, hlens, _ = model.encoder(xs_pad, ilens, **({"ctc": model.ctc} if needs_ctc else {}))
    output, intermediate = output if isinstance(output, tuple) else (output, [])
    assert [layer for layer, _ in intermediate] == layers, (intermediate, layers)
    for layer, hs_pad in intermediate:
        yield ReadOut(layer, hs_pad, hlens)
    yield ReadOut(last, *_post_encode(model, output, hlens))


def _post_encode(model: ESPnetASRModel, hs_pad: torch.Tensor, hlens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (hs_pad, hlens) if model.postencoder is None else model.postencoder(hs_pad, hlens)


@torch.inference_mode()
def measure_frame_times(
    model: ESPnetASRModel, sample_rate_hz: int, device: torch.device, dtype: torch.dtype
) -> FrameTimes:
    """How encoder frames lie in time.

    ESPnet's encoders do not tell by how much they subsample: features of two lengths do, the difference of which every
    usual factor divides.

    Args:
        model: The model, in eval mode.
        sample_rate_hz: Rate of its audio.
        device: Device of its weights.
        dtype: Type of its weights.

    Raises:
        ValueError: The front end has no hop.
    """
    hop_length = getattr(model.frontend, "hop_length", None)
    if hop_length is None:
        raise ValueError(
            f"times of words need a front end with a hop_length, which {type(model.frontend).__name__} has not; leave "
            "write_ctm out."
        )
    num_outputs = []
    for num_frames in (MEASURED_FRAMES, 2 * MEASURED_FRAMES):
        features = torch.zeros(1, num_frames, model.frontend.output_size(), device=device, dtype=dtype)
        lens = torch.tensor([num_frames], device=device)
        num_outputs.append(int(next(read_outs(model, features, lens)).hlens))
    factor = round(MEASURED_FRAMES / (num_outputs[1] - num_outputs[0]))
    centre = getattr(getattr(model.encoder, "subsampling", None), "centre", None)
    offset_s = getattr(model.frontend, "first_sample", 0) / sample_rate_hz
    return FrameTimes(hop_length / sample_rate_hz, factor, None, centre, offset_s)

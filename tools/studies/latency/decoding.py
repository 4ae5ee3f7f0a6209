"""Sets decoded in the context of streams: word errors, and when each word that is right came out.

Shapes: U utterances.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from espnet_larm.calibrate.development import features_of, keys_with_text, loaded_batches
from espnet_larm.data.kaldi_dir import read_dir, read_table
from espnet_larm.live.frontend import LiveFrontend
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.batch import Waveform
from espnet_larm.recognize.config import Batching
from espnet_larm.recognize.leaving.leave import Leaving, run_chunks_until_left
from espnet_larm.recognize.model.features import pad_features
from espnet_larm.recognize.model.read_outs import measure_frame_times, read_outs
from espnet_larm.recognize.output.results import EMPTY, Hypothesis
from espnet_larm.recognize.output.words import FrameTimes
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.scoring.alignment import align, split_words
from espnet_larm.scoring.bootstrap import Grouping, group_utterances
from espnet_larm.streaming.context import Context, in_context


class Reference(NamedTuple):
    """What was said, and when.

    Attributes:
        data_dirs: The sets.
        keys: Utterances, U.
        texts: Their transcripts.
        ends_s: Where each word of an utterance ends in seconds; nothing for one whose words the aligner cannot place.
        num_words: Words of the transcripts.
        grouping: Speakers.
    """

    data_dirs: Sequence[Path]
    keys: list[str]
    texts: Mapping[str, str]
    ends_s: list[list[float]]
    num_words: list[int]
    grouping: Grouping


class AtLoop(NamedTuple):
    """What a loop says.

    Attributes:
        texts: Hypotheses (U,).
        errors: Their word errors (U,).
        delays_s: Seconds from the end of each word that is right to when it could be told.
    """

    texts: list[str]
    errors: list[int]
    delays_s: list[float]


class Decoded(NamedTuple):
    """A set decoded in one context.

    Attributes:
        chunk_s: Seconds of a chunk; None for whole utterances.
        latency_s: Algorithmic latency; None for whole utterances.
        loops: By checkpoint loop, and by rule and mean loops of a frame where chunks leave by one.
    """

    chunk_s: float | None
    latency_s: float | None
    loops: dict[str, AtLoop]

    @property
    def deepest(self) -> AtLoop:
        """What the last loop says, which all frames ran."""
        return self.loops[max(filter(str.isdecimal, self.loops), key=int)]


class Clock(NamedTuple):
    """When the samples are there that frames need.

    Attributes:
        times: Encoder frames to seconds.
        chunk_frames: Encoder frames a chunk; None for whole utterances.
        lookahead_s: From the middle of a chunk's first feature frame to the last sample that the chunk needs.
    """

    times: FrameTimes
    chunk_frames: int | None
    lookahead_s: float

    @classmethod
    def of(cls, recognizer: Recognizer, context: Context) -> "Clock":
        """The clock of a model's streams."""
        model, rate = recognizer.model, recognizer.sample_rate_hz
        weight = next(model.encoder.parameters())
        times = measure_frame_times(model, rate, recognizer.device, weight.dtype)
        if context.is_full:
            return cls(times, None, 0.0)
        margin_s = LiveFrontend(model).margin / rate
        return cls(times, context.chunk_frames, (model.encoder.latency(context) - 1) * times.hop_s + margin_s)

    @property
    def chunk_s(self) -> float | None:
        """Seconds of a chunk."""
        return None if self.chunk_frames is None else self.chunk_frames * self.times.factor * self.times.hop_s

    def told_s(self, end_s: float, duration_s: float) -> float:
        """When what ends at `end_s`, the end of an encoder frame, could be told."""
        if self.chunk_frames is None:
            return duration_s
        frame_s = self.times.factor * self.times.hop_s
        # At the beginning a frame's interval is cut to the utterance.
        frame = max(0, round((end_s - self.times.start_s(1)) / frame_s))
        assert self.chunk_s is not None
        return min(duration_s, frame // self.chunk_frames * self.chunk_s + self.lookahead_s)


def align_references(recognizer: Recognizer, data_dirs: Sequence[Path], batching: Batching) -> Reference:
    """Find where the words of transcripts end, by the CTC head's last loop on whole utterances.

    Args:
        recognizer: The aligner.
        data_dirs: Data folders.
        batching: How to read and batch.

    Raises:
        ValueError: An utterance has no text or cannot be read, or the model was trained without a preprocessor.
    """
    if recognizer.preprocess is None:
        raise ValueError("the aligner was trained without a preprocessor, so that no text is spelled in its tokens.")
    texts = {key: text for folder in data_dirs for key, text in read_table(folder / "text").items()}
    speakers = {one.id: one.speaker for folder in data_dirs for one in read_dir(folder)}
    times = Clock.of(recognizer, Context()).times
    ends: dict[str, list[float]] = {}
    for waveforms in _batches(recognizer, data_dirs, texts, batching):
        ends.update({key: [] for key in waveforms})
        features = features_of(recognizer, waveforms)
        if not features:
            continue
        spoken = []
        for key in features:
            ids = [int(each) for each in recognizer.preprocess(key, {"text": texts[key]})["text"]]  # type: ignore[dict-item]
            tokens = [recognizer.heads.ctc.token_list[each] for each in ids]
            spoken.append(Hypothesis(texts[key], tokens, ids, 0.0))
        with torch.no_grad():
            *_, last = read_outs(recognizer.model, *pad_features(list(features.values())))
            timed = recognizer.heads.ctc.add_words(spoken, last.hs_pad, last.hlens, [times] * len(spoken))
        for key, hypothesis in zip(features, timed, strict=True):
            # Tokens that the frames cannot hold are spread evenly, with no confidence.
            is_placed = all(word.confidence > 0 for word in hypothesis.words)
            if is_placed and len(hypothesis.words) == len(split_words(texts[key])):
                ends[key] = [word.end_s for word in hypothesis.words]
    keys = list(ends)
    counts = [len(split_words(texts[key])) for key in keys]
    return Reference(data_dirs, keys, texts, [ends[key] for key in keys], counts, group_utterances(keys, speakers))


def _batches(
    recognizer: Recognizer, data_dirs: Sequence[Path], texts: Mapping[str, str], batching: Batching
) -> Iterator[dict[str, Waveform]]:
    for folder in data_dirs:
        table = AudioTable(folder / "wav.scp", "sound", recognizer.sample_rate_hz, recognizer.preprocess)
        yield from loaded_batches(recognizer, table, keys_with_text(table, texts), batching)


def decode(
    recognizer: Recognizer, reference: Reference, context: Context, batching: Batching, leavings: Sequence[Leaving] = ()
) -> Decoded:
    """Decode the sets greedily, in the context of a stream.

    Args:
        recognizer: The model.
        reference: The sets.
        context: What a frame sees.
        batching: How to read and batch.
        leavings: Rules by which chunks leave, each in a pass of its own; without effect on whole utterances.

    Raises:
        ValueError: An utterance cannot be read, or the front end or normalisation cannot stream.
    """
    model, ctc, clock = recognizer.model, recognizer.heads.ctc, Clock.of(recognizer, context)
    rules = [] if context.chunk_frames is None else [_name_of(each) for each in leavings]
    found: dict[str, dict[str, Hypothesis]] = {}
    durations: dict[str, float] = {}
    frames, loops_run = dict.fromkeys(rules, 0), dict.fromkeys(rules, 0)
    for waveforms in _batches(recognizer, reference.data_dirs, reference.texts, batching):
        durations.update({key: len(each) / recognizer.sample_rate_hz for key, each in waveforms.items()})
        features = features_of(recognizer, waveforms)
        if not features:
            continue
        batch = pad_features(list(features.values()))
        with torch.no_grad(), in_context(context):
            reads = [(str(read.number), read) for read in read_outs(model, *batch)]
            for name, leaving in zip(rules, leavings, strict=False):
                assert context.chunk_frames is not None
                by_chunk = read_outs(model, *batch, by_chunk=True)
                read, left_at = run_chunks_until_left(
                    by_chunk, ctc.log_probs, model.blank_id, leaving, context.chunk_frames
                )
                at = left_at.repeat_interleave(context.chunk_frames, dim=1)[:, : read.hs_pad.size(1)]
                there = torch.arange(at.size(1), device=at.device) < read.hlens.unsqueeze(1)
                frames[name] += int(there.sum())
                loops_run[name] += int(at.masked_fill(~there, 0).sum())
                reads.append((name, read))
            for name, read in reads:
                best = [each[0] for each in ctc.find(read.hs_pad, read.hlens, 1)]
                timed = ctc.add_words(best, read.hs_pad, read.hlens, [clock.times] * len(best))
                found.setdefault(name, {}).update(zip(features, timed, strict=True))
    latency_s = None if clock.chunk_frames is None else clock.lookahead_s + clock.times.hop_s
    loops = {}
    for name, by_key in found.items():
        title = f"{name}, {loops_run[name] / frames[name]:.2f}" if name in rules else name
        loops[title] = _at_loop(by_key, reference, clock, durations)
    return Decoded(clock.chunk_s, latency_s, loops)


def _name_of(leaving: Leaving) -> str:
    """A rule, and its threshold unless that is the rule's own."""
    return leaving.name if leaving.rule.threshold is not None else f"{leaving.name}:{leaving.threshold:g}"


def _at_loop(
    found: Mapping[str, Hypothesis], reference: Reference, clock: Clock, durations: Mapping[str, float]
) -> AtLoop:
    hypotheses = [found.get(key, EMPTY) for key in reference.keys]
    texts = [reference.texts[key] for key in reference.keys]
    aligned = align(texts, [hypothesis.text for hypothesis in hypotheses], split_words)
    delays: list[float] = []
    for key, hypothesis, ends_s, alignment in zip(reference.keys, hypotheses, reference.ends_s, aligned, strict=True):
        if not ends_s or len(hypothesis.words) != len(split_words(hypothesis.text)):
            continue
        said, heard = 0, 0
        for reference_word, word in alignment.pairs:
            if reference_word is not None and reference_word == word:
                delays.append(clock.told_s(hypothesis.words[heard].end_s, durations[key]) - ends_s[said])
            said += reference_word is not None
            heard += word is not None
    return AtLoop([each.text for each in hypotheses], [each.counts.errors for each in aligned], delays)

#!/usr/bin/env python3
"""Cost of live streams: processor seconds a second of audio, for one stream and for several that share steps.

And how long after a chunk is whole each checkpoint loop has spoken: an early one gives its partial text sooner.
Weights are random and the audio is noise, since neither changes what a chunk costs; text costs a little more. One
thread. A core hears all streams at once where they take less than a second together.

    python tools/bench/live.py                                  the size of conf/an4
    python tools/bench/live.py --config conf/read_speech/train_larm_live.yaml --streams 1 8 --chunk_frames 16
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from benching import SAMPLE_RATE_HZ, new_parser, print_header

from espnet_larm.live.config import LiveConfig
from espnet_larm.live.session import Feed, LiveRecognizer
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.streaming.stream import StreamOutputs
from espnet_larm.train.task import LarmASRTask

PIECE_S = 0.1


def main() -> None:
    """Measure, and print a table."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "--config", type=Path, default=Path("conf/an4/train_larm_live.yaml"), help="the model (default: AN4's)"
    )
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4], help="numbers of streams (default: 1 4)")
    parser.add_argument("--seconds", type=float, default=10.0, help="audio of each stream in seconds (default: 10)")
    parser.add_argument("--chunk_frames", type=int, default=8, help="encoder frames a chunk (default: 8)")
    parser.add_argument("--vocab_size", type=int, default=30, help="tokens (default: 30)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recognizer = Recognizer(build(args), " ".join)
    live = LiveRecognizer(recognizer, LiveConfig(chunk_frames=args.chunk_frames))
    measure(live, 1, 1.0)
    print(f"chunks of {args.chunk_frames} frames, algorithmic latency {live.latency_s:.3f} s")
    print_header("streams", "processor seconds a second of audio", "of all streams together")
    for streams in args.streams:
        spent = measure(live, streams, args.seconds)
        print(f"| {streams} | {spent / streams:.3f} | {spent:.3f} |")
    print_header("loop", "processor milliseconds from a whole chunk to what it says, median", "95 % within")
    for loop, times_s in measure_loops(recognizer, live, args.seconds).items():
        print(f"| {loop} | {1000 * np.median(times_s):.1f} | {1000 * np.percentile(times_s, 95):.1f} |")


def build(args: argparse.Namespace) -> torch.nn.Module:
    """The model with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.txt"
        tokens.write_text("\n".join(["<blank>", *(f"t{number}" for number in range(args.vocab_size - 2)), "<sos/eos>"]))
        options = ["--config", str(args.config), "--token_list", str(tokens), "--output_dir", folder]
        return LarmASRTask.build_model(LarmASRTask.get_parser().parse_args(options)).eval()


def measure(live: LiveRecognizer, streams: int, seconds: float) -> float:
    """Processor seconds that a second of audio of all streams takes."""
    generator = np.random.default_rng(0)
    noise = (0.1 * generator.standard_normal((streams, int(seconds * SAMPLE_RATE_HZ)))).astype(np.float32)
    sessions = [live.start() for _ in range(streams)]
    start = time.process_time()
    size = int(PIECE_S * SAMPLE_RATE_HZ)
    for pieces in np.split(noise, range(size, noise.shape[1], size), axis=1):
        live.feed([Feed(session, samples) for session, samples in zip(sessions, pieces, strict=True)])
    return (time.process_time() - start) / seconds


@torch.no_grad()
def measure_loops(recognizer: Recognizer, live: LiveRecognizer, seconds: float) -> dict[int, list[float]]:
    """By checkpoint loop, processor seconds from each whole chunk of a stream to the loop's posteriors of it."""
    model = recognizer.model
    encoder, ctc = model.encoder, model.ctc
    state = encoder.start_streams(live.context)
    found: dict[int, list[float]] = {}
    features = encoder.window.factor * live.context.chunk_frames
    generator = torch.Generator().manual_seed(0)
    frame_s = model.frontend.hop_length / SAMPLE_RATE_HZ
    for number in range(int(seconds / (features * frame_s)) + 1):
        xs = torch.randn(1, features, encoder.input_size, generator=generator)
        begin = time.process_time()

        def note(loop: int, outputs: StreamOutputs, begin: float = begin) -> None:
            ctc.log_softmax(outputs.hs_pad[loop])
            found.setdefault(loop, []).append(time.process_time() - begin)

        _, state = encoder.stream(state, xs, torch.tensor([features]), ctc, None, note)
        if number == 0:
            # It waits for the look-ahead, and warms up.
            found.clear()
    return found


if __name__ == "__main__":
    main()

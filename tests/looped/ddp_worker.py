"""One of two processes that train tiny encoders with torch's DistributedDataParallel over gloo.

    ddp_worker.py RANK STORE '{"name": {encoder options}, ...}'

Rank 0 prints a JSON line a variant: names of parameters without gradient after any step, the largest difference of the
first gradients from the mean of what one process gets of both halves, and whether the ranks end with the same bits.
"""

import copy
import json
import sys
import time
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from espnet2.asr.ctc import CTC

from espnet_larm.looped.encoder import LarmEncoder

NUM_FEATURES, SIZE, VOCAB, NUM_STEPS = 20, 16, 7, 3
SMALL = {
    "output_size": SIZE,
    "attention_heads": 2,
    "linear_units": 16,
    "num_blocks": 1,
    "num_loops": 3,
    "checkpoint_period": 2,
    "subsampling_channels": 4,
    "dropout_rate": 0.0,
}


class Model(torch.nn.Module):
    """Encoder and CTC head as ESPnet's model connects them: the mean of the losses of all checkpoint loops."""

    def __init__(self, options):
        super().__init__()
        self.encoder = LarmEncoder(NUM_FEATURES, **{**SMALL, **options})
        self.ctc = CTC(VOCAB, SIZE)
        if self.encoder.interctc_use_conditioning:
            self.encoder.conditioning_layer = torch.nn.Linear(VOCAB, SIZE)

    def forward(self, xs, lens, ys, ys_lens):
        output, hlens, _ = self.encoder(xs, lens, ctc=self.ctc)
        last, others = output if isinstance(output, tuple) else (output, [])
        losses = [self.ctc(hs, hlens, ys, ys_lens) for hs in (last, *(hs for _, hs in others))]
        return torch.stack(losses).mean()


def batch(rank, step):
    """A batch with other lengths on each rank."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    lens = torch.tensor([60 + 9 * rank, 41 + step])
    xs = torch.randn(2, int(lens.max()), NUM_FEATURES, generator=generator)
    return xs, lens, torch.randint(1, VOCAB, (2, 4), generator=generator), torch.tensor([4, 3])


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def is_without(gradient, model):
    """Whether DDP would miss it; a draw of one loop gives zeros to what loops share."""
    return gradient is None or (model.encoder.sampling is None and not gradient.any())


def mean_gradients(model):
    """Mean gradients of both ranks' first batches, in one process."""
    model = copy.deepcopy(model)
    for rank in (0, 1):
        for drawn in (model.encoder.sampling, model.encoder.contexts):
            if drawn is not None:
                # Both ranks make the first draw.
                drawn.draws[1] = 0
        (model(*batch(rank, 0)) / 2).backward()
    return gradients(model)


def train(options, rank):
    torch.manual_seed(0)
    model = Model(options)
    with torch.no_grad():
        for parameter in model.parameters():
            # Away from the start, where FiLM hides the layer before it.
            parameter.add_(0.1 * torch.randn_like(parameter))
    expected = mean_gradients(model)
    wrapped = DistributedDataParallel(model, find_unused_parameters=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    without, difference = set(), 0.0
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        wrapped(*batch(rank, step)).backward()
        without |= {name for name, gradient in gradients(model).items() if is_without(gradient, model)}
        if step == 0:
            found = gradients(model)
            difference = max(float((found[name] - expected[name]).abs().max()) for name in found)
        optimizer.step()
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    both = [torch.empty_like(flat) for _ in range(2)]
    torch.distributed.all_gather(both, flat)
    return {"without": sorted(without), "difference": difference, "same": torch.equal(*both)}


def main(rank, store, variants):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for name, options in variants.items():
        result = train(options, rank)
        if rank == 0:
            print(json.dumps({"name": name, **result}), flush=True)
    # Neither closes its connections while the other may still be reading from them.
    Path(f"{store}.done{rank}").touch()
    while not Path(f"{store}.done{1 - rank}").exists():
        time.sleep(0.01)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))

"""The local branch of an E-Branchformer layer: what it adds to a layer of an LM at speech positions.

Beside attention H_G runs a convolutional gating MLP H_L (cgMLP) on the same input; with H_C = [H_G, H_L] both are
merged into (H_C + DwConv(H_C)) W_merge.
Source: Kim et al., "E-Branchformer", SLT 2022, arXiv:2210.00077; inside an LM: Yano et al., arXiv:2604.00489.
Departures: no dropout; no bias in the merge, which would break the exact start of `depth_upscaling`.
Shapes: B rows, L positions, S those from the first speech position of any row to the last, D model size. Masks are True
where valid.
"""

import torch

from espnet_larm.llm.stream import speech_columns


class LocalBranch(torch.nn.Module):
    """cgMLP of the speech, and its merge with what attention gives.

    Convolutions see the speech of their own row alone, zeros around it: nothing of prefix, suffix, text, padding or
    other rows (test_convolutions_hear_their_own_speech_alone). They look ahead: losses are those of text positions.
    At the start the result is what attention gives, whatever cgMLP gives: W_merge = [I; 0], DwConv = 0.

    Args:
        size: D, even: cgMLP is D wide inside, of which one half gates the other.
        gate_kernel: Positions that the gate's convolution sees, odd; ESPnet's encoders have 31.
        merge_kernel: Positions that the merge's convolution sees, odd; ESPnet's encoders have 3.
    """

    def __init__(self, size: int, gate_kernel: int = 31, merge_kernel: int = 3) -> None:
        super().__init__()
        half = size // 2
        self.expand = torch.nn.Linear(size, size)
        self.gate_norm = torch.nn.LayerNorm(half)
        self.gate_conv = torch.nn.Conv1d(half, half, gate_kernel, padding=gate_kernel // 2, groups=half)
        self.project = torch.nn.Linear(half, size)
        self.merge_conv = torch.nn.Conv1d(
            2 * size, 2 * size, merge_kernel, padding=merge_kernel // 2, groups=2 * size, bias=False
        )
        self.merge = torch.nn.Linear(2 * size, size, bias=False)
        # As ESPnet begins a cgMLP: the gate is open.
        torch.nn.init.normal_(self.gate_conv.weight, std=1e-6)
        torch.nn.init.ones_(self.gate_conv.bias)  # type: ignore[arg-type]  # there is one
        torch.nn.init.zeros_(self.merge_conv.weight)
        with torch.no_grad():
            self.merge.weight.copy_(torch.eye(size, 2 * size))

    def forward(
        self,
        normed: torch.Tensor,
        attended: torch.Tensor,
        speech: torch.Tensor,
        columns: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """Merge at speech positions; others stay as attention gives them.

        Args:
            normed: What attention read (B, L, D).
            attended: What attention gives (B, L, D).
            speech: True where a position is speech (B, L), one run a row.
            columns: What `speech_columns` finds in it; None to look again.

        Returns:
            (B, L, D).
        """
        # Where nothing is speech, of one column all the same: every weight has a gradient in every batch, or training
        # with several processes would wait for it.
        start, end = speech_columns(speech) if columns is None else columns
        before, inside, behind = attended.split([start, end - start, attended.size(1) - end], dim=1)
        mask = speech[:, start:end].unsqueeze(-1)  # (B, S, 1)
        local = self._local(normed[:, start:end], mask)
        both = torch.cat([inside, local], dim=-1).masked_fill(~mask, 0.0)  # (B, S, 2D)
        merged = self.merge(both + _over_positions(self.merge_conv, both))  # (B, S, D)
        return torch.cat([before, torch.where(mask, merged, inside), behind], dim=1)

    def _local(self, normed: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The cgMLP, (B, S, D) to (B, S, D)."""
        kept, gate = torch.nn.functional.gelu(self.expand(normed)).chunk(2, dim=-1)  # (B, S, D/2)
        # Behind the norm, which makes its bias of zeros.
        gate = self.gate_norm(gate).masked_fill(~mask, 0.0)
        local: torch.Tensor = self.project(kept * _over_positions(self.gate_conv, gate))
        return local


def _over_positions(convolution: torch.nn.Conv1d, given: torch.Tensor) -> torch.Tensor:
    """(B, S, channels) to the same shape.

    In two dimensions, channels last as they lie in memory: a depthwise convolution in one dimension copies them first.
    With it, prompts of a small LM took 1.16 times their FLOPs on a CPU instead of 1.02 (tools/bench/RESULTS.md).
    """
    image = given.transpose(1, 2).unsqueeze(2)  # (B, channels, 1, S)
    convolved = torch.nn.functional.conv2d(
        image,
        convolution.weight.unsqueeze(2),
        convolution.bias,
        padding=(0, convolution.kernel_size[0] // 2),
        groups=convolution.groups,
    )
    return convolved.squeeze(2).transpose(1, 2)

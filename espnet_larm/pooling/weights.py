"""Weights of tokens in their groups' means, and what a CTC head recognises in them.

Sources: weights by the posterior of all but the blank, Guo et al., "FastLongSpeech", arXiv:2507.14815; groups of the
CTC path, of which a blank run keeps a token, after the CTC compressors of speech LLMs; weights by the change between
neighbours, which a quantiser of speech tokens has used.
Departures: a group of blanks alone has a plain mean, since its posteriors say nothing about what is to be kept.
Shapes: B utterances, F frames, T tokens, T' pooled tokens, C tokens of the CTC head, D features. Masks are True where
valid.
"""

from typing import NamedTuple

import torch

from espnet_larm.pooling.affinity import valid_mask

NONE, CTC, CHANGE = WEIGHTS = ("none", "ctc", "change")
COSINE = "cosine"
BOUNDARIES = (COSINE, CTC)


class CtcPath(NamedTuple):
    """What a CTC head recognises in each token: its greedy path. `path_of` makes it of frames.

    Attributes:
        runs: The number of the run of equal labels that a token belongs to (B, T).
        speaks: True where the path emits a token, False where it emits the blank (B, T).
        posteriors: The posterior of all but the blank (B, T), float32; 0 behind the lengths.
    """

    runs: torch.Tensor
    speaks: torch.Tensor
    posteriors: torch.Tensor

    def starts(self, lens: torch.Tensor) -> torch.Tensor:
        """Where a run begins (B, T), of utterances with so many tokens (B,)."""
        begins = torch.ones_like(self.speaks)
        begins[:, 1:] = self.runs[:, 1:] != self.runs[:, :-1]
        return begins & valid_mask(lens, self.runs.size(1))

    def weigh(self, groups: torch.Tensor) -> torch.Tensor:
        """Weights (B, T) of tokens in groups (B, T): the posteriors; 1 each in a group of blanks alone."""
        columns = _columns(groups, groups.size(1))
        has_token = _most(self.speaks.to(torch.float32), columns).gather(1, columns) > 0
        return torch.where(has_token, self.posteriors, 1.0)

    def pooled(self, groups: torch.Tensor, num_groups: int) -> "CtcPath":
        """The path of groups: each is what the most certain of its tokens is, the first of equals.

        Args:
            groups: Group of each token (B, T), -1 for none.
            num_groups: T'.
        """
        columns = _columns(groups, num_groups)
        certainty = self.posteriors + self.speaks
        is_best = certainty == _most(certainty, columns).gather(1, columns)
        # The first of the best is the one that is farthest from the end.
        from_end = torch.arange(groups.size(1), 0, -1, device=groups.device).expand_as(groups)
        best = groups.size(1) - _most(torch.where(is_best, from_end, 0), columns)[:, :num_groups]
        best = best.clamp(max=groups.size(1) - 1)
        return CtcPath(*(each.gather(1, best) for each in self))

    def first(self, number: int) -> "CtcPath":
        """The first tokens of each utterance alone."""
        return CtcPath(*(each[:, :number] for each in self))


@torch.no_grad()
def path_of(posteriors: torch.Tensor, lens: torch.Tensor, frames_a_token: int = 1) -> CtcPath:
    """The path of tokens that stand for one or more frames each, as a projector makes them.

    A token is what the frame with the most certain label in it is: CTC's labels are short and stand between blanks, so
    that an average over frames would be blank.

    Args:
        posteriors: Posteriors of the CTC head (B, F, C), the blank first.
        lens: Valid frames (B,).
        frames_a_token: k; token t stands for frames k t to k t + k - 1.

    Returns:
        A path of ceil(F / k) tokens.
    """
    valid = valid_mask(lens, posteriors.size(1))
    labels = posteriors.argmax(-1).masked_fill(~valid, 0)
    changes = torch.zeros_like(labels)
    changes[:, 1:] = labels[:, 1:] != labels[:, :-1]
    # What is not a number weighs nothing.
    certain = (1 - posteriors[..., 0].float()).nan_to_num(nan=0.0).clamp(min=0).masked_fill(~valid, 0)
    path = CtcPath(changes.cumsum(1), labels != 0, certain)
    if frames_a_token == 1:
        return path
    frames = torch.arange(posteriors.size(1), device=lens.device).expand_as(labels)
    groups = torch.where(valid, torch.div(frames, frames_a_token, rounding_mode="floor"), -1)
    return path.pooled(groups, -(-posteriors.size(1) // frames_a_token))


@torch.no_grad()
def change_weights(keys: torch.Tensor) -> torch.Tensor:
    """How far each token of (B, T, D) is from the one before it (B, T), the first one from the one behind it."""
    xs = keys.to(torch.float64).contiguous()
    changes = (xs[:, 1:] - xs[:, :-1]).square().sum(-1).sqrt()
    if not changes.size(1):
        return torch.ones(keys.shape[:2], device=keys.device)
    return torch.cat([changes[:, :1], changes], dim=1).to(torch.float32).nan_to_num(nan=0.0)


def _columns(groups: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Groups (B, T), those of no group in a column of their own behind the others."""
    return torch.where(groups >= 0, groups, num_groups)


def _most(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The greatest of the values (B, T), 0 or more, in each column (B, T' + 1); 0 in an empty one."""
    found = values.new_zeros(len(values), values.size(1) + 1)
    return found.scatter_reduce(1, columns, values, "amax")

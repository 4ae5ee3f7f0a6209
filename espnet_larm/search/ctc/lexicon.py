"""Words spelled in a CTC head's tokens: a tree of letters that all hypotheses of a beam walk at once.

Any spelling of a word counts, not one alone: tokens are walked letter by letter, so that pieces of several lengths
meet in the same nodes. What no word begins with leads to one node for all unknown words.
Shapes: N nodes, V tokens, P pairs of a node and a token that leads on from it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

ROOT, UNKNOWN = 0, 1
NO_WORD = -1
NOTHING = float("-inf")


class Spelled(NamedTuple):
    """How a token is spelled.

    Attributes:
        letters: Its letters, without any mark of a word's start.
        starts: Whether it begins a word, and so ends the one before.
    """

    letters: str
    starts: bool


class Lexicon:
    """Words as a tree of letters, and the nodes that tokens lead to.

    Args:
        words: Words, once each.
        tokens: How the CTC head's tokens are spelled; None for one without letters of a word, `<unk>` for example.
        scores: How good each word is without its context, for `best`.
        unknown: The same for unknown words; -inf rules them out.

    Attributes:
        words: The words.
        starts: Whether tokens begin a word (V,).
        word_of: Index of the word that ends at each node (N,); NO_WORD where none does.
        best: The best score among the words that go through each node (N,).
    """

    def __init__(
        self, words: Sequence[str], tokens: Sequence[Spelled | None], scores: Sequence[float], unknown: float
    ) -> None:
        self.words = list(words)
        self.num_tokens = len(tokens)
        self.starts = torch.tensor([token is not None and token.starts for token in tokens])
        tree = _Tree(self.words)
        self.word_of = tree.word_of
        self.best = torch.tensor(tree.best_below(scores, unknown), dtype=torch.float32)
        pairs = tree.pairs(tokens)
        order = np.argsort(pairs[0], kind="stable")
        # A last pair that no node has, so that there always is one to look at.
        self._keys = torch.from_numpy(np.append(pairs[0][order], np.iinfo(np.int64).max))
        self._targets = torch.from_numpy(np.append(pairs[1][order], UNKNOWN))

    def to(self, device: torch.device | str) -> "Lexicon":
        """The same on a device; itself if it is there."""
        if self.best.device == torch.device(device):
            return self
        moved = object.__new__(Lexicon)
        moved.__dict__ |= self.__dict__
        for name in ("starts", "best", "_keys", "_targets"):
            setattr(moved, name, getattr(self, name).to(device, non_blocking=True))
        return moved

    def step(self, nodes: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The nodes that tokens lead to.

        Args:
            nodes: Nodes of hypotheses.
            tokens: Token ids, of a shape that goes with that of nodes.
        """
        keys = torch.where(self.starts[tokens], ROOT, nodes) * self.num_tokens + tokens
        places = torch.searchsorted(self._keys, keys)
        return torch.where(self._keys[places] == keys, self._targets[places], UNKNOWN)


class _Tree:
    """Nodes of letters. Children come after their parents."""

    def __init__(self, words: Sequence[str]) -> None:
        children: dict[tuple[int, str], int] = {}
        self.parents = [ROOT, UNKNOWN]
        self.word_of = [NO_WORD, NO_WORD]
        for index, word in enumerate(words):
            node = ROOT
            for letter in word:
                child = children.get((node, letter))
                if child is None:
                    child = children[node, letter] = len(self.parents)
                    self.parents.append(node)
                    self.word_of.append(NO_WORD)
                node = child
            if node != ROOT:
                self.word_of[node] = index
        by_letter: dict[str, list[tuple[int, int]]] = {}
        for (node, letter), child in children.items():
            by_letter.setdefault(letter, []).append((node, child))
        # Nodes that a letter leads on from, ascending, and those that it leads to.
        self._edges = {letter: np.array(sorted(edges)).T for letter, edges in by_letter.items()}

    def best_below(self, scores: Sequence[float], unknown: float) -> list[float]:
        """The best score of the words through each node (N,)."""
        best = [NOTHING if word == NO_WORD else scores[word] for word in self.word_of]
        best[UNKNOWN] = unknown
        for node in range(len(best) - 1, UNKNOWN, -1):
            parent = self.parents[node]
            best[parent] = max(best[parent], best[node])
        best[ROOT] = max(best[ROOT], unknown)
        return best

    def pairs(self, tokens: Sequence[Spelled | None]) -> tuple[np.ndarray, np.ndarray]:
        """Keys node * V + token (P,) of all pairs that lead on, and the nodes (P,) that they lead to."""
        found: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        everywhere = np.arange(len(self.parents))
        for starts in (True, False):
            named = [(token.letters, index) for index, token in enumerate(tokens) if token and token.starts == starts]
            sources = everywhere[: UNKNOWN if starts else None]
            self._walk(named, sources, sources, len(tokens), found)
        return np.concatenate([keys for keys, _ in found]), np.concatenate([nodes for _, nodes in found])

    def _walk(
        self,
        named: list[tuple[str, int]],
        sources: np.ndarray,
        nodes: np.ndarray,
        num_tokens: int,
        found: list[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        """Follow the letters that are left of tokens, those of the same letters together."""
        further: dict[str, list[tuple[str, int]]] = {}
        for letters, token in named:
            if letters:
                further.setdefault(letters[0], []).append((letters[1:], token))
            else:
                found.append((sources * num_tokens + token, nodes))
        for letter, rest in further.items():
            if letter not in self._edges:
                continue
            froms, targets = self._edges[letter]
            places = np.searchsorted(froms, nodes).clip(max=len(froms) - 1)
            is_there = froms[places] == nodes
            if is_there.any():
                self._walk(rest, sources[is_there], targets[places[is_there]], num_tokens, found)

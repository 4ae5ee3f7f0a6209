"""One run of a study: an LM is trained on stored encoder outputs, measured at some steps, and keeps its best weights.

The loop is our own. Transformers' Trainer was tried: its checkpoints hold frozen weights and refuse ESPnet's buffers
that are not contiguous, so that private methods must be overridden, for no fewer lines.
Shapes: B utterances, T frames, E encoder size, L tokens.
"""

import argparse
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_larm.files.atomic import save_synced
from espnet_larm.recognize.model.features import pad_features
from espnet_larm.train.task import LarmASRTask
from studies.adaptation.plan import Plan, Run, Schedule
from studies.frames import Utterances

# Options that a row's decoder_conf chooses; those of the trained model are left out.
ADAPTATION = ("adaptation", "lora_conf", "depth_upscaling_conf", "num_heads", "head_type")
# Options that a row's model_conf chooses, by the beginnings of their names.
LOSSES = ("mwer_", "text_kl_")
BEGIN_WITH = ("encoder", "ctc")
CHECKPOINT, BEST = "checkpoint.pth", "best.pth"
# Batches whose utterances are sorted by length before they are cut into batches: little padding, much chance.
SORTED_TOGETHER = 8
ADAM_BETAS = (0.9, 0.98)

logger = logging.getLogger(__name__)


class Point(NamedTuple):
    """Measures of a run after some steps.

    Attributes:
        step: Step of the optimiser.
        loss: Mean of the training losses since the point before; NaN for none.
        dev_wer: Word error rate of the development set in percent, greedy, by the LM alone.
        nats: Nats per token of held-out text.
    """

    step: int
    loss: float
    dev_wer: float
    nats: float

    @property
    def rank(self) -> tuple[float, float, int]:
        """Less is better: at equal error rates, fewer nats per token of text."""
        return self.dev_wer, self.nats, self.step


def options_of(args: argparse.Namespace, plan: Plan, run: Run, text_kl_text: Path | None) -> argparse.Namespace:
    """A trained model's options with the adaptation of a row.

    Args:
        args: Options of the trained model.
        plan: The study.
        run: A run of the row.
        text_kl_text: Text for a row with `text_kl_weight`.

    Raises:
        ValueError: The row has a KL penalty, and there is no text for it; or the LM has no name.
    """
    row = plan.row(run.row)
    if not args.decoder_conf.get("llm"):
        raise ValueError("the trained model's LM has random weights (llm_config): there is no text that it could lose.")
    kept = {name: value for name, value in args.decoder_conf.items() if name not in ADAPTATION}
    losses = {name: value for name, value in (args.model_conf or {}).items() if not name.startswith(LOSSES)}
    model_conf = {**losses, **row.model_conf}
    if model_conf.get("text_kl_weight", 0) > 0:
        if text_kl_text is None:
            raise ValueError(f"rows: {row.name} has text_kl_weight; give --text_kl_text, a sentence a line.")
        model_conf["text_kl_text"] = str(text_kl_text)
    return argparse.Namespace(
        **{**vars(args), "decoder_conf": {**kept, **row.decoder_conf}, "model_conf": model_conf, "init": None}
    )


def build(
    args: argparse.Namespace, weights: Mapping[str, torch.Tensor], begin_with: Sequence[str], seed: int
) -> ESPnetASRModel:
    """A model that begins with a trained encoder and with the named LM; only its decoder learns.

    Args:
        args: Options from `options_of`.
        weights: Weights of the trained model.
        begin_with: Parts that begin with its weights, beside those of BEGIN_WITH.
        seed: Seed of all other weights.

    Raises:
        ValueError: A part has other weights in the trained model.
    """
    torch.manual_seed(seed)
    model = LarmASRTask.build_model(args)
    own = model.state_dict()
    for part in (*BEGIN_WITH, *begin_with):
        wanted = {name: value.shape for name, value in own.items() if name.startswith(f"{part}.")}
        found = {name: value for name, value in weights.items() if name.startswith(f"{part}.")}
        if part in BEGIN_WITH and not wanted and not found:
            continue
        if wanted != {name: value.shape for name, value in found.items()} or not wanted:
            raise ValueError(
                f"begin_with: {part} of the study's model has {len(wanted)} weights that are not those "
                f"{len(found)} of the trained model; leave it out, or take the trained model's options."
            )
        module = model.get_submodule(part)
        module.load_state_dict({name.removeprefix(f"{part}."): value for name, value in found.items()})
    # The encoder's outputs are stored.
    for name, parameter in model.named_parameters():
        if not name.startswith("decoder."):
            parameter.requires_grad_(False)
    return model


class Fitting:
    """A run at work.

    Args:
        model: Model from `build`, on its device.
        run: The run.
        schedule: Schedule of the study.
        train: Training set.
        tokenize: Gives the token ids of a text.
        folder: Folder for checkpoints.
    """

    def __init__(
        self,
        model: Any,
        run: Run,
        schedule: Schedule,
        train: Utterances,
        tokenize: Callable[[str], torch.Tensor],
        folder: Path,
    ) -> None:
        self.model, self.run, self.schedule, self.train, self.folder = model, run, schedule, train, folder
        self.tokens = [tokenize(text) for text in train.texts]
        self.points: list[Point] = []
        self.step = 0
        self._began, self._seconds_before = time.monotonic(), 0.0
        self.optimizer = torch.optim.AdamW(self._groups(), betas=ADAM_BETAS, weight_decay=schedule.weight_decay)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._share)

    @property
    def best(self) -> Point:
        """Best point so far."""
        return min(self.points, key=lambda point: point.rank)

    @property
    def seconds(self) -> float:
        """Seconds of work so far, with those of interrupted attempts up to their last checkpoint."""
        return self._seconds_before + time.monotonic() - self._began

    def fit(self, measure: Callable[[], tuple[float, float]]) -> None:
        """Train to the end, from the last checkpoint if there is one; the model then has its best weights.

        Args:
            measure: Gives the error rate of the development set, and nats per token of text.
        """
        self._resume()
        losses: list[float] = []
        batches = self._batches(self.step)
        while self.step < self.schedule.num_steps:
            losses.append(self._learn(next(batches)))
            if self.step in self.schedule.points:
                self.model.eval()
                self.points.append(Point(self.step, sum(losses) / len(losses), *measure()))
                losses = []
                logger.info("%s: %s", self.run.name, self.points[-1])
                self._save()
        self.model.load_state_dict(torch.load(self.folder / BEST, weights_only=True), strict=False)
        self.model.eval()

    def _groups(self) -> list[dict[str, Any]]:
        """Trained weights: those of the LM at the run's learning rate, others at the study's."""
        groups: dict[float, list[torch.nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                is_lm = name.startswith("decoder.backbone.")
                groups.setdefault(self.run.lr if is_lm else self.schedule.projector_lr, []).append(parameter)
        return [{"params": parameters, "lr": lr} for lr, parameters in groups.items()]

    def _share(self, step: int) -> float:
        """Fraction of the highest learning rate."""
        warmup, end, final = self.schedule.warmup_steps, self.schedule.num_steps, self.schedule.final_share
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 1.0 - (1.0 - final) * (step - warmup) / (end - warmup)

    def _batches(self, first: int) -> Iterator[list[int]]:
        """Indices of the utterances of each batch, from a step on; an interruption changes none."""
        step, epoch, size = 0, 0, self.schedule.batch_size
        while True:
            generator = torch.Generator().manual_seed(self.run.seed * 100_003 + epoch)
            order = torch.randperm(len(self.tokens), generator=generator)
            batches: list[list[int]] = []
            for part in order.split(size * SORTED_TOGETHER):
                ranked = sorted(part.tolist(), key=lambda index: len(self.train.frames[index]))
                batches += [ranked[start : start + size] for start in range(0, len(ranked), size)]
            for index in torch.randperm(len(batches), generator=generator).tolist():
                if step >= first:
                    yield batches[index]
                step += 1
            epoch += 1

    def _learn(self, batch: Sequence[int]) -> float:
        """Do a step; its loss."""
        device = next(self.model.decoder.parameters()).device
        self.model.train()
        hs_pad, hlens = pad_features([self.train.frames[index] for index in batch])
        tokens = [self.tokens[index] for index in batch]
        ys_pad = pad_sequence(tokens, batch_first=True, padding_value=self.model.ignore_id)
        ys_lens = torch.tensor([len(each) for each in tokens])
        loss, _ = self.model.decoder_loss(*(each.to(device) for each in (hs_pad, hlens, ys_pad, ys_lens)))
        self.optimizer.zero_grad()
        loss.backward()
        learning = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(learning, self.schedule.grad_clip)
        self.optimizer.step()
        self.scheduler.step()
        self.step += 1
        return float(loss.detach())

    def _save(self) -> None:
        """Save the best weights, then the checkpoint; a kill between them loses nothing."""
        learnt = {name: value.detach() for name, value in self.model.named_parameters() if value.requires_grad}
        part = self.folder / "part"
        part.mkdir(exist_ok=True)
        if self.best is self.points[-1]:
            save_synced(learnt, self.folder / BEST, part)
        states = {
            "step": self.step,
            "points": [tuple(point) for point in self.points],
            "learnt": learnt,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "chance": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
            "seconds": self.seconds,
        }
        save_synced(states, self.folder / CHECKPOINT, part)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return
        states = torch.load(path, weights_only=True)
        self.step, self.points = states["step"], [Point(*point) for point in states["points"]]
        self.model.load_state_dict(states["learnt"], strict=False)
        self.optimizer.load_state_dict(states["optimizer"])
        self.scheduler.load_state_dict(states["scheduler"])
        torch.set_rng_state(states["chance"][0])
        torch.cuda.set_rng_state_all(states["chance"][1:])
        self._seconds_before = states["seconds"]
        logger.info("%s: goes on from step %d", self.run.name, self.step)

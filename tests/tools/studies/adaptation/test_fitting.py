"""A run of a study: what it begins with, what learns, how it goes on."""

import math

import pytest
import torch

from espnet_larm.llm.backbone import Backbone
from studies.adaptation import fitting
from studies.adaptation.fitting import Fitting, Point, build, options_of
from studies.adaptation.plan import Plan, Row, Run, Schedule
from studies.frames import Utterances

SCHEDULE = Schedule(num_steps=6, batch_size=2, warmup_steps=1, num_points=3, projector_lr=0.01)


def plan_of(decoder_conf, model_conf=None, schedule=SCHEDULE):
    row = Row("a", "a", (0,), (0.01,), None, decoder_conf, model_conf or {})
    return Plan((), False, schedule, "a", (row,))


@pytest.fixture
def spoken():
    """Five utterances of noise with texts."""
    generator = torch.Generator().manual_seed(1)
    lens = (5, 9, 7, 4, 8)
    frames = [torch.randn(length, 16, generator=generator) for length in lens]
    return Utterances([f"u{index}" for index in range(5)], ["A B", "C", "D A", "B B C", "A"], [1.0] * 5, frames)


@pytest.fixture
def begin(build_speech_llm, spoken, tmp_path):
    """A run in a folder, and the model that it trains."""
    trained = build_speech_llm()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    weights = trained.state_dict()

    (tmp_path / "other.txt").write_text("A B C\nD\nB B A\nC A D B\n")

    def begin(folder, lr=0.01, schedule=SCHEDULE, model_conf=None, **decoder_conf):
        plan = plan_of(decoder_conf, model_conf, schedule)
        run = Run("a", lr, 0)
        args = options_of(trained.args, plan, run, tmp_path / "other.txt")
        model = build(args, weights, plan.begin_with, run.seed)
        model.args = args
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        tokens = {word: index for index, word in enumerate(model.token_list)}

        def tokenize(text):
            return torch.tensor([tokens[word] for word in text.split()])

        return Fitting(model, run, schedule, spoken, tokenize, path), weights

    return begin


def learn(made):
    """Fits, with error rates that fall."""
    made.fit(lambda: (50.0 - made.step, 1.0))
    return made


def test_a_run_begins_with_the_trained_encoder_and_the_named_lm(begin):
    made, weights = begin("run", adaptation="full")
    own = made.model.state_dict()
    same = {name for name in own if name in weights and torch.equal(own[name], weights[name])}
    assert {name for name in own if name.startswith(("encoder.", "ctc."))} <= same
    assert not any(name.startswith("decoder.projector.") for name in same)
    named = Backbone.from_pretrained(made.model.args.decoder_conf["llm"]).state_dict()
    assert all(torch.equal(value, own[f"decoder.backbone.{name}"]) for name, value in named.items())


@pytest.mark.parametrize("adaptation", ["frozen", "full", "lora", "depth_upscaling"])
def test_encoder_and_ctc_stay_and_what_the_adaptation_says_learns(begin, adaptation):
    made, _ = begin("run", adaptation=adaptation)
    before = {name: value.clone() for name, value in made.model.named_parameters()}
    learn(made)
    moved = {name for name, value in made.model.named_parameters() if not torch.equal(value, before[name])}
    wanted = {name for name, value in made.model.named_parameters() if value.requires_grad}
    assert not any(name.startswith(("encoder.", "ctc.")) for name in wanted)
    assert moved <= wanted
    assert any(name.startswith("decoder.projector.") for name in moved)
    assert any(name.startswith("decoder.backbone.") for name in moved) == (adaptation != "frozen")


def test_a_learning_rate_of_zero_moves_the_projector_alone(begin):
    made, _ = begin("run", lr=0.0, adaptation="full")
    before = {name: value.clone() for name, value in made.model.named_parameters()}
    learn(made)
    moved = {name for name, value in made.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("decoder.projector.") for name in moved)


def test_the_learning_rate_rises_and_falls_in_lines(begin):
    schedule = Schedule(num_steps=10, warmup_steps=4, num_points=1, final_share=0.5)
    made, _ = begin("run", schedule=schedule, adaptation="full")
    shares = [made._share(step) for step in range(11)]
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, *(1 - 0.5 * step / 6 for step in range(1, 7))])


def test_a_run_that_is_broken_off_ends_as_one_that_is_not(begin, monkeypatch):
    # Its lines are drawn at random.
    options = {"adaptation": "full", "model_conf": {"text_kl_weight": 1.0, "text_kl_lines": 2}}
    whole = learn(begin("whole", **options)[0])
    broken, _ = begin("broken", **options)
    learnt = Fitting._learn

    def breaks(self, batch):
        if self.step == 5:
            raise KeyboardInterrupt
        return learnt(self, batch)

    monkeypatch.setattr(fitting.Fitting, "_learn", breaks)
    with pytest.raises(KeyboardInterrupt):
        learn(broken)
    monkeypatch.undo()
    torch.manual_seed(7)
    again = learn(begin("broken", **options)[0])
    assert again.step == 6
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert [point.loss for point in again.points] == [point.loss for point in whole.points]


def test_the_model_ends_with_its_best_weights(begin):
    made, _ = begin("run", adaptation="full")
    seen = []

    def measure():
        seen.append({name: value.clone() for name, value in made.model.state_dict().items()})
        return ([50.0, 20.0, 30.0][len(seen) - 1], 1.0)

    made.fit(measure)
    assert made.best.step == 4
    for name, value in made.model.state_dict().items():
        assert torch.equal(value, seen[1][name]), name
    assert any(not torch.equal(seen[1][name], seen[2][name]) for name in seen[1])


def test_of_equal_error_rates_the_one_that_kept_more_text_is_better():
    points = [Point(1, math.nan, 30.0, 2.0), Point(2, 0.0, 30.0, 1.5), Point(3, 0.0, 31.0, 1.0)]
    assert min(points, key=lambda point: point.rank).step == 2


def test_every_utterance_is_learned_from_once_a_pass(begin):
    made, _ = begin("run", adaptation="full")
    batches = made._batches(0)
    drawn = [next(batches) for _ in range(6)]
    assert sorted(index for batch in drawn[:3] for index in batch) == list(range(5))
    assert sorted(index for batch in drawn[3:] for index in batch) == list(range(5))
    later = made._batches(4)
    assert [next(later), next(later)] == drawn[4:]


def test_a_part_that_is_another_in_the_trained_model_is_refused(build_speech_llm):
    trained = build_speech_llm()
    plan = plan_of({"projector_frames": 3})._replace(begin_with=("decoder.projector",))
    args = options_of(trained.args, plan, Run("a", 0.1, 0), None)
    with pytest.raises(ValueError, match="begin_with: decoder.projector of the study's model has 4 weights"):
        build(args, trained.state_dict(), plan.begin_with, 0)


def test_an_lm_without_a_name_is_refused(build_speech_llm):
    args = build_speech_llm().args
    args.decoder_conf = {"llm_config": {}}
    with pytest.raises(ValueError, match="there is no text that it could lose"):
        options_of(args, plan_of({}), Run("a", 0.1, 0), None)


def test_losses_of_the_trained_model_are_left_aside(build_speech_llm):
    args = build_speech_llm().args
    args.model_conf = {"ctc_weight": 0.1, "mwer_weight": 1.0, "text_kl_weight": 2.0}
    assert options_of(args, plan_of({}), Run("a", 0.1, 0), None).model_conf == {"ctc_weight": 0.1}


def test_a_kl_penalty_without_a_text_is_refused(build_speech_llm):
    plan = plan_of({"adaptation": "full"}, {"text_kl_weight": 1.0})
    with pytest.raises(ValueError, match="rows: a has text_kl_weight; give --text_kl_text"):
        options_of(build_speech_llm().args, plan, Run("a", 0.1, 0), None)

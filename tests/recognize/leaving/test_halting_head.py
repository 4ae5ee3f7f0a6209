"""The halting head: its numbers by hand, its file, and models that it is refused for."""

import json
from types import SimpleNamespace

import pytest
import torch

from espnet_larm.recognize.leaving.calibration import HEAD_FILE
from espnet_larm.recognize.leaving.halting_head import (
    FoundHead,
    HaltingHead,
    digest_of,
    find_head,
    head_of,
    pool,
    write_head,
)
from espnet_larm.recognize.leaving.rules import RULES, Seen

WEIGHT = torch.tensor([1.0, -2.0, 0.5, 0.25], dtype=torch.float64)
HEAD = HaltingHead(WEIGHT, {2: -1.0, 4: 0.5}, 0.01, "ab" * 32)
FRAMES = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [0.0, 0.0]], [[5.0, 5.0], [5.0, 5.0], [5.0, 5.0]]])


def seen(number):
    return Seen(torch.zeros(2, 3, 5), FRAMES, torch.tensor([2, 3]), 0, number)


def model(size=2, loops=(2, 4, 6)):
    encoder = SimpleNamespace(num_loops=loops[-1], allowed_loops=lambda limit: list(loops), output_size=lambda: size)
    return SimpleNamespace(encoder=encoder)


def test_frames_are_pooled_to_mean_and_deviation_of_the_valid_ones():
    assert pool(FRAMES, torch.tensor([2, 3])).tolist() == [[2.0, 4.0, 1.0, 2.0], [5.0, 5.0, 0.0, 0.0]]


def test_numbers_are_probabilities_of_one_layer_with_a_bias_for_each_loop():
    # 2 - 8 + 0.5 + 0.5 = -5, and 5 - 10 = -5.
    for number, bias in HEAD.biases.items():
        wanted = torch.sigmoid(torch.tensor([-5.0 + bias, -5.0 + bias], dtype=torch.float64))
        torch.testing.assert_close(HEAD.rule.measure([seen(number)]), wanted, rtol=1e-12, atol=0)
    # Nothing is deeper than the last loop.
    assert HEAD.rule.measure([seen(6)]).tolist() == [0.0, 0.0]


def test_an_utterance_leaves_where_the_probability_is_small():
    numbers = torch.tensor([0.1, 0.3, float("nan")])
    assert HEAD.rule.says_leave(numbers, 0.2).tolist() == [True, False, False]


def test_the_table_of_rules_alone_does_not_measure():
    with pytest.raises(TypeError, match="rule head measures by the halting head of a model"):
        RULES["head"].measure([seen(2)])


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"encoder.a": torch.ones(3), "ctc.b": torch.zeros(2, 2), "decoder.c": torch.ones(1)}, path)
    return path


def test_a_file_gives_the_head_back(weights, tmp_path):
    assert find_head(tmp_path, weights) is None
    write_head(tmp_path, HEAD, {"data": "dev"})
    head, digest = find_head(tmp_path, weights)
    assert torch.equal(head.weight, WEIGHT) and head._replace(weight=WEIGHT) == HEAD
    assert digest == digest_of(weights) and json.loads((tmp_path / HEAD_FILE).read_text())["data"] == "dev"


def test_the_digest_is_of_encoder_and_ctc_head_alone(weights, tmp_path):
    before, found = digest_of(weights), torch.load(weights, weights_only=True)
    torch.save({**found, "decoder.c": torch.zeros(1)}, tmp_path / "other.pth")
    assert digest_of(tmp_path / "other.pth") == before
    torch.save({**found, "ctc.b": torch.ones(2, 2)}, tmp_path / "other.pth")
    assert digest_of(tmp_path / "other.pth") != before


@pytest.mark.parametrize(
    "change",
    [{"weight": "luck"}, {"weight": [1, None]}, {"weight": [float("nan")]}, {"biases": [1]}, {"biases": {"x": 1}},
     {"delta": True}, {"weight": [10**400]}],
)  # fmt: skip
def test_a_damaged_file_is_refused(weights, tmp_path, change):
    write_head(tmp_path, HEAD, {})
    content = json.loads((tmp_path / HEAD_FILE).read_text())
    (tmp_path / HEAD_FILE).write_text(json.dumps({**content, **change}))
    with pytest.raises(ValueError, match="halting_head.json is no halting head: .*train-halting-head"):
        find_head(tmp_path, weights)


def test_the_models_own_head_is_taken():
    assert head_of(model(), FoundHead(HEAD, HEAD.sha256)) is HEAD


@pytest.mark.parametrize(
    ("here", "digest", "message"),
    [
        (model(loops=(3, 6)), HEAD.sha256, "checkpoint loops before the last 2, 4, of the model beside it 3"),
        (model(size=3), HEAD.sha256, "output_size 2, of the model beside it 3"),
        (model(), "cd" * 32, "SHA-256 of the encoder abababababab, of the model beside it cdcdcdcdcdcd"),
    ],
)
def test_another_models_head_is_refused(here, digest, message):
    with pytest.raises(ValueError, match=f"halting_head.json was trained on another model: {message}; run .* again"):
        head_of(here, FoundHead(HEAD, digest))


def test_a_missing_head_is_refused():
    with pytest.raises(ValueError, match="loop_rule is head, but there is no halting_head.json beside the model; run"):
        head_of(model(), None)

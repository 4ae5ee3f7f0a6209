"""`--init_param` that would change nothing is refused."""

import argparse

import pytest
import torch

from espnet_larm.speech_llm.heads import DraftHeads
from espnet_larm.train.checks.init_param import check_init_params


@pytest.fixture
def check(tmp_path):
    def check(names, suffix="", ignore=True):
        model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(2, 3), "ctc": torch.nn.Linear(3, 4)})
        torch.save({name: torch.zeros(shape) for name, shape in names.items()}, tmp_path / "model.pth")
        check_init_params(
            argparse.Namespace(init_param=[f"{tmp_path}/model.pth{suffix}"], ignore_init_mismatch=ignore), model
        )

    return check


@pytest.mark.parametrize(
    ("names", "suffix"),
    [
        ({"encoder.weight": (3, 2)}, ""),
        ({"encoder.weight": (3, 2), "other": (1,)}, ""),
        ({"encoder.weight": (3, 2)}, ":encoder:encoder"),
        ({"weight": (3, 2)}, "::encoder"),
        ({"old.weight": (3, 2), "old.bias": (3,)}, ":old:encoder:old.bias"),
    ],
)
def test_parameters_that_are_found_are_accepted(check, names, suffix):
    check(names, suffix)


@pytest.mark.parametrize(
    ("names", "suffix", "message"),
    [
        ({"module.weight": (3, 2)}, "", "names module.weight in the file; encoder.weight, .* in the model"),
        ({"encoder.weight": (3, 2)}, ":encodr:encoder", "src_key encodr: the file has encoder.weight"),
        ({"encoder.weight": (3, 2)}, ":encoder:encodr", "dst_key encodr: the model has encoder.weight"),
        ({"encoder.weight": (3, 2)}, ":encoder:encoder:encoder", "exclude_keys encoder leaves nothing"),
        ({"encoder.weight": (5, 2)}, "", r"encoder.weight is \(5, 2\) in the file and \(3, 2\) in the model"),
    ],
)
def test_what_matches_nothing_is_refused_with_names_of_both(check, names, suffix, message):
    with pytest.raises(ValueError, match=message):
        check(names, suffix)


def test_a_missing_file_is_named(tmp_path):
    args = argparse.Namespace(init_param=[f"{tmp_path}/none.pth:a:b"], ignore_init_mismatch=False)
    with pytest.raises(FileNotFoundError, match=r"--init_param: .*/none.pth is missing"):
        check_init_params(args, torch.nn.Linear(1, 1))


@pytest.mark.parametrize(("num_found", "num_wanted"), [(4, 2), (2, 4), (4, 1)])
def test_draft_heads_of_another_number_are_refused_unless_they_are_left_out(tmp_path, num_found, num_wanted):
    def decoder(num_heads):
        heads = DraftHeads("latent", num_heads, torch.nn.Linear(3, 5))
        return torch.nn.ModuleDict({"decoder": torch.nn.ModuleDict({"heads": heads, "out": torch.nn.Linear(3, 5)})})

    torch.save(decoder(num_found).state_dict(), tmp_path / "model.pth")

    def check(num_heads, suffix=""):
        args = argparse.Namespace(init_param=[f"{tmp_path}/model.pth{suffix}"], ignore_init_mismatch=False)
        check_init_params(args, decoder(num_heads))

    check(num_found)
    check(num_wanted, ":::decoder.heads")
    with pytest.raises(
        ValueError, match=f"has heads for {num_found} tokens a call, but decoder_conf: num_heads is {num_wanted}"
    ):
        check(num_wanted)


def test_other_added_layers_are_refused_unless_they_are_left_out(tmp_path):
    class Model(torch.nn.Module):
        def state_dict(self):
            return {"decoder.backbone.added.1.mlp.weight": torch.zeros(2), "ctc.weight": torch.zeros(2)}

    def check(names, suffix=""):
        torch.save({name: torch.zeros(2) for name in names}, tmp_path / "model.pth")
        entry = f"{tmp_path}/model.pth{suffix}"
        check_init_params(argparse.Namespace(init_param=[entry], ignore_init_mismatch=True), Model())

    check(["decoder.backbone.added.1.mlp.weight"])
    check(["ctc.weight"])
    other = ["decoder.backbone.added.0.mlp.weight", "ctc.weight"]
    check(other, ":::decoder.backbone.added")
    with pytest.raises(
        ValueError, match=r"checkpoint has standard behind layers 0 .*, the model standard .*layers 1 .*"
    ):
        check(other)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "model.pth").write_bytes(content)
    args = argparse.Namespace(init_param=[f"{tmp_path}/model.pth"], ignore_init_mismatch=False)
    with pytest.raises(ValueError, match=r"model.pth is truncated or damaged, or no file of torch.save"):
        check_init_params(args, torch.nn.Linear(2, 3))


@pytest.mark.parametrize(
    ("states", "kind"),
    [([], "list"), ({"module": torch.ones(1)}, "Tensor"), ({1: torch.ones(1)}, "dict")],
)
def test_what_is_no_weights_by_name_is_refused(tmp_path, states, kind):
    torch.save(states, tmp_path / "model.pth")
    args = argparse.Namespace(init_param=[f"{tmp_path}/model.pth"], ignore_init_mismatch=False)
    with pytest.raises(ValueError, match=rf"model.pth holds a {kind}; allowed: weights by name"):
        check_init_params(args, torch.nn.Linear(2, 3))


def test_weights_of_another_shape_are_refused_with_what_to_leave_out(check):
    names = {"encoder.weight": (3, 2), "encoder.bias": (3,), "ctc.weight": (9, 3), "ctc.bias": (9,)}
    with pytest.raises(ValueError, match=r"ctc.weight, ctc.bias \(ctc.weight is \(9, 3\) .*model.pth:::ctc$"):
        check(names, ignore=False)
    check(names, ignore=True)
    check(names, ":::ctc", ignore=False)


def test_another_checkpoint_period_names_the_clock(tmp_path):
    from espnet_larm.looped.encoder import LarmEncoder

    def encoder(period):
        sizes = {"output_size": 8, "attention_heads": 2, "linear_units": 8, "num_blocks": 1, "subsampling_channels": 2}
        return torch.nn.ModuleDict({"encoder": LarmEncoder(80, **sizes, num_loops=6, checkpoint_period=period)})

    torch.save(encoder(2).state_dict(), tmp_path / "model.pth")
    entry = f"{tmp_path}/model.pth"
    with pytest.raises(ValueError, match=r"model.pth:::encoder.clock$"):
        check_init_params(argparse.Namespace(init_param=[entry], ignore_init_mismatch=False), encoder(3))
    left_out = [f"{entry}:::encoder.clock"]
    check_init_params(argparse.Namespace(init_param=left_out, ignore_init_mismatch=False), encoder(3))

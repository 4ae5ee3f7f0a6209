"""Naming the LM of a model anew, and what a pack may say of it."""

import pytest

from espnet_larm.pack.llm import check_inside, check_llm, make_llm_portable, name_llm
from espnet_larm.pack.named import NamedModel

CONFIG = {"decoder": "speech_llm", "decoder_conf": {"llm": "/gone/lm", "revision": None}, "token_type": "char"}
TOKENIZER = {"tokenizer/tokenizer.json", "tokenizer/config.json"}


def test_a_hub_id_stays_with_its_revision_and_another_has_none():
    config = {**CONFIG, "decoder_conf": {"llm": "org/lm", "revision": "r1"}}
    for llm in (None, "org/lm"):
        name_llm(config, llm, ())
        assert config["decoder_conf"] == {"llm": "org/lm", "revision": "r1"}
    name_llm(config, "org/other", ())
    assert config["decoder_conf"] == {"llm": "org/other", "revision": None}


def test_a_folder_is_found_beside_the_configuration_and_named_in_full(tmp_path):
    (tmp_path / "lm").mkdir()
    config = {**CONFIG, "decoder_conf": {"llm": "./lm"}, "token_type": "hugging_face", "bpemodel": "./lm"}
    name_llm(config, None, (tmp_path,))
    assert config["decoder_conf"]["llm"] == config["bpemodel"] == str(tmp_path / "lm")


def test_an_lm_that_is_not_there_is_named_with_the_option():
    with pytest.raises(FileNotFoundError, match=r"needs the LM /gone/lm, .* with --llm \(llm= in Python\)"):
        name_llm(dict(CONFIG), None, ())
    with pytest.raises(FileNotFoundError, match="needs the LM lm .SHA-256 of its weights 00ff"):
        name_llm(dict(CONFIG), None, (), NamedModel("llm", "./lm", "", "00ff"))
    with pytest.raises(FileNotFoundError, match="--llm ../gone is no folder that is there, and no hub id"):
        name_llm(dict(CONFIG), "../gone", ())


def test_an_lm_for_a_model_that_needs_none_is_refused():
    with pytest.raises(ValueError, match="the model has no LM; leave --llm"):
        name_llm({"decoder": None}, "x", ())
    with pytest.raises(ValueError, match="holds all weights of its LM; leave --llm"):
        name_llm({"decoder": "speech_llm", "decoder_conf": {"llm_config": {"model_type": "llama"}}}, "x", ())


def test_two_tokenizers_are_refused(tmp_path):
    config = {**CONFIG, "token_type": "hugging_face", "bpemodel": "/other"}
    with pytest.raises(ValueError, match="bpemodel is /other, but the LM's tokenizer /gone/lm; a pack holds one"):
        make_llm_portable(config, None)


@pytest.mark.parametrize("llm", ["org/lm", "lm", "./lm-3.1", None])
def test_names_that_stay_inside_are_accepted(llm):
    check_inside({**CONFIG, "decoder_conf": {"llm": llm, "tokenizer": "tokenizer"}}, TOKENIZER)


@pytest.mark.parametrize("llm", ["", ".", "./..", "../lm", "a/../b", "/lm", "~/lm", "a/b/c", "./a/b", "lm\n", "a\\b"])
def test_names_that_reach_out_are_refused(llm):
    with pytest.raises(ValueError, match="allowed in a pack: a hub id, or ./ and the name of a folder"):
        check_inside({**CONFIG, "decoder_conf": {"llm": llm, "tokenizer": "tokenizer"}}, TOKENIZER)


def test_options_of_code_are_found_at_any_depth():
    conf = {"llm_config": {"model_type": "llama", "text_config": [{"_attn_implementation": "some/kernel"}]}}
    with pytest.raises(ValueError, match="llm_config: _attn_implementation cannot be in a pack"):
        check_llm({**CONFIG, "decoder_conf": conf})
    check_llm({**CONFIG, "decoder_conf": {"llm_config": {"auto_map": None}, "lora_conf": {"r": 2}}})
    check_llm({"decoder": None})

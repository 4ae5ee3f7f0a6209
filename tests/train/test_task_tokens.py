"""Tokens that two options name."""

import shutil

import pytest

TOKENS = ["<blank>", "<unk>", "a", "b", "<space>", "<sos/eos>"]


@pytest.fixture
def write(tmp_path):
    def write(name, tokens=TOKENS):
        (tmp_path / name).write_text("".join(f"{token}\n" for token in tokens))
        return {"ctc_token_list": str(tmp_path / name)}

    return write


def test_lists_of_one_size_with_other_tokens_are_refused(build_speech_llm, write):
    head, texts = write("head.txt"), write("texts.txt", [*TOKENS[:2], "b", "a", *TOKENS[4:]])
    with pytest.raises(ValueError, match=r"list is .*head.txt, but preprocessor_conf: .*texts.txt, which holds other"):
        build_speech_llm(model_conf=head, preprocessor="speech_llm", preprocessor_conf=texts)
    build_speech_llm(model_conf=head, preprocessor="speech_llm", preprocessor_conf=write("copy.txt"))


@pytest.fixture
def optimise(build_speech_llm, larm_task):
    """What training does with a model before its first step."""

    def optimise(**changes):
        model = build_speech_llm(token_type="hugging_face", **changes)
        larm_task.build_optimizers(model.args, model)

    return optimise


def test_another_tokenizer_for_the_texts_than_the_decoders_is_refused(optimise, save_lm, tmp_path):
    other = save_lm(tmp_path / "other", ["<unk>", "<s>", "</s>", "B", "A", "C", "D"])
    with pytest.raises(ValueError, match="bpemodel is .*/other, .* its tokens are not those of the decoder"):
        optimise(bpemodel=other)
    shutil.copytree(tmp_path / "llm", tmp_path / "copy")
    optimise(bpemodel=str(tmp_path / "copy"))


def test_a_revision_whose_tokens_are_not_the_newest_is_refused(optimise, save_lm, tmp_path, monkeypatch):
    from espnet_larm.llm import backbone

    llm, loaded = str(tmp_path / "llm"), backbone.load_tokenizer
    optimise(bpemodel=llm, decoder_conf={"revision": "r1"})
    newest = loaded(save_lm(tmp_path / "newest", ["<unk>", "<s>", "</s>", "B", "A", "C", "D"]))
    monkeypatch.setattr(backbone, "load_tokenizer", lambda *_: newest)
    with pytest.raises(ValueError, match="/llm, revision r1, tokenizer None.. Put the one that is meant into a folder"):
        optimise(bpemodel=llm, decoder_conf={"revision": "r1"})
    # Without a revision both are the newest.
    optimise(bpemodel=llm)

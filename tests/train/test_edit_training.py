"""Trainings of an LM that edits: drafts of the data, texts without speech, and the tokens that edits choose among."""

import itertools
import re

import numpy as np
import pytest
import torch
import yaml

from espnet_larm.recipe.drafts.shards import Drafted, Shards

WORDS = ["<unk>", "<s>", "</s>", *("".join(letters) for letters in itertools.product("ABC", repeat=3))]
TEXTS = (("text", "text", "text"), ("drafts", "draft", "text"))


@pytest.fixture
def llm(save_lm, tmp_path):
    """A tiny LM whose head is its embeddings, and the list of its tokens."""
    (tmp_path / "tokens.txt").write_text("".join(f"{word}\n" for word in WORDS))
    return save_lm(tmp_path / "llm", WORDS, tie_word_embeddings=True, max_position_embeddings=128)


@pytest.fixture
def options(llm, tmp_path):
    """Options of trainings.run."""

    def make(**editing):
        words = ["--decoder", "speech_llm", "--model", "speech_llm", "--token_list", str(tmp_path / "tokens.txt")]
        words += ["--token_type", "hugging_face", "--bpemodel", llm, "--max_epoch", "1"]
        confs = [f"llm={llm}", "projector_frames=2", "adaptation=lora", "lora_conf={r: 2}"]
        words += [word for conf in confs for word in ("--decoder_conf", conf)]
        words += ["--decoder_conf", f"editing={yaml.safe_dump(editing, default_flow_style=True).strip()}"]
        for conf in ("ctc_weight=0.3", "edit_weight=1.0", "edit_only=true"):
            words += ["--model_conf", conf]
        return words

    return make


@pytest.fixture
def drafts(trainings):
    """Files of drafts beside the texts of the data, of which one is empty."""
    random = np.random.default_rng(1)
    for name in ("train", "valid"):
        texts = (trainings.folder / name / "text").read_text().split()[::2]
        lines = [f"{key} {' '.join(random.choice(WORDS[3:], number % 3))}\n" for number, key in enumerate(texts)]
        (trainings.folder / name / "drafts").write_text("".join(lines))


def figures(trainings, folder):
    told = re.search(r"epoch results: \[train\] (.*), \[valid\] (.*)", trainings.log(folder))
    assert told, trainings.log(folder)
    return [dict(re.findall(r"(\w+)=([-+.\de]+)", part)) for part in told.groups()]


@pytest.mark.slow
def test_drafts_are_the_datas_or_the_ctc_heads(trainings, options, drafts, tmp_path):
    given, made = tmp_path / "given", tmp_path / "made"
    speech = (("wav.scp", "speech", "sound"), *TEXTS)
    assert trainings.run(given, *options(), data=speech) == 0, trainings.log(given)
    assert trainings.run(made, *options()) == 0, trainings.log(made)
    for folder in (given, made):
        for part in figures(trainings, folder):
            assert {"loss_edit", "loss_copy", "wer_draft", "wer_edit", "edit_widened", "edit_unknown"} <= part.keys()
    # Of drafts of 0, 1 and 2 words for texts of one, nearly all of another word; the CTC head knows nothing.
    assert 1.0 < float(figures(trainings, given)[0]["wer_draft"]) < 1.8
    assert figures(trainings, given)[0]["wer_draft"] != figures(trainings, made)[0]["wer_draft"]


@pytest.mark.slow
def test_an_editor_of_texts_learns_without_speech_and_edits_what_the_ctc_head_recognises(
    trainings, options, drafts, tmp_path
):
    from espnet_larm.recognize.packs import load

    folder = tmp_path / "exp"
    words = [*options(text_only=True), "--freeze_param", "encoder", "ctc"]
    assert trainings.run(folder, *words, data=TEXTS) == 0, trainings.log(folder)
    assert "loss_ctc" not in figures(trainings, folder)[0]
    recognizer = load(folder)
    assert recognizer.plan().llm.edit_passes == 1
    assert recognizer.transcribe_file(str(trainings.folder / "train/u9.wav")).best.score < 0
    refused = tmp_path / "refused"
    assert trainings.run(refused, *options(), data=TEXTS) != 0
    assert "the data have no speech; without, an LM learns only to edit text" in trainings.log(refused)


@pytest.mark.slow
def test_two_processes_read_each_pair_of_all_shards_once_an_epoch(trainings, options, drafts, tmp_path):
    shards, random = Shards(tmp_path / "shards", 3, {}), np.random.default_rng(2)
    words = [[f"p{number}", *random.choice(WORDS[3:], 2)] for number in range(16)]
    # The last shard has one batch of five pairs, since a sixth pair alone could not be shared.
    for number, some in enumerate((words[:4], words[4:10], words[10:])):
        shards.write(number, [Drafted(*each) for each in some])
    shards.finish()
    folder = tmp_path / "run"
    given = ["--multiple_iterator", "true", "--batch_type", "length", "--batch_bins", "13", "--accum_grad", "1"]
    given += ["--valid_batch_type", "unsorted"]
    for name in ("text", "draft"):
        given += ["--train_data_path_and_name_and_type", f"{shards.folder}/{name},{name},text"]
    given += ["--train_shape_file", f"{shards.folder}/shape", "--freeze_param", "encoder", "ctc", "decoder.projector"]
    status = trainings.run(
        folder, *options(text_only=True), *given, data=TEXTS, train_data=(), num_processes=2, records=True
    )
    assert status == 0, trainings.log(folder)
    one, other = (list(itertools.chain(*trainings.read(folder, rank))) for rank in (0, 1))
    assert sorted(one + other) == sorted(each[0] for each in words)


@pytest.fixture
def optimise(build_speech_llm, larm_task, llm, tmp_path, monkeypatch):
    """What training does with a model before its first step, where an LM of 30 tokens is a large one."""
    from espnet_larm.train.checks import edit_tokens

    monkeypatch.setattr(edit_tokens, "MOST_TOKENS", 29)
    (tmp_path / "text").write_text("u1 AAA BBB\nu2 CCC AAA\n")
    (tmp_path / "dev").write_text("v1 AAA BBC\nv2 CCC\nv3\n")

    def optimise(resume=True, **editing):
        model = build_speech_llm(
            words=WORDS,
            token_type="hugging_face",
            bpemodel=llm,
            decoder_conf={"llm": llm, "editing": editing, "adaptation": "lora", "lora_conf": {"r": 2}},
            model_conf={"edit_weight": 1.0},
        )
        model.args.resume = resume
        model.args.train_data_path_and_name_and_type = [(str(tmp_path / "text"), "text", "text")]
        model.args.valid_data_path_and_name_and_type = [(str(tmp_path / "dev"), "text", "text")]
        larm_task.build_optimizers(model.args, model)
        return model

    return optimise


def test_a_large_vocabulary_is_that_of_the_training_text_whose_file_stays_with_the_experiment(
    optimise, tmp_path, caplog
):
    caplog.set_level("INFO")
    model, path = optimise(), tmp_path / "edit_tokens.txt"
    wanted = [WORDS.index("</s>"), *sorted(WORDS.index(word) for word in ("AAA", "BBB", "CCC"))]
    assert model.decoder.editor.token_ids.tolist() == wanted
    assert [line.split()[0] for line in path.read_text().splitlines()] == [str(number) for number in wanted[1:]]
    assert model.args.decoder_conf["editing"] == {"tokens": str(path)}
    assert "Edits choose among 4 of the LM's 30 tokens" in caplog.text and "which has 66.67 % of the" in caplog.text
    (tmp_path / "text").write_text("u1 ABC\n")
    assert optimise().decoder.editor.token_ids.tolist() == wanted
    assert optimise(resume=False).decoder.editor.token_ids.tolist() == [2, WORDS.index("ABC")]


def test_a_file_that_the_yaml_names_stays_and_is_packed(optimise, tmp_path):
    from espnet_larm.pack.options import make_portable

    (tmp_path / "own.txt").write_text("5\n9\n")
    model = optimise(tokens=str(tmp_path / "own.txt"))
    assert model.decoder.editor.token_ids.tolist() == [2, 5, 9] and not (tmp_path / "edit_tokens.txt").exists()
    config, files = make_portable(vars(model.args), tmp_path)
    assert config["decoder_conf"]["editing"]["tokens"] == "own.txt" and files["own.txt"] == tmp_path / "own.txt"
    state = model.state_dict()
    assert not any("token_ids" in name for name in state) and torch.is_tensor(state["ctc.ctc_lo.weight"])


def test_data_without_a_text_are_refused(optimise, tmp_path):
    (tmp_path / "text").write_text("")
    with pytest.raises(ValueError, match="tokens is not given, and the training data hold no `text`"):
        optimise()


@pytest.mark.slow
def test_shards_are_read_one_after_the_other_and_a_killed_training_goes_on_among_them(
    trainings, options, drafts, tmp_path
):
    """Drafts that simulate-drafts has written, in training; the development set's are files as ever."""
    from espnet_larm.recipe.drafts.shards import DRAFT, PARTS, SHAPE, TEXT, Drafted, Shards

    shards = Shards(tmp_path / "shards", 3, {})
    random = np.random.default_rng(0)
    shards.make(
        lambda number: [
            Drafted(f"{number}-{row}", *(" ".join(random.choice(WORDS[3:], 2)) for _ in range(2))) for row in range(4)
        ]
    )
    words = [*options(text_only=True), "--freeze_param", "encoder", "ctc", "--multiple_iterator", "true"]
    words += ["--train_shape_file", str(shards.folder / SHAPE), "--max_epoch", "2", "--accum_grad", "1"]
    for part in (TEXT, DRAFT):
        words += ["--train_data_path_and_name_and_type", f"{shards.folder / part},{part},text"]
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    assert PARTS == (TEXT, DRAFT, SHAPE)
    assert trainings.run(plain, *words, data=TEXTS, train_data=()) == 0, trainings.log(plain)
    assert "Building 2th iter-factory" in trainings.log(plain)
    # 6 batches and steps an epoch, 2 of each shard: the signal comes in the second epoch's second shard.
    fault = {"at": "step", "nth": 9, "do": "term"}
    assert trainings.run(killed, *words, data=TEXTS, train_data=(), fault=fault) == 75, trainings.log(killed)
    assert trainings.run(killed, *words, data=TEXTS, train_data=()) == 0, trainings.log(killed)
    assert "The epoch goes on after" in trainings.log(killed)
    assert trainings.outcome(killed) == trainings.outcome(plain)

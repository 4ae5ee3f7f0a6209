"""`search: edit`: CTC hypotheses that an LM edits, in batches, with times of words and with its calls counted."""

import json
import math
from dataclasses import replace

import pytest
import torch
import yaml

from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.llm_search import EditCandidate, best_edits
from espnet_larm.recognize.output.effort import describe_search
from espnet_larm.speech_llm.editing.editor import edit

EDIT = DecodeConfig(search="edit")
LETTERS = ["<unk>", "<s>", "</s>", *"ABCDEFGH", "AB", "CD"]


@pytest.fixture
def save(build_speech_llm, save_lm, tmp_path):
    """Saves a model that edits, its CTC head having characters; gives its files."""
    tokens = ["<blank>", "<unk>", "<space>", *"ABCDEFGH", "<sos/eos>"]
    (tmp_path / "ctc.txt").write_text("".join(f"{token}\n" for token in tokens))
    own = {"ctc_token_list": str(tmp_path / "ctc.txt")}
    llm = save_lm(tmp_path / "tied", LETTERS, tie_word_embeddings=True, max_position_embeddings=512)

    def save(edit_only=False, has_own_tokens=True, **decoder_conf):
        lora = {"adaptation": "lora", "lora_conf": {"r": 2}, "editing": {}}
        given = own if has_own_tokens else {}
        model = build_speech_llm(
            words=LETTERS,
            decoder_conf={"llm": llm, "projector_frames": 1, **lora, **decoder_conf},
            model_conf={**given, "edit_weight": 1.0 if edit_only else 0.0, "edit_only": edit_only},
            preprocessor="speech_llm",
            preprocessor_conf={**given, "ctc_token_type": "char"},
        )
        with torch.no_grad():
            # Frames that are all alike would give one text.
            for each in model.encoder.parameters():
                each.add_(torch.randn_like(each) * 0.1)
            model.decoder.projector.out.weight.mul_(20)
            torch.nn.init.normal_(model.ctc.ctc_lo.weight, std=3.0)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
        torch.save(model.state_dict(), tmp_path / "model.pth")
        return tmp_path / "config.yaml", tmp_path / "model.pth"

    return save


@pytest.fixture
def load(save):
    from espnet_larm.recognize.recognizer import Recognizer

    return lambda *given, **conf: Recognizer.from_files(*save(*given, **conf))


@pytest.fixture
def waveforms():
    return [torch.randn(length).numpy() for length in (16000, 9000, 24000)]


@pytest.mark.parametrize("pooling", [None, {"input": {"method": "stride", "retention": 0.5}}])
def test_a_batch_is_edited_in_a_call_a_pass_as_each_utterance_alone(load, waveforms, pooling):
    recognizer = load(has_own_tokens=False, pooling=pooling)
    by_ctc = recognizer.recognize(waveforms, DecodeConfig(ctc_weight=1.0))
    for passes in (1, 3):
        config = replace(EDIT, edit_passes=passes)
        together, cost = recognizer.decode(waveforms, config)
        assert (cost.effort.num_calls, cost.effort.num_row_calls) == (passes, 3 * passes)
        assert cost.effort.num_tokens == sum(len(one.best.token_ids) + 1 for one in together)
        assert len({one.text for one in together}) > 1
        assert [one.text for one in together] != [one.text for one in by_ctc]
        for waveform, one in zip(waveforms, together, strict=True):
            (alone,) = recognizer.recognize([waveform], config)
            assert alone.text == one.text and alone.best.token_ids == one.best.token_ids
            assert alone.best.score == pytest.approx(one.best.score, abs=1e-3)


@pytest.mark.parametrize("has_own_tokens", [False, True])
def test_drafts_of_training_are_those_of_decoding(load, waveforms, has_own_tokens):
    """The same CTC hypotheses in the LM's tokens, made by the model and by the recogniser."""
    recognizer = load(has_own_tokens=has_own_tokens)
    model, llm = recognizer.model, recognizer.heads.llm
    with torch.no_grad():
        for waveform in waveforms:
            output, lens = model.encode(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
            drafts = model._drafts(output[0], lens)
            assert drafts == llm.ctc_tokens(output[0], lens) and drafts[0]


@pytest.mark.parametrize(("has_own_tokens", "weight"), [(False, 0.4), (True, 0.4), (True, 0.0), (True, 0.9999)])
def test_the_choice_among_edits_and_ctc_hypotheses_adds_both_scores_in_a_batch_as_alone(
    load, waveforms, has_own_tokens, weight
):
    recognizer = load(has_own_tokens=has_own_tokens)
    config = replace(EDIT, beam_size=4, nbest=3, ctc_weight=weight)
    plan, llm, model = recognizer.plan(config), recognizer.heads.llm, recognizer.model
    for waveform, one in zip(waveforms, recognizer.recognize(waveforms, plan), strict=True):
        (alone,) = recognizer.recognize([waveform], plan)
        best = [one.best, *one.others]
        assert [each.token_ids for each in (alone.best, *alone.others)] == [each.token_ids for each in best]
        assert 1 < len(best) <= 3 and len({*map(tuple, (each.token_ids for each in best))}) == len(best)
        with torch.no_grad():
            output, lens = model.encode(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
            edited = edit(model.decoder, (output[0], lens), llm.ctc_tokens(output[0], lens))
            (row,) = llm.edit_candidates(edited, output[0], lens, plan.llm)
            by_ctc = recognizer.heads.ctc.log_probs(output[0])[0]
            by_editor = model.decoder.backbone.logits(edited.hidden)[0].log_softmax(-1)
        for each in row:
            spelled = list(llm.spell(each.token_ids, is_complete=True).sure)
            for found, log_probs, tokens, blank in (
                (each.by_ctc if weight else None, by_ctc, spelled, 0),
                (each.by_editor, by_editor, each.token_ids, model.eos),
            ):
                sizes = torch.tensor([len(log_probs)]), torch.tensor([len(tokens)])
                loss = torch.nn.functional.ctc_loss(
                    log_probs.unsqueeze(1), torch.tensor([tokens or [1]]), *sizes, blank, reduction="sum"
                )
                assert found is None or found == pytest.approx(-float(loss), abs=1e-3)
        scores = ((1 - weight) * each.by_editor + weight * each.by_ctc for each in row)
        ranked = sorted((score for score in scores if math.isfinite(score)), reverse=True)
        assert [each.score for each in best] == pytest.approx(ranked[: len(best)], abs=1e-3)


def test_texts_that_a_score_rules_out_come_last():
    impossible, possible = EditCandidate([1], -math.inf, -1.0), EditCandidate([2], -5.0, -9.0)
    better = EditCandidate([3], -6.0, -2.0)
    assert best_edits([impossible, possible, better], 0.0) == [possible, better]
    assert best_edits([impossible, possible, better], 0.5) == [better, possible]
    assert best_edits([impossible], 0.5) == [impossible]
    # What has no weight has no say.
    assert EditCandidate([1], -1.0, -math.inf).score(0.0) == -1.0


def test_the_weight_with_the_fewest_errors_of_a_development_set_is_chosen(save, tiny_experiment, tmp_path, capsys):
    from espnet_larm.cli.calibrate import edits

    config, model = save()
    words = ["--asr_train_config", str(config), "--asr_model_file", str(model), "--beam_size", "3"]
    words += ["--data_dir", str(tiny_experiment.data), "--device", "cpu", "--weights", "0", "0.5", "0.9"]
    assert edits.main(words) == 0
    rows = json.loads((tmp_path / "edit_calibration.json").read_text())
    assert [row["ctc_weight"] for row in rows] == [None, 0.0, 0.5, 0.9, None]
    (chosen,) = (row for row in rows if row["is_chosen"])
    assert chosen["wer_percent"] == min(row["wer_percent"] for row in rows[1:-1]) >= rows[-1]["wer_percent"]
    options = yaml.safe_load((tmp_path / "decode_edit.yaml").read_text())
    assert options == {"search": "edit", "beam_size": 3, "ctc_weight": chosen["ctc_weight"]}
    assert "decode_edit.yaml" in capsys.readouterr().out
    DecodeConfig(**options)


def test_drafts_of_a_file_are_edited_as_those_of_speech(save, waveforms, tmp_path, capsys):
    from espnet_larm.recipe.drafts import edit_text
    from espnet_larm.recognize.recognizer import Recognizer

    config, model = save(editing={"text_only": True})
    recognizer = Recognizer.from_files(config, model)
    by_ctc = recognizer.recognize(waveforms, DecodeConfig(ctc_weight=1.0))
    expected = [one.text for one in recognizer.recognize(waveforms, EDIT)]
    lines = [f"u{number} {one.text}\n" for number, one in enumerate(by_ctc)]
    (tmp_path / "drafts").write_text("".join(lines))
    words = ["--asr_train_config", str(config), "--asr_model_file", str(model), "--drafts", str(tmp_path / "drafts")]
    assert edit_text.main([*words, "--outpath", str(tmp_path / "edited"), "--batch_size", "2"]) == 0
    assert (tmp_path / "edited").read_text().splitlines() == [f"u{each} {expected[each]}".rstrip() for each in range(3)]
    assert "3 drafts, " in capsys.readouterr().out
    config, model = save()
    with pytest.raises(ValueError, match="does not edit text alone; train a model with"):
        edit_text.main([*words, "--outpath", str(tmp_path / "edited")])


def test_words_have_times_from_the_ctc_head(load, waveforms):
    recognizer = load()
    plain = recognizer.recognize(waveforms, EDIT)
    timed = recognizer.recognize(waveforms, replace(EDIT, with_words=True))
    assert [one.text for one in timed] == [one.text for one in plain] and any(one.text for one in plain)
    for one, waveform in zip(timed, waveforms, strict=True):
        assert [word.text for word in one.best.words] == one.text.split()
        times = [time for word in one.best.words for time in (word.start_s, word.end_s)]
        assert times == sorted(times) and all(0 <= time <= len(waveform) / 16000 for time in times)


def test_a_model_that_learned_nothing_else_edits_by_default(load, waveforms):
    recognizer = load(edit_only=True)
    assert recognizer.recognize(waveforms) == recognizer.recognize(waveforms, EDIT)
    written = recognizer.decode(waveforms, DecodeConfig(search="autoregressive")).cost
    assert written.effort.num_calls > 1
    assert load().plan().llm.edit_passes == 0


def test_without_speech_an_utterance_is_its_draft(load, waveforms):
    recognizer = load(editing={"text_only": True})
    (found,), cost = recognizer.decode(waveforms[:1], EDIT)
    assert found.text and cost.effort.prompts.positions == {"unpooled": 1}
    with pytest.raises(ValueError, match="pooling is given, but the model edits without speech"):
        recognizer.plan(replace(EDIT, pooling={"input": {"tau": 0.9}}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drafts": "ctc"}, "drafts is ctc: an option of search token by token"),
        ({"max_tokens_per_second": 9.0}, "max_tokens_per_second is 9.0: an option of search token by token"),
        ({"ngram_file": "4.arpa"}, "ngram_file is 4.arpa: an option of search token by token, but search is edit"),
        ({"ctc_weight": 1.0}, "search is edit: an option of an LM's search, but this model is decoded by CTC alone"),
        ({"search": None, "edit_passes": 2}, "edit_passes is 2, but search is autoregressive; leave it out"),
    ],
)
def test_options_that_mean_nothing_beside_it_are_refused(load, options, message):
    with pytest.raises(ValueError, match=message):
        load().plan(replace(EDIT, **options))
    with pytest.raises(ValueError, match=r"edit_passes is 4; allowed: 1 to 3"):
        DecodeConfig(search="edit", edit_passes=4)


def test_a_model_that_does_not_edit_says_so(load):
    with pytest.raises(ValueError, match="search is edit, but the model does not edit; train one"):
        load(editing=None).plan(EDIT)


def test_the_program_says_what_it_did(save, tiny_experiment, tmp_path, capsys):
    from espnet_larm.cli import decode

    config, model = save()
    words = [f"--data_path_and_name_and_type={tiny_experiment.data}/wav.scp,speech,sound"]
    words += ["--asr_train_config", str(config), "--asr_model_file", str(model), "--output_dir", str(tmp_path / "out")]
    assert decode.main([*words, "--search", "edit", "--edit_passes", "2", "--write_ctm", "true"]) == 0
    stats = json.loads((tmp_path / "out/stats.json").read_text())
    assert stats["search"]["edit_passes"] == 2 and stats["row_calls"] == 2 * stats["num_utts"] == 14
    assert stats["decoder_calls"] % 2 == 0 and stats["tokens_per_row_call"] > 1
    assert "edited CTC hypotheses, calls for each: 2" in describe_search(stats)
    assert describe_search(stats) in capsys.readouterr().out
    assert (tmp_path / "out/1best_recog/text").read_text() and list((tmp_path / "out").rglob("ctm"))

"""Recognisers of transformers: tiny random CTC models, and the Whisper that a user may have."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import espnet_larm
from espnet_larm.recognize.config import DecodeConfig

RATE = 16000
WHISPER = Path.home() / ".cache/speech-models/whisper-tiny.en"
LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGH"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CONVOLUTIONS = {
    "conv_dim": (16, 16), "conv_kernel": (10, 8), "conv_stride": (20, 16), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


def save_ctc(folder, kind):
    """A random model of a family of wav2vec2's, with its processor, whose outputs vary with the audio."""
    import transformers

    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(LETTERS)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(folder / "vocab.json")
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(LETTERS), pad_token_id=0, **SMALL, **CONVOLUTIONS)
    model = getattr(transformers, f"{kind}ForCTC")(config)
    torch.nn.init.normal_(model.lm_head.weight, std=3.0)
    # Spaces and blanks as often as letters, and no other special token.
    model.lm_head.bias.data[[0, 4]] += 8.0
    model.lm_head.bias.data[1:4] -= 100.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def noise():
    generator = np.random.default_rng(0)
    loudness = np.repeat(generator.uniform(0, 0.3, 60), 800)
    return (loudness * generator.standard_normal(48000).clip(-3, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "WavLM"])
def test_a_ctc_model_says_what_its_own_tokenizer_says(tmp_path, noise, kind):
    import transformers

    folder = save_ctc(tmp_path / "model", kind)
    found = espnet_larm.load(folder).transcribe(noise, RATE, vad=False)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForCTC.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**processor(noise, sampling_rate=RATE, return_tensors="pt")).logits
    wanted = processor.tokenizer.decode(logits[0].argmax(-1), output_word_offsets=True)
    words = [word for segment in found.segments for word in segment.words]
    assert len(words) > 2 and [word.text for word in words] == [each["word"] for each in wanted["word_offsets"]]
    assert found.text == " ".join(wanted.text.split())
    hop_s = len(noise) / RATE / logits.shape[1]
    starts = [each["start_offset"] * hop_s for each in wanted["word_offsets"]]
    np.testing.assert_allclose([word.start_s for word in words], starts, atol=hop_s)
    assert all(0 < word.confidence <= 1 for word in words)


def save_parakeet(folder):
    """A random Parakeet, whose tokens are pieces of sentencepiece's kind."""
    import tokenizers
    import transformers

    pieces = ["<unk>", *"abcdef", *(f"\u2581{letter}" for letter in "abcdef"), "<pad>"]
    ids = {piece: index for index, piece in enumerate(pieces)}
    core = tokenizers.Tokenizer(tokenizers.models.BPE(ids, [], unk_token="<unk>"))
    core.decoder = tokenizers.decoders.Metaspace()
    tokenizer = transformers.ParakeetTokenizer(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>")
    transformers.ParakeetProcessor(transformers.ParakeetFeatureExtractor(), tokenizer).save_pretrained(folder)
    encoder = {**SMALL, "num_mel_bins": 80, "subsampling_conv_channels": 8}
    config = transformers.ParakeetCTCConfig(vocab_size=len(ids), pad_token_id=ids["<pad>"], encoder_config=encoder)
    model = transformers.ParakeetForCTC(config)
    torch.nn.init.normal_(model.ctc_head.weight, std=3.0)
    model.ctc_head.bias.data[ids["<unk>"]] -= 100.0
    model.save_pretrained(folder)
    return folder


def test_parakeet_says_what_its_own_processor_says(tmp_path, noise):
    import transformers

    folder = save_parakeet(tmp_path / "model")
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForCTC.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**processor(noise, sampling_rate=RATE, return_tensors="pt")).logits
    found = espnet_larm.load(folder).transcribe(noise, RATE, vad=False)
    assert found.text == processor.decode(logits[0].argmax(-1)) != ""


def test_options_of_ours_are_refused(tmp_path, noise):
    model = espnet_larm.load(save_ctc(tmp_path / "model", "Wav2Vec2"))
    assert model.loops == ()
    with pytest.raises(ValueError, match="loops is 2,4, but this model has no loops"):
        model.transcribe(noise, RATE, loops=(2, 4))
    with pytest.raises(ValueError, match="language is de, but this model has no choice of languages"):
        model.transcribe(noise, RATE, language="de")
    with pytest.raises(ValueError, match="beam_size is 4, an option of our own models"):
        model.transcribe(noise, RATE, config=DecodeConfig(beam_size=4))
    with pytest.raises(TypeError, match="recognizer belongs to our own models"):
        model.recognizer  # noqa: B018
    with pytest.raises(ValueError, match="llm is x, but .*model is a recogniser of transformers"):
        espnet_larm.load(tmp_path / "model", llm="x")


def test_a_model_of_transformers_that_is_no_recogniser_is_refused(tmp_path, save_lm):
    folder = save_lm(tmp_path / "lm")
    with pytest.raises(ValueError, match="a llama of transformers; allowed: Whisper, and CTC models"):
        espnet_larm.load(folder)


def test_a_damaged_folder_is_named(tmp_path):
    save_ctc(tmp_path / "model", "Wav2Vec2")
    (tmp_path / "model/model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model is .*, which transformers cannot load: "):
        espnet_larm.load(tmp_path / "model")


def save_whisper(folder, languages, **generation):
    """A random Whisper with a tokenizer of single letters."""
    import tokenizers
    import transformers

    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in languages)]
    special += ["<|translate|>", "<|transcribe|>", "<|startofprev|>", "<|notimestamps|>"]
    words = ["Ġ", *"abcdefgh", *(f"Ġ{letter}" for letter in "abcdefgh"), *special]
    ids = {word: index for index, word in enumerate([*words, *(f"<|{0.02 * step:.2f}|>" for step in range(1501))])}
    core = tokenizers.Tokenizer(tokenizers.models.BPE(ids, []))
    core.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.WhisperTokenizer(
        tokenizer_object=core, pad_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    config = transformers.WhisperConfig(
        vocab_size=len(ids), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|endoftext|>"], begin_suppress_tokens=None,
        decoder_start_token_id=ids["<|startoftranscript|>"], max_target_positions=32,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    codes = {f"<|{code}|>": ids[f"<|{code}|>"] for code in languages}
    if languages:
        generation |= {"lang_to_id": codes, "task_to_id": {"transcribe": ids["<|transcribe|>"]}}
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=ids["<|startoftranscript|>"], is_multilingual=bool(languages), max_length=16,
        no_timestamps_token_id=ids["<|notimestamps|>"], eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"], **generation,
        suppress_tokens=list(range(ids["<|endoftext|>"] + 1, len(ids))),
    )  # fmt: skip
    model.save_pretrained(folder)
    transformers.WhisperProcessor(transformers.WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


def test_languages_are_those_of_a_multilingual_whisper(tmp_path, noise):
    both = espnet_larm.load(save_whisper(tmp_path / "both", ["de", "en"]))
    assert both.transcribe(noise, RATE, language="de", vad=False).duration_s == 3.0
    with pytest.raises(ValueError, match="language is fr; allowed: de, en"):
        both.transcribe(noise, RATE, language="fr")
    one = espnet_larm.load(save_whisper(tmp_path / "one", []))
    assert one.transcribe(noise, RATE, language="en", vad=False).text == one.transcribe(noise, RATE, vad=False).text
    with pytest.raises(ValueError, match="language is de; allowed: en"):
        one.transcribe(noise, RATE, language="de")


def letters_of(text):
    """Letters and digits: Whisper parts names that are spelt, and hyphenates numbers, as it happens."""
    return re.sub("[^a-z0-9]", "", text.lower())


@pytest.fixture(scope="module")
def whisper():
    """The real Whisper tiny.en."""
    if not WHISPER.is_dir():
        pytest.skip("whisper-tiny.en is not here; tools/get_models.sh fetches it")
    return espnet_larm.load(WHISPER)


@pytest.mark.slow
def test_whispers_words_have_times_within_the_speech(whisper, utterances):
    samples = np.concatenate([*utterances[:3]])
    found = whisper.transcribe(np.concatenate([np.zeros(3 * RATE, np.float32), samples]), RATE)
    words = [word for segment in found.segments for word in segment.words]
    assert len(words) > 2 and words[0].start_s > 2.5 and words[-1].end_s <= found.duration_s
    assert all(word.start_s <= word.end_s for word in words)


@pytest.mark.slow
def test_silence_around_an_utterance_changes_no_word(whisper, utterances):
    for samples in utterances[:3]:
        alone = whisper.transcribe(samples, RATE).text
        assert alone
        for seconds in (0.1, 0.25, 0.5, 1.0):
            silence = np.zeros(round(seconds * RATE), np.float32)
            found = whisper.transcribe(np.concatenate([silence, samples, silence]), RATE).text
            assert letters_of(found) == letters_of(alone), seconds


@pytest.mark.slow
def test_whisper_makes_up_no_words_for_what_is_no_speech(whisper, noises):
    assert [whisper.transcribe(samples, RATE).text for samples in noises.values()] == [""] * len(noises)

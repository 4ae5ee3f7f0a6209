"""Makes tiny random speech encoders, as transformers saves them."""

import torch
import transformers

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
WAVE = {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
# Those that drop and mask a lot where they may.
NOISE = {"hidden_dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.9, "mask_time_prob": 0.9}
GROUP = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
KINDS = ("whisper", "wav2vec2", "wav2vec2 group", "hubert", "hubert group", "wavlm", "wavlm group", "parakeet")


def make_config(kind):
    family, _, norm = kind.partition(" ")
    if family == "whisper":
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        layers = {"encoder_layers": 3, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 8}
        tokens = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        start = {"decoder_start_token_id": 1, "encoder_layerdrop": 0.9, "dropout": 0.5}
        return transformers.WhisperConfig(d_model=16, **heads, **layers, **tokens, **start)
    if family == "parakeet":
        sizes = {**SIZES, "subsampling_conv_channels": 8, "num_mel_bins": 80, "conv_kernel_size": 5}
        return transformers.ParakeetEncoderConfig(**sizes, dropout=0.5, layerdrop=0.9)
    configs = {"wav2vec2": transformers.Wav2Vec2Config, "hubert": transformers.HubertConfig}
    config = configs.get(family, transformers.WavLMConfig)
    return config(**SIZES, **WAVE, **NOISE, **(GROUP if norm else LAYER))


def save_encoder(kind, folder, **changes):
    """Save a random model and its feature extractor; return the folder."""
    config = make_config(kind)
    for name, value in changes.items():
        setattr(config, name, value)
    model = transformers.AutoModel.from_config(config)
    for parameter in model.parameters():
        # Norms at one and biases at zero would not show a mistake.
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    make_extractor(kind).save_pretrained(folder)
    return folder


def make_extractor(kind):
    """The feature extractor of transformers that belongs to a kind."""
    if kind == "whisper":
        return transformers.WhisperFeatureExtractor()
    if kind == "parakeet":
        return transformers.ParakeetFeatureExtractor()
    # Checkpoints with a group norm were trained on waveforms as they are.
    return transformers.Wav2Vec2FeatureExtractor(do_normalize="group" not in kind, return_attention_mask=True)

"""A Hugging Face causal LM whose layers are run here, with our cache.

HF's own forward makes one mask from one length for all layers and rows. Here every layer is called by itself, its
attention being a function of ours, so that rows and layers may remember different numbers of positions.
Shapes: B rows, L positions, D model size, V tokens, H heads, S head size. Masks are True where valid.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.checkpoint import checkpoint

from espnet_larm.llm.attention import ATTENTION
from espnet_larm.llm.by_name import KeepsTypes
from espnet_larm.llm.cache import KeyValueCache
from espnet_larm.llm.hugging_face import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
)
from espnet_larm.llm.stream import Ragged, Step, Stream, as_function, freeze_modes, speech_columns
from espnet_larm.llm.words import NO_TENSORS

DTYPES = ("float32", "bfloat16", "float16")
# Architectures whose forward is: embeddings, layers with one rotary embedding and full attention (or a window
# that `max_positions` keeps any row within), norm, head.
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
FULL_ATTENTION, WINDOW_ATTENTION = "full_attention", "sliding_attention"
# Of every call that builds a model from what a configuration says: one that names code of the hub would have it run,
# in `auto_map`, or in `attn_implementation` as a kernel.
SAFE: dict[str, Any] = {"trust_remote_code": False, "attn_implementation": ATTENTION}


class Backbone(KeepsTypes):
    """A causal LM from embeddings to hidden states, and its head.

    Casts of a whole model to one floating type, as ESPnet makes them, do not reach it: an LM in bfloat16 stays so
    beside float32 parts (test_a_cast_of_the_whole_model_leaves_the_type).

    Args:
        model: A model of one of ARCHITECTURES.
        activation_checkpointing: Recompute each layer in the backward pass.

    Attributes:
        added: Layers by the index of the LM's own that they run behind, before `after_layer`, in this order; they are
            called as HF's are, and `depth_upscaling` makes them.
        mode: What `train` was last called with: frozen parts, and so a frozen LM itself, are in eval mode all the same.

    Raises:
        ValueError: The architecture is not supported.
    """

    def __init__(self, model: PreTrainedModel, activation_checkpointing: bool = False) -> None:
        super().__init__()
        _check_architecture(model.config)
        model.set_attn_implementation(ATTENTION)
        self.model = model
        self.activation_checkpointing = activation_checkpointing
        self.added = torch.nn.ModuleDict()
        self.mode = self.training
        self._has_frozen_modes = False

    @classmethod
    def from_pretrained(
        cls, llm: str, revision: str | None = None, dtype: str = "float32", activation_checkpointing: bool = False
    ) -> "Backbone":
        """Load a folder, or a model of the hub.

        Args:
            llm: Folder or hub id.
            revision: Revision on the hub; None for the newest.
            dtype: `float32`, `bfloat16` or `float16`.
            activation_checkpointing: Recompute layers in the backward pass.

        Raises:
            FileNotFoundError: Neither a folder nor to be had from the hub (offline, gated, misspelt).
            ValueError: The architecture is not supported.
        """
        _check_dtype(dtype)
        _check_architecture(_load_config(llm, revision))
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                llm, revision=revision, dtype=dtype, output_loading_info=True, **SAFE
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise FileNotFoundError(_cannot_load(llm, error)) from error
        except UnpicklingError as error:
            raise ValueError(f"decoder_conf: llm {llm}: {NO_TENSORS}") from error
        # HF fills what is missing with random numbers, others in every process.
        if lacking := sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])}):
            raise ValueError(
                f"decoder_conf: llm {llm} lacks {len(lacking)} weights ({lacking[0]}, ...); copy it again."
            )
        return cls(model, activation_checkpointing)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], dtype: str = "float32", activation_checkpointing: bool = False
    ) -> "Backbone":
        """Random weights.

        Args:
            config: The content of config.json, `model_type` at least.
            dtype: `float32`, `bfloat16` or `float16`.
            activation_checkpointing: Recompute layers in the backward pass.

        Raises:
            ValueError: The architecture is not supported.
        """
        _check_dtype(dtype)
        options = dict(config)
        kind = options.pop("model_type", None)
        if kind not in ARCHITECTURES:
            raise ValueError(f"llm_config: model_type is {kind}; allowed: {', '.join(ARCHITECTURES)}.")
        made = AutoConfig.for_model(kind, **options)
        _check_architecture(made)
        model = AutoModelForCausalLM.from_config(made, dtype=getattr(torch, dtype), **SAFE)
        return cls(model, activation_checkpointing)

    @property
    def config(self) -> Any:
        """HF's."""
        return self.model.config

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """V: rows of the head."""
        return int(self.model.get_output_embeddings().weight.size(0))

    @property
    def max_positions(self) -> int:
        """Longest prompt and text together that the LM was made for, and that any window of its attention spans."""
        longest = int(self.config.max_position_embeddings)
        window = _window_of(self.config)
        return longest if window is None else min(longest, window)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.model.get_input_embeddings().weight.dtype

    @property
    def layers(self) -> torch.nn.ModuleList:
        """HF's decoder layers; those that others put between them are in `added`."""
        return self.model.model.layers

    def new_cache(self) -> KeyValueCache:
        """An empty one; added layers are behind the LM's own in it."""
        return KeyValueCache(len(self.layers) + len(self.added))

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(B, L) to (B, L, D)."""
        return self.model.get_input_embeddings()(token_ids)

    def forward(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        lens: torch.Tensor,
        speech: torch.Tensor | None = None,
        cache: KeyValueCache | None = None,
        after_layer: Mapping[int, Callable[[Stream], Stream]] = MappingProxyType({}),
    ) -> Stream:
        """Run all layers on the next positions of each row; padding is behind the valid positions.

        Args:
            embeddings: (B, L, D), of any floating type.
            positions: For the rotary embedding (B, L); they need not agree with what the cache holds.
            lens: Valid positions of each row (B,).
            speech: True where a position is speech (B, L); None for no speech.
            cache: What came before and is to be remembered; None to remember nothing.
            after_layer: Functions of a prompt's stream behind a layer of the LM's own, by its index, which may shorten
                it; they do not see steps after the prompt.

        Returns:
            Hidden states before the head, in the LM's type, with the lengths that are left: what is behind them means
            nothing, and `after_layer` may have shortened them.
        """
        stream = Stream(embeddings.to(self.dtype), positions, lens, speech)
        if cache is not None and cache.is_sealed and speech is None:
            return self._go_on(stream, cache)
        rotary, num_new = self._rotary(stream), lens.cpu() if cache is not None else lens
        columns = self._speech_columns(stream)
        for index in range(len(self.layers)):
            for place, layer in self.layers_at(index):
                step = None if cache is None else Step(cache, place, num_new)
                call = as_function(layer, stream, rotary, step, columns)
                # Gradients run through frozen layers too, which are in eval mode.
                if self.activation_checkpointing and step is None and torch.is_grad_enabled():
                    hidden = checkpoint(call, stream.hidden, use_reentrant=False)
                else:
                    hidden = call(stream.hidden)
                stream = stream._replace(hidden=hidden)
            if index in after_layer:
                stream = after_layer[index](stream)
                rotary, num_new = self._rotary(stream), stream.lens.cpu() if cache is not None else stream.lens
                columns = self._speech_columns(stream)
        return stream._replace(hidden=self.model.model.norm(stream.hidden))

    def _go_on(self, stream: Stream, cache: KeyValueCache) -> Stream:
        """Run all layers on the next positions of texts, without padding between the attentions."""
        num_new, longest = stream.lens.cpu(), stream.hidden.size(1)
        ragged = None
        if bool((num_new < longest).any()):
            ragged = Ragged.of(num_new, longest, stream.hidden.device)
        hidden, positions = stream.hidden, stream.positions
        if ragged is not None:
            hidden, positions = ragged.flat(hidden), ragged.flat(positions)
        now = stream._replace(hidden=hidden, positions=positions)
        rotary = self._rotary(now)
        for index in range(len(self.layers)):
            for place, layer in self.layers_at(index):
                call = as_function(layer, now, rotary, Step(cache, place, num_new, ragged))
                now = now._replace(hidden=call(now.hidden))
        hidden = self.model.model.norm(now.hidden)
        return stream._replace(hidden=hidden if ragged is None else ragged.padded(hidden))

    def layers_at(self, index: int) -> Iterator[tuple[int, torch.nn.Module]]:
        """The LM's own layer and the one behind it, if there is one, with their places in a cache."""
        yield index, self.layers[index]
        if (key := str(index)) in self.added:
            yield len(self.layers) + list(self.added).index(key), self.added[key]

    def _speech_columns(self, stream: Stream) -> tuple[int, int] | None:
        """Where speech is, found once for all added layers."""
        return None if stream.speech is None or not len(self.added) else speech_columns(stream.speech)

    def _rotary(self, stream: Stream) -> tuple[torch.Tensor, torch.Tensor]:
        cosines, sines = self.model.model.rotary_emb(stream.hidden, position_ids=stream.positions)
        return cosines, sines

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., V), float32."""
        return self.model.get_output_embeddings()(hidden).float()

    def freeze_modes(self) -> None:
        """Keep modules without a weight that learns in eval mode from here on: frozen means no dropout either."""
        self._has_frozen_modes = True
        self.train(self.mode)

    def train(self, mode: bool = True) -> "Backbone":
        """Set the mode of all parts but those whose mode `freeze_modes` fixes."""
        self.mode = mode
        super().train(mode)
        if mode and self._has_frozen_modes:
            freeze_modes(self, mode)
        return self


def load_tokenizer(llm: str, revision: str | None = None) -> Any:
    """The tokenizer of a folder, or of a model of the hub.

    Args:
        llm: Folder or hub id.
        revision: Revision on the hub; None for the newest.

    Raises:
        FileNotFoundError: There is none, or it cannot be had.
    """
    try:
        return AutoTokenizer.from_pretrained(llm, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(_cannot_load(llm, error)) from error


def num_rows_of(llm: str, revision: str | None = None) -> int:
    """Rows of an LM's logits, without loading its weights.

    Args:
        llm: Folder or hub id.
        revision: Revision on the hub; None for the newest.

    Raises:
        FileNotFoundError: It cannot be had.
    """
    return int(_load_config(llm, revision).vocab_size)


def config_of(llm: str, revision: str | None = None) -> dict[str, Any]:
    """What an LM's config.json says, as `Backbone.from_config` takes it.

    Args:
        llm: Folder or hub id.
        revision: Revision on the hub; None for the newest.

    Raises:
        FileNotFoundError: It cannot be had.
    """
    options = json.loads(_load_config(llm, revision).to_json_string(use_diff=True))
    return {name: value for name, value in options.items() if name not in ("_name_or_path", "transformers_version")}


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"decoder_conf: dtype is {dtype}; allowed: {', '.join(DTYPES)}.")


def _load_config(llm: str, revision: str | None) -> Any:
    try:
        return AutoConfig.from_pretrained(llm, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(_cannot_load(llm, error)) from error


def _cannot_load(llm: str, error: Exception) -> str:
    kind = "folder" if Path(llm).is_dir() else "hub model"
    return (
        f"decoder_conf: llm {llm}: this {kind} cannot be loaded: {str(error).partition(chr(10))[0]} Name a folder "
        "that holds config.json and weights (to decode with an LM that was moved: --llm); a model of the hub needs a "
        "network, and `hf auth login` if it is gated."
    )


def _check_architecture(config: Any) -> None:
    """Refuse what would be computed wrongly, or was never tried."""
    if config.model_type not in ARCHITECTURES:
        raise ValueError(f"decoder_conf: llm is a {config.model_type}; allowed: {', '.join(ARCHITECTURES)}.")
    if (quantised := getattr(config, "quantization_config", None)) is not None:
        raise ValueError(
            f"decoder_conf: llm is quantised ({_method_of(quantised)}); allowed: weights in {', '.join(DTYPES)}. Name "
            "the LM from before its quantisation; dtype: bfloat16 halves its memory."
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope == "longrope":
        raise ValueError(
            "decoder_conf: llm has rotary embeddings of the type longrope, whose angles depend on the longest row of a "
            "batch; allowed: all others."
        )
    kinds = set(getattr(config, "layer_types", None) or [FULL_ATTENTION])
    if kinds - {FULL_ATTENTION, WINDOW_ATTENTION}:
        raise ValueError(
            f"decoder_conf: llm has {', '.join(sorted(kinds))}; allowed: {FULL_ATTENTION}, {WINDOW_ATTENTION}."
        )


def _window_of(config: Any) -> int | None:
    """Positions that some layer's attention is bounded to; None for full attention. Within it the two are the same."""
    window = getattr(config, "sliding_window", None)
    # HF's Mistral has its window in all layers, whatever their types.
    is_bounded = config.model_type == "mistral" or WINDOW_ATTENTION in (getattr(config, "layer_types", None) or ())
    return int(window) if window is not None and is_bounded else None


def _method_of(quantised: Any) -> str:
    """The name of the method, from an object of HF or from config.json."""
    options = quantised if isinstance(quantised, Mapping) else vars(quantised)
    method = options.get("quant_method", "unknown method")
    return str(getattr(method, "value", method))

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
from torch.nn import functional
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
from espnet_larm.llm.windows import (
    FULL_ATTENTION,
    WINDOW_ATTENTION,
    LayerKind,
    View,
    Window,
    both_ways_mask,
    kinds_of,
    window_mask,
)
from espnet_larm.llm.words import NO_TENSORS

DTYPES = ("float32", "bfloat16", "float16")
# Architectures whose forward is: embeddings (their layer scales those of Gemma), layers of the kinds of windows.py,
# norm, head.
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
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
        kinds: What each of the LM's own layers sees; those behind it in `added` see the same.
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
        self.kinds = kinds_of(model.config)
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
        """Longest prompt and text together that the LM was made for."""
        return int(self.config.max_position_embeddings)

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
        """(B, L) to (B, L, D), scaled where the LM scales embeddings: what its first layer reads."""
        return self.model.get_input_embeddings()(token_ids)

    def embed_mixture(self, weights: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Embeddings of all tokens from `first` on, as `embed` gives them, weighted: (..., V - first) to (..., D)."""
        embeddings = self.model.get_input_embeddings()
        table = embeddings.weight[first:]
        mixture = weights.to(table.dtype) @ table
        # Gemma's layer scales what it looks up; LoRA's wraps it.
        scale = getattr(getattr(embeddings, "base_layer", embeddings), "embed_scale", None)
        return mixture if scale is None else mixture * scale.to(mixture.dtype)

    def forward(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        lens: torch.Tensor,
        speech: torch.Tensor | None = None,
        cache: KeyValueCache | None = None,
        after_layer: Mapping[int, Callable[[Stream], Stream]] = MappingProxyType({}),
        both_ways: bool = False,
    ) -> Stream:
        """Run all layers on the next positions of each row; padding is behind the valid positions.

        Args:
            embeddings: (B, L, D), of any floating type.
            positions: For the rotary embedding (B, L); they need not agree with what the cache holds. Of steps behind
                a prompt, positions and lens are best on the CPU, where the cache asks for them without a wait.
            lens: Valid positions of each row (B,).
            speech: True where a position is speech (B, L); None for no speech.
            cache: What came before and is to be remembered; None to remember nothing.
            after_layer: Functions of a prompt's stream behind a layer of the LM's own, by its index, which may shorten
                it; they do not see steps after the prompt.
            both_ways: Whether positions also see those behind them, in this call alone; a cache cannot be given then.

        Returns:
            Hidden states before the head, in the LM's type, with the lengths that are left: what is behind them means
            nothing, and `after_layer` may have shortened them.
        """
        assert cache is None or not both_ways
        stream = Stream(embeddings.to(self.dtype), positions, lens, speech)
        if cache is not None and cache.is_sealed and speech is None:
            return self._go_on(stream, cache)
        views = self._views(stream, cache, both_ways)
        num_new = lens.cpu() if cache is not None else lens
        columns = self._speech_columns(stream)
        for index in range(len(self.layers)):
            view = views[self.kinds[index]]
            for place, layer in self.layers_at(index):
                step = None if cache is None else Step(cache, place, num_new, view.window)
                call = as_function(layer, stream, view, step, columns)
                # Gradients run through frozen layers too, which are in eval mode.
                if self.activation_checkpointing and step is None and torch.is_grad_enabled():
                    hidden = checkpoint(call, stream.hidden, use_reentrant=False)
                else:
                    hidden = call(stream.hidden)
                stream = stream._replace(hidden=hidden)
            if index in after_layer:
                stream = after_layer[index](stream)
                views = self._views(stream, cache, both_ways)
                num_new = stream.lens.cpu() if cache is not None else stream.lens
                columns = self._speech_columns(stream)
        return stream._replace(hidden=self.model.model.norm(stream.hidden))

    def _go_on(self, stream: Stream, cache: KeyValueCache) -> Stream:
        """Run all layers on the next positions of texts, without padding between the attentions."""
        num_new, longest = stream.lens.cpu(), stream.hidden.size(1)
        ragged = None
        if bool((num_new < longest).any()):
            ragged = Ragged.of(num_new, longest, stream.hidden.device)
        hidden, positions = stream.hidden, stream.positions.to(stream.hidden.device, non_blocking=True)
        if ragged is not None:
            hidden, positions = ragged.flat(hidden), ragged.flat(positions)
        now = stream._replace(hidden=hidden, positions=positions)
        views = self._step_views(now, stream.positions)
        for index in range(len(self.layers)):
            view = views[self.kinds[index]]
            for place, layer in self.layers_at(index):
                call = as_function(layer, now, view, Step(cache, place, num_new, view.window, ragged))
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

    def _views(self, stream: Stream, cache: KeyValueCache | None, both_ways: bool) -> dict[LayerKind, View]:
        """What layers of each kind are called with, on rows that are read from their start."""
        if both_ways:
            return {
                kind: View(
                    self.rotary(kind, stream.hidden, stream.positions),
                    both_ways_mask(stream.positions, stream.lens, kind.window),
                )
                for kind in dict.fromkeys(self.kinds)
            }
        sizes = {kind.window for kind in self.kinds if kind.window is not None}
        masks = {size: window_mask(stream.positions, size) for size in sizes}
        # Texts may grow longer than the window that the prompt still fits into.
        positions = stream.positions.cpu() if sizes and cache is not None else None
        return {
            kind: View(
                self.rotary(kind, stream.hidden, stream.positions),
                None if kind.window is None else masks[kind.window],
                None if kind.window is None or positions is None else Window(kind.window, positions),
            )
            for kind in dict.fromkeys(self.kinds)
        }

    def _step_views(self, now: Stream, positions: torch.Tensor) -> dict[LayerKind, View]:
        """What layers of each kind are called with, on the next positions (B, L) of rows that a cache holds."""
        sizes = {kind.window for kind in self.kinds if kind.window is not None}
        there = positions.cpu() if sizes else positions
        windows = {size: Window(size, there) for size in sizes if int(there.max()) >= size}
        return {
            kind: View(self.rotary(kind, now.hidden, now.positions), None, windows.get(kind.window or 0))
            for kind in dict.fromkeys(self.kinds)
        }

    def rotary(
        self, kind: LayerKind, hidden: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of positions (B, L) for layers of a kind, in the type of `hidden`."""
        options = {} if kind.rotary is None else {"layer_type": kind.rotary}
        cosines, sines = self.model.model.rotary_emb(hidden, position_ids=positions, **options)
        return cosines, sines

    @property
    def is_tied(self) -> bool:
        """Whether the head's weight is that of the embeddings."""
        layers = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        given, read = (getattr(layer, "base_layer", layer).weight for layer in layers)
        return given is read

    def logits(self, hidden: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """(..., D) to (..., V), float32; or to (..., C) for C tokens alone, whose ids (C,) are given."""
        head = self.model.get_output_embeddings()
        if tokens is None:
            return self.bounded(head(hidden).float())
        # LoRA's wraps it.
        if hasattr(head, "base_layer"):
            return self.bounded(head(hidden)[..., tokens].float())
        bias = None if head.bias is None else head.bias[tokens]
        return self.bounded(functional.linear(hidden, head.weight[tokens], bias).float())

    def bounded(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits as the LM bounds what its head gives, if it does (`final_logit_softcapping`)."""
        bound = getattr(self.config, "final_logit_softcapping", None)
        return logits if bound is None else (logits / bound).tanh() * bound

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
    if "longrope" in _rotary_types(config):
        raise ValueError(
            "decoder_conf: llm has rotary embeddings of the type longrope, whose angles depend on the longest row of a "
            "batch; allowed: all others."
        )
    kinds = set(getattr(config, "layer_types", None) or [FULL_ATTENTION])
    if kinds - {FULL_ATTENTION, WINDOW_ATTENTION}:
        raise ValueError(
            f"decoder_conf: llm has {', '.join(sorted(kinds))}; allowed: {FULL_ATTENTION}, {WINDOW_ATTENTION}."
        )

    for name in ("attn_logit_softcapping", "use_bidirectional_attention"):
        # The first is an option of Gemma 3 that transformers takes and does not compute.
        if getattr(config, name, None):
            raise ValueError(
                f"decoder_conf: llm has {name} {getattr(config, name)} in its config.json, which is not computed; "
                "allowed: null. Name an LM without."
            )


def _rotary_types(config: Any) -> set[str]:
    """The types of an LM's rotary embeddings, of which those of its kinds of layers may differ."""
    options = getattr(config, "rope_parameters", None) or {}
    several = [each for each in options.values() if isinstance(each, Mapping)] or [options]
    return {str(each.get("rope_type", "default")) for each in several}


def _method_of(quantised: Any) -> str:
    """The name of the method, from an object of HF or from config.json."""
    options = quantised if isinstance(quantised, Mapping) else vars(quantised)
    method = options.get("quant_method", "unknown method")
    return str(getattr(method, "value", method))

"""A Hugging Face causal LM whose layers are run here, with our cache: the only import of transformers.

HF's own forward makes one mask from one length for all layers and rows. Here every layer is called by itself, its
attention being a function of ours, so that rows and layers may remember different numbers of positions.
Shapes: B rows, L positions, D model size, V tokens, H heads, S head size. Masks are True where valid.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from espnet_larm.llm.cache import KeyValueCache

ATTENTION = "espnet_larm"
# Architectures whose forward is: embeddings, layers with one rotary embedding and full attention, norm, head.
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
FULL_ATTENTION = "full_attention"


class Step(NamedTuple):
    """What the attention of one layer needs to know of a call.

    Attributes:
        cache: Where keys and values go.
        layer: Index in the cache.
        num_new: Valid positions of each row (B,), on the CPU.
    """

    cache: KeyValueCache
    layer: int
    num_new: torch.Tensor


class Backbone(torch.nn.Module):
    """A causal LM from embeddings to hidden states, and its head.

    Casts of a whole model to one floating type, as ESPnet makes them, do not reach it: an LM in bfloat16 stays so
    beside float32 parts (test_a_cast_of_the_whole_model_leaves_the_type).

    Args:
        model: Of one of ARCHITECTURES.
        activation_checkpointing: Recompute each layer in the backward pass.

    Raises:
        ValueError: The architecture is not supported.
    """

    def __init__(self, model: transformers.PreTrainedModel, activation_checkpointing: bool = False) -> None:
        super().__init__()
        _check_architecture(model.config)
        model.set_attn_implementation(ATTENTION)
        self.model = model
        self.activation_checkpointing = activation_checkpointing
        self._has_frozen_modes = False

    @classmethod
    def from_pretrained(
        cls, llm: str, revision: str | None = None, dtype: str = "float32", activation_checkpointing: bool = False
    ) -> "Backbone":
        """Load a folder, or a model of the hub.

        Args:
            llm: Folder or hub id.
            revision: Of the hub; the newest by default.
            dtype: `float32`, `bfloat16` or `float16`.
            activation_checkpointing: As in the constructor.

        Raises:
            FileNotFoundError: Neither a folder nor to be had from the hub (offline, gated, misspelt).
            ValueError: The architecture is not supported.
        """
        _check_architecture(_load_config(llm, revision))
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(llm, revision=revision, dtype=dtype)
        except OSError as error:
            raise FileNotFoundError(_cannot_load(llm, error)) from error
        return cls(model, activation_checkpointing)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], dtype: str = "float32", activation_checkpointing: bool = False
    ) -> "Backbone":
        """Random weights.

        Args:
            config: As config.json has it, `model_type` at least.
            dtype: `float32`, `bfloat16` or `float16`.
            activation_checkpointing: As in the constructor.

        Raises:
            ValueError: The architecture is not supported.
        """
        options = dict(config)
        kind = options.pop("model_type", None)
        if kind not in ARCHITECTURES:
            raise ValueError(f"llm_config: model_type is {kind}; allowed: {', '.join(ARCHITECTURES)}.")
        made = transformers.AutoConfig.for_model(kind, **options)
        _check_architecture(made)
        model = transformers.AutoModelForCausalLM.from_config(made, dtype=getattr(torch, dtype))
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
        """Of the weights."""
        return self.model.get_input_embeddings().weight.dtype

    @property
    def layers(self) -> torch.nn.ModuleList:
        """HF's decoder layers, which others may be put between."""
        return self.model.model.layers

    def new_cache(self) -> KeyValueCache:
        """An empty one."""
        return KeyValueCache(len(self.layers))

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
    ) -> torch.Tensor:
        """Run all layers on the next positions of each row; padding is behind the valid positions.

        Args:
            embeddings: (B, L, D), of any floating type.
            positions: For the rotary embedding (B, L); they need not agree with what the cache holds.
            lens: Valid positions of each row (B,).
            speech: Which positions are speech (B, L), for layers that treat them differently; none by default.
            cache: What came before and is to be remembered; None to remember nothing.

        Returns:
            Hidden states before the head (B, L, D) in the LM's type; what is behind `lens` means nothing.
        """
        hidden = embeddings.to(self.dtype)
        num_new = lens.cpu() if cache is not None else lens
        rotary = self.model.model.rotary_emb(hidden, position_ids=positions)
        if speech is None:
            speech = torch.zeros(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        for index, layer in enumerate(self.layers):
            step = None if cache is None else Step(cache, index, num_new)
            call = _call(layer, positions, rotary, speech, lens, step)
            if self.activation_checkpointing and self.training and step is None:
                hidden = checkpoint(call, hidden, use_reentrant=False)
            else:
                hidden = call(hidden)
        return self.model.model.norm(hidden)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., V), float32."""
        return self.model.get_output_embeddings()(hidden).float()

    def freeze_modes(self) -> None:
        """Keep modules without a weight that learns in eval mode from here on: frozen means no dropout either."""
        self._has_frozen_modes = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        """As any module's, but for what `freeze_modes` fixed."""
        super().train(mode)
        if mode and self._has_frozen_modes:
            for module in self.modules():
                if not any(parameter.requires_grad for parameter in module.parameters()):
                    module.training = False
        return self

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Backbone":
        """Move, but keep floating types: ESPnet casts whole models at several places."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            result = fn(tensor)
            return result.to(tensor.dtype) if tensor.is_floating_point() else result

        super()._apply(moved, recurse)
        return self


def load_tokenizer(llm: str, revision: str | None = None) -> Any:
    """The tokenizer of a folder, or of a model of the hub.

    Args:
        llm: Folder or hub id.
        revision: Of the hub; the newest by default.

    Raises:
        FileNotFoundError: There is none, or it cannot be had.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(llm, revision=revision)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(_cannot_load(llm, error)) from error


def num_rows_of(llm: str, revision: str | None = None) -> int:
    """Rows of an LM's logits, without loading its weights.

    Args:
        llm: Folder or hub id.
        revision: Of the hub; the newest by default.

    Raises:
        FileNotFoundError: It cannot be had.
    """
    return int(_load_config(llm, revision).vocab_size)


def attention(
    module: torch.nn.Module,  # noqa: ARG001  # HF's signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    step: Step | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What HF's attention layers call: causal over the rows themselves, or over what the cache holds and them.

    Args:
        module: HF's attention layer.
        query: (B, H, L, S).
        key: (B, key-value heads, L, S).
        value: Likewise.
        attention_mask: None: padding is behind the valid positions, where no valid position looks.
        scaling: Of the scores.
        dropout: Of the weights, in training.
        step: None to remember nothing.

    Returns:
        (B, L, H, S), and no weights.
    """
    assert attention_mask is None
    scaling = query.size(-1) ** -0.5 if scaling is None else scaling
    if step is not None:
        step.cache.append(step.layer, key, value, step.num_new)
    if step is not None and step.cache.is_sealed:
        mixed = step.cache.attend(step.layer, query, step.num_new, scaling)
    else:
        shares_keys = query.size(1) != key.size(1)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=query.size(2) > 1, scale=scaling, enable_gqa=shares_keys
        )
    return mixed.transpose(1, 2).contiguous(), None


transformers.AttentionInterface.register(ATTENTION, attention)


def _call(
    layer: torch.nn.Module,
    positions: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    speech: torch.Tensor,
    lens: torch.Tensor,
    step: Step | None,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A layer as a function of the hidden states alone; HF's layers hand what they do not know to `attention`."""

    def call(hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = layer(
            hidden,
            attention_mask=None,
            position_ids=positions,
            position_embeddings=rotary,
            speech=speech,
            lens=lens,
            step=step,
        )
        return output

    return call


def _load_config(llm: str, revision: str | None) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(llm, revision=revision)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(_cannot_load(llm, error)) from error


def _cannot_load(llm: str, error: Exception) -> str:
    kind = "folder" if Path(llm).is_dir() else "hub model"
    return (
        f"decoder_conf: llm {llm}: this {kind} cannot be loaded: {str(error).splitlines()[0]} Name a folder that holds "
        "config.json and weights; a model of the hub needs a network, and `hf auth login` if it is gated."
    )


def _check_architecture(config: Any) -> None:
    """Refuse what would be computed wrongly."""
    if config.model_type not in ARCHITECTURES:
        raise ValueError(f"decoder_conf: llm is a {config.model_type}; allowed: {', '.join(ARCHITECTURES)}.")
    kinds = set(getattr(config, "layer_types", None) or [FULL_ATTENTION])
    window = getattr(config, "sliding_window", None)
    if kinds != {FULL_ATTENTION} or (window is not None and config.model_type == "mistral"):
        raise ValueError(
            f"decoder_conf: llm has attention over a window of {window} positions; allowed: full attention in all "
            "layers."
        )

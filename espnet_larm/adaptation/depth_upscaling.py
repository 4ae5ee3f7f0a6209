"""Layers inserted into a frozen causal LM, which learn speech while the LM stays what it is.

Each is a copy of the base layer that it stands behind, with the outputs of attention and feed-forward at zero, so that
the LM computes the same at the start, bit for bit (test_nothing_changes_at_the_start). An `e_branchformer` layer has a
convolutional branch beside attention for speech positions; text positions go through attention and feed-forward alone.
Behind the LM's last layer nothing reads speech positions any more: an added layer there has no branch.
Source: Yano, Suzuki, Watanabe, "Adapting Text LLMs to Speech via Multimodal Depth Up-Scaling", Interspeech 2026,
arXiv:2604.00489. Departures: speech is continuous, so no embedding rows are added; biases of copied output projections
(`attention_bias`, `mlp_bias` of Llama and Qwen3) are left out, as the start would not be exact with them. Layers of
Gemma 3 normalise their outputs: there the norms' scales are zero at the start and the projections are copies, since a
norm makes outputs of full size of the smallest numbers.
Added layers are no part of HF's model: its weights keep their names, and so do checkpoints and fingerprints of it.
Shapes: B rows, L positions, D model size, S head size. Masks are True where valid.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from typeguard import typechecked

from espnet_larm.adaptation.e_branchformer import LocalBranch
from espnet_larm.llm.backbone import Backbone
from espnet_larm.options import Option, check_conf, check_parameters

LAYERS = ("e_branchformer", "standard")
PLACEMENTS = ("interleaved", "bottom", "middle", "top", "sandwich")
# Whose layers are: x + attention(norm(x)), then x + feed-forward(norm(x)), of the parts that AddedLayer copies; in
# those of NORMED, both outputs go through a norm before they are added.
NORMED = ("gemma3_text",)
WRAPPABLE = ("llama", "mistral", "qwen2", "qwen3", *NORMED)
PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
NORMED_PARTS = (*PARTS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
OUTPUTS = ("self_attn.o_proj", "mlp.down_proj")
DEFAULT_SHARE = 0.25
DEFAULT_KERNELS = {"gate_kernel": 31, "merge_kernel": 3}
WHERE = "decoder_conf: depth_upscaling_conf"


class UpscalingOptions:
    """What is added: `depth_upscaling_conf` of a YAML.

    Args:
        layer: Meaning and range of this and all other options stand at the parameters; docs/options.md lists them.

    Raises:
        ValueError: An option is out of its range, or means nothing beside another.
    """

    @typechecked
    def __init__(
        self,
        layer: Annotated[
            str,
            Option("kind of the layers; one behind the LM's last is a copy alone, as `standard` is", choices=LAYERS),
        ] = LAYERS[0],
        placement: Annotated[
            str,
            Option(
                "where they stand: `bottom`, `middle` and `top` are halves of the LM's layers, `sandwich` is the first "
                "and the last quarter",
                choices=PLACEMENTS,
            ),
        ] = PLACEMENTS[0],
        num_layers: Annotated[
            int | None,
            Option("how many, at most one behind each layer of the placement; by `share` by default", least=1),
        ] = None,
        share: Annotated[
            float | None,
            Option(
                "or how many of the LM's number of layers, instead of `num_layers`",
                above=0.0,
                most=1.0,
                unset=str(DEFAULT_SHARE),
            ),
        ] = None,
        gate_kernel: Annotated[
            int | None,
            Option(
                "speech positions that the gate's convolution sees in `e_branchformer`",
                least=1,
                is_odd=True,
                unset=str(DEFAULT_KERNELS["gate_kernel"]),
            ),
        ] = None,
        merge_kernel: Annotated[
            int | None,
            Option(
                "speech positions that the merge's convolution sees in `e_branchformer`",
                least=1,
                is_odd=True,
                unset=str(DEFAULT_KERNELS["merge_kernel"]),
            ),
        ] = None,
    ) -> None:
        check_parameters(UpscalingOptions.__init__, locals(), WHERE)
        if num_layers is not None and share is not None:
            raise ValueError(f"{WHERE}: num_layers is {num_layers} and share {share}; give one of them.")
        kernels = {"gate_kernel": gate_kernel, "merge_kernel": merge_kernel}
        if layer == "standard" and (given := [name for name, size in kernels.items() if size is not None]):
            raise ValueError(
                f"{WHERE}: {given[0]} is given, but layer is standard; leave it out, or take e_branchformer."
            )
        self.layer = layer
        self.placement = placement
        self.num_layers = num_layers
        self.share = DEFAULT_SHARE if share is None else share
        self.kernels = {name: DEFAULT_KERNELS[name] if size is None else size for name, size in kernels.items()}

    def slots_of(self, num_layers: int) -> list[int]:
        """Layers of an LM of so many that an added one stands behind.

        Raises:
            ValueError: The number does not fit.
        """
        if self.num_layers is not None:
            return slots(self.placement, num_layers, self.num_layers)
        return slots(self.placement, num_layers, int(self.share * num_layers + 0.5))


class AddedLayer(torch.nn.Module):
    """A layer that is called as HF's are, and gives what it is given at the start.

    It is called with the rotary angles and the window of the layer behind which it stands.
    Its weights are float32, whatever the LM's are: in bfloat16 steps of a usual learning rate are rounded away. What
    goes in and out is cast, as peft does for LoRA.

    Args:
        layer: HF's, which is copied.
        local: The branch of speech positions; None for none.
    """

    # HF's parts; the last two in layers of NORMED.
    input_layernorm: Any
    self_attn: Any
    post_attention_layernorm: Any
    mlp: Any
    pre_feedforward_layernorm: Any
    post_feedforward_layernorm: Any

    def __init__(self, layer: torch.nn.Module, local: LocalBranch | None = None) -> None:
        super().__init__()
        base: Any = layer
        # The configuration is shared: HF's modules look up in it what attention is.
        config = base.self_attn.config
        made = copy.deepcopy(base, {id(config): config})
        self.is_normed = config.model_type in NORMED
        for name in parts_of(config.model_type):
            self.add_module(name, getattr(made, name))
        if self.is_normed:
            for norm in (self.post_attention_layernorm, self.post_feedforward_layernorm):
                # They multiply by 1 + weight.
                torch.nn.init.constant_(norm.weight, -1.0)
        else:
            for projection in (self.self_attn.o_proj, self.mlp.down_proj):
                torch.nn.init.zeros_(projection.weight)
                # Which would be added to the hidden states at the start.
                projection.bias = None
        self.local = local
        self.float().requires_grad_()

    def forward(
        self,
        hidden: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        speech: torch.Tensor | None = None,
        speech_columns: tuple[int, int] | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """Run on the next positions.

        Args:
            hidden: (B, L, D), of any floating type.
            position_embeddings: Cosines and sines (B, L, S).
            speech: True where a position is speech (B, L), one run a row; None where none is, as in every step after
                the prompt: convolutions run once an utterance.
            speech_columns: What `stream.speech_columns` finds in it; None to look again.
            options: For attention.

        Returns:
            (B, L, D), of the type of `hidden`.
        """
        wide = hidden.float()
        normed = self.input_layernorm(wide)
        cosines, sines = (each.float() for each in position_embeddings)
        mixed, _ = self.self_attn(hidden_states=normed, position_embeddings=(cosines, sines), **options)
        if self.local is not None and speech is not None:
            mixed = self.local(normed, mixed, speech, speech_columns)
        if self.is_normed:
            wide = wide + self.post_attention_layernorm(mixed)
            wide = wide + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(wide)))
        else:
            wide = wide + mixed
            wide = wide + self.mlp(self.post_attention_layernorm(wide))
        return wide.to(hidden.dtype)


def parts_of(model_type: str) -> tuple[str, ...]:
    """Names of what a layer of an architecture consists of."""
    return NORMED_PARTS if model_type in NORMED else PARTS


def slots(placement: str, num_layers: int, num_added: int) -> list[int]:
    """Layers that an added one stands behind, in order and none twice.

    Behind the last layer nobody reads what is computed of speech: of a layer there, text positions alone matter.

    Args:
        placement: One of PLACEMENTS.
        num_layers: Number of the LM's layers.
        num_added: How many; where they cannot be spread evenly, places are rounded. Of an odd number, `sandwich` has
            one more in the first quarter. Halves and quarters of layers are rounded up.

    Raises:
        ValueError: There is no room for so many.
    """
    half, quarter = (num_layers + 1) // 2, (num_layers + 3) // 4
    room = {"interleaved": num_layers, "sandwich": min(2 * quarter, num_layers)}.get(placement, half)
    if not 1 <= num_added <= room:
        raise ValueError(
            f"{WHERE}: {num_added} layers cannot be added: placement {placement} of an LM of {num_layers} layers has "
            f"room for 1 to {room}; change num_layers, or share."
        )
    if placement == "sandwich":
        first = (num_added + 1) // 2
        return [*_spread(0, quarter, first), *_spread(num_layers - quarter, quarter, num_added - first)]
    start = {"middle": (num_layers - half) // 2, "top": num_layers - half}.get(placement, 0)
    return _spread(start, room, num_added)


def read_options(conf: Mapping[str, Any] | None) -> UpscalingOptions:
    """Options as a YAML has them; null stands for the default.

    Raises:
        ValueError: One is not known, or not allowed.
    """
    given = {name: value for name, value in (conf or {}).items() if value is not None}
    check_conf(UpscalingOptions.__init__, given, f"{WHERE}: ")
    return UpscalingOptions(**given)


def wrap(backbone: Backbone, conf: Mapping[str, Any] | None = None) -> None:
    """Insert layers, which learn; which of the LM's own weights do is not changed.

    Args:
        backbone: Without added layers, with the weights that shall be copied.
        conf: Arguments of UpscalingOptions.

    Raises:
        ValueError: An option is not allowed, or layers cannot be added to this LM.
    """
    options = read_options(conf)
    insert(backbone, options.slots_of(len(backbone.layers)), options)


def insert(backbone: Backbone, places: list[int], options: UpscalingOptions) -> None:
    """Insert layers behind these layers, in order, as `wrap` does."""
    _check(backbone, options)
    last = len(backbone.layers) - 1
    for place in places:
        layer = backbone.layers[place]
        # Behind the last layer it could not learn: all its gradients are 0.
        has_branch = options.layer == "e_branchformer" and place < last
        local = LocalBranch(backbone.hidden_size, **options.kernels) if has_branch else None
        added = AddedLayer(layer, local).to(next(layer.parameters()).device)
        backbone.added[str(place)] = added.train(backbone.mode)


def drop(backbone: Backbone) -> torch.nn.ModuleDict:
    """Take the added layers out: what is left is the LM that they were added to, bit for bit, also after training.

    Returns:
        Them, for `put_back`.
    """
    dropped, backbone.added = backbone.added, torch.nn.ModuleDict()
    return dropped


def put_back(backbone: Backbone, layers: torch.nn.ModuleDict) -> None:
    """Let layers that `drop` took out run again, on the LM's device and in its mode, which may have changed."""
    for place, layer in layers.items():
        layer.to(next(backbone.layers[int(place)].parameters()).device)
    backbone.added = layers
    backbone.train(backbone.mode)


@contextmanager
def dropped(backbone: Backbone) -> Iterator[None]:
    """Without the added layers, which are back afterwards."""
    layers = drop(backbone)
    try:
        yield
    finally:
        put_back(backbone, layers)


def _spread(start: int, num_layers: int, num_added: int) -> list[int]:
    """Behind every (num_layers / num_added)-th of some layers, rounded half up; distinct, as that is 1 or more."""
    return [start + (2 * rank * num_layers + num_added) // (2 * num_added) - 1 for rank in range(1, num_added + 1)]


def _check(backbone: Backbone, options: UpscalingOptions) -> None:
    kind = backbone.config.model_type
    reasons = [reason for layer in backbone.layers if (reason := _unlike(layer, parts_of(kind)))]
    if reasons or kind not in WRAPPABLE:
        raise ValueError(
            f"decoder_conf: adaptation is depth_upscaling, but layers of a {kind} cannot be added"
            f"{f': {reasons[0]}' if reasons else ''}; allowed: {', '.join(WRAPPABLE)}; or take adaptation: lora."
        )
    if len(backbone.added):
        raise ValueError("the LM has added layers already; drop them first.")
    # Of peft's, which stand in the place of those that they adapt.
    if any(hasattr(module, "base_layer") for module in backbone.layers.modules()):
        raise ValueError("the LM has LoRA's weights; added layers and LoRA are not for one LM: take one of them.")
    if options.layer == "e_branchformer" and backbone.hidden_size % 2:
        raise ValueError(
            f"{WHERE}: layer is e_branchformer, whose halves an LM of size "
            f"{backbone.hidden_size} does not have; take standard."
        )


def _unlike(layer: torch.nn.Module, parts: tuple[str, ...]) -> str:
    """What keeps a layer from being copied; nothing if it can be."""
    names = {name for name, _ in layer.named_modules()}
    if lacking := [name for name in (*parts, *OUTPUTS) if name not in names]:
        return f"they have no {', '.join(lacking)}"
    # Without weights, there is nothing that a copy would lack.
    more = [name for name, part in layer.named_children() if name not in parts and list(part.parameters())]
    return f"they also have {', '.join(more)}" if more else ""

"""Small reference networks, built by plain functions and initialized from an explicit seed.

All but the transformer take a batch of images ``(n, channels, height, width)`` or of vectors
``(n, d)`` and return ``(n, outputs)``. They hold no dropout, and no running averages: the loss on
fixed data is a deterministic function of the parameters, so that its Hessian means something.

Initialization (all models): biases are zero, factors of a normalization one; each weight is drawn
independently from the normal distribution of mean 0 and standard deviation
``scale * gain / sqrt(fan_in)``, where ``gain`` is sqrt(2) for relu and gelu (He et al., 2015) and 1
for tanh, elu, softplus and identity (LeCun et al., 1998). The draws are made on the CPU in float64
and then cast, so that the same seed gives the same network, up to rounding, in every dtype and on
every device.

Example:
    >>> model = cnn((4, 8), "tanh", seed=1)
    >>> model(torch.zeros(5, 1, 28, 28)).shape, count_parameters(model)
    (torch.Size([5, 10]), 4266)
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from flatminima._validation import (
    a_bool,
    a_list,
    instance_of,
    one_of,
    positive_float,
    positive_int,
    shown,
)

__all__ = [
    "ACTIVATIONS",
    "NORMS",
    "cnn",
    "count_parameters",
    "linear",
    "mlp",
    "resnet",
    "transformer",
]

ACTIVATIONS: dict[str, tuple[type[nn.Module], float]] = {
    "tanh": (nn.Tanh, 1.0),
    "relu": (nn.ReLU, math.sqrt(2.0)),
    "gelu": (nn.GELU, math.sqrt(2.0)),
    "elu": (nn.ELU, 1.0),
    "softplus": (nn.Softplus, 1.0),
    "identity": (nn.Identity, 1.0),
}
"""Name of an activation -> (its module, the gain of the weights that feed it)."""
NORMS = ("none", "group", "batch")
"""What may stand between a convolution and its activation, see `cnn`."""


def mlp(
    widths: Sequence[int],
    activation: str = "tanh",
    *,
    bias: bool = True,
    scale: float = 1.0,
    seed: int | torch.Generator = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> nn.Sequential:
    """Fully connected network with the activation between, not after, its linear layers.

    ``widths`` are input dimension, hidden widths, output dimension: ``[784, 64, 64, 10]``. Inputs
    of any shape ``(n, ...)`` are flattened to ``(n, widths[0])``. ``activation`` is one of
    ACTIVATIONS, ``scale`` a factor on the standard deviation of every initial weight, and ``seed``
    a whole number or a CPU torch.Generator. ValueError for values out of range.

    Example:
        >>> mlp([4, 3, 2])(torch.zeros(5, 4)).shape
        torch.Size([5, 2])
    """
    widths = [positive_int("each of widths", width) for width in a_list("widths", widths)]
    bias, dtype = a_bool("bias", bias), _dtype(dtype)
    if len(widths) < 2:
        raise ValueError(f"widths needs an input and an output dimension at least, got {widths}")
    make_activation, gain = ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)]
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        layers += [make_activation()] if i else []
        layers += [nn.Linear(fan_in, fan_out, bias=bias, dtype=dtype, device="meta")]
    return _initialize(nn.Sequential(*layers), gain, scale, seed, device)


def linear(inputs: int, outputs: int, **options: object) -> nn.Sequential:
    """The linear model, the control without depth: under the squared loss its Hessian is constant.

    Takes the keyword options of `mlp`: bias, scale, seed, dtype, device.

    Example:
        >>> count_parameters(linear(3, 2, bias=False))
        6
    """
    widths = positive_int("inputs", inputs), positive_int("outputs", outputs)
    return mlp(widths, "identity", **options)


def cnn(
    channels: Sequence[int] = (8, 16),
    activation: str = "relu",
    *,
    input_shape: tuple[int, int, int] = (1, 28, 28),
    outputs: int = 10,
    norm: str = "none",
    scale: float = 1.0,
    seed: int | torch.Generator = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> nn.Sequential:
    """Convolutional network: per entry of ``channels`` a block, then one linear layer.

    A block is a 3x3 convolution with padding 1 and bias, a normalization if one is named, the
    activation, and 2x2 average pooling (smooth, where maximum pooling is not; an odd last row or
    column is dropped).

    ``channels`` has the number of output channels of each block, ``input_shape`` is (channels,
    height, width) of one image, ``norm`` is one of NORMS, and all else is as in `mlp`. ``"group"``
    normalizes over two channels of an image at a time (Wu & He, 2018; ``channels`` are even then),
    ``"batch"`` each channel over all the images of a pass (Ioffe & Szegedy, 2015), in training and
    at rest: no running average is kept, with which the loss would change from pass to pass. On the
    full batch it is a function of the parameters; an output then depends on the other images too.

    ValueError for values out of range, and for more poolings than the image has room for.
    """
    channels = [positive_int("each of channels", c) for c in a_list("channels", channels)]
    (c_in, height, width), dtype = _image(input_shape), _dtype(dtype)
    outputs = positive_int("outputs", outputs)
    shrink = 2 ** len(channels)
    if not channels or min(height, width) < shrink:
        raise ValueError(
            f"channels must name between 1 and {int(math.log2(min(height, width)))} blocks for "
            f"images of {height} x {width}, got {len(channels)}"
        )
    if one_of("norm", norm, NORMS) == "group" and any(c % 2 for c in channels):
        raise ValueError(f"channels must be even with norm 'group', got {channels}")
    make_activation, gain = ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)]
    layers: list[nn.Module] = []
    for c_out in channels:
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1, dtype=dtype, device="meta")]
        layers += _normalization(norm, c_out, dtype)
        layers += [make_activation(), nn.AvgPool2d(2)]
        c_in = c_out
    features = c_in * (height // shrink) * (width // shrink)
    layers += [nn.Flatten(), nn.Linear(features, outputs, dtype=dtype, device="meta")]
    return _initialize(nn.Sequential(*layers), gain, scale, seed, device)


def _normalization(norm: str, channels: int, dtype: torch.dtype) -> list[nn.Module]:
    """The layer of that name, without storage; none for ``"none"``."""
    made = {"dtype": dtype, "device": "meta"}
    if norm == "group":
        return [nn.GroupNorm(channels // 2, channels, **made)]
    return [nn.BatchNorm2d(channels, track_running_stats=False, **made)] if norm == "batch" else []


class _Residual(nn.Module):
    """An image, halved where the channels change, and what two convolutions make of it, added."""

    def __init__(
        self, inside: int, outside: int, make_activation: type[nn.Module], dtype: torch.dtype
    ) -> None:
        super().__init__()
        made = {"padding": 1, "dtype": dtype, "device": "meta"}
        self.pool = nn.AvgPool2d(2) if inside != outside else nn.Identity()
        self.inner = nn.Sequential(
            *_normalization("group", inside, dtype),
            make_activation(),
            nn.Conv2d(inside, outside, 3, **made),
            *_normalization("group", outside, dtype),
            make_activation(),
            nn.Conv2d(outside, outside, 3, **made),
        )
        self.extra = outside - inside

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return functional.pad(x, (0, 0, 0, 0, 0, self.extra)) + self.inner(x)


def resnet(
    channels: Sequence[int] = (8, 16),
    activation: str = "relu",
    *,
    input_shape: tuple[int, int, int] = (1, 28, 28),
    outputs: int = 10,
    scale: float = 1.0,
    seed: int | torch.Generator = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> nn.Sequential:
    """Residual network: a convolution, per entry of ``channels`` a block, then one linear layer.

    A block adds to its input what two 3x3 convolutions make of it, each after a group normalization
    as in `cnn` and the activation (He et al., 2016, there with batch normalization). Where the
    channels change, the image is averaged to half its side first, and the new channels of what is
    added to are zero. The linear layer sees the mean over the places, normalized and activated.

    ``channels`` are even and do not fall, and all else is as in `cnn`. ValueError for values out of
    range.

    Example:
        >>> model = resnet((4, 8), "tanh", seed=1)
        >>> model(torch.zeros(5, 1, 28, 28)).shape, count_parameters(model)
        (torch.Size([5, 10]), 1362)
    """
    channels = [positive_int("each of channels", c) for c in a_list("channels", channels)]
    (c_in, height, width), dtype = _image(input_shape), _dtype(dtype)
    outputs = positive_int("outputs", outputs)
    if not channels or any(c % 2 for c in channels) or channels != sorted(channels):
        raise ValueError(f"channels must be even numbers that do not fall, got {channels}")
    if min(height, width) < 2 ** (len(set(channels)) - 1):
        raise ValueError(f"channels {channels} halve images of {height} x {width} too often")
    make_activation, gain = ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)]
    pairs = itertools.pairwise([channels[0], *channels])
    layers = [
        nn.Conv2d(c_in, channels[0], 3, padding=1, dtype=dtype, device="meta"),
        *(_Residual(inside, outside, make_activation, dtype) for inside, outside in pairs),
        *_normalization("group", channels[-1], dtype),
        make_activation(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels[-1], outputs, dtype=dtype, device="meta"),
    ]
    return _initialize(nn.Sequential(*layers), gain, scale, seed, device)


class _Block(nn.Module):
    """Attention to the places so far, then two linear layers; each normalized before, and added."""

    def __init__(self, width: int, heads: int, dtype: torch.dtype) -> None:
        super().__init__()
        made = {"dtype": dtype, "device": "meta"}
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width, **made), nn.LayerNorm(width, **made)
        self.attend = nn.Linear(width, 3 * width, **made)
        self.join = nn.Linear(width, width, **made)
        self.grow = nn.Linear(width, 4 * width, **made)
        self.shrink = nn.Linear(4 * width, width, **made)

    def forward(self, x: Tensor) -> Tensor:
        n, places, width = x.shape
        parts = self.attend(self.first(x)).view(n, places, 3 * self.heads, -1).transpose(1, 2)
        seen = functional.scaled_dot_product_attention(*parts.chunk(3, 1), is_causal=True)
        x = x + self.join(seen.transpose(1, 2).reshape(n, places, width))
        return x + self.shrink(functional.gelu(self.grow(self.second(x))))


class _Transformer(nn.Module):
    """Symbols and places embedded, blocks, and a linear layer on what is normalized once more."""

    def __init__(
        self, symbols: int, context: int, width: int, heads: int, blocks: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        made = {"dtype": dtype, "device": "meta"}
        self.embed = nn.Embedding(symbols, width, **made)
        self.place = nn.Embedding(context, width, **made)
        self.blocks = nn.Sequential(*(_Block(width, heads, dtype) for _ in range(blocks)))
        self.last, self.head = nn.LayerNorm(width, **made), nn.Linear(width, symbols, **made)

    def forward(self, symbols: Tensor) -> Tensor:
        if symbols.shape[-1] > len(self.place.weight):
            raise ValueError(
                f"inputs must be at most {len(self.place.weight)} symbols long, got "
                f"{symbols.shape[-1]}"
            )
        x = self.embed(symbols) + self.place.weight[: symbols.shape[-1]]
        return self.head(self.last(self.blocks(x)))


def transformer(
    symbols: int,
    context: int = 32,
    *,
    width: int = 32,
    heads: int = 4,
    blocks: int = 2,
    scale: float = 1.0,
    seed: int | torch.Generator = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Decoder of text: at each place the logits of the symbol that comes next, from those so far.

    It takes symbols (n, t), int64 in [0, symbols) with t at most ``context``, and returns
    (n, t, symbols), as `curvature.cross_entropy` has it. A block is causal attention with ``heads``
    heads, and a layer of 4 ``width`` GELU units, each on what a layer normalization made of its
    input, and added to it (Radford et al., 2019). Symbols and places are embedded in ``width``
    dimensions, which the heads share out; the gain of all weights is 1. ValueError for values out
    of range.

    Example:
        >>> model = transformer(50, context=8, width=16)
        >>> model(torch.zeros(3, 8, dtype=torch.int64)).shape
        torch.Size([3, 8, 50])
    """
    symbols, context = positive_int("symbols", symbols), positive_int("context", context)
    width, heads = positive_int("width", width), positive_int("heads", heads)
    blocks, dtype = positive_int("blocks", blocks), _dtype(dtype)
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, {heads}, got {width}")
    model = _Transformer(symbols, context, width, heads, blocks, dtype)
    return _initialize(model, 1.0, scale, seed, device)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters, the dimension of the space the loss landscape lives on."""
    parameters = instance_of("model", model, nn.Module).parameters()
    return sum(p.numel() for p in parameters if p.requires_grad)


def _image(shape: Sequence[int]) -> list[int]:
    """Return (channels, height, width) of one image; ValueError for anything else."""
    sizes = a_list("input_shape", shape)
    if len(sizes) != 3:
        raise ValueError(f"input_shape must be (channels, height, width), got {shown(sizes)}")
    return [positive_int("each of input_shape", size) for size in sizes]


def _dtype(value: torch.dtype) -> torch.dtype:
    """Return ``value``, or raise TypeError unless it is a dtype of real numbers."""
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise TypeError(f"dtype must be a floating-point torch.dtype, got {shown(value)}")
    return value


def _device(value: torch.device | str) -> torch.device:
    """Return ``value`` as a device; ValueError unless it is one that PyTorch knows."""
    try:
        return torch.device(instance_of("device", value, torch.device, str))
    except RuntimeError as error:
        raise ValueError(f"device must be one of PyTorch's, got {shown(value)}") from error


def _initialize(
    model: nn.Module,
    gain: float,
    scale: float,
    seed: int | torch.Generator,
    device: torch.device | str,
) -> nn.Module:
    """Give the model, built without storage, its weights by the scheme at the head of the file."""
    scale, device = positive_float("scale", scale), _device(device)
    if not isinstance(seed, torch.Generator):
        seed = torch.Generator().manual_seed(
            positive_int("seed", seed, minimum=0, maximum=2**64 - 1)
        )
    elif seed.device.type != "cpu":
        raise ValueError(f"seed must be a generator on the CPU, got one on {seed.device}")
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                # Of one dimension are biases, and the factors of a normalization.
                parameter.fill_(float(name.endswith("weight")))
                continue
            fan_in = parameter[0].numel()
            draw = torch.randn(parameter.shape, generator=seed, dtype=torch.float64)
            parameter.copy_(draw * (scale * gain / math.sqrt(fan_in)))
    return model

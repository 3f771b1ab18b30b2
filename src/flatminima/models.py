"""Small reference networks, built by plain functions and initialized from an explicit seed.

All of them take a batch of images ``(n, channels, height, width)`` or of vectors ``(n, d)`` and
return ``(n, outputs)``. They hold no dropout and no batch normalization: the loss on fixed data
is a deterministic function of the parameters, so that its Hessian means something.

Initialization (all models): biases are zero; each weight is drawn independently from the normal
distribution of mean 0 and standard deviation ``scale * gain / sqrt(fan_in)``, where ``gain`` is
sqrt(2) for relu and gelu (He et al., 2015) and 1 for tanh, elu, softplus and identity (LeCun et
al., 1998). The draws are made on the CPU in float64 and then cast, so that the same seed gives the
same network, up to rounding, in every dtype and on every device.

Example:
    >>> model = cnn((4, 8), "tanh", seed=1)
    >>> model(torch.zeros(5, 1, 28, 28)).shape, count_parameters(model)
    (torch.Size([5, 10]), 4266)
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

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
    "cnn",
    "count_parameters",
    "linear",
    "mlp",
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
    scale: float = 1.0,
    seed: int | torch.Generator = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> nn.Sequential:
    """Convolutional network: per entry of ``channels`` a block, then one linear layer.

    A block is a 3x3 convolution with padding 1 and bias, the activation, and 2x2 average pooling
    (smooth, where maximum pooling is not; an odd last row or column is dropped).

    ``channels`` has the number of output channels of each block, ``input_shape`` is (channels,
    height, width) of one image, and all else is as in `mlp`. ValueError for more poolings than the
    image has room for, too.
    """
    channels = [positive_int("each of channels", c) for c in a_list("channels", channels)]
    input_shape, dtype = a_list("input_shape", input_shape), _dtype(dtype)
    if len(input_shape) != 3:
        raise ValueError(f"input_shape must be (channels, height, width), got {shown(input_shape)}")
    c_in, height, width = (positive_int("each of input_shape", s) for s in input_shape)
    outputs = positive_int("outputs", outputs)
    shrink = 2 ** len(channels)
    if not channels or min(height, width) < shrink:
        raise ValueError(
            f"channels must name between 1 and {int(math.log2(min(height, width)))} blocks for "
            f"images of {height} x {width}, got {len(channels)}"
        )
    make_activation, gain = ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)]
    layers: list[nn.Module] = []
    for c_out in channels:
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1, dtype=dtype, device="meta")]
        layers += [make_activation(), nn.AvgPool2d(2)]
        c_in = c_out
    features = c_in * (height // shrink) * (width // shrink)
    layers += [nn.Flatten(), nn.Linear(features, outputs, dtype=dtype, device="meta")]
    return _initialize(nn.Sequential(*layers), gain, scale, seed, device)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters, the dimension of the space the loss landscape lives on."""
    parameters = instance_of("model", model, nn.Module).parameters()
    return sum(p.numel() for p in parameters if p.requires_grad)


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
    model: nn.Sequential,
    gain: float,
    scale: float,
    seed: int | torch.Generator,
    device: torch.device | str,
) -> nn.Sequential:
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
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.zero_()
                continue
            fan_in = parameter[0].numel()
            draw = torch.randn(parameter.shape, generator=seed, dtype=torch.float64)
            parameter.copy_(draw * (scale * gain / math.sqrt(fan_in)))
    return model

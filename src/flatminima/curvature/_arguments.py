"""Checks of the arguments that only this room has: tensors, and generators of PyTorch."""

import torch
from torch import Tensor

from flatminima._validation import instance_of, shown


def real_tensor(name: str, value: object) -> Tensor:
    """Return ``value``, a tensor or what makes one; ValueError unless it holds real numbers."""
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a tensor of numbers, got {shown(value)}") from error
    if tensor.is_complex():
        raise ValueError(f"{name} must hold real numbers, got {shown(value)}")
    return tensor


def a_tensor(name: str, value: object) -> Tensor:
    """The same, and ValueError unless the numbers are finite."""
    tensor = real_tensor(name, value)
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} must hold finite numbers only, got {shown(value)}")
    return tensor


def a_vector(name: str, value: object, n: int) -> Tensor:
    """Return ``value`` as a tensor; ValueError unless it is (n,) and finite."""
    vector = a_tensor(name, value)
    if vector.shape != (n,):
        raise ValueError(f"{name} must be finite, of shape ({n},), got {tuple(vector.shape)}")
    return vector


def torch_generator(name: str, value: torch.Generator | None) -> torch.Generator:
    """Return ``value``, for None one with the seed 0; TypeError for anything else."""
    if value is None:
        return torch.Generator().manual_seed(0)
    return instance_of(name, value, torch.Generator)

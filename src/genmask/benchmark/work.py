"""What a stage has to do: floating-point operations by precision, and bytes of weights that it reads.

One multiplication and one addition are two operations (FLOP). Matrix products, convolutions and attention count, and
nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


@dataclass(kw_only=True)
class Work:
    """Of a stage, in all its turns."""

    flop: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By the precision of the products: "float32", "bfloat16", ..., and "tf32" for float32 on a GPU's tensor cores."""
    bytes: int = 0
    """Of weights, as often as an operator reads them, and of an embedding the rows that are looked up."""

    @property
    def total_flop(self) -> int:
        return sum(self.flop.values())


class WorkCounter:
    """A `stages.Listener` that counts what is done in each stage; slow, so that nothing is to be timed with it.

    Args:
        modules: whose parameters are the weights.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.work: dict[str, Work] = {}
        self._weights = {x.untyped_storage()._cdata for module in modules for x in module.parameters()}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        with _Counting(self.work.setdefault(stage, Work()), self._weights):
            yield


class _Counting(TorchDispatchMode):
    def __init__(self, work: Work, weights: set[int]) -> None:
        super().__init__()
        self.work, self.weights = work, weights

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        formula = FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.work.flop[_precision(func.overloadpacket, inputs[0])] += formula(
                *args, **(kwargs or {}), out_val=out
            )
        if func.overloadpacket is aten.embedding:
            weight, rows = inputs
            self.work.bytes += rows.numel() * weight.shape[1] * weight.itemsize
        elif not any(map(self._is_weight, tree_leaves(out))):  # views of weights read nothing
            self.work.bytes += sum(x.nbytes for x in inputs if self._is_weight(x))
        return out

    def _is_weight(self, x: Any) -> bool:
        return isinstance(x, Tensor) and x.untyped_storage()._cdata in self.weights


def _precision(operator: Any, x: Tensor) -> str:
    """Of the products of an operator on x."""
    name = str(x.dtype).removeprefix("torch.")
    if name != "float32" or x.device.type != "cuda":
        return name
    backends = torch.backends.cudnn if operator in CONVOLUTIONS else torch.backends.cuda.matmul
    return "tf32" if backends.allow_tf32 else name


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Two products. query: (B, heads, T, d), key and value (B, their heads, N, d)."""
    return 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Four products; the first that a fused kernel does again is not asked for."""
    return 2 * _attention(query, key, value)


CONVOLUTIONS = (aten.convolution, aten._convolution, aten.cudnn_convolution, aten.convolution_backward)
ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
"""PyTorch's fused kernels. Its own formulas lack the CPU's, and refuse fewer heads of keys than of queries."""
FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    **{getattr(aten, name): _attention for name in ATTENTION},
    **{getattr(aten, f"{name}_backward"): _attention_backward for name in ATTENTION},
}
"""From an operator to the FLOP of its arguments and result."""

"""Private and undocumented interfaces of PyTorch, and errors of it that differ only in their text (torch 2.13).

torch is imported inside the functions that use it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

from psych_ray.compat.transformers import conversion_errors

if TYPE_CHECKING:
    from torch import Tensor

ParameterHook = Callable[..., Any]
"""Called with module, name and parameter; what it returns, unless None, is registered instead."""


_CONVERTED_ROWS = 8192
"""Rows of a weight in half precision that are converted to float32 together."""
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "cannot allocate memory", "defaultcpuallocator", "alloc_failed")


_CONNECTION_LOST = ("connection closed by peer", "connection reset", "timed out", "connection refused", "broken pipe")


@contextmanager
def parameter_hook(hook: ParameterHook) -> Iterator[None]:
    """Within the context, `hook` sees every parameter that is registered with any module.

    The only point at which weights can be sharded one by one while transformers loads them. Documented as
    experimental (torch 2.13).
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook

    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def has_onednn_linear() -> bool:
    """Whether this build of PyTorch has oneDNN's linear layer for this CPU."""
    import torch

    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` by oneDNN, to which PyTorch gives float32 only inside Inductor (torch 2.13)."""
    import torch

    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


def float32_linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` with a float32 result, also of bfloat16 arguments: [R, D], [V, D], [V] to [R, V].

    `linear` would round the result to the dtype of the arguments, in bfloat16 by up to 0.06 at 16. CUDA has products
    with another dtype of the result, undocumented (torch 2.13); elsewhere slices of the weight are converted.
    """
    import torch

    if rows.dtype == torch.float32:
        return torch.nn.functional.linear(rows, weight, bias)
    if rows.device.type == "cuda":
        product = torch.mm(rows, weight.t(), out_dtype=torch.float32)
    else:
        converted = rows.float()
        product = converted.new_empty(len(rows), len(weight))
        for first in range(0, len(weight), _CONVERTED_ROWS):
            some = slice(first, first + _CONVERTED_ROWS)
            product[:, some] = torch.mm(converted, weight[some].float().t())
    return product if bias is None else product.add_(bias)


def varlen_attention() -> Callable[..., Any]:
    """`torch.nn.attention.varlen.varlen_attn` with the arguments that it has from torch 2.12 on.

    torch 2.11 has no `enable_gqa`: the heads of keys and values are repeated there, with the same result.
    """
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn if "enable_gqa" in signature(varlen_attn).parameters else partial(_repeat_heads, varlen_attn)


def _repeat_heads(
    attend: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, *more: Any, enable_gqa: bool, **options: Any
) -> Any:
    if enable_gqa:
        n = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(n, dim=1) for states in (key, value))
    return attend(query, key, value, *more, **options)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device or the host ran out of memory.

    Only CUDA's allocator has a type for it (`torch.OutOfMemoryError`, a RuntimeError); the CPU's, cuBLAS, NCCL and
    memory maps raise RuntimeError or OSError and differ by their text (torch 2.13).
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if not isinstance(error, RuntimeError | OSError):
        return False
    text = f"{type(error).__name__} {error} {conversion_errors(error)}".lower()
    return "outofmemoryerror" in text or any(said in text for said in _OUT_OF_MEMORY)


def is_connection_lost(error: BaseException) -> bool:
    """Whether an exception of a collective says that another rank is gone or did not answer in time.

    NCCL and the store raise subclasses of `torch.distributed.DistError`, gloo a RuntimeError that differs from others
    only in its text (torch 2.13).
    """
    if not isinstance(error, RuntimeError):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error).lower()
    return "DistError" in names or ("gloo" in text and any(said in text for said in _CONNECTION_LOST))

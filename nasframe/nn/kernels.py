"""torch's own kernels for matrices as they are stored, int8 and 2:4, where the device has them; with measured speed."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from nasframe.nn.elastic import base_of
from nasframe.nn.formats import Format, encoder_matrices, record_of
from nasframe.nn.quantize import levels, row_scales

BATCH, LENGTH, REPEATS = 8, 64, 7


class Int8Linear(nn.Module):
    """A linear map whose weights are stored as int8, one scale a row; inputs are rounded to 8 bits as they come.

    Args:
        linear: the map; its rows lie on grids of 8 bits or less.
        bits: of these grids.
    """

    stored: torch.Tensor
    scales: torch.Tensor

    def __init__(self, linear: nn.Linear, bits: int) -> None:
        super().__init__()
        scales = row_scales(linear.weight, max(bits, 3))  # the grid ends at the row's largest entry, also with 2 bits
        self.on_cpu = linear.weight.device.type == "cpu"
        self.bias = linear.bias
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch plans to move this to another package
            if self.on_cpu:
                zeros = torch.zeros(len(scales), dtype=torch.long)
                stored = torch.quantize_per_channel(
                    linear.weight.detach(), scales[:, 0].double(), zeros, 0, torch.qint8
                )
                bias = None if linear.bias is None else linear.bias.detach()
                self.packed = torch.ops.quantized.linear_prepack(stored, bias)
                return
        end = levels(max(bits, 3))
        self.register_buffer("stored", (linear.weight.detach() / scales).round().clamp(-end, end).to(torch.int8).T)
        self.register_buffer("scales", scales[:, 0])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Multiply ``(…, in)`` by the stored integers."""
        if self.on_cpu:
            return torch.ops.quantized.linear_dynamic(inputs, self.packed, not _wide())
        rows = inputs.flatten(0, -2)
        scale = rows.abs().amax().clamp(min=torch.finfo(torch.float32).tiny) / 127
        product = torch._int_mm((rows / scale).round().to(torch.int8), self.stored)
        out = product.to(inputs.dtype) * (scale * self.scales).to(inputs.dtype)
        return (out if self.bias is None else out + self.bias).unflatten(0, inputs.shape[:-1])


def measure(net: nn.Module) -> dict[str, Any]:
    """Run a network's recorded matrices through torch's kernels for them, and compare with the dense network.

    Args:
        net: the network; it stays as it was. Its device decides which kernels there are.

    Returns:
        ``device``, ``batch``, ``length`` and ``threads`` of the measurement; ``int8`` and ``semi_structured``, each
        with ``matrices`` (how many go through the kernel) and either ``dense_ms``, ``ms``, ``speed_up`` and
        ``max_abs_difference`` of the logits, or the ``reason`` why it was not used; ``text`` says it in sentences.

    >>> from nasframe.testing.toy import tiny_net
    >>> measure(tiny_net())["int8"]
    {'matrices': 0, 'reason': 'no matrix is stored in 8 bits or less'}
    """
    record, device = record_of(net), next(net.parameters()).device
    there = dict(encoder_matrices(net))
    low = {name: form for name, form in record.items() if form.bits <= 8 and name in there}
    sparse = {name: form for name, form in record.items() if form.m == 4 and form.n <= 2 and name in there}
    found: dict[str, Any] = {"device": _device_name(device), "batch": BATCH, "length": LENGTH}
    found["threads"] = torch.get_num_threads()
    if not low:
        found["int8"] = {"matrices": 0, "reason": "no matrix is stored in 8 bits or less"}
    else:
        found["int8"] = _tried(net, low, lambda linear, form: Int8Linear(linear, form.bits))
    if not sparse:
        found["semi_structured"] = {"matrices": 0, "reason": "no matrix has at most 2 of 4 weights"}
    elif device.type != "cuda":
        reason = f"torch has no semi-structured sparse kernel for {device.type}: no speed-up is to be expected from 2:4"
        found["semi_structured"] = {"matrices": len(sparse), "reason": reason}
    else:
        found["semi_structured"] = _tried(net, sparse, _semi_structured, torch.bfloat16)
    found["text"] = f"{_sentence('int8', found['int8'])} {_sentence('2:4', found['semi_structured'])}"
    return found


def _tried(
    net: nn.Module,
    forms: Mapping[str, Format],
    make: Callable[[nn.Linear, Format], nn.Module],
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Replace the matrices in a copy, and time it beside the dense network; a kernel that refuses is a reason."""
    plain = copy.deepcopy(net).eval().to(dtype or next(net.parameters()).dtype)
    fast = copy.deepcopy(plain)
    paths = {id(module): path for path, module in fast.named_modules()}
    try:
        for name, module in dict(encoder_matrices(fast)).items():
            if name in forms:
                fast.set_submodule(paths[id(module)], make(module, forms[name]))
        inputs = _inputs(plain)
        with torch.inference_mode():
            apart = float((plain(**inputs).logits - fast(**inputs).logits).abs().max())
            dense, ms = _times(plain, fast, inputs)
    except (RuntimeError, NotImplementedError, AttributeError, ValueError) as error:
        return {"matrices": len(forms), "reason": f"torch's kernel refuses them: {str(error).splitlines()[0]}"}
    return {"matrices": len(forms), "dense_ms": dense, "ms": ms, "speed_up": dense / ms, "max_abs_difference": apart}


def _semi_structured(linear: nn.Linear, form: Format) -> nn.Module:
    sparse = torch.sparse.to_sparse_semi_structured(linear.weight.detach().contiguous())
    linear.weight = nn.Parameter(sparse, requires_grad=False)
    return linear


def _times(plain: nn.Module, fast: nn.Module, inputs: Mapping[str, torch.Tensor]) -> tuple[float, float]:
    """Time both networks in turns; return the medians in milliseconds."""
    wait = torch.cuda.synchronize if next(plain.parameters()).is_cuda else lambda: None
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS + 2):
        for net, taken in zip((plain, fast), seconds, strict=True):
            wait()
            began = time.perf_counter()
            net(**inputs)
            wait()
            taken.append(time.perf_counter() - began)
    dense, ms = (1000 * sorted(taken[2:])[REPEATS // 2] for taken in seconds)
    return dense, ms


def _inputs(net: nn.Module) -> dict[str, torch.Tensor]:
    config, where = base_of(net).config, next(net.parameters()).device
    length = min(LENGTH, config.max_position_embeddings - 2)
    ids = torch.randint(1, config.vocab_size, (BATCH, length), generator=torch.Generator().manual_seed(0)).to(where)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _sentence(kernel: str, row: Mapping[str, Any]) -> str:
    if "reason" in row:
        return f"{kernel}: {row['reason']}."
    return f"{kernel}: {row['matrices']} matrices, {row['ms']:.1f} ms instead of {row['dense_ms']:.1f} ms dense."


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _wide() -> bool:
    """Tell whether the processor adds products of 8 bits without overflow; else inputs keep 7 bits."""
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(word in name and there for name, there in able.items() for word in ("vnni", "amx_int8"))

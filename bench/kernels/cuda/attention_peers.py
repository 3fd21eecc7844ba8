"""The attention kernels people use, behind one interface, on one set of inputs.

K and V lie in one pool of random numbers and are viewed in the layout a peer wants:
dense and contiguous, which is what each of them is fastest on.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from cases import BF16_BYTES, Case

Tensor = torch.Tensor
Launch = Callable[[int], Tensor]


class Inputs:
    """Random bf16 K and V for any number of rotating caches, and one set of q and r."""

    def __init__(self, pool_bytes: int) -> None:
        self.pool_bytes = pool_bytes
        self._pool = torch.empty(pool_bytes // BF16_BYTES, dtype=torch.bfloat16, device="cuda")
        chunk = 1 << 28
        for begin in range(0, self._pool.numel(), chunk):
            self._pool[begin : begin + chunk].normal_()

    def kv(self, case: Case, copy: int, heads_first: bool) -> tuple[Tensor, Tensor]:
        """[B, Hkv, L, D] if heads_first, else [B, L, Hkv, D]."""
        size = case.sequences * case.keys * case.kv_heads * case.head_dim
        shape = (case.sequences, case.keys, case.kv_heads, case.head_dim)
        if heads_first:
            shape = (shape[0], shape[2], shape[1], shape[3])
        begin = 2 * size * copy
        k = self._pool[begin : begin + size].view(shape)
        v = self._pool[begin + size : begin + 2 * size].view(shape)
        return k, v

    def query(self, case: Case, heads_first: bool, seed: int) -> Tensor:
        shape = (case.sequences, case.new_tokens, case.query_heads, case.head_dim)
        if heads_first:
            shape = (shape[0], shape[2], shape[1], shape[3])
        generator = torch.Generator(device="cuda").manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.bfloat16, device="cuda")


def reference_row(q: Tensor, r: Tensor | None, k: Tensor, v: Tensor) -> Tensor:
    """fp64 output of one query row over all keys: q, r [D]; k, v [L, D]."""
    q, k, v = q.double(), k.double(), v.double()
    p = torch.softmax(k @ q / math.sqrt(q.numel()), dim=0)
    if r is not None:
        s2 = k @ r.double()
        p = p * (1 + p @ s2 - s2)
    return p @ v


@dataclass(frozen=True)
class Peer:
    """`prepare` returns what enqueues launch i, or None where the peer has no such kernel."""

    name: str
    version: str
    parallax: bool
    heads_first: bool
    prepare: Callable[[Case, Inputs], Launch | None]

    def check(self, case: Case, inputs: Inputs, out: Tensor) -> float:
        """Error of the last sequence's last row, last head, over the largest element of it."""
        k, v = inputs.kv(case, 0, self.heads_first)
        q = inputs.query(case, self.heads_first, seed=1)
        r = inputs.query(case, self.heads_first, seed=2) if self.parallax else None
        head = (slice(None), -1) if not self.heads_first else (-1, slice(None))
        at = lambda x, row: x[(-1, *head)][row]  # noqa: E731
        expected = reference_row(
            at(q, -1), None if r is None else at(r, -1), at(k, slice(None)), at(v, slice(None))
        )
        error = (at(out, -1).double() - expected).abs().max() / expected.abs().max()
        return float(error)


def _sdpa(backend: SDPBackend) -> Callable[[Case, Inputs], Launch | None]:
    def prepare(case: Case, inputs: Inputs) -> Launch | None:
        copies = case.copies(inputs.pool_bytes)
        caches = [inputs.kv(case, i, heads_first=True) for i in range(copies)]
        q = inputs.query(case, heads_first=True, seed=1)
        causal = case.kind == "prefill"
        if causal and case.cached:
            return None  # is_causal aligns the mask to the first key

        def launch(i: int) -> Tensor:
            k, v = caches[i % copies]
            with sdpa_kernel([backend]):
                return F.scaled_dot_product_attention(
                    q, k, v, is_causal=causal, enable_gqa=case.query_heads != case.kv_heads
                )

        return launch

    return prepare


def _kv_cache_kernel(
    decode: Callable[..., Tensor], prefill: Callable[..., Tensor] | None
) -> Callable[[Case, Inputs], Launch | None]:
    """A Parallax kernel called as f(q, r, k, v), all [B, tokens, heads, D]."""

    def prepare(case: Case, inputs: Inputs) -> Launch | None:
        kernel = decode if case.kind == "decode" else prefill
        if kernel is None:
            return None
        copies = case.copies(inputs.pool_bytes)
        caches = [inputs.kv(case, i, heads_first=False) for i in range(copies)]
        q = inputs.query(case, heads_first=False, seed=1)
        r = inputs.query(case, heads_first=False, seed=2)
        return lambda i: kernel(q, r, *caches[i % copies])

    return prepare


def _flash_attention_3(interface: object) -> Callable[[Case, Inputs], Launch | None]:
    def prepare(case: Case, inputs: Inputs) -> Launch | None:
        copies = case.copies(inputs.pool_bytes)
        caches = [inputs.kv(case, i, heads_first=False) for i in range(copies)]
        q = inputs.query(case, heads_first=False, seed=1)

        def launch(i: int) -> Tensor:
            k, v = caches[i % copies]
            out = interface.flash_attn_func(q, k, v, causal=case.kind == "prefill")
            return out[0] if isinstance(out, tuple) else out

        return launch

    return prepare


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _fla_peers() -> list[Peer]:
    decode = importlib.import_module("fla.ops.parallax.decode")
    parallel = importlib.import_module("fla.ops.parallax.parallel")

    def prefill(q: Tensor, r: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.shape[1] != k.shape[1]:
            return decode.parallax_decode(q, r, k, v)
        return parallel.parallel_parallax_fwd(q, r, k, v, q.shape[-1] ** -0.5)[0]

    prepare = _kv_cache_kernel(decode.parallax_decode_one_step, prefill)
    return [Peer("fla", _version("fla-core"), True, False, prepare)]


def _parallax_kernel_peers() -> list[Peer]:
    parallax = importlib.import_module("parallax")
    if not parallax.cute_decode_available:
        raise ImportError(parallax._cute_err_msg)
    module = importlib.import_module("parallax.cute.parallax_decode")
    lengths = module._get_seqlen_buf

    def decode(q: Tensor, r: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # The wrapper fills a tensor of lengths before every launch. A graph should hold the
        # kernel alone: the lengths are as the call before the capture left them.
        capturing = torch.cuda.is_current_stream_capturing()
        module._get_seqlen_buf = (lambda b, d, _: lengths(b, d)) if capturing else lengths
        return parallax.parallax_attn_with_kvcache(q, r, k, v)

    prepare = _kv_cache_kernel(decode, None)
    return [Peer("parallax-kernel", _version("parallax-kernel"), True, False, prepare)]


def _flash_attention_3_peers() -> list[Peer]:
    interface = importlib.import_module("flash_attn_interface")
    prepare = _flash_attention_3(interface)
    return [Peer("fa3", _version("flash_attn_3"), False, False, prepare)]


def _torch_peers() -> list[Peer]:
    version = f"torch {torch.__version__}"
    cudnn = f"{version}, cuDNN {torch.backends.cudnn.version()}"
    return [
        Peer("cudnn", cudnn, False, True, _sdpa(SDPBackend.CUDNN_ATTENTION)),
        Peer("fa2", version, False, True, _sdpa(SDPBackend.FLASH_ATTENTION)),
    ]


def available() -> tuple[list[Peer], dict[str, str]]:
    """Peers that can be run here, and why the others cannot."""
    families = {
        "torch": _torch_peers,
        "fla": _fla_peers,
        "parallax-kernel": _parallax_kernel_peers,
        "fa3": _flash_attention_3_peers,
    }
    peers: list[Peer] = []
    missing: dict[str, str] = {}
    for name, find in families.items():
        try:
            peers += find()
        except Exception as error:  # a broken install fails in its own way
            missing[name] = str(error).strip().splitlines()[-1]
    return peers, missing

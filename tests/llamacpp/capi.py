"""llama.cpp's C API as a package of Python bindings declares it, over the library of xllamacpp: modules and classes are named as
llama-cpp-python names them, so that what is attached to one is attached to the other."""

from __future__ import annotations

import ctypes
import types
from collections.abc import Iterator, Sequence
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from typing import Any

import numpy as np

__version__ = "2026.10.11549"

callback = ctypes.CFUNCTYPE(c_bool, c_void_p, c_bool, c_void_p)

_COUNTS = ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max", "n_outputs_max_per_seq")
_KINDS = ("n_threads", "n_threads_batch", "ctx_type", "rope_scaling_type", "pooling_type", "attention_type", "flash_attn_type")
_ROPE = ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")
_SWITCHES = ("embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified")
_HEAD: list[tuple[str, Any]] = [(n, c_uint32) for n in _COUNTS]
_HEAD += [(n, c_int32) for n in _KINDS]
_HEAD += [(n, c_float) for n in _ROPE]
_HEAD += [("yarn_orig_ctx", c_uint32), ("defrag_thold", c_float), ("cb_eval", callback), ("cb_eval_user_data", c_void_p)]
_HEAD += [("type_k", c_int32), ("type_v", c_int32)]
_TAIL: list[tuple[str, Any]] = [("abort_callback", c_void_p), ("abort_callback_data", c_void_p)]
_TAIL += [(n, c_bool) for n in _SWITCHES]
_TAIL += [("samplers", c_void_p), ("n_samplers", c_size_t), ("ctx_other", c_void_p)]


class llama_context_params(Structure):
    _fields_ = [*_HEAD, ("moe_cache_size", c_size_t), *_TAIL]


class older_context_params(Structure):
    """As llama.cpp had it some weeks before."""

    _fields_ = [*_HEAD, *_TAIL]


class llama_batch(Structure):
    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


class Model(Structure):
    """llama_model_params, of which the defaults are good."""

    _fields_ = [("bytes", ctypes.c_char * 512)]


FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "llama_context_default_params": (llama_context_params,),
    "llama_model_default_params": (Model,),
    "llama_model_load_from_file": (c_void_p, c_char_p, Model),
    "llama_init_from_model": (c_void_p, c_void_p, llama_context_params),
    "llama_batch_init": (llama_batch, c_int32, c_int32, c_int32),
    "llama_batch_free": (None, llama_batch),
    "llama_decode": (c_int32, c_void_p, llama_batch),
    "llama_get_logits_ith": (POINTER(c_float), c_void_p, c_int32),
    "llama_get_memory": (c_void_p, c_void_p),
    "llama_memory_clear": (None, c_void_p, c_bool),
    "llama_model_get_vocab": (c_void_p, c_void_p),
    "llama_vocab_n_tokens": (c_int32, c_void_p),
    "llama_free": (None, c_void_p),
    "llama_model_free": (None, c_void_p),
    "llama_log_set": (None, c_void_p, c_void_p),
}


def module(library: ctypes.CDLL) -> Any:
    """What `import llama_cpp` would give."""
    api = types.SimpleNamespace(_lib=library, llama_context_params=llama_context_params)
    for name, (result, *arguments) in FUNCTIONS.items():
        setattr(api, name, ctypes.CFUNCTYPE(result, *arguments)((name, library)))
    api.quiet = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)(lambda *_: None)
    api.llama_log_set(ctypes.cast(api.quiet, c_void_p), None)
    return api


class Batch:
    def __init__(self, api: Any, tokens: Sequence[int], pos: Sequence[int], seq: Sequence[int], output: Sequence[int]) -> None:
        self._api, self.batch = api, api.llama_batch_init(len(tokens), 0, 1)
        self.batch.n_tokens = len(tokens)
        for i, (t, p, s, o) in enumerate(zip(tokens, pos, seq, output)):
            self.batch.token[i], self.batch.pos[i], self.batch.n_seq_id[i], self.batch.logits[i] = t, p, 1, o
            self.batch.seq_id[i][0] = s

    def __del__(self) -> None:
        self._api.llama_batch_free(self.batch)


class Context:
    def __init__(self, api: Any, model: Any, params: llama_context_params) -> None:
        self._api, self.ctx = api, api.llama_init_from_model(model, params)
        assert self.ctx

    def decode(self, batch: Batch) -> None:
        status = self._api.llama_decode(self.ctx, batch.batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")

    def close(self) -> None:
        self._api.llama_free(self.ctx)


llama_cpp: Any = None  # as llama_cpp/llama.py has it; the fixture sets it


class Llama:
    """The parts of llama_cpp.Llama that matter: the order in which it is made, what it calls, what it keeps."""

    def __init__(self, path: str, n_ubatch: int = 512, n_seq: int = 1, unified: bool = False) -> None:
        api = llama_cpp
        self.context_params = api.llama_context_default_params()
        p = self.context_params
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max, p.n_threads, p.n_threads_batch = 256 * n_seq, 512, n_ubatch, n_seq, 1, 1
        p.type_k = p.type_v = p.flash_attn_type = 0
        p.kv_unified = unified
        loaded = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        if not loaded:
            raise ValueError(f"Failed to load model from file: {path}")
        self._model = types.SimpleNamespace(model=loaded)
        self._ctx = Context(api, loaded, p)
        self._n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(loaded))
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._ctx.ctx), True)

    def decode(
        self, tokens: Sequence[int], pos: Sequence[int] | None = None, seq: Sequence[int] | None = None, output: Sequence[int] | None = None
    ) -> np.ndarray:
        """The logits of the rows that have an output, by default all."""
        n = len(tokens)
        wanted = [1] * n if output is None else output
        self._ctx.decode(Batch(llama_cpp, tokens, range(n) if pos is None else pos, [0] * n if seq is None else seq, wanted))
        rows = [llama_cpp.llama_get_logits_ith(self._ctx.ctx, i) for i in range(n) if wanted[i]]
        return np.array([np.ctypeslib.as_array(row, (self._n_vocab,)) for row in rows])

    def greedy(self, tokens: Sequence[int], n: int) -> list[int]:
        self.reset()
        return list(self._greedy(tokens, n))

    def _greedy(self, tokens: Sequence[int], n: int) -> Iterator[int]:
        logits = self.decode(tokens, output=[0] * (len(tokens) - 1) + [1])
        for i in range(n):
            token = int(logits[-1].argmax())
            yield token
            logits = self.decode([token], pos=[len(tokens) + i])

    def close(self) -> None:
        self._ctx.close()
        llama_cpp.llama_model_free(self._model.model)

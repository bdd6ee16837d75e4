"""The bench's Python peers. `peer_worker.py PEER` speaks the line protocol of worker.h on stdin and stdout;
`peer_worker.py PEER first-code PATH ROWS FORMAT` opens an SAE, encodes one row, prints the first code and ends.

Every peer does what its user would write for it, with the fastest of its own ways that was found, results going to arrays made
beforehand where the library allows it.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

MAX_BATCH = 512
ACTIVE = 64
N_NEIGHBORS = 10
CLAMPS = (3.0, 5.0)  # take turns: a clamp that finds its feature already clamped has nothing to add

Case = dict[str, str]
Run = Callable[[], object]
Clock = Callable[[], int]  # nanoseconds


class Refused(Exception):
    """This peer cannot do what it was asked."""


def read_tensors(folder: str) -> dict[str, Any]:
    """The tensors of a safetensors file of f32, copied into memory of their own, as loading them would."""
    import numpy as np

    path = Path(folder, "sae_weights.safetensors")
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        entries = json.loads(f.read(n))
        out = {}
        for name, entry in entries.items():
            first, last = entry["data_offsets"]
            f.seek(8 + n + first)
            out[name] = np.fromfile(f, np.float32, (last - first) // 4).reshape(entry["shape"])
    return out


class Peer:
    """Names, versions and cases of one peer. A setup returns what to run and how much one run finds (codes, or a sum to compare)."""

    def __init__(self) -> None:
        self.folder = ""

    def hello(self) -> dict[str, str]:
        raise NotImplementedError

    def threads(self, n: int) -> None:
        raise NotImplementedError

    def open(self, folder: str) -> None:
        raise NotImplementedError

    def setup(self, name: str, case: Case) -> tuple[Run, float]:
        same = {"linear": "gemm"}  # a linear layer of the shape of W_enc, without bias
        method = getattr(self, "case_" + same.get(name, name).replace("-", "_"), None)
        if method is None:
            raise Refused(f"no case {name}")
        found: tuple[Run, float] = method(case)
        return found

    def first_code(self, path: str, rows: str, kind: str) -> str:
        raise Refused("no first code")


class Numpy(Peer):
    def __init__(self) -> None:
        super().__init__()
        import numpy as np

        self.np = np
        self.blas = self.find_blas()

    @staticmethod
    def find_blas() -> ctypes.CDLL | None:
        """NumPy's own OpenBLAS, found among what the process has mapped."""
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = line.split(maxsplit=5)[-1]
            if "openblas" in path:
                return ctypes.CDLL(path)
        return None

    def call(self, name: str, restype: Any, *args: Any) -> Any:
        for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
            f = getattr(self.blas, prefix + name + suffix, None) if self.blas else None
            if f is not None:
                f.restype = restype
                return f(*args)
        return None

    def hello(self) -> dict[str, str]:
        core = self.call("openblas_get_corename", ctypes.c_char_p) or b"unknown"
        return {"version": self.np.__version__, "isa": core.decode()}

    def threads(self, n: int) -> None:
        if self.blas is None and n > 1:
            raise Refused("the threads of this NumPy's BLAS cannot be set")
        self.call("openblas_set_num_threads", None, ctypes.c_int(n))

    def open(self, folder: str) -> None:
        np = self.np
        self.folder = folder
        self.w = read_tensors(folder)
        d_in = self.w["W_enc"].shape[0]
        self.x = np.fromfile(Path(folder, "rows.f32"), np.float32).reshape(-1, d_in)
        self.features = np.fromfile(Path(folder, "features.i32"), np.int32)

    def case_gemm(self, case: Case) -> tuple[Run, float]:
        x, w = self.x[: int(case["batch"])], self.w["W_enc"]
        if case.get("layout") == "rows":
            w = self.np.ascontiguousarray(w.T).T
        out = self.np.empty((len(x), w.shape[1]), self.np.float32)

        def run() -> object:
            return self.np.matmul(x, w, out=out)

        run()
        return run, float(out[:, 0].sum(dtype=float)) * 1000

    def case_encode(self, case: Case) -> tuple[Run, float]:
        np = self.np
        x, w, b, t = self.x[: int(case["batch"])], self.w["W_enc"], self.w["b_enc"], self.w["threshold"]
        out = np.empty((len(x), w.shape[1]), np.float32)
        active = np.empty(out.shape, bool)

        def run() -> object:
            np.matmul(x, w, out=out)
            np.add(out, b, out=out)
            np.greater(out, t, out=active)
            return np.multiply(out, active, out=out)

        run()
        return run, float(np.count_nonzero(out))

    def case_decode(self, case: Case) -> tuple[Run, float]:
        np, n = self.np, int(case["batch"])
        ids = np.fromfile(Path(self.folder, "codes.i32"), np.int32).reshape(-1, ACTIVE)[:n]
        values = np.fromfile(Path(self.folder, "codes.f32"), np.float32).reshape(-1, ACTIVE)[:n]
        w, b = self.w["W_dec"], self.w["b_dec"]
        out = np.empty((n, w.shape[1]), np.float32)

        def run() -> object:
            for r in range(n):
                np.matmul(values[r], w[ids[r]], out=out[r])
            return np.add(out, b, out=out)

        run()
        return run, float(ids.size)

    def gather(self, n: int) -> tuple[Any, Any, Any, Any]:
        ids = self.features[:n]
        return (self.np.ascontiguousarray(self.w["W_enc"][:, ids]), self.w["b_enc"][ids], self.w["threshold"][ids], self.w["W_dec"][ids])

    def case_probe(self, case: Case) -> tuple[Run, float]:
        np, x = self.np, self.x[: int(case["batch"])]
        w, b, t, _ = self.gather(int(case["features"]))

        def run() -> Any:
            z = x @ w + b
            return z * (z > t)

        return run, float(np.count_nonzero(run()))

    def case_steer(self, case: Case) -> tuple[Run, float]:
        n = int(case["batch"])
        w, b, t, d = self.gather(int(case["features"]))
        rows = self.x[:n].copy()
        turn = [0]

        def run() -> None:
            nonlocal rows
            z = rows @ w + b
            z *= z > t
            turn[0] ^= 1
            rows += (CLAMPS[turn[0]] - z) @ d

        return run, float(n * w.shape[1])

    def case_neighbors(self, case: Case) -> tuple[Run, float]:
        np = self.np
        w = self.w["W_dec"] / np.linalg.norm(self.w["W_dec"], axis=1, keepdims=True)
        q, k = self.x[0], N_NEIGHBORS

        def run() -> object:
            cosine = w @ (q / np.linalg.norm(q))
            top = np.argpartition(-cosine, k)[:k]
            return top[np.argsort(-cosine[top])]

        return run, float(k)

    def first_code(self, path: str, rows: str, kind: str) -> str:
        np = self.np
        w = read_tensors(path)
        x = np.fromfile(rows, np.float32, w["W_enc"].shape[0])
        h = x @ w["W_enc"] + w["b_enc"]
        i = int(np.argmax(h > w["threshold"]))
        return f"{i} {h[i]:g}"


class Torch(Peer):
    """f32 or bf16. The encode is what SAEs in torch do: one addmm, then one comparison and one product, or (top-k) the k largest."""

    def __init__(self, dtype: str) -> None:
        super().__init__()
        import torch

        self.torch = torch
        self.dtype = getattr(torch, dtype)
        torch.set_grad_enabled(False)

    def hello(self) -> dict[str, str]:
        return {"version": self.torch.__version__.split("+")[0], "isa": self.torch.backends.cpu.get_cpu_capability()}

    def threads(self, n: int) -> None:
        self.torch.set_num_threads(n)

    def open(self, folder: str) -> None:
        import numpy as np

        self.folder = folder
        w = read_tensors(folder)
        x = np.fromfile(Path(folder, "rows.f32"), np.float32).reshape(-1, w["W_enc"].shape[0])
        self.config = json.loads(Path(folder, "cfg.json").read_text())
        if self.config["apply_b_dec_to_input"]:  # once, not for every row
            w["b_enc"] = w["b_enc"] - w["b_dec"] @ w["W_enc"]
        self.w = {name: self.torch.from_numpy(a).to(self.dtype) for name, a in w.items()}
        self.x = self.torch.from_numpy(x).to(self.dtype)
        self.features = self.torch.from_numpy(np.fromfile(Path(folder, "features.i32"), np.int32)).long()

    def codes(self, n: int) -> tuple[Any, Any]:
        import numpy as np

        ids = np.fromfile(Path(self.folder, "codes.i32"), np.int32).reshape(-1, ACTIVE)[:n]
        values = np.fromfile(Path(self.folder, "codes.f32"), np.float32).reshape(-1, ACTIVE)[:n]
        return self.torch.from_numpy(ids).long(), self.torch.from_numpy(values).to(self.dtype)

    def case_gemm(self, case: Case) -> tuple[Run, float]:
        x, w = self.x[: int(case["batch"])], self.w["W_enc"]
        if case.get("layout") == "rows":
            w = w.T.contiguous().T
        out = self.torch.empty(len(x), w.shape[1], dtype=self.dtype)

        def run() -> object:
            return self.torch.matmul(x, w, out=out)

        run()
        return run, float(out[:, 0].double().sum()) * 1000

    def blocks(self, case: Case) -> tuple[Iterator[Any], int]:
        """What one run after the other encodes: always the first rows, or all of rows=N block by block; and how many blocks there are."""
        n = int(case["batch"])
        rows = int(case.get("rows", n))
        return itertools.cycle([self.x[i : i + n] for i in range(0, rows, n)]), rows // n

    def count(self, run: Callable[[], Any], n: int) -> tuple[Run, float]:
        return run, float(sum(int(self.torch.count_nonzero(run())) for _ in range(n)))

    def case_encode(self, case: Case) -> tuple[Run, float]:
        torch, k = self.torch, self.config.get("k")
        blocks, n = self.blocks(case)
        w, b, t = self.w["W_enc"], self.w["b_enc"], self.w.get("threshold")

        def jumprelu() -> Any:
            h = torch.addmm(b, next(blocks), w)
            return h.mul_(h > t)

        def topk() -> Any:
            h = torch.addmm(b, next(blocks), w)
            values, ids = torch.topk(h, k)
            return torch.zeros_like(h).scatter_(1, ids, values.relu_())

        return self.count(topk if k else jumprelu, n)

    def case_decode(self, case: Case) -> tuple[Run, float]:
        torch = self.torch
        ids, values = self.codes(int(case["batch"]))
        w, b = self.w["W_dec"], self.w["b_dec"]

        def run() -> object:
            return torch.nn.functional.embedding_bag(ids, w, per_sample_weights=values, mode="sum").add_(b)

        run()
        return run, float(ids.numel())

    def gather(self, n: int) -> tuple[Any, Any, Any, Any]:
        ids = self.features[:n]
        return self.w["W_enc"][:, ids].contiguous(), self.w["b_enc"][ids], self.w["threshold"][ids], self.w["W_dec"][ids]

    def case_probe(self, case: Case) -> tuple[Run, float]:
        torch, x = self.torch, self.x[: int(case["batch"])]
        w, b, t, _ = self.gather(int(case["features"]))

        def run() -> Any:
            z = torch.addmm(b, x, w)
            return z.mul_(z > t)

        return run, float(torch.count_nonzero(run()))

    def case_steer(self, case: Case) -> tuple[Run, float]:
        torch, n = self.torch, int(case["batch"])
        w, b, t, d = self.gather(int(case["features"]))
        rows = self.x[:n].clone()
        turn = [0]

        def run() -> None:
            z = torch.addmm(b, rows, w)
            z.mul_(z > t)
            turn[0] ^= 1
            rows.addmm_(CLAMPS[turn[0]] - z, d)

        return run, float(n * w.shape[1])

    def case_neighbors(self, case: Case) -> tuple[Run, float]:
        torch = self.torch
        w = torch.nn.functional.normalize(self.w["W_dec"], dim=1)
        q, k = self.x[0], N_NEIGHBORS

        def run() -> object:
            return torch.topk(torch.mv(w, q / q.norm()), k)

        return run, float(k)


class OneDnn(Torch):
    """oneDNN's f32 inner product with weights packed beforehand, as torch carries it: the raw product and its bias."""

    def __init__(self) -> None:
        super().__init__("float32")
        if not self.torch.backends.mkldnn.is_available():
            raise Refused("this torch has no oneDNN")

    def case_gemm(self, case: Case) -> tuple[Run, float]:
        from torch.utils import mkldnn

        torch = self.torch
        d_in, d_sae = self.w["W_enc"].shape
        linear = torch.nn.Linear(d_in, d_sae, bias=False)
        linear.weight.data = self.w["W_enc"].T.contiguous()
        packed = mkldnn.to_mkldnn(linear.eval())
        x = self.x[: int(case["batch"])].contiguous().to_mkldnn()

        def run() -> Any:
            return packed(x)

        return run, float(run().to_dense()[:, 0].double().sum()) * 1000


class SaeLens(Torch):
    """The real SAE class of SAELens, loaded from the folder as its users load it."""

    def __init__(self) -> None:
        super().__init__("float32")
        import sae_lens

        self.sae_lens = sae_lens

    def hello(self) -> dict[str, str]:
        return {**super().hello(), "version": self.sae_lens.__version__}

    def open(self, folder: str) -> None:
        super().open(folder)
        self.w = {}  # the SAE holds its own
        self.sae = self.sae_lens.SAE.load_from_disk(folder, device="cpu")

    def case_encode(self, case: Case) -> tuple[Run, float]:
        blocks, n = self.blocks(case)
        return self.count(lambda: self.sae.encode(next(blocks)), n)

    def case_decode(self, case: Case) -> tuple[Run, float]:
        ids, values = self.codes(int(case["batch"]))
        acts = self.torch.zeros(len(ids), self.sae.cfg.d_sae).scatter_(1, ids, values)

        def run() -> object:
            return self.sae.decode(acts)

        run()
        return run, float(ids.numel())

    def case_probe(self, case: Case) -> tuple[Run, float]:
        x, ids = self.x[: int(case["batch"])], self.features[: int(case["features"])]

        def run() -> Any:
            return self.sae.encode(x)[:, ids]

        return run, float(self.torch.count_nonzero(run()))

    def case_steer(self, case: Case) -> tuple[Run, float]:
        """Encode, clamp, decode, with the error term kept: what a hook around a SAELens SAE does."""
        n, ids = int(case["batch"]), self.features[: int(case["features"])]
        rows = self.x[:n].clone()
        turn = [0]

        def run() -> None:
            nonlocal rows
            acts = self.sae.encode(rows)
            error = rows - self.sae.decode(acts)
            turn[0] ^= 1
            acts[:, ids] = CLAMPS[turn[0]]
            rows = self.sae.decode(acts) + error

        return run, float(n * len(ids))

    def load(self, path: str, kind: str) -> Any:
        """As its users load it. The readers of other formats ask the Hub for files: they get the local ones."""
        readers = {
            "gemma_scope": ("gemma_2_sae_huggingface_loader", "2b-res", "layer_0/width_16k"),
            "dictionary_learning": ("dictionary_learning_sae_huggingface_loader_1", "", "."),
        }
        if kind not in readers:
            return self.sae_lens.SAE.load_from_disk(path, device="cpu", dtype="float32")  # the default of from_pretrained
        from sae_lens.loading import pretrained_sae_loaders as loaders

        name, repo, within = readers[kind]
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        loaders.hf_hub_download = lambda *_, filename, **__: str(folder / Path(filename).name)

        def converter(_: object, device: str, cfg_overrides: Any) -> Any:
            return getattr(loaders, name)(repo, within, device, cfg_overrides=cfg_overrides)[:2]

        return self.sae_lens.SAE.load_from_disk(path, device="cpu", converter=converter)

    def first_code(self, path: str, rows: str, kind: str) -> str:
        import numpy as np

        sae = self.load(path, kind)
        x = self.torch.from_numpy(np.fromfile(rows, np.float32, sae.cfg.d_in))
        acts = sae.encode(x[None])[0]
        i = int(self.torch.nonzero(acts)[0])
        return f"{i} {float(acts[i]):g}"


class Faiss(Peer):
    def __init__(self) -> None:
        super().__init__()
        import faiss
        import numpy as np

        self.np, self.faiss = np, faiss

    def hello(self) -> dict[str, str]:
        options = self.faiss.get_compile_options().split()
        return {"version": self.faiss.__version__, "isa": next((o for o in reversed(options) if o.startswith("AVX")), "generic")}

    def threads(self, n: int) -> None:
        self.faiss.omp_set_num_threads(n)

    def open(self, folder: str) -> None:
        w = read_tensors(folder)["W_dec"]
        w /= self.np.linalg.norm(w, axis=1, keepdims=True)
        self.index = self.faiss.IndexFlatIP(w.shape[1])
        self.index.add(w)
        self.query = self.np.fromfile(Path(folder, "rows.f32"), self.np.float32, w.shape[1])[None]

    def case_neighbors(self, case: Case) -> tuple[Run, float]:
        def run() -> object:
            return self.index.search(self.query / self.np.linalg.norm(self.query), N_NEIGHBORS)

        run()
        return run, float(N_NEIGHBORS)


PEERS: dict[str, Callable[[], Peer]] = {
    "numpy": Numpy,
    "torch-f32": lambda: Torch("float32"),
    "torch-bf16": lambda: Torch("bfloat16"),
    "onednn": OneDnn,
    "saelens": SaeLens,
    "faiss": Faiss,
}


def time_runs(clock: Clock, run: Run, n: int) -> float:
    """Milliseconds of one run, out of n between two looks at the clock."""
    start = clock()
    for _ in range(n):
        run()
    return (clock() - start) / n * 1e-6


def turn(clock: Clock, run: Run, at_least_ms: float) -> list[float]:
    """As in worker.c: an untimed first run where runs are short, several at once where they are shorter than 100 us."""
    first = time_runs(clock, run, 1)
    times, n = [], 1
    if first * 3 > at_least_ms:
        times.append(first)
    else:
        first = time_runs(clock, run, 1)
        n = 1 if first >= 0.1 else int(0.1 / max(first, 1e-5)) + 1
    spent = sum(times)
    while len(times) < 400 and spent < at_least_ms:
        times.append(time_runs(clock, run, n))
        spent += times[-1] * n
    return times


def status_kib(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    return 0


class Server:
    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.runs: dict[str, Run] = {}
        self.clock: Clock = time.process_time_ns

    def answer(self, line: str) -> str:
        verb, _, rest = line.partition(" ")
        if verb == "hello":
            return "".join(f" {k}={v}" for k, v in self.peer.hello().items())
        if verb == "threads":
            self.clock = time.process_time_ns if rest == "1" else time.perf_counter_ns
            self.peer.threads(int(rest))
            return ""
        if verb == "open":
            self.runs = {}
            self.peer.open(rest)
            return ""
        if verb == "case":
            slot, name, *words = rest.split()
            self.runs.pop(slot, None)
            self.runs[slot], count = self.peer.setup(name, dict(w.split("=", 1) for w in words))
            return f" count={count:.0f} bits=0"
        if verb == "turn":
            slot, ms = rest.split()
            if slot not in self.runs:
                raise Refused(f"case {slot} is not set up")
            return "".join(f" {t:.6f}" for t in turn(self.clock, self.runs[slot], float(ms)))
        if verb == "rss":
            return f" {status_kib('VmRSS')}"
        raise Refused(f"unknown request: {line}")

    def serve(self, out: Any) -> None:
        for line in sys.stdin:
            try:
                text = "ok" + self.answer(line.strip())
            except Refused as e:
                text = f"no {e}"
            except Exception as e:  # whatever goes wrong in a peer is the peer's answer, not the bench's end
                text = f"no {type(e).__name__}: {e}".replace("\n", " ")
            out.write(text + "\n")
            out.flush()


def main() -> int:
    # What libraries print goes to stderr; the protocol keeps the real stdout.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        peer = PEERS[sys.argv[1]]()
        if sys.argv[2:3] == ["first-code"]:
            out.write(peer.first_code(*sys.argv[3:6]) + "\n")
            out.flush()
            out.write(f"{status_kib('VmHWM')}\n")
            out.flush()
            return 0
    except (ImportError, Refused) as e:
        out.write(f"no {e}\n".replace("\n", " ") + "\n")
        out.flush()
        return 1
    with contextlib.suppress(KeyboardInterrupt):
        Server(peer).serve(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

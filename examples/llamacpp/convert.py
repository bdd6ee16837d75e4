"""A llama2.c checkpoint as a GGUF file for llama.cpp, with its tokenizer (needs the gguf package):

    convert.py MODEL.bin TOKENIZER OUT.gguf

TOKENIZER is llama2.c's tokenizer.bin or a SentencePiece .model. Weights stay f32 and keep their order: llama2.c turns neighbouring
elements of a head, and so does llama.cpp's "llama". The same files give the same bytes.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np

CONTROL_NAMES = (b"<unk>", b"<s>", b"</s>")
TYPE = gguf.TokenType


class Shape(NamedTuple):
    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int


class Token(NamedTuple):
    text: bytes
    score: float
    kind: int


def read_checkpoint(path: Path) -> tuple[Shape, dict[str, np.ndarray]]:
    """The tensors of a version 0 checkpoint (karpathy/llama2.c, export.py) under their GGUF names."""
    data = path.read_bytes()
    if len(data) < 28:
        raise SystemExit(f"{path} has {len(data)} bytes, a checkpoint begins with 28")
    shape = Shape(*struct.unpack("<7i", data[:28]))
    tied, shape = shape.vocab > 0, shape._replace(vocab=abs(shape.vocab))
    if min(shape) < 1 or max(shape) > 1 << 20 or shape.dim % shape.heads or shape.heads % shape.kv_heads:
        raise SystemExit(f"{path} is not a llama2.c checkpoint of version 0: it begins with {shape}")
    n, d, h, v = shape.layers, shape.dim, shape.hidden, shape.vocab
    head = d // shape.heads
    kv = head * shape.kv_heads
    parts = {
        "token_embd": (v, d),
        "attn_norm": (n, d),
        "attn_q": (n, d, d),
        "attn_k": (n, kv, d),
        "attn_v": (n, kv, d),
        "attn_output": (n, d, d),
        "ffn_norm": (n, d),
        "ffn_gate": (n, h, d),
        "ffn_down": (n, d, h),
        "ffn_up": (n, h, d),
        "output_norm": (d,),
        "": (2, shape.context, head // 2),  # cosines and sines, which are computed anew
        **({} if tied else {"output": (v, d)}),
    }
    wanted = 28 + 4 * sum(int(np.prod(s)) for s in parts.values())
    if wanted != len(data):
        raise SystemExit(f"{path} has {len(data)} bytes, its first numbers say {wanted}")
    tensors: dict[str, np.ndarray] = {}
    at = 28
    for name, size in parts.items():
        a = np.frombuffer(data, "<f4", int(np.prod(size)), at).reshape(size)
        at += a.nbytes
        if name in ("token_embd", "output_norm", "output"):
            tensors[f"{name}.weight"] = a
        elif name:
            tensors |= {f"blk.{i}.{name}.weight": a[i] for i in range(n)}
    return shape, tensors


def read_tokenizer_bin(data: bytes, n: int) -> list[Token]:
    """Int32 longest piece, then for each token f32 score, int32 length, bytes. Tokens 3 .. 258 are bytes where they are spelled so."""
    tokens, at = [], 4
    for i in range(n):
        score, length = struct.unpack_from("<fi", data, at)
        text = data[at + 8 : at + 8 + length]
        at += 8 + length
        if i < 3:
            tokens.append(Token(CONTROL_NAMES[i], score, (TYPE.UNKNOWN, TYPE.CONTROL, TYPE.CONTROL)[i]))
        elif i < 259 and text == b"<0x%02X>" % (i - 3):
            tokens.append(Token(text, score, TYPE.BYTE))
        else:
            tokens.append(Token(text.replace(b" ", "\u2581".encode()), score, TYPE.NORMAL))
    return tokens


def fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """Numbers and values of the fields of a protobuf message."""
    out: list[tuple[int, int | bytes]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            out.append((key >> 3, varint()))
            continue
        length = varint() if key & 7 == 2 else {1: 8, 5: 4}[key & 7]
        out.append((key >> 3, data[at : at + length]))
        at += length
    return out


def read_sentencepiece(data: bytes) -> list[Token]:
    """Pieces of a SentencePiece model (sentencepiece_model.proto): GGUF took its types of tokens from there."""
    tokens = []
    for number, piece in fields(data):
        if number == 1 and isinstance(piece, bytes):
            of = dict(fields(piece))
            score = struct.unpack("<f", of[2])[0] if isinstance(of.get(2), bytes) else 0.0
            tokens.append(Token(bytes(of[1]), score, int(of.get(3, 1))))
    return tokens


def read_tokenizer(path: Path, n: int) -> list[Token]:
    try:
        data = path.read_bytes()
        tokens = read_sentencepiece(data) if path.suffix == ".model" else read_tokenizer_bin(data, n)
    except (struct.error, IndexError, KeyError) as error:
        raise SystemExit(f"{path} is damaged or no tokenizer of {n} tokens") from error
    if len(tokens) != n:
        raise SystemExit(f"{path} has {len(tokens)} tokens, the model {n}")
    return tokens


def write(out: Path, name: str, shape: Shape, tensors: dict[str, np.ndarray], tokens: list[Token]) -> None:
    w = gguf.GGUFWriter(str(out), "llama")
    w.add_name(name)
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_vocab_size(shape.vocab)
    w.add_context_length(shape.context)
    w.add_embedding_length(shape.dim)
    w.add_block_count(shape.layers)
    w.add_feed_forward_length(shape.hidden)
    w.add_head_count(shape.heads)
    w.add_head_count_kv(shape.kv_heads)
    w.add_rope_dimension_count(shape.dim // shape.heads)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list([t.text for t in tokens])
    w.add_token_scores([t.score for t in tokens])
    w.add_token_types([t.kind for t in tokens])
    w.add_unk_token_id(0)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_add_space_prefix(True)
    for key, tensor in tensors.items():
        w.add_tensor(key, np.ascontiguousarray(tensor))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main(arguments: list[str]) -> None:
    if len(arguments) != 3:
        raise SystemExit("usage: convert.py MODEL.bin TOKENIZER OUT.gguf")
    model, tokenizer, out = map(Path, arguments)
    shape, tensors = read_checkpoint(model)
    write(out, model.stem, shape, tensors, read_tokenizer(tokenizer, shape.vocab))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Tokenizers of the families that the engine reads, trained on a few words with Hugging Face's `tokenizers`, and what that package makes
of difficult texts. Rewrites tests/golden/engine (needs the packages of `make check-ecosystem`): python tests/engine/families.py"""

from __future__ import annotations

import json
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "engine"
N_VOCAB = 300
SPECIAL = ["<unk>", "<s>", "</s>"]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CORPUS = [
    "the cat sat on the mat; the other cat's mat isn't there",
    "오늘 미나는 오늘 고양이를",
    "el gato está en el  tejado",
    "1234 1234 12",
] * 4
TEXTS = [
    "",
    " ",
    "   ",
    "the cat",
    " the cat",
    "  the  cat  ",
    "The cat's mat isn't they're WE'LL I'D I'm 've",
    "'S 'T 'LL 'sat 'tis",
    "12345 67 8901234",
    "x1y22z333w4444",
    "a\nb\n\nc\n \n d\t\te\r\nf",
    "end of line  \n",
    "trailing blanks   ",
    "!!! ??? ...!\n\nthe",
    "don't-stop_the (cat) [mat] {1} <2>",
    "오늘 미나는 고양이를 본다.",
    "está el niño; ¿qué?",
    "e\u0301 n\u0303 combining",
    "\u00a0non\u00a0breaking\u3000wide \u2003em",
    "emoji 🐈‍⬛ and 𝔘nicode Ⅷ ½ ² ٣",
    "ſ K ß İ",
    "▁the▁cat ▁ mat",
    "<s>the cat</s>",
    "the<s> cat</s>the </s><s>",
    "<unk> <0x41> <0xE2>",
    "\x01\x7f control",
    "the cat sat on the mat " * 40,
]


def byte_level(kind: str) -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    t = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = pre_tokenizers.ByteLevel(add_prefix_space=kind == "prefix", use_regex=kind != "llama3")
    if kind == "llama3":
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), words])
    else:
        t.pre_tokenizer = words
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=N_VOCAB, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    )
    if kind == "digits":  # after training, so that there are merges of digits which must not be used
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    if kind == "llama3":
        front = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), front])
    return t.to_str()


def sentencepiece(kind: str) -> str:
    """SentencePiece's BPE as it comes out of transformers' conversion: special tokens, bytes, pieces."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=N_VOCAB - 259, limit_alphabet=22, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    pieces = [*SPECIAL, *(f"<0x{b:02X}>" for b in range(256)), *sorted(model["vocab"], key=model["vocab"].get)]
    bpe = models.BPE(
        {p: i for i, p in enumerate(pieces)},
        [tuple(m) for m in model["merges"]],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=kind != "unknown",
    )
    t = Tokenizer(bpe)
    t.add_special_tokens(SPECIAL)
    if kind == "metaspace":
        t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    elif kind == "unknown":
        t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    else:
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return t.to_str()


def make(name: str) -> str:
    kind = name.split("_")[1]
    return byte_level(kind) if name.startswith("bytes_") else sentencepiece(kind)


NAMES = ["bytes_gpt2", "bytes_prefix", "bytes_llama3", "bytes_digits", "pieces_llama2", "pieces_metaspace", "pieces_unknown"]


def encoded(tokenizer: str, texts: list[str]) -> list[list[int]]:
    from tokenizers import Tokenizer

    return [e.ids for e in Tokenizer.from_str(tokenizer).encode_batch(texts)]


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name in NAMES:
        tokenizer = make(name)
        (GOLDEN / f"{name}.tokenizer.json").write_text(json.dumps(json.loads(tokenizer), ensure_ascii=True) + "\n")
        cases = [{"text": t, "ids": i} for t, i in zip(TEXTS, encoded(tokenizer, TEXTS))]
        (GOLDEN / f"{name}.cases.json").write_text(json.dumps(cases, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()

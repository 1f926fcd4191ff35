"""Tiny real tokenizers, trained here, in the ways that labs build theirs."""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "hello",
    "Hello, World!  How are   you?",
    " leading and trailing ",
    "I'LL say: don't, we've 12345 67.8e-9 items\n\n\tnew  line\r\n",
    "你好，世界 — ça va? Ünïcödé ﬁne ① Ⅳ",
    "한국어 हिन्दी עברית 👍🏽👨‍👩‍👧 e\u0301",
    "def f(x):\n    return x ** 2  # comment\n",
    "<s>[INST] <|im_start|>user\nhi<|im_end|> </s><think>deep</think>",
    "a<|im_end|>b<think> c",
    "▁ and Ġ and <0x41> \u200b\ufeff zero",
    "\x00\x01 control \x7f",
    "",
    " ",
    "\n",
]
CORPUS = [*TEXTS, *Path(__file__).read_text().splitlines()] * 3
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(post_processor: Any = None) -> Any:
    """As Llama 3 and Qwen build theirs."""
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    cut = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([cut, byte_level])
    backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet))
    backend.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    backend.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    if post_processor == "bos":
        bos = backend.token_to_id("<s>")
        backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", bos)])
    if post_processor == "two":
        ids = [(text, backend.token_to_id(text)) for text in ("<|im_start|>", "<s>")]
        backend.post_processor = processors.TemplateProcessing("<|im_start|> <s> $A", special_tokens=ids)
    return backend


def llama2() -> Any:
    """As SentencePiece models were converted: a normalizer puts ▁ before each text between special tokens."""
    backend = _byte_fallback()
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Strip(" ", 1, 0)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    return backend


def metaspace() -> Any:
    """As Mistral's and newer conversions: ▁ before the first text only."""
    backend = _byte_fallback()
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return backend


def _byte_fallback() -> Any:
    trained = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.normalizer = normalizers.Replace(" ", "▁")
    special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=900, special_tokens=special))
    model = trained.model
    backend = tokenizers.Tokenizer(model)
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return backend


def unigram() -> Any:
    """As T5 and XLM-R: SentencePiece's unigram model, spaces squeezed."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    backend.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=SPECIAL, unk_token="<unk>")
    backend.train_from_iterator(CORPUS, trainer)
    return backend


BACKENDS = {
    "byte-level": byte_level,
    "byte-level-bos": lambda: byte_level("bos"),
    "byte-level-two-before": lambda: byte_level("two"),
    "llama2": llama2,
    "metaspace": metaspace,
    "unigram": unigram,
}

"""llama.cpp as a peer: its C functions through ctypes, so that a step costs no more Python than the call.

    llama_worker.py LIBRARY MODEL REPACK                      serve tasks; REPACK: 1 or 0 (weights as they lie)
    llama_worker.py LIBRARY MODEL REPACK --first-token PROMPT THREADS FLASH
                                                              the smallest program: load, prefill, print one token
    llama_worker.py LIBRARY SOURCE - --quantize FTYPE TARGET  write SOURCE requantized

Parameters travel as opaque words, so that one worker serves several builds of libllama: the few words set here sit at
the same place in all of them, which `open_library` checks by their documented defaults.
"""

import ctypes
import sys
import time

POINTER, INT = ctypes.c_void_p, ctypes.c_int32


class Params(ctypes.Structure):
    """Any parameter struct of llama.h, larger than all of them (they are passed by value, in memory)."""

    _fields_ = [("words", INT * 128)]


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", INT),
        ("token", ctypes.POINTER(INT)),
        ("embd", POINTER),
        ("pos", ctypes.POINTER(INT)),
        ("n_seq_id", ctypes.POINTER(INT)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(INT))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


# Words of llama_context_params; the byte of use_extra_bufts in llama_model_params; words and bytes of the quantizer's.
N_CTX, N_BATCH, N_UBATCH, N_SEQ_MAX, N_THREADS, N_THREADS_BATCH, FLASH = 0, 1, 2, 3, 7, 8, 13
REPACK_BYTE = 74
Q_THREADS, Q_FTYPE, Q_REQUANTIZE_BYTE = 0, 1, 16
BATCH = 2048

SIGNATURES = {
    "llama_context_default_params": (Params, []),
    "llama_model_default_params": (Params, []),
    "llama_model_load_from_file": (POINTER, [ctypes.c_char_p, Params]),
    "llama_init_from_model": (POINTER, [POINTER, Params]),
    "llama_free": (None, [POINTER]),
    "llama_model_get_vocab": (POINTER, [POINTER]),
    "llama_vocab_n_tokens": (INT, [POINTER]),
    "llama_get_memory": (POINTER, [POINTER]),
    "llama_memory_clear": (None, [POINTER, ctypes.c_bool]),
    "llama_memory_seq_rm": (ctypes.c_bool, [POINTER, INT, INT, INT]),
    "llama_set_n_threads": (None, [POINTER, INT, INT]),
    "llama_batch_init": (Batch, [INT, INT, INT]),
    "llama_decode": (INT, [POINTER, Batch]),
    "llama_get_logits": (POINTER, [POINTER]),
    "llama_tokenize": (INT, [POINTER, ctypes.c_char_p, INT, ctypes.POINTER(INT), INT, ctypes.c_bool, ctypes.c_bool]),
    "llama_token_to_piece": (INT, [POINTER, INT, ctypes.c_char_p, INT, INT, ctypes.c_bool]),
    "llama_sampler_init_greedy": (POINTER, []),
    "llama_sampler_sample": (INT, [POINTER, POINTER, INT]),
    "llama_print_system_info": (ctypes.c_char_p, []),
    "llama_log_set": (None, [POINTER, POINTER]),
}
QUANTIZER = {
    "llama_model_quantize_default_params": (Params, []),
    "llama_model_quantize": (ctypes.c_uint32, [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Params)]),
}
SILENT = ctypes.CFUNCTYPE(None, INT, ctypes.c_char_p, POINTER)(lambda *_: None)


def open_library(path):
    library = ctypes.CDLL(path)
    for name, (result, arguments) in (SIGNATURES | QUANTIZER).items():
        if name in SIGNATURES or hasattr(library, name):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    library.llama_log_set(SILENT, None)
    library.llama_backend_init()
    words = list(library.llama_context_default_params().words)
    repack = bytes(library.llama_model_default_params().words)[REPACK_BYTE]
    expected = ([512, 2048, 512, 1], [4, 4], -1, 1)
    if (words[:4], words[N_THREADS : N_THREADS_BATCH + 1], words[FLASH], repack) != expected:
        sys.exit(f"{path}: its parameters are laid out otherwise than this worker knows: {words[:16]}, {repack}")
    return library


class Llama:
    """A loaded model and its last context, kept while tasks ask for the same shape."""

    def __init__(self, library, model_path, repack):
        self._c = library
        params = library.llama_model_default_params()
        ctypes.cast(ctypes.byref(params), ctypes.POINTER(ctypes.c_bool))[REPACK_BYTE] = repack
        self._model = library.llama_model_load_from_file(model_path.encode(), params)
        if not self._model:
            sys.exit(f"{model_path}: llama.cpp cannot load it")
        self.vocab = library.llama_model_get_vocab(self._model)
        self.vocab_size = library.llama_vocab_n_tokens(self.vocab)
        self._context, self._shape, self._prompts = None, None, None
        self._batch = library.llama_batch_init(BATCH, 0, 1)

    def set_context(self, num_sequences, context, threads, flash):
        shape = (num_sequences, context, flash)
        if shape != self._shape:
            if self._context:
                self._c.llama_free(self._context)
            params = self._c.llama_context_default_params()
            params.words[N_CTX], params.words[N_SEQ_MAX] = num_sequences * context, num_sequences
            params.words[N_BATCH], params.words[FLASH] = BATCH, int(flash)
            self._context = self._c.llama_init_from_model(self._model, params)
            if not self._context:
                sys.exit("llama.cpp cannot make a context")
            self._shape, self._prompts = shape, None
        self._c.llama_set_n_threads(self._context, threads, threads)

    def decode(self, rows):
        """Run rows (token, position, sequence, wants logits), at most BATCH."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, wanted
        if status := self._c.llama_decode(self._context, batch):
            sys.exit(f"llama_decode failed: {status}")

    def likeliest(self, count):
        """The likeliest token of each of the `count` rows that wanted logits."""
        import numpy

        address = self._c.llama_get_logits(self._context)
        logits = numpy.frombuffer((ctypes.c_float * (count * self.vocab_size)).from_address(address), numpy.float32)
        return logits.reshape(count, self.vocab_size).argmax(1).tolist()

    def prefill(self, prompts, first=0):
        """Run the prompts from position `first` on; returns their first tokens, in order."""
        rows = [
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
            if position >= first
        ]
        tokens = []
        for start in range(0, len(rows), BATCH):
            chunk = rows[start : start + BATCH]
            self.decode(chunk)
            if ends := sum(row[3] for row in chunk):
                tokens += self.likeliest(ends)
        return tokens

    def generate(self, prompts, max_tokens, context, threads, flash, reuse):
        """Greedy tokens after each prompt, in lockstep; a `reuse` task may keep what the last one left in the cache."""
        self.set_context(len(prompts), context, threads, flash)
        memory = self._c.llama_get_memory(self._context)
        kept = len(prompts[0]) - 1 if reuse and prompts == self._prompts else 0
        if kept:
            self._c.llama_memory_seq_rm(memory, 0, kept, -1)
        else:
            self._c.llama_memory_clear(memory, True)
        begin = time.perf_counter()
        latest = self.prefill(prompts, kept)
        first = time.perf_counter()
        replies = [[token] for token in latest]
        for step in range(max_tokens - 1):
            self.decode([(token, len(prompts[i]) + step, i, True) for i, token in enumerate(latest)])
            latest = self.likeliest(len(latest))
            for reply, token in zip(replies, latest, strict=True):
                reply.append(token)
        end = time.perf_counter()
        self._prompts = prompts
        return {"prefill_s": first - begin, "decode_s": end - first, "tokens": replies}

    def tokenize(self, text):
        tokens = (INT * (len(text) + 8))()
        data = text.encode()
        return tokens[: self._c.llama_tokenize(self.vocab, data, len(data), tokens, len(tokens), False, True)]

    def piece(self, token):
        buffer = ctypes.create_string_buffer(256)
        length = self._c.llama_token_to_piece(self.vocab, token, buffer, 256, 0, True)
        return buffer.raw[:length]

    def sample(self):
        """The likeliest token of the last row, without numpy, whose import costs as much as a small model's load."""
        greedy = self._c.llama_sampler_init_greedy()
        return self._c.llama_sampler_sample(greedy, self._context, -1)


def first_token(llama, prompt, threads, flash):
    tokens = llama.tokenize(prompt)
    llama.set_context(1, 512, int(threads), flash == "True")
    llama.decode([(token, i, 0, i == len(tokens) - 1) for i, token in enumerate(tokens)])
    sys.stdout.buffer.write(llama.piece(llama.sample()))
    sys.stdout.buffer.flush()


def quantize(library, source, ftype, target):
    params = library.llama_model_quantize_default_params()
    params.words[Q_THREADS], params.words[Q_FTYPE] = 2, int(ftype)
    ctypes.cast(ctypes.byref(params), ctypes.POINTER(ctypes.c_bool))[Q_REQUANTIZE_BYTE] = True
    sys.exit(library.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)))


def main():
    path, model_path, repack, *rest = sys.argv[1:]
    library = open_library(path)
    if rest[:1] == ["--quantize"]:
        quantize(library, model_path, *rest[1:])
    llama = Llama(library, model_path, repack == "1")
    if rest:
        first_token(llama, *rest[1:])
        return
    from protocol import serve

    serve(llama.generate, {"system": library.llama_print_system_info().decode()})


if __name__ == "__main__":
    main()

"""OpenVINO GenAI as a peer, on the same GGUF file.

openvino_worker.py MODEL                                           serve tasks
openvino_worker.py MODEL --first-token PROMPT THREADS BACKEND   load, one token, printed
"""

import sys
import time

import numpy
import openvino
import openvino_genai


def pipeline(model_path, threads, backend):
    return openvino_genai.LLMPipeline(model_path, "CPU", INFERENCE_NUM_THREADS=threads, ATTENTION_BACKEND=backend)


class Clock(openvino_genai.StreamerBase):
    """Notes when each token came."""

    def __init__(self):
        super().__init__()
        self.times = []

    def write(self, token):
        self.times += [time.perf_counter()] * (len(token) if isinstance(token, list) else 1)
        return openvino_genai.StreamingStatus.RUNNING

    def end(self):
        pass


class OpenVino:
    """One pipeline at a time: that of the settings last asked for."""

    def __init__(self, model_path):
        self._path, self._settings, self._pipeline = model_path, None, None

    def _prepare(self, settings):
        if settings != self._settings:
            self._pipeline = None
            self._pipeline = pipeline(self._path, *settings)
            self._settings = settings

    def generate(self, prompts, max_tokens, threads, backend, **_):
        """Prompts of one length, greedily continued."""
        if len(prompts) > 1 and backend == "SDPA":
            raise ValueError("this backend ends a batch's sequences at their end tokens, whatever is asked for")
        self._prepare((threads, backend))
        ids = numpy.array(prompts, dtype=numpy.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(numpy.ones_like(ids)))
        config = openvino_genai.GenerationConfig(max_new_tokens=max_tokens, ignore_eos=True, do_sample=False)
        if len(prompts) > 1:  # it streams one sequence only
            begin = time.perf_counter()
            reply = self._pipeline.generate(inputs, config)
            seconds = time.perf_counter() - begin
            first = reply.perf_metrics.get_ttft().mean / 1e3
            return {"prefill_s": first, "decode_s": seconds - first, "tokens": [list(t) for t in reply.tokens]}
        clock = Clock()
        begin = time.perf_counter()
        reply = self._pipeline.generate(inputs, config, clock)
        first, last = clock.times[0], clock.times[-1]
        if len(clock.times) != max_tokens:
            raise RuntimeError(f"expected {max_tokens} tokens streamed, got {len(clock.times)}")
        return {"prefill_s": first - begin, "decode_s": last - first, "tokens": [list(t) for t in reply.tokens]}


def main():
    model_path = sys.argv[1]
    if sys.argv[2:3] == ["--first-token"]:
        prompt, threads, backend = sys.argv[3:]
        config = openvino_genai.GenerationConfig(max_new_tokens=1, do_sample=False, apply_chat_template=False)
        pipeline(model_path, int(threads), backend).generate(prompt, config, lambda text: print(text, flush=True))
        return
    from protocol import serve

    serve(OpenVino(model_path).generate, {"system": openvino.get_version()})


if __name__ == "__main__":
    main()

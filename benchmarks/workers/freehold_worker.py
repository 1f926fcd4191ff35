"""Freehold by its public Python face, as its users run it.   freehold_worker.py MODEL"""

import sys
import time

from protocol import serve

import freehold

MIN_STEP_S = 1e-3  # first tokens further apart are of different steps


def main():
    model = freehold.load(sys.argv[1], threads=2, speculate=False)  # as the peers decode

    def generate(prompts, max_tokens, **_):
        begin = time.monotonic()
        streams = [model.stream(p, max_tokens=max_tokens, ignore_eos=True, temperature=0.0) for p in prompts]
        for stream in streams:
            for _ in stream:
                pass
        firsts = sorted(stream.request.first_token_at for stream in streams)
        # Who began in an earlier step drew in each step since.
        early = sum(i for i in range(1, len(firsts)) if firsts[i] - firsts[i - 1] > MIN_STEP_S)
        return {
            "prefill_s": firsts[-1] - begin,
            "decode_s": max(stream.request.finished_at for stream in streams) - firsts[-1],
            "decoded": len(prompts) * (max_tokens - 1) - early,
            "tokens": [stream.completion.tokens for stream in streams],
        }

    serve(generate, {"system": model.info["isa"]})


if __name__ == "__main__":
    main()

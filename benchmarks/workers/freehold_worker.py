"""Freehold by its public Python face, as its users run it.   freehold_worker.py MODEL"""

import sys

from protocol import serve

import freehold


def main():
    model = freehold.load(sys.argv[1], threads=2, speculate=False)  # as the peers decode

    def generate(prompts, max_tokens, **_):
        replies = model.generate_tokens(prompts, max_tokens=max_tokens, ignore_eos=True, temperature=0.0)
        first = max(reply.timings.time_to_first_token_s for reply in replies)
        end = max(reply.timings.time_to_first_token_s + reply.timings.decode_s for reply in replies)
        return {"prefill_s": first, "decode_s": end - first, "tokens": [reply.tokens for reply in replies]}

    serve(generate, {"system": model.info["isa"]})


if __name__ == "__main__":
    main()

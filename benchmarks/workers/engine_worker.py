"""Freehold's engine alone, asked as clients ask the server.   engine_worker.py MODEL

Token ids go in and events come out: no text, no HTTP.
"""

import queue
import sys
import time

from protocol import serve

import freehold
from freehold.engine.request import FinishEvent, Request, SamplingParams


def main():
    model = freehold.load(sys.argv[1], threads=2)

    def generate(prompts, max_tokens, num_clients, **_):
        ended: queue.SimpleQueue = queue.SimpleQueue()
        counts = [0] * len(prompts)
        waiting, left = enumerate(prompts), len(prompts)

        def submit():
            if (following := next(waiting, None)) is None:
                return
            index, prompt = following

            def sink(event):
                if isinstance(event, FinishEvent):
                    ended.put(event)
                else:
                    counts[index] += 1

            model.engine.submit(Request(prompt, SamplingParams(max_tokens=max_tokens, temperature=0.0), sink))

        began = time.perf_counter()
        for _ in range(num_clients):
            submit()
        while left:
            ended.get()
            left -= 1
            submit()
        return {"seconds": time.perf_counter() - began, "counts": counts}

    serve(generate, {"system": model.info["isa"]})


if __name__ == "__main__":
    main()

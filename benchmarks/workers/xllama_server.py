"""llama.cpp's native server, from xllamacpp's wheel.   xllama_server.py MODEL PORT CLIENTS CONTEXT

It serves until its standard input ends.
"""

import sys

import xllamacpp


def main():
    path, port, clients, context = sys.argv[1], *map(int, sys.argv[2:])
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.port = port
    params.n_parallel, params.n_ctx = clients, clients * context
    params.n_threads_http = clients + 2
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    server = xllamacpp.Server(params)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main()

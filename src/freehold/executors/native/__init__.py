"""The native executor: traces a model's forward once into a Program and runs that in C++.

`trace` records the calls of the forward, `fuse` makes steps of them, `plan` gives values buffers, `executor` repacks
the weights and adds the steps to the native Program.
"""

from freehold.executors.native.executor import NativeExecutor, make_pool, native_sampler
from freehold.executors.native.plan import memory_plan

__all__ = ["NativeExecutor", "make_pool", "memory_plan", "native_sampler"]

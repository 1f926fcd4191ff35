"""The parity figure of each architecture: how far its logits are from those of transformers.

python tests/parity/figures.py > docs/families.md     (from the repository's root; needs the development groups)
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from parity.cases import CASES
from parity.reference import make_pair, random_ids, run

HEAD = """# Architectures, and how near each is to its reference

Made by `python tests/parity/figures.py`: a tiny random model of each kind, every parameter random, in float32; 60
tokens of prefill. The figure is the largest difference of a logit from that of `transformers`, over the largest logit.
The tests (`tests/parity`) ask for 1e-4, and the same of chunked prefill, cached decode and unequal batches on both
executors.

| case | model type | native | torch |
| --- | --- | --- | --- |"""


def figure(name: str, kind: str) -> str:
    ids = random_ids(60)
    with tempfile.TemporaryDirectory() as folder:
        pair = make_pair(name, Path(folder))
        reference = pair.logits(ids)
        ours = run(pair.executor(kind), [(ids, 0, [5, 3])])
    return f"{abs(ours - reference).max() / abs(reference).max():.0e}"


def main() -> None:
    print(HEAD)
    for name, (architecture, _) in CASES.items():
        print(f"| {name} | `{architecture}` | {figure(name, 'native')} | {figure(name, 'torch')} |", flush=True)


if __name__ == "__main__":
    main()

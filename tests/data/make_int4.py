"""Writes int4.json: one small matrix as AWQ and as GPTQ pack it, with its values as AutoAWQ dequantizes them.

    python tests/data/make_int4.py PATH

PATH: `awq/utils/packing_utils.py` of an unpacked AutoAWQ (0.2.9).
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch

ROWS, COLUMNS, GROUP = 16, 128, 64


def main(path: str) -> None:
    spec = importlib.util.spec_from_file_location("packing_utils", path)
    assert spec and spec.loader
    awq: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(awq)
    generator = torch.Generator().manual_seed(5)
    words = torch.randint(-(2**31), 2**31, (COLUMNS, ROWS // 8), dtype=torch.int64, generator=generator).int()
    # GPTQ stores zero points minus one, so that none may be zero.
    nibbles = torch.randint(1, 16, (COLUMNS // GROUP, ROWS // 8, 8), dtype=torch.int64, generator=generator)
    zeros = (nibbles << (4 * torch.arange(8))).sum(-1)
    zeros = torch.where(zeros >= 2**31, zeros - 2**32, zeros).int()
    scales = (torch.rand((COLUMNS // GROUP, ROWS), generator=generator) * 0.1 - 0.05).half()
    codes, points = awq.unpack_reorder_pack(words, zeros, 4)
    values = awq.dequantize_gemm(words, zeros, scales, 4, GROUP)  # (columns, rows)
    record = {
        "awq": {"qweight": words.tolist(), "qzeros": zeros.tolist()},
        "gptq": {"qweight": codes.tolist(), "qzeros": points.tolist()},
        "scales": scales.tolist(),
        "values": values.T.tolist(),
    }
    Path(__file__).with_name("int4.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

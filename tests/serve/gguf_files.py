"""Model files made of others: the same tensors under another chat template."""

from freehold.weights.gguf import open_gguf


def with_template(source, target, template):
    """Copy a GGUF file, its chat template exchanged for a shorter one, filled up with a comment."""
    old = open_gguf(source).metadata["tokenizer.chat_template"].encode()
    left = len(old) - len(template.encode()) - 4
    assert left >= 0, f"the template is {-left} bytes too long"
    data = source.read_bytes()
    assert data.count(old) == 1
    target.write_bytes(data.replace(old, template.encode() + b"{#" + b" " * left + b"#}"))
    return target

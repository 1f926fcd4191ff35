"""A report on a model, measured from its artefacts: how open it is, what its licence asks, whether to trust its files.

import freehold

report = freehold.inspect("path/to/model")
print(report.verdict)
"""

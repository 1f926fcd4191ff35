"""What can go wrong through no fault of ours, as a tree.

FreeholdError            a user's mistake or a bad file: one line at the CLI (exit code 2), a 4xx over HTTP
├── ModelNotFoundError   no such file, folder or catalogue name
├── DownloadError        a model could not be fetched or its digest is wrong
├── ModelFileError       a damaged, truncated or malicious model file
├── UnsupportedError     a sound file that needs an architecture, tokenizer or format that is not here
├── TemplateError        a chat template is missing, fails, or exceeds its caps
├── RequestError         a request's own values are wrong
│   └── PromptTooLongError
├── MemoryBudgetError    what was asked does not fit; carries both figures
└── EngineError          the engine has stopped, or a step failed
    └── QueueFullError
"""


class FreeholdError(Exception):
    """Place, expected, got in one line; `hint` says what to do when there is something to do."""

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint


class ModelNotFoundError(FreeholdError):
    pass


class DownloadError(FreeholdError):
    pass


class ModelFileError(FreeholdError):
    pass


class UnsupportedError(FreeholdError):
    pass


class TemplateError(FreeholdError):
    pass


class RequestError(FreeholdError):
    pass


class PromptTooLongError(RequestError):
    def __init__(self, num_tokens: int, context: int):
        super().__init__(f"the prompt has {num_tokens} tokens; the context holds {context}")
        self.num_tokens = num_tokens
        self.context = context


class MemoryBudgetError(FreeholdError):
    def __init__(self, what: str, needed_bytes: int, available_bytes: int, hint: str | None = None):
        needed, available = needed_bytes / 1e9, available_bytes / 1e9
        super().__init__(f"{what}: needs {needed:.2f} GB of memory, {available:.2f} GB are available", hint)
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes


class EngineError(FreeholdError):
    pass


class QueueFullError(EngineError):
    pass

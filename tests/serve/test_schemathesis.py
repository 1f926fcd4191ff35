"""The OpenAPI document, and what is generated from it: no answer that the document does not know, never a 5xx."""

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.config import SchemathesisConfig
from server_process import Server

EXAMPLES = 6  # of each operation, in a mode of its own each: valid by the document, and invalid


@pytest.fixture(scope="module")
def document(smollm):
    with Server(smollm, "--context", 48, "--max-waiting", 1000) as server:
        # What no JSON schema can say (a token's id, a schema's own soundness, a prompt's length) is refused with 400.
        valid = {"positive_data_acceptance": {"expected-statuses": ["2xx", 400, 404, 409, 429, 503]}}
        config = SchemathesisConfig.from_dict({"checks": valid})
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=config), server


def test_every_operation_answers_as_documented(document):
    schema, server = document
    seen = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        seen.add(f"{operation.method.upper()} {operation.path}")
        check(operation)
    assert "POST /v1/chat/completions" in seen and len(seen) >= 24
    assert not [line for line in server.log if "Traceback" in line]
    server.wait_until(lambda: not server.metric("vllm:num_requests_running"))


def check(operation):
    modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
    has_body = bool(list(operation.body))  # a path of any text cannot be wrong
    for mode in modes if has_body else modes[:1]:

        @hypothesis.seed(7)
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def run(case):
            case.call_and_validate(timeout=60)

        run()

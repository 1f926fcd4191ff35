"""The labs' own chat templates, where a folder of them is at hand: calls that they write are read back.

Set FREEHOLD_TEST_TEMPLATES to a folder of `.jinja` files, such as llama.cpp's `models/templates`.
"""

import json
import os
import re
from pathlib import Path

import pytest
from reply_families import ARGUMENTS, TOOLS, parse

from freehold.errors import TemplateError
from freehold.text.reply import ReplyFormat
from freehold.text.template import ChatTemplate

PUBLISHED = {
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "Qwen-QwQ-32B": "hermes",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "hermes",
    "Qwen3-Coder": "qwen3-coder",
    "Qwen3.5-4B": "qwen3-coder",
    "GLM-4.6": "glm-4.5",
    "GLM-4.7-Flash": "glm-4.7",
    "MiniMax-M1": "minimax-m1",
    "MiniMax-M2": "minimax-m2",
    "moonshotai-Kimi-K2": "kimi-k2",
    "Kimi-K2-Thinking": "kimi-k2",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek-v3",
    "deepseek-ai-DeepSeek-V3.1": "deepseek-v3.1",
    "deepseek-ai-DeepSeek-V3.2": "deepseek-v3.2",
    "deepseek-ai-DeepSeek-V4": "deepseek-v4",
    "openai-gpt-oss-120b": "harmony",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3-json",
    "meta-llama-Llama-3.3-70B-Instruct": "llama3-json",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral-list",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral",
    "mistralai-Ministral-3-14B-Reasoning-2512": "mistral",
    "google-gemma-2-2b-it": "plain",
    "microsoft-Phi-3.5-mini-instruct": "plain",
    "MiniMax-M3": "plain",
    "Kimi-K3": "plain",
}
END = re.compile(r"(<\|im_end\|>|<eos>|<\|eot_id\|>|<｜end▁of▁sentence｜>|\[e~\[|<end_of_sentence>|<\|call\|>)\s*$")


def source(name: str) -> str:
    folder = os.environ.get("FREEHOLD_TEST_TEMPLATES")
    if not folder:
        pytest.skip("FREEHOLD_TEST_TEMPLATES names no folder of chat templates")
    return (Path(folder) / f"{name}.jinja").read_text()


@pytest.mark.parametrize(("name", "family"), PUBLISHED.items())
def test_published_templates_are_known(name, family):
    format = ReplyFormat.detect(source(name), [])
    assert format.tools == (None if family == "plain" else family)


@pytest.mark.parametrize("name", [name for name, family in PUBLISHED.items() if family != "plain"])
def test_calls_that_published_templates_write_are_read_back(name):
    template = ChatTemplate(source(name), {"bos_token": "<bos>", "eos_token": "<eos>"})
    user = {"role": "user", "content": "Hello"}
    call = {"type": "function", "id": "abcdefgh1", "function": {"name": "get_weather", "arguments": ARGUMENTS}}
    turn = {"role": "assistant", "content": None if "R1-Distill" in name else "", "tool_calls": [call]}
    described = [{**tool, "function": {"description": "", **tool["function"]}} for tool in TOOLS]
    try:
        reply = template.render([user, turn], tools=described, add_generation_prompt=False)
    except TemplateError as error:
        pytest.skip(str(error))
    reply = END.sub("", reply[reply.index("Hello") + len("Hello") :])
    found = parse(ReplyFormat.detect(template.source, []), header_removed(reply), tools=TOOLS)
    assert [(name, json.loads(arguments)) for name, arguments in found.calls] == [("get_weather", ARGUMENTS)]


def header_removed(reply: str) -> str:
    """Without the end of the user's turn and the beginning of the assistant's."""
    headers = r".*?(\|assistant\n|assistant<\|end_header_id\|>\s*|start\|>assistant|<\|im_middle\|>|\[/INST\]|<｜Assistant｜>|\|assistant\|>|\]ai\n|name=assistant\n|im_start\|>assistant\n)"
    return re.sub(headers, "", reply, count=1, flags=re.DOTALL)

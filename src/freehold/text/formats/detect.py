"""Which family a chat template is of, by texts that only that family's template has."""

from collections.abc import Iterable
from dataclasses import dataclass

from freehold.text.formats import harmony, tagged
from freehold.text.formats.bare import Glm0414, Llama
from freehold.text.formats.base import ToolFormat
from freehold.text.formats.json_calls import DeepSeek, Hermes, KimiK2, MiniMaxM1, Mistral

# (texts that must all be in the template, the format), the first that fits; the more particular ones come first.
_TOOL_FORMATS: tuple[tuple[tuple[str, ...], ToolFormat | None], ...] = (
    (("]<]minimax[>[",), None),  # MiniMax M3 nests elements in arguments: not read yet
    (("｜DSML｜", " calls>"), tagged.DEEPSEEK_V41),
    (("｜DSML｜", "function_calls>"), tagged.DEEPSEEK_V32),
    (("｜DSML｜", "tool_calls>"), tagged.DEEPSEEK_V4),
    (("<｜tool▁calls▁begin｜>", "```json"), DeepSeek(fenced=True)),
    (("<｜tool▁calls▁begin｜>",), DeepSeek(fenced=False)),
    (("<|tool_calls_section_begin|>",), KimiK2()),
    (("<minimax:tool_call>", "<invoke name="), tagged.MINIMAX_M2),
    (("<tool_calls>", '{"name": <tool-name>'), MiniMaxM1()),
    (("<tool_call>", "</arg_key><arg_value>"), tagged.GLM_47),
    (("<tool_call>", "<arg_key>", "<arg_value>"), tagged.GLM_45),
    (("<tool_call>", "<function=", "<parameter="), tagged.QWEN_CODER),
    (("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"), Mistral(listed=False, call_id=True)),
    (("[TOOL_CALLS]", "[ARGS]"), Mistral(listed=False)),
    (("[TOOL_CALLS]",), Mistral(listed=True)),
    (("<tool_calls>",), None),
    (("<tool_call>", "</tool_call>", "arguments"), Hermes()),
    (("<|start_header_id|>", '"parameters": '), Llama(pythonic=False)),
    (("<|header_start|>", '"parameters": '), Llama(pythonic=False)),
    (("<|header_start|>", "tools"), Llama(pythonic=True)),
    (("[gMASK]<sop>", "<|observation|>", "metadata"), Glm0414()),
)
_REASONING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<mm:think>", "</mm:think>"))


@dataclass(frozen=True)
class Detected:
    """What a template says of its family's replies."""

    name: str
    reasoning: tuple[str, str] | None = None
    tools: ToolFormat | None = None
    is_harmony: bool = False
    wrapper: tuple[str, ...] = ()  # tags around the answer itself, which are no part of it
    reasons_first: bool = False  # replies begin inside the reasoning though no prompt shows its opening tag


def detect(template: str | None, special_tokens: Iterable[str]) -> Detected:
    if template is None:
        return Detected("plain")
    if harmony.CHANNEL in template and harmony.MESSAGE in template:
        return Detected("harmony", harmony.REASONING, is_harmony=True)
    tools = next((tools for texts, tools in _TOOL_FORMATS if all(text in template for text in texts)), None)
    known = set(special_tokens)
    reasoning = next((tags for tags in _REASONING if tags[1] in template or tags[1] in known), None)
    name = tools.name if tools else "reasoning" if reasoning else "plain"
    wrapper = ("<response>", "</response>") if "<response>" in template and "minimax" not in template else ()
    first = reasoning is not None and reasoning[0] not in template and reasoning[1] in template
    return Detected(name, reasoning, tools, False, wrapper, first)

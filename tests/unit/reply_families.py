"""How the families write an assistant's turn, as small chat templates of our own after the published ones.

Each knows the messages that the tests need and no more. `{{ header }}` stands for the end of the prompt, `{{ end }}` for
the token that ends the turn.
"""

from dataclasses import dataclass, field

from freehold.text.reply import (
    Reasoning,
    ReplyFormat,
    Text,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from freehold.text.template import ChatTemplate

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Forecast for a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
                "exact": {"type": "boolean"},
                "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
                "where": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
TOOLS = [WEATHER, CLOCK]
ARGUMENTS = {
    "city": 'São "Paulo"\n<b> \\ {x}',
    "days": 3,
    "exact": True,
    "unit": "celsius",
    "where": {"lat": -23.5},
    "tags": ["a, b", "]"],
}


@dataclass(frozen=True)
class Family:
    """`special` are the special tokens that its turns hold; `opens` says that the prompt opens the reasoning."""

    name: str
    turn: str  # the jinja source of one assistant's turn, m
    header: str
    special: tuple[str, ...] = ()
    reasons: bool = False
    opens: bool = False
    talks: bool = True  # whether words may come before calls
    parallel: bool = True
    hint: str = ""  # texts that only the published template's instructions hold

    @property
    def source(self) -> str:
        opening = self.header if not self.opens else self.header.replace("<think>\n", "").replace("<think>", "")
        return (
            "{# " + self.hint + " #}"
            "{%- for m in messages %}{% if m.role == 'assistant' %}"
            + "{{ "
            + repr(opening)
            + " }}"
            + self.turn.replace("\n", "")
            + "{% else %}{{ '<user>' + m.content + '</user>' }}{% endif %}{% endfor %}"
            + "{% if add_generation_prompt %}{{ "
            + repr(self.header)
            + " }}{% endif %}"
        )

    def detect(self) -> ReplyFormat:
        return ReplyFormat.detect(self.source, {text: 256 + at for at, text in enumerate(self.special)})

    def reply(self, content: str = "", reasoning: str = "", calls: tuple = ()) -> str:
        """What the model writes for this turn after the prompt."""
        template = ChatTemplate(self.source, {})
        user = {"role": "user", "content": "Hello"}
        functions = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in calls]
        turn = {"role": "assistant", "content": content, "reasoning": reasoning, "tool_calls": functions}
        prompt = template.render([user])
        whole = template.render([user, turn], add_generation_prompt=False)
        assert whole.startswith(prompt), (prompt, whole)
        return whole[len(prompt) :]


THINK = "{% if m.reasoning %}{{ '<think>\\n' + m.reasoning + '\\n</think>\\n\\n' }}{% endif %}"
THINK_ALWAYS = "{{ '<think>\\n' + m.reasoning + '\\n</think>\\n\\n' }}"
THINK_TIGHT = "{{ '<think>' + m.reasoning + '</think>' }}"
CALLS = "{% for c in m.tool_calls %}{% set f = c.function %}"
HERMES = (
    "{{ m.content }}" + CALLS + "{% if m.content or not loop.first %}{{ '\\n' }}{% endif %}"
    "{{ '<tool_call>\\n{\"name\": \"' + f.name + '\", \"arguments\": ' + f.arguments | tojson + '}\\n</tool_call>' }}"
    "{% endfor %}"
)
QWEN_XML = (
    "{{ m.content }}" + CALLS + "{% if m.content or not loop.first %}{{ '\\n' }}{% endif %}"
    "{{ '<tool_call>\\n<function=' + f.name + '>\\n' }}{% for k, v in f.arguments | items %}"
    "{{ '<parameter=' + k + '>\\n' }}{{ v | tojson if v is mapping or (v is sequence and v is not string) else v | string }}"
    "{{ '\\n</parameter>\\n' }}{% endfor %}{{ '</function>\\n</tool_call>' }}{% endfor %}"
)


def glm(line: str) -> str:
    tight = (
        "{% if m.content %}{{ L + m.content }}{% endif %}"
        + CALLS
        + (
            "{{ L + '<tool_call>' + f.name + L }}{% for k, v in f.arguments | items %}"
            "{{ '<arg_key>' + k + '</arg_key>LINE<arg_value>' + (v if v is string else v | tojson) + '</arg_value>' + L }}"
            "{% endfor %}{{ '</tool_call>' }}{% endfor %}"
        )
    )
    return "{% set L = '" + line + "' %}" + tight.replace("LINE", line)


def dsml(section: str, space: str = "") -> str:
    return (
        (
            "{{ m.content }}{% if m.tool_calls %}{{ '\\n\\n<｜DSML｜SECTION>\\n' }}"
            + CALLS
            + "{{ '<｜DSML｜SPACEinvoke name=\"' + f.name + '\">\\n' }}{% for k, v in f.arguments | items %}"
            "{{ '<｜DSML｜SPACEparameter name=\"' + k + '\" string=\"' + ('true' if v is string else 'false') + '\">' }}"
            "{{ v if v is string else v | tojson }}{{ '</｜DSML｜SPACEparameter>\\n' }}{% endfor %}"
            "{% if not f.arguments %}{{ '\\n' }}{% endif %}{{ '</｜DSML｜SPACEinvoke>\\n' }}{% endfor %}"
            "{{ '</｜DSML｜SECTION>' }}{% endif %}"
        )
        .replace("SECTION", section)
        .replace("SPACE", space)
    )


def deepseek(before: str, after: str, tail: str, between: str) -> str:
    return (
        "{{ m.content }}{% if m.tool_calls %}{{ '<｜tool▁calls▁begin｜>' }}"
        + CALLS
        + "{% if not loop.first %}{{ '"
        + between
        + "' }}{% endif %}"
        "{{ '<｜tool▁call▁begin｜>"
        + before
        + "' + f.name + '"
        + after
        + "' + f.arguments | tojson + '"
        + tail
        + "<｜tool▁call▁end｜>' }}{% endfor %}{{ '<｜tool▁calls▁end｜>' }}{% endif %}"
    )


KIMI = (
    "{{ m.content }}{% if m.tool_calls %}{{ '<|tool_calls_section_begin|>' }}"
    + CALLS
    + "{{ '<|tool_call_begin|>functions.' + f.name + ':' + loop.index0 | string }}"
    "{{ '<|tool_call_argument_begin|>' + f.arguments | tojson + '<|tool_call_end|>' }}"
    "{% endfor %}{{ '<|tool_calls_section_end|>' }}{% endif %}"
)
MINIMAX_M2 = (
    "{{ m.content }}{% if m.tool_calls %}{{ '\\n<minimax:tool_call>\\n' }}"
    + CALLS
    + "{{ '<invoke name=\"' + f.name + '\">\\n' }}{% for k, v in f.arguments | items %}"
    "{{ '<parameter name=\"' + k + '\">' + (v if v is string else v | tojson) + '</parameter>\\n' }}{% endfor %}"
    "{{ '</invoke>\\n' }}{% endfor %}{{ '</minimax:tool_call>' }}{% endif %}"
)
MINIMAX_M1 = (
    "{{ m.content }}{% if m.tool_calls %}{{ '<tool_calls>\\n' }}"
    + CALLS
    + "{{ '{\"name\": \"' + f.name + '\", \"arguments\": ' + f.arguments | tojson + '}\\n' }}"
    "{% endfor %}{{ '</tool_calls>' }}{% endif %}"
)
HARMONY = (
    "{% if m.reasoning %}{{ '<|channel|>analysis<|message|>' + m.reasoning + '<|end|><|start|>assistant' }}{% endif %}"
    "{% if m.content %}{{ '<|channel|>' + ('commentary' if m.tool_calls else 'final') + '<|message|>' + m.content }}"
    "{% if m.tool_calls %}{{ '<|end|><|start|>assistant' }}{% endif %}{% endif %}"
    + CALLS
    + "{{ ' to=functions.' + f.name + '<|channel|>commentary json<|message|>' + f.arguments | tojson }}{% endfor %}"
)
LLAMA = (
    "{{ m.content }}"
    + CALLS
    + "{{ '{\"name\": \"' + f.name + '\", ' }}{{ '\"parameters\": ' }}{{ f.arguments | tojson + '}' }}{% endfor %}"
)
PYTHONIC = (
    "{% if tools %}{% endif %}{{ m.content }}{% if m.tool_calls %}{{ '[' }}"
    + CALLS
    + "{{ f.name + '(' }}{% for k, v in f.arguments | items %}{{ k + '=' }}"
    "{{ 'True' if v is true else v | tojson }}{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ')' }}"
    "{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ']' }}{% endif %}"
)
MISTRAL_LIST = (
    "{{ m.content }}{% if m.tool_calls %}{{ '[TOOL_CALLS][' }}"
    + CALLS
    + '{{ \'{"name": "\' + f.name + \'", "arguments": \' + f.arguments | tojson + \', "id": "abc123XYZ"}\' }}'
    "{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ']' }}{% endif %}"
)
MISTRAL_THINK = "{% if m.reasoning %}{{ '[THINK]' + m.reasoning + '[/THINK]' }}{% endif %}"
MISTRAL = (
    "{{ m.content }}" + CALLS + "{{ '[TOOL_CALLS]' + f.name + 'CALLID[ARGS]' + f.arguments | tojson }}{% endfor %}"
)
GLM_0414 = (
    "{# metadata <|observation|> #}{% if m.tool_calls %}"
    + CALLS
    + "{{ f.name + '\\n' + f.arguments | tojson }}{% endfor %}{% else %}{{ '\\n' + m.content }}{% endif %}"
)
ERNIE = (
    "{{ '<think>\\n' + m.reasoning + '\\n</think>\\n\\n' }}"
    "{% if m.content %}{{ '\\n<response>\\n' + m.content + '\\n</response>\\n' }}{% endif %}"
    + HERMES.replace("{{ m.content }}", "").replace("{% if m.content or not loop.first %}", "{% if not loop.first %}")
)
IM = "<|im_start|>assistant\n"
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
DEEPSEEK = (
    "<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
)  # fmt: skip
KIMI_TOKENS = (
    "<think>", "</think>", "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>",
    "<|tool_call_begin|>", "<|tool_call_end|>", "<|tool_call_argument_begin|>",
)  # fmt: skip
GLM_TOKENS = (*TAGS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
DSML_TOKENS = ("｜DSML｜", "<think>", "</think>")
MISTRAL_TOKENS = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]")
HARMONY_TOKENS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>", "<|constrain|>")

FAMILIES = [
    Family("hermes", HERMES, IM, TAGS[2:]),  # Qwen2.5
    Family("hermes", HERMES, IM),  # Hermes 2, whose tags are plain text
    Family("hermes", THINK + HERMES, IM, TAGS, reasons=True),  # Qwen3
    Family("hermes", THINK + HERMES, IM, reasons=True),
    Family("hermes", THINK_ALWAYS + HERMES, IM + "<think>\n", TAGS, reasons=True, opens=True),  # QwQ
    Family("hermes", ERNIE, IM + "<think>\n", TAGS, reasons=True, opens=True, talks=False),
    Family("qwen3-coder", QWEN_XML, IM, TAGS[2:]),
    Family("qwen3-coder", THINK_ALWAYS + QWEN_XML, IM + "<think>\n", TAGS, reasons=True, opens=True),  # Qwen3.5
    Family("deepseek-v3", THINK_ALWAYS + deepseek("function<｜tool▁sep｜>", "\\n```json\\n", "\\n```", "\\n"),
           "<｜Assistant｜><think>\n", DEEPSEEK, reasons=True, opens=True),
    Family("deepseek-v3.1", deepseek("", "<｜tool▁sep｜>", "", ""), "<｜Assistant｜><think></think>", DEEPSEEK),
    Family("deepseek-v3.2", THINK_TIGHT + dsml("function_calls"), "<｜Assistant｜><think>", DSML_TOKENS,
           reasons=True, opens=True),
    Family("deepseek-v4", dsml("tool_calls"), "<｜Assistant｜></think>", DSML_TOKENS),
    Family("deepseek-v4.1", dsml(" calls", " "), "<｜Assistant｜></think>", DSML_TOKENS),
    Family("glm-4.5", "{{ '\\n' }}" + THINK_TIGHT + glm("\\n"), "<|assistant|>", GLM_TOKENS, reasons=True),
    Family("glm-4.7", THINK_TIGHT + glm(""), "<|assistant|><think>", GLM_TOKENS, reasons=True, opens=True),
    Family("glm-4-0414", GLM_0414, "[gMASK]<sop><|assistant|>", parallel=False, talks=False),
    Family("kimi-k2", KIMI, "<|im_assistant|>assistant<|im_middle|>", KIMI_TOKENS[2:]),
    Family("kimi-k2", THINK_TIGHT + KIMI, "<|im_assistant|>assistant<|im_middle|>", KIMI_TOKENS, reasons=True),
    Family("minimax-m1", MINIMAX_M1, "ai name=assistant\n", hint='{"name": <tool-name>, "arguments": <json>}'),
    Family("minimax-m2", THINK_ALWAYS + MINIMAX_M2, "]~b]ai\n<think>\n", ("<think>", "</think>", "<minimax:tool_call>",
           "</minimax:tool_call>"), reasons=True, opens=True),
    Family("harmony", HARMONY, "<|start|>assistant", HARMONY_TOKENS, reasons=True, parallel=False),
    Family("llama3-json", LLAMA, "<|start_header_id|>assistant<|end_header_id|>\n\n", ("<|python_tag|>",),
           parallel=False, talks=False),
    Family("llama4-pythonic", PYTHONIC, "<|header_start|>assistant<|header_end|>\n\n", talks=False),
    Family("mistral-list", MISTRAL_LIST, "[/INST]", MISTRAL_TOKENS),
    Family("mistral", MISTRAL_THINK + MISTRAL.replace("CALLID", ""), "[/INST]", MISTRAL_TOKENS, reasons=True),
    Family("mistral", MISTRAL.replace("CALLID", "[CALL_ID]abc123XYZ"), "[/INST]", MISTRAL_TOKENS),
]  # fmt: skip
FAMILY_IDS = [f"{at}-{family.name}" for at, family in enumerate(FAMILIES)]


@dataclass
class Reply:
    """What a list of deltas says, put together."""

    text: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)  # name, arguments
    order: str = ""  # kinds of deltas as they came: t, r, c

    @classmethod
    def of(cls, deltas: list) -> "Reply":
        reply = cls()
        open_calls: set[int] = set()
        ids: set[str] = set()
        for delta in deltas:
            match delta:
                case Text(text):
                    reply.text += text
                case Reasoning(text):
                    reply.reasoning += text
                case ToolCallStart(index, id, name):
                    assert index == len(reply.calls) and not open_calls and id not in ids
                    assert id.startswith("call_") and len(id) > 20
                    ids.add(id)
                    open_calls.add(index)
                    reply.calls.append([name, ""])
                case ToolCallArguments(index, fragment):
                    assert index in open_calls
                    assert fragment
                    reply.calls[index][1] += fragment
                case ToolCallEnd(index):
                    open_calls.remove(index)
            kind = {Text: "t", Reasoning: "r"}.get(type(delta), "c")
            if not reply.order.endswith(kind):
                reply.order += kind
        assert not open_calls, "a call was never ended"
        return reply


def parse(format: ReplyFormat, text: str, cuts: list[int] = [], **options) -> Reply:  # noqa: B006
    """The reply `text`, pushed in pieces that end at `cuts`."""
    parser = format.parser(**options)
    ends = [*sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    starts = [0, *ends[:-1]]
    deltas = [delta for a, b in zip(starts, ends, strict=True) for delta in parser.push(text[a:b])]
    return Reply.of([*deltas, *parser.finish()])

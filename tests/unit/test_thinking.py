"""Which values of `reasoning_effort` a server offers for a template."""

import pytest

from freehold.serve.thinking import reasoning_efforts
from freehold.text.reply import ReplyFormat
from freehold.text.template import ChatTemplate

THINK = "{{ messages }}<think></think>"


@pytest.mark.parametrize(
    ("source", "efforts"),
    [
        ("{{ messages }}", []),
        (THINK, []),  # always
        (THINK + "{% if enable_thinking is defined and not enable_thinking %}x{% endif %}", ["none", "medium"]),
        (
            THINK + "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ thinking }}",
            ["none", "medium"],
        ),
        (THINK + "{{ messages[0].thinking }}{{ 'thinking' }}", []),  # the word alone is no switch
        (
            "<|channel|><|message|>{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}"
            "{% endif %}{{ reasoning_effort }}",
            ["low", "medium", "high"],
        ),
        (THINK + "{{ enable_thinking }}{{ reasoning_effort }}", ["none", "low", "medium", "high"]),
        ("{{ enable_thinking }}", []),  # writes no reasoning
        (THINK + "{% if enable_thinking", []),
    ],
)
def test_efforts_are_those_that_the_template_tells_apart(source, efforts):
    template = ChatTemplate(source, {})
    assert reasoning_efforts(template, ReplyFormat.detect(source, ())) == efforts


def test_model_without_a_template_has_none():
    assert reasoning_efforts(None, ReplyFormat.detect(None, ())) == []

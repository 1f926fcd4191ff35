"""The chat page in a browser, before a server that says what each test has written."""

import json
import threading

import pytest
from page_server import QWEN, USAGE, Refusal

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect


def call(index, ident, name, *fragments):
    """The deltas of one tool call."""
    yield {"tool_calls": [{"index": index, "id": ident, "function": {"name": name, "arguments": ""}}]}
    for fragment in fragments:
        yield {"tool_calls": [{"index": index, "function": {"arguments": fragment}}]}


# A conversation.


def test_conversation_goes_on(tab, scripted):
    scripted.answer = lambda body: [f"Reply {len(body['messages'])}."]
    tab.open_settings()
    tab.page.get_by_label("System prompt").fill("Be brief.")
    tab.page.keyboard.press("Escape")
    tab.ask("One")
    reply = tab.ask("Two")
    expect(reply.locator(".markdown")).to_have_text("Reply 4.")
    assert scripted.requests[1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Reply 2."},
        {"role": "user", "content": "Two"},
    ]
    assert scripted.requests[1]["model"] == "thinker"
    assert scripted.requests[1]["stream_options"] == {"include_usage": True}


def test_reply_streams_whatever_the_pieces_of_its_bytes(tab, scripted):
    gate = threading.Event()
    scripted.bytes_at_once = 7  # inside characters and events
    scripted.answer = lambda body: ["Grüße ", "aus 東京 ", gate, "🙂 and on"]
    tab.say("Hello")
    text = tab.page.locator(".reply .markdown")
    expect(text).to_have_text("Grüße aus 東京")
    expect(tab.page.locator(".reply")).to_have_attribute("aria-busy", "true")
    gate.set()
    expect(tab.ended().locator(".markdown")).to_have_text("Grüße aus 東京 🙂 and on")


def test_figures(tab, scripted):
    details = {
        "prompt_tokens_details": {"cached_tokens": 16},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    scripted.usage = USAGE | details
    scripted.answer = lambda body: ["a ", "b ", {"finish_reason": "length"}]
    figures = tab.ask("Go").locator(".figures")
    expect(figures).to_contain_text("12 tokens")
    expect(figures).to_contain_text("first after")
    expect(figures).to_contain_text("prompt 20 (16 cached)")
    expect(figures).to_contain_text("cut off at the token limit")


def test_reasoning_is_folded(tab, scripted):
    gate = threading.Event()
    scripted.usage = USAGE | {"completion_tokens_details": {"reasoning_tokens": 9}}
    scripted.answer = lambda body: [{"reasoning_content": "First, "}, {"reasoning_content": "I think."}, gate, "Done."]
    tab.say("Think")
    fold = tab.page.locator(".reasoning")
    expect(fold.locator("summary")).to_have_text("Thinking …")
    expect(fold.locator(".thoughts")).to_be_hidden()
    gate.set()
    tab.ended()
    expect(fold.locator("summary")).to_contain_text("Thought for")
    expect(fold.locator("summary")).to_contain_text("9 tokens")
    fold.locator("summary").click()
    expect(fold.locator(".thoughts")).to_have_text("First, I think.")
    expect(tab.page.locator(".reply .markdown")).to_have_text("Done.")
    tab.ask("And then?")
    assert scripted.requests[1]["messages"][1] == {
        "role": "assistant",
        "content": "Done.",
        "reasoning_content": "First, I think.",
    }


# Tools.


def test_tool_calls_are_shown_and_answered_by_hand(tab, scripted):
    calls = [
        *call(0, "c1", "get_weather", '{"city": "Par', 'is"}'),
        *call(1, "c2", "clock", "{}"),
        {"finish_reason": "tool_calls"},
    ]
    scripted.answer = lambda body: ["It is sunny."] if body["messages"][-1]["role"] == "tool" else calls
    tab.open_settings()
    tab.page.get_by_text("Tools", exact=True).click()
    tab.page.get_by_role("button", name="Insert an example").click()
    tab.page.keyboard.press("Escape")
    reply = tab.ask("Weather?")
    assert scripted.requests[0]["tools"][0]["function"]["name"] == "get_weather"
    expect(reply.locator(".call-name")).to_have_text(["get_weather", "clock"])
    expect(reply.locator(".call pre").first).to_have_text('{\n  "city": "Paris"\n}')
    tab.page.get_by_label("Result of get_weather").fill('{"sky": "clear"}')
    tab.page.get_by_label("Result of clock").fill("noon")
    tab.page.get_by_role("button", name="Send results").click()
    expect(tab.ended().locator(".markdown")).to_have_text("It is sunny.")
    assert scripted.requests[1]["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}},
                {"id": "c2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": '{"sky": "clear"}'},
        {"role": "tool", "tool_call_id": "c2", "content": "noon"},
    ]


BAD_TOOLS = [
    ("{", "Not JSON: "),
    ("{}", "Expected a list: [ … ]"),
    ('[{"name": "x"}]', 'Tool 1: expected "type": "function"'),
    ('[{"type": "function", "function": {}}]', 'Tool 1: "function" needs a "name"'),
    (
        '[{"type": "function", "function": {"name": "f", "parameters": []}}]',
        'Tool 1: "parameters" must be a JSON schema, an object',
    ),
]


def test_tools_that_cannot_be_are_said_and_not_sent(tab, scripted):
    tab.open_settings()
    tab.page.get_by_text("Tools", exact=True).click()
    for text, error in BAD_TOOLS:
        tab.page.locator("#tools").fill(text)
        expect(tab.page.locator("#tools-error")).to_contain_text(error)
    tab.page.keyboard.press("Escape")
    tab.say("Hello")
    expect(tab.page.locator("#settings")).to_be_visible()
    assert not scripted.requests


# Sampling and models.


def test_sampling_is_sent(tab, scripted):
    tab.open_settings()
    page = tab.page
    page.get_by_label("Temperature").first.fill("0.2")
    page.get_by_label("Top-p").first.fill("")
    page.get_by_label("Max tokens").first.fill("50")
    page.get_by_label("Seed").first.fill("-3")
    page.get_by_label("Thinking").first.select_option("Off")
    page.keyboard.press("Escape")
    tab.ask("Hello")
    sent = scripted.requests[0]
    names = ("temperature", "top_p", "max_tokens", "seed", "reasoning_effort")
    assert [sent.get(name) for name in names] == [0.2, None, 50, -3, "none"]


def test_a_number_out_of_range_is_not_sent(tab, scripted):
    tab.open_settings()
    tab.page.get_by_label("Top-p").first.fill("2")
    tab.page.keyboard.press("Escape")
    tab.say("Hello")
    expect(tab.page.locator("#settings")).to_be_visible()
    assert tab.page.get_by_label("Top-p").first.evaluate("field => field.matches(':invalid')")
    assert not scripted.requests


def test_thinking_is_offered_where_the_model_has_it(tab):
    tab.open_settings()
    expect(tab.page.get_by_label("Thinking").first.locator("option")).to_have_text(
        ["As the model’s template says", "Off", "On"]
    )
    tab.page.keyboard.press("Escape")
    tab.page.get_by_label("Model", exact=True).select_option("small")
    tab.open_settings()
    expect(tab.page.get_by_label("Thinking").first).to_be_hidden()


def test_about_this_model(tab, scripted):
    expect(tab.page.locator(".facts").first).to_have_text("32,768 context · Q4_K · apache-2.0")
    tab.page.get_by_role("button", name="About this model").click()
    about = tab.page.locator("#about")
    for fact in ("630 M (630,167,424)", "40,960 tokens", "48 tensors in F32, 24 in Q4_K, 1 in Q6_K", QWEN["sha256"]):
        expect(about).to_contain_text(fact)
    expect(about.get_by_role("definition").filter(has_text="open-weight: free")).to_be_visible()
    tab.page.keyboard.press("Escape")
    tab.page.get_by_label("Model", exact=True).select_option("small")
    scripted.summary = {"error": "a report needs a package"}
    tab.page.get_by_role("button", name="About this model").click()
    expect(about).to_contain_text("the file names none")
    expect(about).to_contain_text("There is no report: a report needs a package")


def test_waits_while_the_first_model_is_loaded(tab, scripted):
    scripted.models = [{"id": "late", "loaded": False}]
    tab.open()
    expect(tab.page.locator(".facts").first).to_have_text("")
    scripted.models = [{"id": "late", "context": 4096, "loaded": True}]
    expect(tab.page.locator(".facts").first).to_have_text("4,096 context")


# Stopping, again, otherwise.


def test_escape_stops_and_keeps_what_came(tab, scripted):
    gate = threading.Event()
    scripted.answer = lambda body: ["Half ", "a reply", gate]
    tab.say("Go")
    expect(tab.page.locator(".reply .markdown")).to_have_text("Half a reply")
    tab.page.keyboard.press("Escape")
    reply = tab.ended()
    assert scripted.gone.wait(5)
    expect(reply.locator(".figures")).to_contain_text("≈ 2 tokens")
    expect(reply.locator(".figures")).to_contain_text("stopped by you")
    expect(tab.page.locator("#send")).to_be_visible()
    scripted.answer = lambda body: ["More."]
    tab.ask("Go on")
    assert scripted.requests[1]["messages"][1] == {"role": "assistant", "content": "Half a reply"}


def test_stop_button(tab, scripted):
    scripted.answer = lambda body: ["A", threading.Event()]
    tab.say("Go")
    tab.page.get_by_role("button", name="Stop", exact=True).click()
    expect(tab.ended().locator(".figures")).to_contain_text("stopped by you")
    assert tab.page.evaluate("document.activeElement.id") == "message"


def test_answer_again(tab, scripted):
    scripted.answer = lambda body: [f"Reply {len(scripted.requests)}."]
    tab.ask("Hello")
    tab.page.get_by_role("button", name="Answer again").click()
    expect(tab.page.locator(".reply .markdown")).to_have_text(["Reply 2."])
    assert scripted.requests[0]["messages"] == scripted.requests[1]["messages"]


def test_edit_and_send_again_forgets_what_came_after(tab, scripted):
    for text in ("One", "Two", "Three"):
        tab.ask(text)
    tab.page.locator(".said").nth(1).hover()
    tab.page.get_by_role("button", name="Edit and send again").nth(1).click()
    tab.page.get_by_label("Your message").fill("Second")
    tab.page.get_by_role("button", name="Send again", exact=True).click()
    tab.ended()
    expect(tab.page.locator(".said-text")).to_have_text(["One", "Second"])
    users = [message["content"] for message in scripted.requests[-1]["messages"] if message["role"] == "user"]
    assert users == ["One", "Second"]


def test_edit_can_be_cancelled(tab, scripted):
    tab.ask("One")
    tab.page.locator(".said").hover()
    tab.page.get_by_role("button", name="Edit and send again").click()
    tab.page.get_by_label("Your message").fill("Other")
    tab.page.keyboard.press("Escape")
    expect(tab.page.locator(".said-text")).to_have_text(["One"])
    assert len(scripted.requests) == 1


def test_new_chat_while_a_reply_runs(tab, scripted):
    scripted.answer = lambda body: ["A", threading.Event()]
    tab.say("Old")
    expect(tab.page.locator(".reply .markdown")).to_have_text("A")
    tab.page.get_by_role("button", name="New chat").click()
    assert scripted.gone.wait(5)
    expect(tab.page.locator(".turn")).to_have_count(0)
    scripted.answer = lambda body: ["Hello."]
    tab.ask("New")
    assert scripted.requests[-1]["messages"] == [{"role": "user", "content": "New"}]


def test_export(tab, scripted):
    scripted.answer = lambda body: [{"reasoning_content": "Hm."}, "**Hello**"]
    tab.ask("Hi")
    tab.open_settings()
    with tab.page.expect_download() as download:
        tab.page.get_by_role("button", name="Export conversation as JSON").click()
    saved = json.loads(download.value.path().read_text())
    assert download.value.suggested_filename == "conversation.json"
    assert saved["lanes"] == [{"model": "thinker", "temperature": 0.7, "top_p": 0.95}]
    (turn,) = saved["turns"]
    (reply,) = turn["replies"][0]
    assert (turn["user"], reply["content"], reply["reasoning_content"]) == ("Hi", "**Hello**", "Hm.")
    assert reply["figures"]["completion_tokens"] == 12


def test_copy(browser, scripted):
    from page_browser import opened

    scripted.answer = lambda body: ["Some *raw* text\n\n```py\nx = 1\n```\n"]
    with opened(browser, scripted.url, permissions=["clipboard-read", "clipboard-write"]) as tab:
        reply = tab.ask("Hi")
        reply.get_by_role("button", name="Copy code").click()
        expect(reply.get_by_role("button", name="Copied")).to_be_visible()
        assert tab.page.evaluate("navigator.clipboard.readText()") == "x = 1"
        reply.get_by_role("button", name="Copy reply").click()
        expect(reply.get_by_role("button", name="Copied")).to_have_count(2)
        assert tab.page.evaluate("navigator.clipboard.readText()") == "Some *raw* text\n\n```py\nx = 1\n```\n"


# Two side by side.


def test_side_by_side(tab, scripted):
    gate = threading.Event()
    scripted.answer = lambda body: [f"I am {body['model']}.", *([gate] if body["model"] == "thinker" else [])]
    tab.page.get_by_role("button", name="Compare").click()
    tab.open_settings()
    tab.page.get_by_label("Temperature").nth(1).fill("0")
    tab.page.keyboard.press("Escape")
    tab.say("Who are you?")
    expect(tab.ended(1).locator(".markdown")).to_have_text("I am small.")  # while the other still runs
    running = tab.page.locator(".lane").first.locator(".reply")
    expect(running).to_have_attribute("aria-busy", "true")
    boxes = [lane.bounding_box() for lane in tab.page.locator(".lane").all()]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    running.get_by_role("button", name="Stop").click()
    expect(tab.ended(0).locator(".figures")).to_contain_text("stopped by you")
    expect(tab.ended(1).locator(".figures")).to_contain_text("12 tokens")
    sent = {request["model"]: request for request in scripted.requests}
    assert [sent[name]["temperature"] for name in ("thinker", "small")] == [0.7, 0]
    scripted.answer = lambda body: ["Yes."]
    tab.say("Really?")
    tab.ended(0), tab.ended(1)
    for request in scripted.requests[2:]:  # each goes on from what it has said itself
        assert request["messages"][1]["content"] == f"I am {request['model']}."


def test_second_model_joins_a_conversation(tab, scripted):
    scripted.answer = lambda body: [f"I am {body['model']}."]
    tab.ask("Who are you?")
    tab.page.get_by_role("button", name="Compare").click()
    tab.say("And you?")
    tab.ended(0), tab.ended(1)
    assert all(request["messages"][1]["content"] == "I am thinker." for request in scripted.requests[1:])


# What goes wrong.


def test_error_is_shown_as_it_is_said_and_tried_again(tab, scripted):
    tab.refusals.add(429)
    scripted.answer = lambda body: Refusal(429, "the queue is full: 256 requests wait", {"retry-after": "2"})
    error = tab.ask("Hello").locator(".error")
    expect(error).to_contain_text("the queue is full: 256 requests wait")
    expect(error).to_contain_text("The server asks to wait 2 s. This turn is left out of what is sent next.")
    scripted.answer = lambda body: ["Now."]
    tab.page.get_by_role("button", name="Try again").click()
    expect(tab.ended().locator(".markdown")).to_have_text("Now.")
    expect(error).to_have_count(0)


def test_turn_without_an_answer_is_not_sent_again(tab, scripted):
    tab.refusals.add(400)
    scripted.answer = lambda body: Refusal(400, "prompt: 9000 tokens, 8192 fit")
    tab.ask("Too long")
    scripted.answer = lambda body: ["Hi."]
    tab.ask("Short")
    assert scripted.requests[-1]["messages"] == [{"role": "user", "content": "Short"}]


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ({"error": {"message": "the engine has failed", "code": "engine_error"}}, "the engine has failed"),
        (None, "The connection ended before the reply did."),
    ],
)
def test_error_in_the_middle_keeps_what_came(tab, scripted, end, message):
    scripted.answer = lambda body: ["So far ", end]
    reply = tab.ask("Hello")
    expect(reply.locator(".error")).to_contain_text(message)
    expect(reply.locator(".markdown")).to_have_text("So far")
    expect(reply.locator(".error")).not_to_contain_text("left out")


def test_server_that_is_gone(tab):
    tab.page.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
    expect(tab.ask("Hello").locator(".error")).to_contain_text("The server cannot be reached.")
    tab.page.unroute_all()
    tab.errors.clear()  # the browser's own line about it


def test_models_that_cannot_be_had_are_asked_for_again(tab):
    tab.page.route("**/v1/models", lambda route: route.abort("connectionrefused"))
    tab.page.goto(tab.url)
    notice = tab.page.locator("#notice")
    expect(notice).to_contain_text("The server cannot be reached.")
    tab.page.unroute_all()
    notice.get_by_role("button", name="Try again").click()
    expect(notice).to_be_hidden()
    tab.ask("Hello")
    tab.errors.clear()  # the browser's own line about it


def test_key_is_asked_for_in_the_middle_too(tab, scripted):
    tab.refusals.add(401)
    scripted.key = "secret-key"
    tab.say("Hello")
    expect(tab.page.locator("#key-error")).to_have_text("a valid API key is needed (Authorization: Bearer …)")
    tab.page.locator("#key").fill("wrong-key")
    tab.page.get_by_role("button", name="Continue").click()
    expect(tab.page.locator("#key")).to_have_value("")
    tab.page.locator("#key").fill("secret-key")
    tab.page.get_by_role("button", name="Continue").click()
    expect(tab.ended().locator(".markdown")).to_have_text("Hello.")

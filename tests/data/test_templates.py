"""Rows of a chat template against its own rendering of the finished conversation."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from airtune.data.encoding import Encoded, encode, show_row, turn_ends
from airtune.data.sources import load_task_data
from airtune.data.tasks import Example
from airtune.data.template import NO_INPUTS, TemplateInputs, Turn, reads_date, template_text
from airtune.errors import InputError
from tests.data.templates import CASES, REFUSED
from tests.data.test_encoding import byte_tokenizer

TRL = os.environ.get("AIRTUNE_TRL_TEMPLATES", "")
EXCHANGE = (Turn("user", " Ask me? "), Turn("assistant", "Say it."))
TOKENIZER = byte_tokenizer()
LIMIT = 20_000


def _encoded(
    template: str,
    turns: Sequence[Turn] = EXCHANGE,
    inputs: TemplateInputs = NO_INPUTS,
    limit: int = LIMIT,
) -> Encoded:
    TOKENIZER.chat_template = template
    example = Example(turns[-2].content, turns[-1].content, "", turns=tuple(turns))
    return encode(TOKENIZER, [example], limit, inputs=inputs)


def _rendered(template: str, turns: Sequence[Turn], inputs: TemplateInputs, **asked: Any) -> Any:
    """What transformers itself makes of a conversation, of typed parts where it takes no others."""
    TOKENIZER.chat_template = template
    system = [] if inputs.system is None else [Turn("system", inputs.system)]
    errors = []
    for parts in (False, True):
        messages = [
            {
                "role": t.role,
                "content": [{"type": "text", "text": t.content}] if parts else t.content,
            }
            for t in [*system, *turns]
        ]
        try:
            made = TOKENIZER.apply_chat_template(
                messages,
                tools=list(inputs.tools) or None,
                return_dict=True,
                **inputs.values,
                **asked,
            )
        except Exception as error:  # a template may raise anything
            errors.append(error)
            continue
        if turns[0].content.strip() in TOKENIZER.decode(made["input_ids"]):
            return made
    raise AssertionError(f"nothing rendered: {errors}")


@pytest.mark.parametrize("name", CASES)
def test_a_row_is_the_finished_conversation(name: str) -> None:
    case = CASES[name]
    encoded = _encoded(case.template, inputs=case.inputs)
    assert show_row(TOKENIZER, encoded, 0) == case.row
    if case.inputs.date is None:  # transformers would take the clock's
        whole = _rendered(case.template, EXCHANGE, case.inputs)["input_ids"]
        assert encoded.row(0).tolist() == whole


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_to_change(name: str) -> None:
    template, inputs, words = REFUSED[name]
    with pytest.raises(InputError) as caught:
        _encoded(template, inputs=inputs)
    for word in words:
        assert word in str(caught.value)


def test_the_model_answers_from_behind_what_the_template_puts_first() -> None:
    encoded = _encoded(CASES["empty think block in the last answer"].template)
    assert TOKENIZER.decode(encoded.prompt(0)).endswith("<assistant>(think)\n\n(/think)\n\n")


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("plain turns", "<end>"),
        ("beginning of sequence inside", "<eos>"),
        ("whitespace", None),
        ("typed parts", None),
    ],
)
def test_the_end_of_a_turn_ends_an_answer(name: str, token: str | None) -> None:
    TOKENIZER.chat_template = CASES[name].template
    ends = () if token is None else (TOKENIZER.convert_tokens_to_ids(token),)
    assert turn_ends(TOKENIZER) == ends
    assert turn_ends(byte_tokenizer()) == ()


CONVERSATION = (
    Turn("user", "one?"),
    Turn("assistant", "1"),
    Turn("user", "two?"),
    Turn("assistant", "2"),
)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        (
            "plain turns",
            "<user>one?<end>\n<assistant>⟹1<end>\n⟸<user>two?<end>\n<assistant>⟹2<end>\n",
        ),
        ("in the form of Mistral", "<bos>[INST] one? [/INST]⟹ 1<eos>⟸[INST] two? [/INST]⟹ 2<eos>"),
        (
            "empty think block in the last answer",
            "<user>one?<end>\n<assistant>⟹1<end>\n⟸<user>two?<end>\n<assistant>⟹(think)\n\n(/think)"
            "\n\n2<end>\n",
        ),
        (
            "end of text after the last answer alone",
            "<user>\none?<end>\n<assistant>\n⟹1<end>\n⟸<user>\ntwo?<end>\n<assistant>\n⟹2<end>\n<eos>",
        ),
        (
            "marked, with the end of the turn outside",
            "<user>one?<end>\n<assistant>⟹1<end>⟸\n<user>two?<end>\n<assistant>⟹2<end>⟸\n",
        ),
        ("typed parts", "[one?]⟹1⟸[two?]⟹2"),
        (
            "beginning of sequence inside",
            "<bos><user>one?<assistant>⟹1<eos>⟸<user>two?<assistant>⟹2<eos>",
        ),
    ],
)
def test_every_answer_of_a_conversation_is_trained(name: str, row: str) -> None:
    encoded = _encoded(CASES[name].template, CONVERSATION)
    assert show_row(TOKENIZER, encoded, 0) == row
    assert TOKENIZER.decode(encoded.row(0)[encoded.prompt_length[0] :]).startswith("2")


def test_a_template_that_rewrites_earlier_answers_is_refused_for_conversations() -> None:
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content if loop.last else m.content | upper }}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    turns = (Turn("user", "A"), Turn("assistant", "b"), Turn("user", "C"), Turn("assistant", "d"))
    with pytest.raises(InputError, match=r"changes the earlier answer 'b'"):
        _encoded(template, turns)


def test_a_row_that_a_template_fails_on_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p", "completion": "c"}\n{"prompt": "bad", "completion": "c"}\n')
    template = (
        "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('no bad words') }}"
        "{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    tokenizer = byte_tokenizer(chat=template)
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2.*no bad words"):
        encode(tokenizer, load_task_data(str(path), str(path)).train, LIMIT)


def test_a_long_conversation_loses_its_oldest_exchange_first() -> None:
    plain = CASES["plain turns"].template
    row = "<user>two?<end>\n<assistant>⟹2<end>\n"
    length = len(_encoded(plain, CONVERSATION[2:]).row(0))
    for limit, kept in ((length, row), (length - 3, row.replace("two", ""))):
        encoded = _encoded(plain, CONVERSATION, limit=limit)
        assert show_row(TOKENIZER, encoded, 0) == kept
        assert encoded.cut == 1


def test_a_system_turn_of_the_data_comes_before_that_of_the_experiment() -> None:
    plain, inputs = CASES["plain turns"].template, TemplateInputs(system="Be brief.")
    own = (Turn("system", "Be long."), *EXCHANGE)
    assert "Be brief." in show_row(TOKENIZER, _encoded(plain, inputs=inputs), 0)
    shown = show_row(TOKENIZER, _encoded(plain, own, inputs), 0)
    assert "Be long." in shown
    assert "Be brief." not in shown


def test_a_template_is_named_or_a_file(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}
    assert template_text(tokenizer) == "{{ 1 }}"
    assert template_text(tokenizer, TemplateInputs("tool_use")) == "{{ 2 }}"
    path = tmp_path / "own.jinja"
    path.write_text("{{ strftime_now('%Y') }}")
    assert reads_date(template_text(tokenizer, TemplateInputs(str(path))))
    with pytest.raises(InputError, match=r"data\.chat_template"):
        template_text(tokenizer, TemplateInputs(str(tmp_path / "none.jinja")))
    tokenizer.chat_template = {"rag": "{{ 1 }}"}
    with pytest.raises(InputError, match=r"data\.chat_template.*rag"):
        template_text(tokenizer)


@pytest.mark.parametrize(
    ("inputs", "key"),
    [
        (TemplateInputs(system="s"), "data.system"),
        (TemplateInputs(tools=({},)), "data.tools"),
        (TemplateInputs(values={"a": 1}), "data.template_inputs"),
        (TemplateInputs(date="2031-03-05"), "data.date"),
    ],
)
def test_without_a_template_its_inputs_are_refused(inputs: TemplateInputs, key: str) -> None:
    with pytest.raises(InputError, match=key):
        encode(byte_tokenizer(), [Example("p", "c", "")], 50, inputs=inputs)


def test_conversations_need_a_template() -> None:
    with pytest.raises(InputError, match=r"data\.chat_template"):
        encode(byte_tokenizer(), [Example("two?", "2", "", turns=CONVERSATION)], 50)


TRL_REFUSED = {
    "deepseekv3": "asks for `<think>` and answers without it",
    "nemotron_3_nano": "asks for an open think block and answers after a closed one",
    "nemotron_3_super": "asks for an open think block and answers after a closed one",
    "nemotron_3_ultra": "asks for an open think block and answers after a closed one",
}
"""Templates of huggingface/trl that are refused, and why. The three nemotron_3 are taken with
`enable_thinking: false`."""


def _trl_templates() -> list[Any]:
    if not TRL:
        reason = "set AIRTUNE_TRL_TEMPLATES to trl/chat_templates of huggingface/trl at f2cd577"
        return [pytest.param(Path(), marks=pytest.mark.skip(reason=reason), id="none")]
    templates = sorted(Path(TRL).glob("*.jinja"))
    assert templates, f"AIRTUNE_TRL_TEMPLATES is {TRL}, a folder without *.jinja files"
    return [pytest.param(path, id=path.stem) for path in templates]


@pytest.mark.parametrize("path", _trl_templates())
def test_trl_templates(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    inputs = NO_INPUTS
    if path.stem in TRL_REFUSED:
        with pytest.raises(InputError, match="asks for an answer by"):
            _encoded(text)
        if "enable_thinking" not in text:
            return
        inputs = TemplateInputs(values={"enable_thinking": False})
    encoded = _encoded(text, inputs=inputs)
    marked = "endgeneration" in text
    whole = _rendered(text, EXCHANGE, inputs, return_assistant_tokens_mask=marked)
    assert encoded.row(0).tolist() == whole["input_ids"]
    if marked:
        wanted = [bool(label) for label in whole["assistant_masks"]]
    else:
        asked = _rendered(text, EXCHANGE[:1], inputs, add_generation_prompt=True)["input_ids"]
        assert whole["input_ids"][: len(asked)] == asked
        wanted = [at >= len(asked) for at in range(len(whole["input_ids"]))]
    assert encoded.row_label(0).tolist() == wanted


def test_most_trl_templates_are_exact() -> None:
    if not Path(TRL).is_dir() or not TRL:
        pytest.skip("set AIRTUNE_TRL_TEMPLATES to trl/chat_templates of huggingface/trl at f2cd577")
    names = {path.stem for path in Path(TRL).glob("*.jinja")}
    taken = names - set(TRL_REFUSED)
    assert len(names) == 53
    assert len(taken) >= 40
    assert {"llama3", "qwen2_5", "qwen3", "gemma", "llava_next", "phi3"} <= taken

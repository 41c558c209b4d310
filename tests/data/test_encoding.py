"""Token ids: what is cut, what is dropped, what the model sees. Tokenizers are made on the spot."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from airtune.data.encoding import encode, show_row
from airtune.data.tasks import Example
from airtune.errors import InputError

CHAT = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<end>\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_tokenizer(first: bool = True, chat: str | None = None) -> PreTrainedTokenizerFast:
    """One token a byte; `<bos>` 0 in front if `first`, `<eos>` 1, turns `<user>`, ... if chat."""
    special = ["<bos>", "<eos>", "<user>", "<assistant>", "<end>"]
    symbols = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: k for k, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    if first:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 0)]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>"
    )
    made.chat_template = chat
    return made


PLAIN = byte_tokenizer()
"""Shared: a tokenizer takes longer to build than a test takes to run."""


def _decoded(
    tokenizer: Any, examples: list[Example], limit: int, separator: str = "\n"
) -> list[str]:
    encoded = encode(tokenizer, examples, limit, separator)
    return [show_row(tokenizer, encoded, row) for row in range(len(encoded))]


def test_the_plain_form() -> None:
    assert _decoded(PLAIN, [Example("ask", "say", "")], 50) == ["<bos>ask\n⟹say<eos>"]
    assert _decoded(PLAIN, [Example("ask", "say", "")], 50, " -> ") == ["<bos>ask -> ⟹say<eos>"]


def test_a_tokenizer_that_adds_nothing_gets_no_first_token() -> None:
    bare = byte_tokenizer(first=False)
    assert _decoded(bare, [Example("ask", "say", "")], 50) == ["ask\n⟹say<eos>"]


def test_a_tokenizer_without_an_end_of_sequence() -> None:
    endless = byte_tokenizer()
    endless.eos_token = None
    assert _decoded(endless, [Example("ask", "say", "")], 50) == ["<bos>ask\n⟹say"]


def test_the_chat_form_is_what_the_template_renders() -> None:
    chat = byte_tokenizer(chat=CHAT)
    encoded = encode(chat, [Example("ask", "say", "")], 50)
    turns = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}]
    rendered = chat.apply_chat_template(turns, tokenize=False)
    assert chat.decode(encoded.row(0)) == rendered
    assert show_row(chat, encoded, 0) == "<user>ask<end>\n<assistant>⟹say<end>\n"


def test_a_template_that_ends_no_turn_adds_nothing_of_ours() -> None:
    template = "{% for m in messages %}[{{ m['role'][0] }}]{{ m['content'] }}{% endfor %}"
    template += "{% if add_generation_prompt %}[a]{% endif %}"
    chat = byte_tokenizer(chat=template)
    assert _decoded(chat, [Example("ask", "say", "")], 50) == ["[u]ask[a]⟹say"]


def test_a_template_that_hides_the_prompt_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.chat_template.*does not show the turns"):
        encode(byte_tokenizer(chat="{{ 'nothing' }}"), [Example("ask", "say", "")], 50)


def test_cutting_takes_the_prompt_from_the_left_and_nothing_else() -> None:
    example = Example("0123456789", "answer", "")
    # <bos>, the kept end of the prompt, its separator, six letters, <eos>.
    assert _decoded(PLAIN, [example], 12) == ["<bos>789\n⟹answer<eos>"]
    chat = byte_tokenizer(chat=CHAT)
    assert _decoded(chat, [example], 16) == ["<user>6789<end>\n<assistant>⟹answer<end>\n"]


def test_dropped_rows_are_counted_and_said() -> None:
    examples = [Example("p" * 9, "c" * size, "") for size in (0, 3, 5, 17, 18, 400)]
    encoded = encode(PLAIN, examples, 20)
    assert encoded.example.tolist() == [1, 2, 3]
    assert encoded.label_tokens.tolist() == [4, 6, 18]
    assert (encoded.empty, encoded.too_long, encoded.cut) == (1, 2, 1)
    assert encoded.notice == (
        "1 of 6 rows dropped: no completion; 2 of 6 rows dropped: their completion leaves no room "
        "for a prompt in 20 tokens; 1 of 6 prompts cut from the left (raise data.max_tokens to "
        "keep more)."
    )
    assert encode(PLAIN, examples[1:3], 20).notice == ""


def test_no_row_left_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.max_tokens is 5.*all 1 rows"):
        encode(PLAIN, [Example("p", "too long", "")], 5)


@given(
    st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=8),
    st.integers(4, 60),
)
def test_every_row_keeps_its_completion(texts: list[tuple[str, str]], limit: int) -> None:
    examples = [Example(prompt, completion, "") for prompt, completion in texts]
    try:
        encoded = encode(PLAIN, examples, limit)
    except InputError:
        assert all(not c or len(c.encode()) + 3 > limit for _, c in texts)
        return
    assert len(encoded) + encoded.empty + encoded.too_long == len(examples)
    assert (encoded.length <= limit).all()
    assert (encoded.prompt_length >= 1).all()
    for row, index in enumerate(encoded.example):
        ids = encoded.row(row)
        prompt, labels = np.split(ids, [encoded.prompt_length[row]])
        assert labels[-1] == PLAIN.eos_token_id
        wanted = PLAIN(examples[index].completion, add_special_tokens=False)["input_ids"]
        assert labels[:-1].tolist() == wanted
        whole = PLAIN(examples[index].prompt + "\n")["input_ids"]
        kept = prompt[1:].tolist()
        assert prompt[0] == PLAIN.bos_token_id
        assert kept == whole[len(whole) - len(kept) :]


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [Example(f"p{n}", f"c{n}", "") for n in range(25)]
    whole = encode(PLAIN, examples, 40)
    monkeypatch.setattr("airtune.data.encoding._CHUNK", 4)
    parts = encode(PLAIN, examples, 40)
    np.testing.assert_array_equal(whole.token_ids, parts.token_ids)
    np.testing.assert_array_equal(whole.starts, parts.starts)

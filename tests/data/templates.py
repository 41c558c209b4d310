"""Chat templates written for these tests, each with what a row of it looks like.

`⟹` stands before what the model must write, `⟸` where it is shown something again. The exchange is
" Ask me? " answered by "Say it.".
"""

from dataclasses import dataclass

from airtune.data.template import NO_INPUTS, TemplateInputs


@dataclass(frozen=True)
class Case:
    """A template, the inputs that it wants, and the row that it makes of the exchange."""

    template: str
    row: str
    inputs: TemplateInputs = NO_INPUTS


_TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}

CASES = {
    "plain turns": Case(
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
        "<user> Ask me? <end>\n<assistant>⟹Say it.<end>\n",
    ),
    "empty think block in the last answer": Case(
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}"
        "(think)\n\n(/think)\n\n{% endif %}{{ m.content }}<end>\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and not "
        "enable_thinking %}(think)\n\n(/think)\n\n{% endif %}{% endif %}",
        "<user> Ask me? <end>\n<assistant>⟹(think)\n\n(/think)\n\nSay it.<end>\n",
    ),
    "thinking switched off by an input": Case(
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}(think)(/think)"
        "{% endif %}{{ m.content }}<end>\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>(think){% if enable_thinking is false %}(/think)"
        "{% else %}\n{% endif %}{% endif %}",
        "<user> Ask me? <end>\n<assistant>(think)(/think)⟹Say it.<end>\n",
        TemplateInputs(values={"enable_thinking": False}),
    ),
    "forced system turn": Case(
        "{% if messages[0].role != 'system' %}[sys]You are kind.<end>{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
        "[sys]You are kind.<end><user> Ask me? <end><assistant>⟹Say it.<end>",
    ),
    "system turn demanded": Case(
        "{% if messages[0].role != 'system' %}{{ raise_exception('a system turn, please') }}"
        "{% endif %}[sys]{{ messages[0].content }}\n{% for m in messages[1:] %}<{{ m.role }}>"
        "{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
        "[sys]Be brief.\n<user> Ask me? <end><assistant>⟹Say it.<end>",
        TemplateInputs(system="Be brief."),
    ),
    "tools": Case(
        "{% if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
        '{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}\n'
        "<user> Ask me? <end><assistant>⟹Say it.<end>",
        TemplateInputs(tools=(_TOOL,)),
    ),
    "dates": Case(
        "Today is {{ strftime_now('%d %b %Y') }} in {{ place or 'Rome' }}.\n"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
        "Today is 05 Mar 2031 in Oslo.\n<user> Ask me? <end><assistant>⟹Say it.<end>",
        TemplateInputs(date="2031-03-05", values={"place": "Oslo"}),
    ),
    "beginning of sequence inside": Case(
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == "
        "'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
        "<bos><user> Ask me? <assistant>⟹Say it.<eos>",
    ),
    "whitespace": Case(
        "{%- for m in messages -%}\n  {{- '\\n\\n' + m.role + ':\\t' + (m.content | trim) -}}\n"
        "{{- ' \\n' -}}\n{%- endfor -%}\n{%- if add_generation_prompt -%}"
        "{{ '\\n\\nassistant:\\t' }}{%- endif -%}\n\n",
        "\n\nuser:\tAsk me? \n\n\nassistant:\t⟹Say it. \n",
    ),
    "end of text after the last answer alone": Case(
        "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}<end>\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>\n{% else %}{{ eos_token }}{% endif %}",
        "<user>\n Ask me? <end>\n<assistant>\n⟹Say it.<end>\n<eos>",
    ),
    "in the form of Mistral": Case(
        "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 < 1) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% if m.role == 'user' %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}"
        "{% endif %}{% endfor %}",
        "<bos>[INST]  Ask me?  [/INST]⟹ Say it.<eos>",
    ),
    "typed parts": Case(
        "{% for m in messages %}{{ m['content'][0]['text'] if m.role == 'assistant' else "
        "'[' + m['content'][0]['text'] + ']' }}{% endfor %}",
        "[ Ask me? ]⟹Say it.",
    ),
    "marked, with the end of the turn outside": Case(
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}<end>{% endgeneration %}{% else %}{{ m.content }}<end>{% endif %}"
        "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<assistant>(think)\n{% endif %}",
        "<user> Ask me? <end>\n<assistant>⟹Say it.<end>⟸\n",
    ),
}
"""Name -> case."""

REFUSED = {
    "asks in another way than it answers": (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>(think)\n{% endif %}",
        NO_INPUTS,
        ["data.chat_template", "'(think)\\n'", "data.template_inputs", "{% generation %}"],
    ),
    "system turn demanded": (
        CASES["system turn demanded"].template, NO_INPUTS,
        ["data.chat_template", "data.system", "a system turn, please"],
    ),
    "system turn not supported": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system') }}"
        "{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}",
        TemplateInputs(system="Be brief."),
        ["data.system", "No system"],
    ),
    "system turn dropped": (
        "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}",
        TemplateInputs(system="Be brief."),
        ["data.system is Be brief.", "left out"],
    ),
    "hides the answer": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
        NO_INPUTS, ["data.chat_template", "does not show the turns"],
    ),
    "shows the prompt twice": (
        "{{ messages[0].content }}{% for m in messages %}{{ m.content }}{% endfor %}",
        NO_INPUTS, ["data.chat_template", "does not show"],
    ),
    "does not compile": (
        "{% for m in messages %}{{ m.content }", NO_INPUTS, ["data.chat_template", "Template"],
    ),
    "divides by nothing": (
        "{% for m in messages %}{{ m.content }}{{ 1 / 0 }}{% endfor %}",
        NO_INPUTS, ["data.chat_template", "ZeroDivisionError"],
    ),
    "draws at random": (
        "{% for m in messages %}{{ range(9999) | random }}{{ m.content }}{% endfor %}",
        NO_INPUTS, ["data.chat_template"],
    ),
    "marks something else": (
        "{% for m in messages %}{% generation %}.{% endgeneration %}{{ m.content }}{% endfor %}",
        NO_INPUTS, ["data.chat_template", "{% generation %}", "misses the answer"],
    ),
    "an input that it does not read": (
        CASES["plain turns"].template, TemplateInputs(values={"enable_thinkin": False}),
        ["data.template_inputs.enable_thinkin"],
    ),
    "an input of our own": (
        CASES["plain turns"].template, TemplateInputs(values={"messages": []}),
        ["data.template_inputs.messages"],
    ),
    "tools that it does not show": (
        CASES["plain turns"].template, TemplateInputs(tools=(_TOOL,)), ["data.tools", "left out"],
    ),
    "a day that it does not show": (
        CASES["plain turns"].template, TemplateInputs(date="2031-03-05"), ["data.date", "left out"],
    ),
}  # fmt: skip
"""Name -> template, inputs, words of the sentence."""

"""Chat templates: messages to the text of a prompt, in the format the model was tuned on.

A template is Jinja text that travels with the model, so it is foreign code: it runs in Jinja's immutable sandbox, with
the environment that `transformers` gives it, and with bounds on its work (see `sandbox.py`). Two formats are built in:
ChatML, and Llama 2's (Touvron et al. 2023, arXiv 2307.09288, section 3.3 and appendix; `[INST]`, `<<SYS>>`, one
beginning-of-sequence token a pair of turns, an end-of-sequence token after each answer).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TypedDict

import jinja2

from arriero.common.errors import ArrieroError, did_you_mean
from arriero.tokenizer.sandbox import Sandbox

ROLES = ("system", "developer", "user", "assistant", "tool")

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
            {{- message['content'] + '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- message['content'] + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LLAMA2 = """\
{%- set head = namespace(system='') %}
{%- set turns = messages %}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set head.system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
    {%- set turns = messages[1:] %}
{%- endif %}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) or message['role'] not in ['user', 'assistant'] %}
        {{- raise_exception('Llama 2 wants an optional system message, then user and assistant in turn, user first') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + (head.system if loop.first else '') + message['content'].strip() + ' [/INST]' }}
    {%- else %}
        {%- generation %}
            {{- ' ' + message['content'].strip() + ' ' + eos_token }}
        {%- endgeneration %}
    {%- endif %}
{%- endfor %}
"""

BUILT_IN = {"chatml": CHATML, "llama2": LLAMA2}


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


class ChatTemplate:
    """A chat format, as Jinja text."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens` are the variables `bos_token`, `eos_token`, … that the template may write."""
        self.source = source
        self._special_tokens = dict(special_tokens)

    @classmethod
    def named(cls, name: str, special_tokens: Mapping[str, str]) -> "ChatTemplate":
        """A built-in template by its name, or one given as Jinja text.

        Raises:
            ArrieroError: a single word that names no built-in template.
        """
        if name not in BUILT_IN and not any(mark in name for mark in ("{", "\n", " ")):
            known = ", ".join(BUILT_IN)
            hint = did_you_mean(name, BUILT_IN)
            raise ArrieroError(f"chat template '{name}' is unknown: expected {known} or Jinja text{hint}")
        return cls(BUILT_IN.get(name, name), special_tokens)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The text of the chat, with control tokens by their names.

        Args:
            messages: the turns, in order.
            add_generation_prompt: end with what begins an answer of the assistant.

        Raises:
            ArrieroError: an unknown role, or the template refuses the messages, is broken, or does not come to an end.
        """
        turns = check_messages(messages)
        variables = {"messages": turns, "tools": None, "documents": None} | self._special_tokens
        return self._sandbox.render(variables | {"add_generation_prompt": add_generation_prompt})

    @property
    def literals(self) -> frozenset[str]:
        """The string literals in the template, which it may compare text with."""
        return self._sandbox.literals

    @cached_property
    def _sandbox(self) -> Sandbox:
        try:
            return Sandbox(self.source)
        except jinja2.TemplateError as error:
            raise ArrieroError(f"the chat template cannot be read: {error.message}") from error
        except RecursionError as error:
            raise ArrieroError("the chat template cannot be read: it is nested too deeply") from error


def check_messages(messages: Sequence[Message]) -> list[Message]:
    """The messages, with exact strings and nothing else in them: templates may ask for anything that is there.

    Raises:
        ArrieroError: a message is no mapping of a known role and a text.
    """
    return [_check_message(message, index) for index, message in enumerate(messages, 1)]


def _check_message(message: Mapping[str, object], index: int) -> Message:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise ArrieroError(f"message {index} must be a mapping with 'role' and 'content'")
    role, content = message["role"], message["content"]
    if not isinstance(role, str) or role not in ROLES:
        hint = did_you_mean(str(role), ROLES)
        raise ArrieroError(f"message {index}: role {role!r} is unknown: expected {', '.join(ROLES)}{hint}")
    if not isinstance(content, str):
        raise ArrieroError(f"message {index}: its content must be text, not {type(content).__name__}")
    return {"role": str(role), "content": str(content)}

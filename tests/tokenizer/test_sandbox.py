"""Templates are foreign code: they reach nothing, and come to an end."""

import time

import pytest

from arriero.common.errors import ArrieroError
from arriero.tokenizer.chat import ChatTemplate

ESCAPES = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attr filter": "{{ ''|attr('__class__') }}{{ (''|attr('__class__')).mro() }}",
    "globals of a function": "{{ raise_exception.__globals__['json'] }}",
    "globals of a method": "{{ messages.append.__self__.__class__() }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "format map": "{{ '{x.__class__.__mro__}'.format_map({'x': ''}) }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "namespace": "{% set n = namespace() %}{{ n.__init__.__globals__.os }}",
    "name in a namespace": "{% set n = namespace(__html__=1) %}",
    "name put in a namespace": "{% set n = namespace() %}{% set n.__call__ = 1 %}",
    "self": "{{ self.__init__.__globals__ }}{{ self._TemplateReference__context.environment() }}",
    "change a list": "{{ messages.append(1) }}",
    "change a message": "{{ messages[0].update({'role': 'system'}) }}",
    "include": "{% include 'x' %}",
    "import": "{% import 'os' as os %}",
    "indirect": "{{ (messages|map(attribute='__class__')|list)[0].mro() }}",
}

ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long range": "{% for a in range(10**9) %}{% endfor %}",
    "macro calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macros branch": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "product": "{{ 'x' * 10**10 }}",
    "product of a list": "{{ [0] * 9999999999 }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "power of a product": "{{ (2 ** 60) ** 60 ** 2 }}",
    "concatenation": "{% set n = namespace(x='xxxx') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "sum": "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "captured": "{% set n = namespace(x='xxxx') %}{% for i in range(99) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}"
    "{% endfor %}",
    "long output": "{% set x = 'x' * 1000000 %}{% for i in range(9999) %}{{ x }}{% endfor %}",
    "wide format": "{{ 'x'.ljust(10**10) }}",
    "wide filter": "{{ 'a\nb'|indent(10**9) }}",
    "wide filter, mapped": "{{ ['a']|map('center', 10**9)|list }}",
    "wide format filter": "{{ '%0999999999d'|format(1) }}",
    "wide printf": "{{ '%0999999999d' % 1 }}",
    "format of a text": "{{ '{:>3000000000}'.format('x') }}",
    "replacement": "{{ ('a' * 60000).replace('a', 'b' * 60000) }}",
    "join": "{{ ('a' * 1000000).join(['x'] * 1000) }}",
    "tabs": "{{ 'a\\t'.expandtabs(60000000) }}",
    "filler": "{{ lipsum(n=60000) }}",
    "sum filter": "{{ ([[1] * 60000] * 60000)|sum(start=[]) }}",
    "string filter": "{{ (['a' * 1000000] * 100)|string }}",
    "join filter": "{{ (['x'] * 1000)|join('a' * 1000000) }}",
    "dump of nested lists": "{{ ([[['a' * 1000] * 1000] * 1000] * 1000)|tojson }}",
    "printed nested lists": "{{ [[['a' * 1000] * 1000] * 1000] * 1000 }}",
    "literal that nests itself": "{% set n = namespace(l=['a']) %}{% for i in range(99) %}{% set n.l = [n.l, n.l] %}"
    "{% endfor %}{{ n.l|tojson }}",
    "list that grows": "{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = n.l + ['a' * 999999 ~ i] %}"
    "{% endfor %}",
    "texts made in a loop": "{% for i in range(9999) %}{% set x = ('a' * 999999).upper() %}{% endfor %}",
    "filters in a loop": "{% set x = 'a' * 999999 %}{% for i in range(9999) %}{% set y = x|list|sort %}{% endfor %}",
    "mapped replacement": "{{ (['a' * 2000] * 2000)|map('replace', 'a', 'b' * 2000)|list }}",
    "indent of many lines": "{{ ('\n' * 999999)|indent(9999) }}",
    "dump with a wide indent": "{{ ([1] * 999999)|tojson(indent=9999) }}",
    "recursive loop": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
}
LONG = {"filters in a loop"}
"""Ends in time, but late."""


@pytest.mark.parametrize("source", ESCAPES.values(), ids=ESCAPES.keys())
def test_the_sandbox_keeps_templates_in(source: str) -> None:
    template = ChatTemplate(source, {})
    with pytest.raises(ArrieroError, match="the chat template") as caught:
        template.render([{"role": "user", "content": "x"}])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [pytest.param(x, id=name, marks=[pytest.mark.slow] if name in LONG else []) for name, x in ENDLESS.items()],
)
def test_work_is_bounded(source: str) -> None:
    template = ChatTemplate(source, {})
    started = time.process_time()
    with pytest.raises(ArrieroError, match="the chat template"):
        template.render([{"role": "user", "content": "x"}])
    assert time.process_time() - started < 60


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for i in range(3) %}{{ loop.index }}{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}", "13,23,33"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% for i in [] %}{% else %}none{% endfor %}", "none"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "a1"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "x"),
        ("{{ 'a' ~ 1 ~ none }}{{ 2 * 3 }}{{ 'ab' * 2 }}{{ 2 ** 3 }}{{ 1 + 1 }}", "a1None6abab82"),
        ("{{ unknown|default(50000) }}", "50000"),
        ("{{ {'a': '<é>'}|tojson }}", '{"a": "<é>"}'),
        ("{{ [1]|tojson(indent=1) }}", "[\n 1\n]"),
        ("a{% generation %}{{ 'b' }}{% endgeneration %}c", "abc"),
        ("{% set x %}{{ 'a' }}{% endset %}{{ x }}{% set y | upper %}b{% endset %}{{ y }}", "aB"),
        ("  {% if true %}\n  yes\n  {% endif %}\n", "  yes\n"),
        ("{{ strftime_now('%%') }}", "%"),
        ("{{ tools is none }}{{ documents is none }}{{ unknown is defined }}", "TrueTrueFalse"),
    ],
)
def test_what_templates_use_works(source: str, text: str) -> None:
    assert ChatTemplate(source, {}).render([{"role": "user", "content": "x"}]) == text


@pytest.mark.parametrize("source", ["{% for %}", "{{ x", "{% unknown %}", "{{ 1|no_such_filter }}"])
def test_a_broken_template_is_said_to_be_so(source: str) -> None:
    with pytest.raises(ArrieroError, match="the chat template cannot be read"):
        ChatTemplate(source, {}).render([])


def test_a_refusal_is_passed_on() -> None:
    with pytest.raises(ArrieroError, match="the chat template refuses: no system prompt"):
        ChatTemplate("{{ raise_exception('no system\nprompt') }}", {}).render([])


def test_a_template_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ArrieroError, match="the chat template cannot be read"):
        ChatTemplate("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", {}).render([{"role": "user", "content": "x"}])

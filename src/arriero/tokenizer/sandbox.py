"""Foreign Jinja text, run so that it can neither reach Python's internals nor run on for ever.

Jinja's immutable sandbox keeps templates from attributes with underscores and from changing what they are given. It
does not bound work, so loops, calls and the sizes of intermediate results are counted here. The functions and filters
offered are the ones `transformers` offers chat templates (`raise_exception`, `strftime_now`, `tojson`, `{% generation
%}`).
"""

import json
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import ext, nodes, parser, sandbox
from jinja2.runtime import Context, Macro

from arriero.common.errors import ArrieroError

MAX_STEPS = 300_000
"""Turns of loops plus calls that one rendering may take; a chat needs some ten per message."""
MAX_SIZE = 1 << 22
"""Characters (or items) that one intermediate result or the whole text may hold."""
MAX_NUMBER = 10_000
"""Largest number that a filter may be given, such as a width."""

_BOUNDLESS_FILTERS = ("format", "center", "indent", "sum", "wordwrap", "slice", "batch", "pprint")
"""Filters whose results can be far larger than what they are given, and that no chat template is known to need."""
_BOUNDLESS_METHODS = ("format", "format_map", "replace", "join", "translate", "expandtabs", "center", "ljust", "rjust")
"""The same of a text's methods; `replace` and `join`, which templates do need, are measured first."""

_steps: ContextVar[list[int]] = ContextVar("steps")


class Sandbox:
    """One compiled template."""

    def __init__(self, source: str) -> None:
        """Compile `source`.

        Raises:
            jinja2.TemplateError: it is no valid Jinja.
        """
        environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols])
        environment.filters |= {"tojson": _dump, "bounded_turns": _bounded_turns, "bounded_size": _bounded_size}
        environment.filters |= {"bounded_number": _bounded_number, "replace": _replace, "string": _text}
        for name in _BOUNDLESS_FILTERS:
            del environment.filters[name]
        for name in ("lipsum", "cycler", "joiner", "dict"):
            del environment.globals[name]
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _format_now, "namespace": _Namespace}
        tree = environment.parse(source)
        constants = (node.value for node in tree.find_all(nodes.Const))
        self.literals = frozenset(value for value in constants if isinstance(value, str) and value)
        """String literals in the source."""
        _bound(tree)
        self._template = environment.from_string(tree)

    def render(self, variables: dict[str, Any]) -> str:
        """The template's text.

        Raises:
            ArrieroError: the template refuses, fails, or exceeds its bounds.
        """
        token = _steps.set([MAX_STEPS])
        try:
            return _join(self._template.generate(variables))
        except jinja2.TemplateError as error:
            raise ArrieroError(f"the chat template refuses: {_one_line(error)}") from error
        except Exception as error:  # foreign code may raise anything
            raise ArrieroError(f"the chat template fails: {type(error).__name__}: {_one_line(error)}") from error
        finally:
            _steps.reset(token)


def _join(parts: Iterable[str]) -> str:
    kept, size = [], 0
    for part in parts:
        _spend()
        kept.append(part)
        size += len(part)
        if size > MAX_SIZE:
            raise jinja2.TemplateRuntimeError(f"the text is longer than {MAX_SIZE:,} characters")
    return "".join(kept)


class _Environment(sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _spend()
        if any(isinstance(argument, int) and abs(argument) > MAX_SIZE for argument in (*args, *kwargs.values())):
            raise jinja2.TemplateRuntimeError(f"a number above {MAX_SIZE} is given to a function")
        if isinstance(getattr(__obj, "__self__", None), str) and __obj.__name__ in _BOUNDLESS_METHODS:
            _check_method(__obj.__self__, __obj.__name__, args)
        return _bounded_size(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            return _bounded_size(left + right)
        if operator == "%" and isinstance(left, str):
            raise jinja2.TemplateRuntimeError("formatting by % is not supported")
        for times, value in ((left, right), (right, left)):
            if isinstance(times, int) and (abs(times) > MAX_SIZE or (_size(value) * max(times, 0) > MAX_SIZE)):
                raise jinja2.TemplateRuntimeError("a product is too large")
        if operator == "**" and (abs(left) > MAX_SIZE or abs(right) > 64):
            raise jinja2.TemplateRuntimeError("a power is too large")
        return super().call_binop(context, operator, left, right)


def _check_method(text: str, name: str, args: tuple[Any, ...]) -> None:
    """Refuse a method of a text whose result could be far longer than text and arguments together."""
    if name == "replace" and len(args) > 1:
        size = (text.count(args[0]) if args[0] else len(text) + 1) * len(args[1])
    elif name == "join" and args and isinstance(args[0], (list, tuple)):
        size = len(text) * len(args[0]) + sum(map(_size, args[0]))
    else:
        raise jinja2.exceptions.SecurityError(f"the method {name} is not supported")
    if size > MAX_SIZE:
        raise jinja2.TemplateRuntimeError(f"a text is longer than {MAX_SIZE} characters")


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    _check_method(str(text), "replace", (old, new))
    return str(text).replace(old, new, count)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple, dict)):  # nested ones can write out without end: tojson is for them
        raise jinja2.TemplateRuntimeError("string is for texts and numbers: expected tojson for lists")
    return str(value)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without names that Python gives a meaning to."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` may be the name of an entry
        namespace, *rest = args
        entries = dict(*rest, **kwargs)
        for name in entries:
            _check_entry(name)
        jinja2.utils.Namespace.__init__(namespace, entries)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_entry(name)
        super().__setitem__(name, value)


def _check_entry(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace must not have an entry {name!r}")


class _Generation(ext.Extension):
    """`{% generation %}…{% endgeneration %}`, which marks the assistant's own text: here it is only its body."""

    tags = {"generation"}  # noqa: RUF012  # Jinja declares a set

    def parse(self, parser: parser.Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return str(caller())


def _bound(tree: nodes.Template) -> None:
    """Count the turns of every loop, the size of every joined text and the numbers given to filters."""
    for use in [use for use in tree.find_all(nodes.Filter) if use.name not in ("default", "d", "int", "float")]:
        use.args = [_filtered(argument, "bounded_number") for argument in use.args]
        for option in use.kwargs:
            option.value = _filtered(option.value, "bounded_number")
    for loop in tree.find_all(nodes.For):
        if loop.recursive:
            raise jinja2.TemplateSyntaxError("recursive loops are not supported", loop.lineno)
        loop.iter = _filtered(loop.iter, "bounded_turns")
    for block in list(tree.find_all(nodes.AssignBlock)):
        block.filter = _filtered(block.filter, "bounded_size")
    for concat in tree.find_all(nodes.Concat):
        concat.nodes = [_filtered(part, "bounded_size") for part in concat.nodes]


def _filtered(node: nodes.Node | None, name: str) -> nodes.Filter:
    return nodes.Filter(cast("nodes.Expr | None", node), name, [], [], None, None)


class _Turns:
    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            _spend()
            yield item

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]  # an unsized iterable raises TypeError, which Jinja expects


def _bounded_turns(items: Iterable[Any]) -> _Turns:
    return _Turns(items)


def _bounded_size(value: Any) -> Any:
    if _size(value) > MAX_SIZE:
        raise jinja2.TemplateRuntimeError(f"a text is longer than {MAX_SIZE} characters")
    return value


def _bounded_number(value: Any) -> Any:
    if isinstance(value, (int, float)) and abs(value) > MAX_NUMBER:
        raise jinja2.TemplateRuntimeError(f"a number above {MAX_NUMBER:,} is given to a filter")
    return value


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _spend() -> None:
    left = _steps.get()
    left[0] -= 1
    if left[0] < 0:
        raise jinja2.TemplateRuntimeError(f"it takes more than {MAX_STEPS:,} steps")


def _dump(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _format_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""Foreign Jinja text, run so that it can neither reach Python's internals nor run on for ever.

Jinja's immutable sandbox keeps templates from attributes with underscores and from changing what they are given. It
does not bound work, so that is done here, in two ways. No value may be longer, written out with all that it nests, than
`MAX_SIZE`; and every turn, call and piece of data that is touched draws on one budget for the whole rendering. What
multiplies its input (a product, `join`, `replace`, …) is measured before it is done. The functions and filters offered
are the ones `transformers` offers chat templates (`raise_exception`, `strftime_now`, `tojson`, `{% generation
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
MAX_WORK = 1 << 24
"""Characters and items that one rendering may touch, counted at each filter, call and sum."""
MAX_INDENT = 16
"""Blanks of one level of `tojson(indent=…)`."""
MAX_NUMBER = 10_000
"""Largest number that a filter may be given, such as a width."""

_REMOVED_FILTERS = ("format", "center", "sum", "wordwrap", "slice", "batch", "pprint")
"""Filters that multiply their input and that no chat template is known to need."""
_REMOVED_METHODS = ("format", "format_map", "translate", "expandtabs", "center", "ljust", "rjust")
"""The same of a text's methods."""

_steps: ContextVar[list[int]] = ContextVar("steps")
_work: ContextVar[list[int]] = ContextVar("work")


class Sandbox:
    """One compiled template."""

    def __init__(self, source: str) -> None:
        """Compile `source`.

        Raises:
            jinja2.TemplateError: it is no valid Jinja.
        """
        environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols])
        environment.finalize = _bounded_size  # of each value that is written
        environment.filters |= {"tojson": _dump, "bounded_turns": _bounded_turns, "bounded_size": _bounded_size}
        environment.filters |= {"bounded_number": _bounded_number, "replace": _replace, "string": _text}
        environment.filters |= {"join": _join, "indent": _indent}
        for name in _REMOVED_FILTERS:
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
        steps, work = _steps.set([MAX_STEPS]), _work.set([MAX_WORK])
        try:
            return _gather(self._template.generate(variables))
        except jinja2.TemplateError as error:
            raise ArrieroError(f"the chat template refuses: {_one_line(error)}") from error
        except Exception as error:  # foreign code may raise anything
            raise ArrieroError(f"the chat template fails: {type(error).__name__}: {_one_line(error)}") from error
        finally:
            _steps.reset(steps)
            _work.reset(work)


def _gather(parts: Iterable[str]) -> str:
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
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            _measure_method(owner, __obj.__name__, args)
        return _bounded_size(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            return _bounded_size(left + right)
        if operator == "%" and isinstance(left, str):
            raise jinja2.TemplateRuntimeError("formatting by % is not supported")
        for times, value in ((left, right), (right, left)):
            if isinstance(times, int) and (abs(times) > MAX_SIZE or (_measure(value) * max(times, 0) > MAX_SIZE)):
                raise jinja2.TemplateRuntimeError("a product is too large")
        if operator == "**" and (abs(left) > MAX_SIZE or abs(right) > 64):
            raise jinja2.TemplateRuntimeError("a power is too large")
        return _bounded_size(super().call_binop(context, operator, left, right))


def _measure_method(text: str, name: str, args: tuple[Any, ...]) -> None:
    """Refuse a method of a text whose result could be far longer than text and arguments together."""
    _draw(len(text))
    if name in _REMOVED_METHODS:
        raise jinja2.exceptions.SecurityError(f"the method {name} is not supported")
    if name == "replace" and len(args) > 1:
        _expect((text.count(args[0]) if args[0] else len(text) + 1) * len(args[1]))
    if name == "join" and args:
        if not isinstance(args[0], (list, tuple)):
            raise jinja2.TemplateRuntimeError("join expects a list")
        _expect(len(text) * len(args[0]) + _measure(args[0]))


def _replace(value: Any, old: str, new: str, count: int = -1) -> str:
    text = _text(value)
    _measure_method(text, "replace", (old, new))
    return text.replace(old, new, count)


def _text(value: Any) -> str:
    return str(_bounded_size(value))


@jinja2.pass_environment
def _join(environment: jinja2.Environment, value: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
    items = [item if attribute is None else environment.getitem(item, attribute) for item in value]
    texts, between = [_text(item) for item in items], _text(d)
    _measure_method(between, "join", (texts,))
    return between.join(texts)


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = _text(value)
    _expect(len(text) + (text.count("\n") + 1) * (width if isinstance(width, int) else len(width)))
    return jinja2.filters.do_indent(text, width, first, blank)


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
    for use in list(tree.find_all(nodes.Filter)):
        if use.node is not None:
            use.node = _filtered(use.node, "bounded_size")
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
    _measure(value)
    return value


def _measure(value: Any) -> int:
    """Characters and items of a value, written out with all that it nests; refused above `MAX_SIZE`."""
    size = visited = 0
    left = [value]
    while left:
        item = left.pop()
        visited += 1
        if isinstance(item, (str, list, tuple, dict)):
            size += len(item)
        if size > MAX_SIZE:
            raise jinja2.TemplateRuntimeError(f"a value is longer than {MAX_SIZE:,} characters")
        if isinstance(item, dict):
            left += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple)):
            left += item
    _draw(visited + (len(value) if isinstance(value, (str, list, tuple, dict)) else 0))
    return size


def _expect(size: int) -> None:
    """Refuse a text of that size before it is made."""
    if size > MAX_SIZE:
        raise jinja2.TemplateRuntimeError(f"a text is longer than {MAX_SIZE:,} characters")
    _draw(size)


def _draw(size: int) -> None:
    left = _work.get()
    left[0] -= size
    if left[0] < 0:
        raise jinja2.TemplateRuntimeError(f"it touches more than {MAX_WORK:,} characters")


def _bounded_number(value: Any) -> Any:
    if isinstance(value, (int, float)) and abs(value) > MAX_NUMBER:
        raise jinja2.TemplateRuntimeError(f"a number above {MAX_NUMBER:,} is given to a filter")
    return value


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
    if isinstance(indent, int) and indent > MAX_INDENT:
        raise jinja2.TemplateRuntimeError(f"tojson is given an indent above {MAX_INDENT}")
    _measure(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _format_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

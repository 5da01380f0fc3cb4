"""The completion scripts of bash, zsh and fish, out of what each command takes."""

from collections.abc import Iterable, Sequence

from arriero.cli.commands import COMMANDS, GROUPS
from arriero.cli.completion import Line, Offer

_BASH = r"""# Completion of arriero for bash.

_arriero_value() {  # "COMMAND --option": what follows it
    case "$1" in
@VALUES@
        *) return 1 ;;
    esac
}

_arriero_command() {
    case "$1" in
@COMMANDS@
    esac
}

_arriero() {
    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" at=1 IFS=$' \t\n'
    local command options="" offered="" files="" word
    if [[ $cur == "=" ]]; then
        cur=""
    elif [[ $prev == "=" ]]; then
        prev="${COMP_WORDS[COMP_CWORD-2]}"
    fi
    case "${COMP_WORDS[1]}" in
        @GROUPS@) at=2 ;;
    esac
    if (( COMP_CWORD <= at )); then
        command="${COMP_WORDS[*]:1:COMP_CWORD-1}"
    else
        command="${COMP_WORDS[*]:1:at}"
    fi
    if [[ $prev != -* ]] || ! _arriero_value "$command $prev"; then
        _arriero_command "$command"
        if [[ $cur == -* || -z $offered$files ]]; then
            offered="$options" files=""
        fi
    fi
    COMPREPLY=()
    while IFS= read -r word; do
        COMPREPLY+=("$word")
    done < <(compgen -W "$offered" -- "$cur")
    if [[ $files ]]; then
        compopt -o filenames 2>/dev/null
        while IFS= read -r word; do
            COMPREPLY+=("$word")
        done < <(compgen -f -- "$cur")
    fi
}

complete -F _arriero arriero
"""

_ZSH = r"""#compdef arriero
# Completion of arriero for zsh.

_arriero_or_files() {
    compadd -- "$@"
    _files
}

_arriero() {
    local -a offered
    local command at=1
    case $words[2] in
        (@GROUPS@) at=2 ;;
    esac
    if (( CURRENT <= at + 1 )); then
        case "${(j: :)words[2,CURRENT-1]}" in
@WORDS@
        esac
        _describe -t commands 'arriero command' offered
        return
    fi
    command="${(j: :)words[2,at+1]}"
    words=("$command" "${(@)words[at+2,-1]}")
    (( CURRENT -= at ))
    case $command in
@COMMANDS@
    esac
}

if [[ $funcstack[1] == _arriero ]]; then
    _arriero "$@"
else
    compdef _arriero arriero
fi
"""

_FISH = r"""# Completion of arriero for fish.

function __arriero_now
    set -l typed (commandline -opc)
    set -e typed[1]
    test "$typed" = "$argv"
end

function __arriero_at
    set -l typed (commandline -opc)
    set -e typed[1]
    set -l length (count $argv)
    test (count $typed) -ge $length; and test "$typed[1..$length]" = "$argv"
end

complete -c arriero -f
"""


def bash_script(lines: Sequence[Line]) -> str:
    """A function for bash's `complete`, 3.2 (macOS) and newer."""
    values: dict[Offer, list[str]] = {}
    for line in lines:
        for flag in line.flags:
            if flag.value is not None:
                values.setdefault(flag.value, []).append(f'"{line.name} {flag.name}"')
    cases = [f"        {'|'.join(places)}) {_bash_offer(offer)};;" for offer, places in values.items()]
    commands = [f'        "{name}") offered="{" ".join(inside)}" ;;' for name, inside in _menus().items()]
    for line in lines:
        words = Offer(
            tuple(word for _, offer, _ in line.words for word in offer.words), any(o.files for _, o, _ in line.words)
        )
        options = " ".join(flag.name for flag in line.flags)
        commands.append(f'        "{line.name}") options="{options}" {_bash_offer(words)};;')
    return _filled(_BASH, VALUES=cases, COMMANDS=commands, GROUPS=["|".join(GROUPS)])


def _bash_offer(offer: Offer) -> str:
    words = f'offered="{" ".join(offer.words)}" ' if offer.words else ""
    return words + ("files=1 " if offer.files else "")


def zsh_script(lines: Sequence[Line]) -> str:
    """A file for a folder of zsh's `fpath`, or to be sourced."""
    menus = []
    for name, inside in _menus().items():
        rows = " ".join(_quoted(f"{word}:{_escaped(summary, ':')}") for word, summary in inside.items())
        menus.append(f"            ({_quoted(name)}) offered=({rows}) ;;")
    commands = []
    for line in lines:
        specs = [
            f"{'*' if flag.repeatable else ''}{flag.name}{'' if flag.value is None else '='}"
            f"[{_escaped(flag.help, '[]:')}]{'' if flag.value is None else f':value:{_zsh_offer(flag.value)}'}"
            for flag in line.flags
        ]
        specs += [f"{'*' if many else ''}:{_escaped(name, ':')}:{_zsh_offer(o)}" for name, o, many in line.words]
        body = " \\\n".join(f"            {_quoted(spec)}" for spec in specs)
        commands.append(f"        ({_quoted(line.name)}) _arguments \\\n{body} ;;")
    return _filled(_ZSH, GROUPS=["|".join(GROUPS)], WORDS=menus, COMMANDS=commands)


def _zsh_offer(offer: Offer) -> str:
    if offer.words:
        words = " ".join(offer.words)
        return f" _arriero_or_files {words}" if offer.files else f"({words})"
    return "_files" if offer.files else " "


def fish_script(lines: Sequence[Line]) -> str:
    """Commands for fish."""
    rows = [
        f"complete -c arriero -n {_fish_quoted(f'__arriero_now {name}'.strip())} -a {word} -d {_fish_quoted(summary)}"
        for name, inside in _menus().items()
        for word, summary in inside.items()
    ]
    for line in lines:
        here = f"complete -c arriero -n {_fish_quoted(f'__arriero_at {line.name}')}"
        for flag in line.flags:
            value = "" if flag.value is None else f" -r{_fish_offer(flag.value)}"
            rows.append(f"{here} -l {flag.name[2:]}{value} -d {_fish_quoted(flag.help)}")
        rows += [f"{here}{_fish_offer(offer)}" for _, offer, _ in line.words if offer.words or offer.files]
    return _FISH + "\n".join(rows) + "\n"


def _fish_offer(offer: Offer) -> str:
    words = f" -a {_fish_quoted(' '.join(offer.words))}" if offer.words else ""
    return (" -F" if offer.files else " -f") + words


def _menus() -> dict[str, dict[str, str]]:
    """The words that may come first, and those that come after each group, with a line on each."""
    single = {name: command.summary for name, command in COMMANDS.items() if " " not in name}
    menus = {"": {**single, **GROUPS}}
    for group in GROUPS:
        menus[group] = {
            name.split()[1]: command.summary for name, command in COMMANDS.items() if name.startswith(f"{group} ")
        }
    return menus


def _filled(template: str, **parts: Iterable[str]) -> str:
    for name, lines in parts.items():
        template = template.replace(f"@{name}@", "\n".join(lines))
    return template


def _escaped(text: str, characters: str) -> str:
    return "".join(f"\\{letter}" if letter in characters or letter == "\\" else letter for letter in text)


def _quoted(text: str) -> str:
    """In single quotes, as zsh reads them."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

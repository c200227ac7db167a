"""A script by which a shell completes commands, options, files and the names of shipped files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import shtab

from .files import shipped
from .records.options import TABLE

SHELLS = ("bash", "zsh")
FILES, FOLDERS = ["config"], ["resume", "run", "out"]  # arguments that are no options of a search
FILES += [name for name, known in TABLE.items() if known.completes == "file"]
FOLDERS += [name for name, known in TABLE.items() if known.completes == "folder"]
# What is found by its name alone, and so offered beside files: folder and pattern.
SHIPPED = {name: known.completes for name, known in TABLE.items() if isinstance(known.completes, tuple)}
FUNCTIONS = {
    "bash": '{name}() {{ compgen -W "{words}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": "{name}() {{ compadd -- {words}; _files }}",
}


def script(parsers: Sequence[argparse.ArgumentParser], shell: str) -> str:
    """The script for one of `SHELLS`; each parser is a program."""
    functions = "\n".join(FUNCTIONS[shell].format(name=_function(dest), words=_names(dest)) for dest in SHIPPED)
    for parser in parsers:
        _mark(parser)
    return "\n".join(shtab.complete(parser, shell, preamble=functions) for parser in parsers)


def _mark(parser: argparse.ArgumentParser) -> None:
    """Say how each argument is completed."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark(command)
        elif action.dest in SHIPPED:
            action.complete = dict.fromkeys(SHELLS, _function(action.dest))  # type: ignore[attr-defined]
        elif action.dest in (*FILES, *FOLDERS):
            action.complete = shtab.FILE if action.dest in FILES else shtab.DIRECTORY  # type: ignore[attr-defined]


def _names(dest: str) -> str:
    """The shipped files that an argument takes."""
    folder, pattern = SHIPPED[dest]
    return " ".join(sorted(path.name for path in shipped(folder).glob(pattern)))


def _function(dest: str) -> str:
    """The name of the shell's function for an argument."""
    return f"_yolov5_nas_{dest}"

"""The arguments of a search: all options by topic, of which the short help shows those that most users need."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import Any, NoReturn

from .records.option import GROUPS, flag
from .records.options import MAY_CHANGE, REMOVED, REPEATED, TABLE, TYPES, Options

EXIT_CODES = """exit codes:
  0    done
  1    no trial has a result, or stock YOLOv5 (or the parent) has none; export: nothing was exported; doctor: something
       is broken
  2    invalid input; nothing was written
  3    the engine failed, or the machine (a full disk, for instance); --resume continues
  130  Ctrl-C; --resume continues
  141  nobody reads the output of a search any more; --resume continues
  143  SIGTERM, or the terminal was closed; --resume continues"""
SEARCHES = """make a checkpoint faster on its runtime:
  yolov5-nas search --weights best.pt --data my.yaml --latency-backend onnx
search for an architecture from scratch, at the latency of stock YOLOv5:
  yolov5-nas search --cfg yolov5n_elastic.yaml --data my.yaml --trials 40 --epochs 20
go on with a search that was stopped:
  yolov5-nas search --resume runs/nas/exp"""
COMMON = (
    *("cfg", "data", "weights", "yolov5", "trials", "target", "latency_backend", "epochs", "batch_size", "imgsz"),
    *("device", "concurrency", "resume"),
)  # options that the short help shows


class Parser(argparse.ArgumentParser):
    """Where an argument is unknown, its error names the option that may have been meant."""

    def error(self, message: str) -> NoReturn:
        """Print the message and end with exit code 2."""
        _, _, unknown = message.partition("unrecognized arguments: ")
        known = [*map(flag, TABLE), *(alias for option in TABLE.values() for alias in option.aliases)]
        near = difflib.get_close_matches(re.split("[ =]", unknown)[0], known, 1) if unknown else []
        super().error(message + (f" (did you mean {near[0]}?)" if near else ""))


class SearchParser(Parser):
    """Its help shows the options that most users need, `--help-all` all of them; of other commands it shows all."""

    def format_help(self) -> str:
        """The short help."""
        if all(action.dest != "help_all" for action in self._actions):
            return self.format_all()
        rare = [a for a in self._actions if a.dest not in (*COMMON, "help", "help_all")]
        groups = [group for group in self._action_groups if group.description]
        kept = [(a, a.help) for a in rare], [(group, group.description) for group in groups]
        for action in rare:
            action.help = argparse.SUPPRESS
        for group in groups:
            group.description = None
        try:
            return super().format_help()
        finally:
            for action, text in kept[0]:
                action.help = text
            for group, text in kept[1]:
                group.description = text

    def format_all(self) -> str:
        """The help with all options, by topic."""
        return super().format_help()


class _HelpAll(argparse.Action):
    """Prints the whole help."""

    def __call__(self, parser: Any, *_: Any) -> None:
        """Print it and end."""
        print(parser.format_all(), end="")
        parser.exit()


def search_texts() -> dict[str, Any]:
    return {
        "description": "Search for an architecture: from a checkpoint to a faster one, or by many short trainings.",
        "epilog": f"{SEARCHES}\n\n{EXIT_CODES}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "usage": "%(prog)s [OPTION ...]",
        "argument_default": argparse.SUPPRESS,
    }


def search_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags have no default of their own, so that what was given is known; `Options` has the defaults."""
    parser.add_argument("--help-all", action=_HelpAll, nargs=0, help="all options, by topic")
    groups = {name: parser.add_argument_group(name, f"example: {example}") for name, example in GROUPS.items()}
    for name, known in TABLE.items():
        shown = _shown(getattr(Options(), name))
        says = f" (default: {shown})" if shown and "default" not in known.help else ""
        text = known.help.replace("%", "%%") + says
        groups[known.group].add_argument(flag(name), *known.aliases, dest=name, help=text, **kind(name))
    for name in REMOVED:
        parser.add_argument(flag(name), dest=name, help=argparse.SUPPRESS)
    text = f"go on with a run; it may change {', '.join(MAY_CHANGE)}; with --method replace, target too"
    groups["run"].add_argument("--resume", metavar="RUN", help=text)
    text = "take options from a YAML (a run's search.yaml); flags win"
    groups["run"].add_argument("--config", metavar="FILE", help=text)


def kind(name: str) -> dict[str, Any]:
    """How argparse takes an option's value."""
    known, annotation = TABLE[name], TYPES[name]
    if annotation == "bool":
        return {"action": "store_true"}
    found: dict[str, Any] = {"metavar": known.metavar} if known.metavar else {}
    if known.choices:
        found["choices"] = [*known.choices, *known.spelled]
    if name == "cache":  # as YOLOv5's
        found |= {"nargs": "?", "const": "ram"}
    if name in REPEATED:
        found |= {"action": "append"} if name in ("constraint", "hook") else {"nargs": "+"}
    numbers = {"int": int, "float": float}
    plain = annotation.removeprefix("tuple[").split(",")[0].split(" ")[0]
    return {**found, **({"type": numbers[plain]} if plain in numbers else {})}


def _shown(default: Any) -> str:
    if default in (None, "", (), False):
        return ""
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)

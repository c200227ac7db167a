"""The command line's comfort: help by topic, exit codes, completion in real shells, the estimate."""

import argparse
import doctest
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from yolov5_nas import cli
from yolov5_nas.cli import main
from yolov5_nas.errors import UserError
from yolov5_nas.records.journal import Journal, TrialRecord
from yolov5_nas.records.options import Options
from yolov5_nas.records.run_folder import RunFolder
from yolov5_nas.run import callbacks as listeners
from yolov5_nas.run.callbacks import Estimate

DOCS = (Path(__file__).parents[1] / "docs" / "command_line.md").read_text()
CODES = {value for name, value in vars(cli).items() if name.startswith("EXIT_") and isinstance(value, int)}


def parsers():
    """The parser of each command."""
    commands = next(a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return commands.choices


# Help -----------------------------------------------------------------------------------------------------------------


def test_every_topic_of_a_search_has_an_example_that_is_taken():
    groups = [g for g in parsers()["search"]._action_groups if g._group_actions and g.title != "options"]
    assert len(groups) == 7
    for group in groups:
        example = re.fullmatch(r"example: (.+)", group.description)[1]
        given = vars(parsers()["search"].parse_args(shlex.split(example)))
        assert set(given) - {"function"} & {action.dest for action in group._group_actions}


@pytest.mark.parametrize("name", sorted(parsers()))
def test_every_command_has_an_example_that_is_taken(name):
    example = re.search(r"(?:example: |  )(.+)", parsers()[name].epilog)[1]
    words = shlex.split(example.removeprefix('eval "$(').removesuffix(')"'))
    assert words[:2] == ["yolov5-nas", name]
    cli._parser().parse_args(words[1:])


@pytest.mark.parametrize("name", sorted(parsers()))
def test_every_default_is_shown(name):
    for action in parsers()[name]._actions:
        assert action.help
        default = getattr(Options(), action.dest, None) if name == "search" else action.default
        if default not in (None, False, "", (), argparse.SUPPRESS):
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
            assert re.search(rf"default: {re.escape(shown)}\b", action.help % {}), action.dest


@pytest.mark.parametrize("argv", [["--help"], ["search", "--help"]])
def test_exit_codes_are_in_the_help_and_the_docs(argv, capsys):
    with pytest.raises(SystemExit):
        main(argv)
    printed = capsys.readouterr().out
    assert {int(code) for code in re.findall(r"^  (\d+)  ", printed, re.MULTILINE)} == CODES
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", DOCS, re.MULTILINE)} == CODES


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["search", "--trails", "3"], "unrecognized arguments: --trails 3 (did you mean --trials?)"),
        (["search", "--zzz"], "unrecognized arguments: --zzz\n"),
    ],
)
def test_the_option_that_was_meant_is_named(argv, hint, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"target": [3]}, "--target takes values of the type str, got 3"),
        ({"freeze": "ten"}, "--freeze takes values of the type int, got 'ten'"),
        ({"hook": 3}, "--hook takes values of the type str, got 3"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"seed": 2**32}, "--seed must be below 2\\*\\*32, got 4294967296"),
    ],
)
def test_what_a_file_or_a_call_can_say_wrongly_is_said(options, error):
    with pytest.raises(UserError, match=error):
        Options().with_given(options)


def test_null_in_a_file_is_none_of_several():
    assert Options().with_given({"constraint": None, "freeze": None}).constraint == ()


@pytest.mark.parametrize(
    ("raised", "of", "code"),
    [
        (KeyboardInterrupt, cli._search, 130),
        (cli._Terminated, cli._search, 143),
        (BrokenPipeError, cli._search, 141),
        (BrokenPipeError, cli._space, 0),
    ],
)
def test_each_way_to_be_stopped_has_its_exit_code(raised, of, code, monkeypatch):
    def stopped(args):
        raise raised

    monkeypatch.setattr(cli, of.__name__, stopped)
    monkeypatch.setattr(cli.os, "dup2", lambda *_: None)
    assert cli._guarded(argparse.Namespace(function=stopped)) == code


# Completion -----------------------------------------------------------------------------------------------------------

BASH = """
eval "$({python} -m yolov5_nas completion bash)"
complete_as_a_shell() {{
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    $(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    echo "${{COMPREPLY[@]}}"
}}
{calls}
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash_completes_commands_options_choices_and_files(tmp_path):
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "runs").mkdir()
    expected = {
        "yolov5-nas sea": {"search"},
        "yolov5-nas search --latency-": {"--latency-backend", "--latency-batch"},
        "yolov5-nas search --strategy n": {"nsga2"},
        "yolov5-nas search --cfg m": {"mine.yaml"},
        "yolov5-nas search --cfg yolov5n": {"yolov5n_nas.yaml", "yolov5n_elastic.yaml"},
        "yolov5-nas search --data dig": {"digits.yaml", "digits_hard.yaml"},
        "yolov5-nas search --hook e": {"energy.py"},
        "yolov5-nas search --resume r": {"runs"},
        "yolov5-nas space yolov5x": {"yolov5x_nas.yaml", "yolov5x_elastic.yaml"},
        "yolov5-nas report r": {"runs"},
        "yolov5-nas-search --objec": {"--objectives"},
        "yolov5-nas-search --engine l": {"local"},
    }
    calls = "\n".join(f"complete_as_a_shell {words}" for words in expected)
    script = BASH.format(python=shlex.quote(sys.executable), calls=calls)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert dict(zip(expected, (set(line.split()) for line in done.stdout.splitlines()))) == expected
    assert not done.stderr


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_takes_the_script():
    load = (
        f'autoload -Uz compinit; compinit -u -D; eval "$({shlex.quote(sys.executable)} -m yolov5_nas completion zsh)"'
    )
    command = f"{load}; print $_comps[yolov5-nas] $_comps[yolov5-nas-search]"
    done = subprocess.run(["zsh", "-f", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["_shtab_yolov5_nas", "_shtab_yolov5_nas_search"]


# The estimate ---------------------------------------------------------------------------------------------------------


def record(number, state="complete", seconds=60.0):
    return TrialRecord(number, {"c3_2": number}, state, seconds=seconds)


@pytest.mark.parametrize(
    ("slots", "options", "time"),
    [
        (1, {}, "19 min (1 at a time)"),
        (4, {}, "5 min (4 at a time)"),
        (2, {"base_epochs": 24, "epochs": 4}, "100 s (2 at a time)"),
    ],
)
def test_the_estimate_comes_once_after_the_first_complete_trial(slots, options, time, tmp_path):
    said = []
    journal = Journal(tmp_path / "trials.jsonl")
    estimate = Estimate(tmp_path, journal, Options(trials=20, **options), slots, said.append)
    weights = RunFolder(tmp_path).trial(0).path / "weights.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(bytes(4_000_000))
    for one in (record(0), record(1), record(2)):
        journal.append(one)
        estimate(one)
    (line,) = said
    assert line.startswith(f"estimate for 19 more: about {time}, at most 76 MB in {tmp_path} (")


def test_no_estimate_of_a_trial_that_failed_or_was_the_last(tmp_path):
    said = []
    journal = Journal(tmp_path / "trials.jsonl")
    estimate = Estimate(tmp_path, journal, Options(trials=2), 1, said.append)
    for one in (record(0, "failed"), record(1)):
        journal.append(one)
        estimate(one)
    assert said == []


def test_the_examples_in_docstrings_are_true():
    assert doctest.testmod(listeners).failed == 0

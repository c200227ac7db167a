"""The command line: argparse, nothing else. Heavy packages are imported by the command that needs them."""

from __future__ import annotations

import argparse
import functools
import io
import os
import signal
import stat
import sys
from collections.abc import Sequence
from shlex import quote
from typing import Any

from .arguments import EXIT_CODES, Parser, SearchParser, kind, search_arguments, search_texts
from .engines.contract import EngineError
from .errors import UserError, machine_fault
from .files import given_path
from .records.metrics import PRECISIONS
from .records.options import ENGINES, REMOVED, TABLE, Options, load_options

EXIT_OK, EXIT_NOTHING_FOUND, EXIT_USER_ERROR, EXIT_ENGINE_LOST = 0, 1, 2, 3
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE, EXIT_TERMINATED = 130, 141, 143

FIRST_STEPS = """first: yolov5-nas doctor checks this machine. Then, with a clone of YOLOv5 or its package:
  yolov5-nas search --weights best.pt --data my.yaml   a faster model from your checkpoint
  yolov5-nas search --cfg yolov5n_elastic.yaml --data my.yaml --trials 40   a search from scratch
  yolov5-nas prove runs/nas/exp   whether the gain is real"""


def main(argv: Sequence[str] | None = None) -> int:
    """`yolov5-nas`: returns one of `EXIT_CODES`."""
    if argv is None:
        _start_in_utf8()
    parser = _parser()
    args = parser.parse_args(argv)
    _print_anything()
    if args.version:
        from importlib.metadata import version

        print(version("yolov5-nas"))
        return EXIT_OK
    if args.command is None:
        parser.print_help()
        return EXIT_USER_ERROR
    return _guarded(args)


def search_main(argv: Sequence[str] | None = None) -> int:
    """`yolov5-nas-search`, the same as `yolov5-nas search`."""
    if argv is None:
        _start_in_utf8()
    _print_anything()
    return _guarded(_search_parser().parse_args(argv))


def _start_in_utf8() -> None:
    """Start the program again in Python's UTF-8 mode where the locale is ASCII, which can name few paths."""
    if sys.getfilesystemencoding() == "ascii" and sys.executable:
        sys.stdout.flush()
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONUTF8": "1"})


def _print_anything() -> None:
    """What a terminal can't show, of a folder's name say, is shown as its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _guarded(args: argparse.Namespace) -> int:
    try:
        code: int = args.function(args)
        sys.stdout.flush()
        return code
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return EXIT_USER_ERROR
    except EngineError as e:
        print(f"error: {e}", file=sys.stderr)
        return EXIT_ENGINE_LOST
    except _Terminated:
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE if args.function in (_search, _prove) else EXIT_OK
    except OSError as e:
        if not (fault := machine_fault(e)):
            raise
        print(f"error: {fault}", file=sys.stderr)
        return EXIT_ENGINE_LOST


# Commands -------------------------------------------------------------------------------------------------------------


def _search(args: argparse.Namespace) -> int:
    from .run.api import search

    given = _given(args)
    if "config" in args:
        given = load_options(given_path(args.config)) | given
    terminated = _interrupt_on_sigterm()
    result = search(resume=getattr(args, "resume", None), **given)
    print(f"\n{result.ending}\n\n{result.table()}")
    if result.interrupted:
        print(f"\nstopped; go on with: yolov5-nas search --resume {quote(str(result.folder))}")
        return EXIT_TERMINATED if terminated else EXIT_INTERRUPTED
    return EXIT_OK if result.is_compared else EXIT_NOTHING_FOUND


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The options of a search among the arguments."""
    return {k: v for k, v in vars(args).items() if k in {*TABLE, *REMOVED}}


class _Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came."""


def _interrupt_on_sigterm() -> list[bool]:
    """SIGTERM, and SIGHUP of a terminal that is closed, stop as Ctrl-C does; the list then is not empty."""
    own, terminated = os.getpid(), []

    def on_signal(number: int, _: object) -> None:
        if os.getpid() != own:  # a forked child of YOLOv5's
            os._exit(128 + number)
        for stream in (1, 2) if number != signal.SIGTERM else ():
            if stat.S_ISCHR(os.fstat(stream).st_mode):  # the terminal, to which nothing can be written any more
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        terminated.append(True)
        raise _Terminated

    signal.signal(signal.SIGTERM, on_signal)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup sets it
        signal.signal(signal.SIGHUP, on_signal)
    return terminated


def _prove(args: argparse.Namespace) -> int:
    from .run.prove import prove

    _interrupt_on_sigterm()
    try:
        which = {"start": args.start, "trial": args.trial}
        print("\n" + prove(args.run, args.top, args.seeds, args.prove_epochs, **which, **_given(args)))
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
        raise  # `_guarded` knows the exit codes
    except EngineError as e:
        raise EngineError(f"{e}; the same command goes on") from e
    return EXIT_OK


def _space(args: argparse.Namespace) -> int:
    from .files import find_file, shipped
    from .space.space import Space

    folders = [shipped("models")]
    space = Space.from_yaml(find_file(args.cfg, folders, "model YAML"), imgsz=args.imgsz)
    print(f"{args.cfg}: {space.size} architectures, {len(space.choices)} choices\n")
    width = max(map(len, space.choices))
    for choice in space.choices.values():
        options = (f"[{option}]" if option == choice.default else str(option) for option in choice.options)
        print(f"  {choice.label:<{width}}  {'  '.join(options)}")
    print("\n[...] is what stock YOLOv5 has")
    return EXIT_OK


def _report(args: argparse.Namespace) -> int:
    from .results.report import closing_table, report, trials_of
    from .results.winner import options_of

    if args.remeasure:
        from .run.remeasure import remeasure

        device, batch = args.device or "cpu", args.latency_batch
        print(remeasure(args.run, args.latency_backend, device, batch, _precision(args), args.yolov5) + "\n")
    run = given_path(args.run)
    print(report(run))
    print(closing_table(run, trials_of(run, options_of(run))))
    return EXIT_OK


def _export(args: argparse.Namespace) -> int:
    precision = _precision(args)
    if args.include:
        return _deploy(args, precision)
    given = [
        name for name in ("validate", "half", "calibration", "opset", "dynamic", "simplify") if getattr(args, name)
    ]
    if given or precision != "fp32":
        raise UserError(f"--{[*given, 'precision'][0]} is for what --include names")
    from .results.export import export
    from .results.report import trials_of
    from .results.winner import options_of, winner_of

    number, run = args.trial, given_path(args.run)
    if number is None:
        options = options_of(run)
        winner = winner_of(run, trials_of(run, options), options)
        number = winner.number if winner else None
    folder = export(run, number, args.out)
    print(f"{folder}/model.yaml")
    weights = folder / "weights" / "best.pt"
    print(weights if weights.exists() else "its weights were not kept (kept are those of the best and of the front)")
    return EXIT_OK


def _precision(args: argparse.Namespace) -> str:
    """`--precision`, or `--half`."""
    if args.half and args.precision == "int8":
        raise UserError("--half is --precision fp16", got="--precision int8")
    return "fp16" if args.half else str(args.precision)


def _deploy(args: argparse.Namespace, precision: str) -> int:
    from .results.deployed import said, table, words
    from .run.deploy import deploy
    from .run.exported import How

    exporting = {name: getattr(args, name) for name in ("opset", "dynamic", "simplify") if getattr(args, name)}
    formats = tuple(dict.fromkeys(args.include))
    how = How(formats, precision, args.validate, args.calibration, args.margin, args.latency_batch, exporting)
    found, folder, number = deploy(args.run, how, args.trial, args.out, args.device)
    rows = table(found)
    widths = [max(len(row[i]) for row in rows) + 2 for i in range(len(rows[0]))]
    lines = ["".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows]
    print("\n".join(["", *lines, "", *words(found), *([said(found)] if args.validate else []), str(folder)]))
    own = [row for row in found.of(number) if row.form.backend in formats]
    is_exported = any("megabytes" in row.metrics for row in own)
    return EXIT_OK if is_exported else EXIT_NOTHING_FOUND


def _doctor(args: argparse.Namespace) -> int:
    from .doctor.check import BROKEN, lines
    from .doctor.doctor import doctor

    broken = []
    for check in doctor(args.yolov5, args.project, args.thorough):
        print("\n".join(lines(check, sys.stdout.encoding)), flush=True)
        if check.mark == BROKEN:
            broken.append(check.name)
    should = "a search should run here (yolov5-nas doctor --thorough tries it for real)"
    good = "a search can run here" if args.thorough else should
    print(f"\nto fix: {', '.join(broken)}" if broken else f"\n{good}")
    return EXIT_NOTHING_FOUND if broken else EXIT_OK


def _with(args: argparse.Namespace) -> int:
    from .run.script import run_script

    run_script(args.script, args.arguments, args.yolov5)
    return EXIT_OK


def _completion(args: argparse.Namespace) -> int:
    from .completion import script

    print(script([_parser(), _search_parser()], args.shell))
    return EXIT_OK


# Arguments ------------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "yolov5-nas",
        description="Make a trained YOLOv5 faster, or search its architecture, on your own data and device.",
        epilog=f"yolov5-nas COMMAND --help lists what a command takes.\n\n{FIRST_STEPS}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=SearchParser)
    search = commands.add_parser("search", help="search for an architecture", **search_texts())
    search_arguments(search)
    search.set_defaults(function=_search)
    _other_arguments(commands)
    return parser


def _search_parser() -> argparse.ArgumentParser:
    parser = SearchParser("yolov5-nas-search", **search_texts())
    search_arguments(parser)
    parser.set_defaults(function=_search)
    return parser


def _other_arguments(commands: Any) -> None:
    add_command = functools.partial(_command, commands)
    text = "list what can be searched in a model YAML, and how large it is"
    space = add_command("space", text, "yolov5-nas space yolov5s_nas.yaml")
    space.add_argument("cfg", help="model YAML with NASConv and NASC3 layers")
    space.add_argument("--imgsz", type=int, help="default input size, where the YAML makes it a choice")
    space.set_defaults(function=_space)
    text = "rebuild plots, table and HTML of a run from its journal"
    report = add_command("report", text, "yolov5-nas report runs/nas/exp --remeasure --latency-backend onnx")
    report.add_argument("run", help="folder of the run")
    report.add_argument("--remeasure", action="store_true", help="measure the latencies anew, and rank again by them")
    report.add_argument("--device", help="where to measure: cpu (default) or the index of a GPU")
    text = "runtime (default: pytorch)"
    report.add_argument("--latency-backend", default="pytorch", help=text, **kind("latency_backend"))
    report.add_argument("--latency-batch", type=int, default=1, help="images in a timed pass (default: 1)")
    report.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the timed networks (default: fp32)")
    report.add_argument("--half", action="store_true", help="the same as --precision fp16")
    report.add_argument("--yolov5", metavar="PATH", help="a clone of YOLOv5 to measure with (default: the run's)")
    report.set_defaults(function=_report)
    text = "train the best and stock with several seeds: is the gain real?"
    prove = add_command("prove", text, "yolov5-nas prove runs/nas/exp --seeds 7 --epochs 60")
    prove.add_argument("run", help="folder of the run")
    prove.add_argument(
        "--top",
        type=int,
        default=3,
        help="how many candidates, from the best and the front; on inherited weights, from all trials (default: 3)",
    )
    prove.add_argument("--trial", type=int, metavar="N", help="this trial alone, in place of --top (default: none)")
    text = "trainings of each at most (default: 5, or as many as a proof that was begun has)"
    prove.add_argument("--seeds", type=int, help=text)
    text = (
        "what each training starts from: the weights that the run started from, or nothing (default: weights, if any)"
    )
    prove.add_argument("--from", dest="start", choices=("weights", "scratch"), help=text)
    text = (
        "of each training (default: twice a trial's from weights; from scratch three times, at least 24 with a proxy)"
    )
    prove.add_argument("--epochs", dest="prove_epochs", metavar="EPOCHS", type=int, help=text)
    add = functools.partial(prove.add_argument, default=argparse.SUPPRESS)
    add("--device", help="0 or 0,1 or cpu (default: the run's)")
    add("--concurrency", type=int, help="trainings at a time (default: the run's)")
    add("--margin", type=float, help="mAP50-95 within which a cheaper one is as good (default: the run's)")
    add("--trial-minutes", type=float, help="stop a training after N minutes")
    add("--engine", choices=ENGINES, help="where trainings run (default: the run's)")
    prove.set_defaults(function=_prove)
    text = "any trial as stock YOLOv5 YAML, and weights where kept"
    export = add_command("export", text, "yolov5-nas export runs/nas/exp --trial 7 --out mine")
    export.add_argument("run", help="folder of the run")
    export.add_argument("--trial", type=int, help="number of the trial (default: the best)")
    export.add_argument("--out", help="folder to write to (default: RUN/export/TRIAL)")
    text = "formats of YOLOv5's export.py to write it in too: onnx, openvino, ..."
    export.add_argument("--include", nargs="+", metavar="FORMAT", help=text)
    text = "besides fp32: fp16, or int8, quantised with training images (default: fp32 alone)"
    export.add_argument("--precision", choices=PRECISIONS, default="fp32", help=text)
    export.add_argument("--half", action="store_true", help="the same as --precision fp16")
    text = "measure mAP and latency of each file, compared with trial 0 in the same form"
    export.add_argument("--validate", action="store_true", help=text)
    text = "training images to quantise by (default: 100)"
    export.add_argument("--calibration", type=int, metavar="N", help=text)
    text = "mAP50-95 that does not count as lost on the way (default: 0.005)"
    export.add_argument("--margin", type=float, default=Options.margin, help=text)
    export.add_argument("--latency-batch", type=int, default=1, help="images in a timed pass (default: 1)")
    export.add_argument("--device", help="where (default: the run's)")
    export.add_argument("--opset", type=int, help="of ONNX (default: YOLOv5's)")
    export.add_argument("--dynamic", action="store_true", help="ONNX with dynamic axes")
    export.add_argument("--simplify", action="store_true", help="simplify the ONNX file")
    export.set_defaults(function=_export)
    text = "check this machine and suggest fixes"
    doctor = add_command("doctor", text, "yolov5-nas doctor --yolov5 ~/yolov5")
    doctor.add_argument("--yolov5", help="a clone of ultralytics/yolov5 (else as for a search)")
    text = f"where runs would be kept (default: {Options.project})"
    doctor.add_argument("--project", default=Options.project, help=text)
    text = "also try it all: import it, build a model, run it on each latency backend (half a minute)"
    doctor.add_argument("--thorough", action="store_true", help=text)
    doctor.set_defaults(function=_doctor)
    text = "run a script of YOLOv5 that knows the searchable layers"
    script = add_command("with", text, "yolov5-nas with train.py --cfg yolov5n_nas.yaml --weights '' --data my.yaml")
    script.add_argument("--yolov5", help="a clone of ultralytics/yolov5 (else as for a search)")
    script.add_argument("script", help="train.py, val.py, detect.py or export.py")
    script.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script")
    script.set_defaults(function=_with)
    text = "print a script by which a shell completes commands, options and files"
    completion = add_command("completion", text, 'eval "$(yolov5-nas completion bash)"')
    completion.add_argument("shell", choices=["bash", "zsh"], help="which shell")
    completion.set_defaults(function=_completion)


def _command(commands: Any, name: str, text: str, example: str) -> argparse.ArgumentParser:
    """A command's parser, with an example at the end of its help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.".replace("?.", "?"),
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

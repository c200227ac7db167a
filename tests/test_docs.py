"""What the docs say: every command in them runs, every link leads somewhere, every message is one of the code's.

Commands run page by page, in the page's order, in a folder of its own that has `my.yaml` (24 images), `yolov5n.pt` and,
where something wants it, a finished `runs/nas/exp`. It is the real command line on the real YOLOv5, made small: `TINY`
gives flags their values, and trials run in this process and train nothing. Of commands with the same options one runs,
and all of them in `make test-slow`. What can't run here is in `ELSEWHERE`, with the reason. All options are parsed.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import contextlib
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from inline import inline, untrained
from IPython.core.interactiveshell import InteractiveShell

import yolov5_nas
from yolov5_nas import cli
from yolov5_nas.files import shipped
from yolov5_nas.records.journal import read_journal
from yolov5_nas.records.options import REMOVED, Options
from yolov5_nas.space.compile import derive
from yolov5_nas.space.space import Space
from yolov5_nas.weights.elastic import unregister

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/tables/README.md"]
TEXTS = [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md"))]
LANGUAGES = ("bash", "console", "python", "shell", "sh", "text", "yaml")
TINY = {
    **{"--trials": "2", "--epochs": "1", "--base-epochs": "1", "--one-shot": "1", "--scores": "2", "--audit": "1"},
    **{"--seeds": "2", "--top": "1", "--imgsz": "64", "--device": "cpu", "--data": "my.yaml", "--engine": "local"},
    **{"--concurrency": "1", "--audit-epochs": "1", "--yolov5": None},  # None: left out
    **{"--constraint": "params<=4e6"},  # refuses few: each one drawn is built
}
GIVEN = {  # also where a command does not say so
    "search": ("--trials", "--epochs", "--data", "--device", "--engine"),
    "prove": ("--seeds", "--top", "--epochs"),
}
ON_RESUME = {**TINY, "--trials": "3", "--audit": "2"}  # more than the run has
ELSEWHERE = {  # how a command begins: why it does not run here, and what does in its place
    "git clone": "needs the network",
    "pip install": "needs minutes; .ci/run installs the wheel, make test the extras",
    "make demo": "minutes; its search runs here in small",
    "make test": "this is it",
    "make lint": "a step of .ci/run",
    "make docs": "a step of .ci/run",
    "tensorboard": "a server; test_run.py reads what it shows",
    "ssh": "needs a second machine",
    "ray": "needs a cluster; test_ray.py starts one, with a token",
    "yolov5-nas search --engine ray --address HEAD:6379": "needs a cluster; test_ray.py searches on one",
    "yolov5-nas search --data my.yaml --hook remote_latency HOST=": "needs a second machine; test_hooks.py has one",
    "yolov5-nas search --method replace": "a minute of scores; test_replace.py searches so",
    "yolov5-nas with": "YOLOv5's own training; test_script.py runs one",
    "cd": "into a clone, for what comes next",
    "python train.py": "in a clone without this plugin, as test_run.py runs detect.py",
    "python val.py": "as train.py",
    "python detect.py": "as train.py; test_run.py runs it",
    "python export.py": "as train.py; test_latency.py runs it",
    "git tag": "a step of a release",
    "python -m build": "so .ci/wheel builds",
    "python benchmarks/": "minutes to hours of measuring",
    "import nni.nas.strategy": "test_nni.py searches with NNI's strategies",
}
# Options in sentences that are other programs' (Ray's, of benchmarks/) or were removed.
OTHERS = {"--architectures", "--resources", "--sleep", "--twice", *(f"--{name}" for name in REMOVED)}


# Reading the pages ----------------------------------------------------------------------------------------------------


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block, also of one in a list; an indented one is one of bash."""
    text = page.read_text()
    fence = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.M | re.S)
    for found in fence.finditer(text):
        lines = textwrap.dedent(found[3]).splitlines()
        if found[2] == "console":  # with what it prints
            lines = [line for line in lines if line.startswith("$ ")]
        assert found[2] in LANGUAGES, f"{page}: say what the block is (text: no command): {found[0]}"
        yield found[2].replace("console", "bash"), "\n".join(lines) + "\n"
    for found in re.finditer(r"(?<=\n\n)(?:^ {4}(?![-*] |\d+\. ).*\n)+", fence.sub("", text), re.M):
        yield "bash", textwrap.dedent(found[0])


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a block, without prompts, comments and variables."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and (re.match(r"\w+=", words[0]) or words[0] == "nice"):
            words = words[1:]
        if words and words[0] == "eval":
            words = words[1].strip("$()").split()
        if words:
            yield words


def elsewhere(words: list[str]) -> str | None:
    """Why a command does not run here."""
    line = " ".join(words) + " "
    begins = {begin if begin[-1] in "/=" else begin + " ": why for begin, why in ELSEWHERE.items()}
    return next((why for begin, why in begins.items() if line.startswith(begin)), None)


def made_small(words: list[str]) -> list[str]:
    """A command of yolov5-nas with the values of `TINY`."""
    values = ON_RESUME if "--resume" in words else TINY
    small, flag = [], ""
    for word in words:
        is_flag = word.startswith("--")
        flag = word if is_flag else flag
        if flag not in values or (word == "0" and flag != "--device"):  # 0 means none of it
            small.append(word)
        elif is_flag and values[flag] is not None:
            small += [flag, values[flag]]
    if not {"--resume", "--config"} & set(words):
        for given in GIVEN.get(words[1], ()):
            small += [] if given in words else [given, TINY[given]]
        has_audit = bool({"--weights", "--base-epochs", "--one-shot"} & set(words)) and "replace" not in words
        if has_audit and "--audit-epochs" not in words:
            small += ["--audit-epochs", TINY["--audit-epochs"]]
    return small


# Running them ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def made_quick(host: Any) -> Iterator[None]:
    """Trials in this process that train nothing and take no time to speak of."""
    with inline(), untrained():
        yield
    unregister(host)


@pytest.fixture(scope="session")
def files(host, digits, tmp_path_factory):
    """What a user has: a data set and a checkpoint."""
    folder = tmp_path_factory.mktemp("files")
    for split, count in (("train", 16), ("val", 8)):
        images = sorted((digits / "images" / split).iterdir())[:count]
        (folder / f"{split}.txt").write_text("".join(f"{image}\n" for image in images))
    data = yaml.safe_load((shipped("data") / "digits.yaml").read_text())
    paths = {"path": str(folder), "train": str(folder / "train.txt"), "val": str(folder / "val.txt"), "imgsz": 64}
    (folder / "my.yaml").write_text(yaml.safe_dump({**data, **paths, "download": None}))
    space = Space.from_yaml(shipped("models") / "yolov5n_elastic.yaml", nc=10)
    host.save_checkpoint(host.build(derive(space, space.default())), folder / "yolov5n.pt")
    return folder


@pytest.fixture
def folder(files, tmp_path, monkeypatch):
    """The folder in which a page's commands run."""
    for name in ("my.yaml", "yolov5n.pt"):
        shutil.copy(files / name, tmp_path)
    shutil.copy(files / "yolov5n.pt", tmp_path / "best.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Parsed(Exception):
    """Raised in place of what comes after parsing."""


def parsed(function: Any) -> dict[str, Any]:
    """The arguments that a program has parsed; it does nothing with them."""
    parse = argparse.ArgumentParser.parse_args

    def only_parse(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        raise Parsed(vars(parse(parser, args, namespace)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
        try:
            function()
        except Parsed as e:
            return e.args[0]
    raise AssertionError("it parses nothing")


def check(words: list[str]) -> None:
    """What can be said of a command without running it: its options are known, and their values are of their types."""
    if words[0] == "yolov5-nas":
        args = parsed(lambda: cli.main(words[1:]))
        if not args.get("resume"):  # else the run has the others
            Options(**{name: value for name, value in args.items() if name in Options.__dataclass_fields__})
    elif words[0] == "make":
        subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    elif words[:2] == ["pip", "install"]:
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        extras = [extra for word in words for found in re.findall(r"\[(.*)\]", word) for extra in found.split(",")]
        assert set(extras) <= set(setup["options.extras_require"])
    elif words[0] == "python" and words[1].startswith("benchmarks/"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words[1:])
            patch.syspath_prepend(str((ROOT / words[1]).parent))  # as Python does
            if "argparse" in (ROOT / words[1]).read_text():
                parsed(lambda: runpy.run_path(str(ROOT / words[1]), run_name="__main__"))
            else:
                assert len(words) == 2


def provide(text: str, finished: Path) -> None:
    """Put a finished run where the text speaks of one."""
    if "runs/nas/exp" in text and not Path("runs/nas/exp").exists():
        shutil.copytree(finished, "runs/nas/exp")


def is_new(words: list[str], called: set[tuple[str, ...]]) -> bool:
    """Whether no command with these options was called before."""
    options = (words[0], words[1], *sorted({word for word in words if word.startswith("--")}))
    if options in called:
        return False
    called.add(options)
    return True


def call(words: list[str], finished: Path) -> None:
    """Run a command of yolov5-nas in small."""
    provide(" ".join(words), finished)
    if words[0] == "yolov5-nas-search":
        words = ["yolov5-nas", "search", *words[1:]]
    assert words[0] == "yolov5-nas", f"say in ELSEWHERE why this does not run: {' '.join(words)}"
    assert cli.main(made_small(words)[1:]) == 0, " ".join(words)


def recipe() -> Iterator[list[str]]:
    """The commands of yolov5-nas that `make demo` runs."""
    done = subprocess.run(["make", "--dry-run", "demo"], cwd=ROOT, check=True, capture_output=True, text=True)
    for command in commands(done.stdout):
        if Path(command[0]).name == "yolov5-nas" and not elsewhere(["yolov5-nas", *command[1:]]):
            yield ["yolov5-nas", *command[1:]]


@pytest.fixture(scope="session")
def finished(host, files, tmp_path_factory):
    """A finished run."""
    project = tmp_path_factory.mktemp("finished")
    words = f"yolov5-nas search --cfg yolov5n_elastic.yaml --weights yolov5n.pt --project {project}".split()
    with pytest.MonkeyPatch.context() as patch, made_quick(host):
        patch.chdir(files)
        assert cli.main(made_small(words)[1:]) == 0
    return project / "exp"


@pytest.fixture(scope="module")
def called():
    """The options of the commands that were called."""
    return set()


@pytest.mark.parametrize("all_commands", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_says(page, host, folder, finished, called, all_commands):
    with made_quick(host):
        go_through(page, finished, set() if all_commands else called)
    for journal in folder.rglob("trials.jsonl"):
        assert not [r for r in read_journal(journal.parent) if r.state == "failed"]


def go_through(page: Path, finished: Path, called: set[tuple[str, ...]]) -> None:
    """Write a page's files and run its code and commands, in its order."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for language, text in blocks(page):
        if name := re.match(r"# ([\w.]+\.(?:yaml|py))\n", text):
            Path(name[1]).write_text(text)
        elif language == "python":
            code = compile(
                re.sub(r"\b(trials|epochs)=\d+", r"\1=2", text.replace("digits.yaml", "my.yaml")), page, "exec"
            )
            if not elsewhere(text.split()):
                provide(text, finished)
                exec(code, names)
        elif language in ("bash", "sh", "shell"):
            for words in commands(text):
                check(words)
                if words == ["make", "demo"]:
                    for command in recipe():
                        call(command, finished)
                if not elsewhere(words) and is_new(words, called):
                    call(words, finished)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_a_sentence_can_be_given_so(page):
    for found in re.findall(r"`((?:yolov5-nas|python benchmarks/)[^`]*)`", page.read_text()):
        words = shlex.split(found.replace(" N", " 1").replace("\n", " "))
        if len(words) > 2 and not {"COMMAND", "..."} & set(words) and "--help" not in words:
            check(words)


def test_options_in_a_sentence_are_options(capsys):
    for command in ("search", "space", "report", "prove", "export", "doctor", "with", "completion"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help-all" if command == "search" else "--help"])
    known = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out)) | OTHERS
    for page in TEXTS:
        text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.M | re.S)
        for found in re.findall(r"`(--[^`]+)`", text):
            named = set(re.findall(r"(?<!\S)--[a-z][\w-]*", found))
            assert named <= known, f"{page.name}: {found}"


@pytest.mark.parametrize("name", ["faster_model", "first_search"])
def test_a_notebook_runs(host, digits_yaml, tmp_path, monkeypatch, name):
    cells = json.loads((ROOT / f"docs/{name}.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), "keep it without outputs"
    shutil.copy(digits_yaml, tmp_path)
    monkeypatch.chdir(tmp_path)
    shell = InteractiveShell()  # as of a notebook, but in this process
    tiny = {
        r"trials=\d+": "trials=2, subset=0.05, imgsz=64",
        r'"imgsz": 96': '"subset": 0.1, "imgsz": 64',
        r"epochs=\d+": "epochs=1",
    }
    tiny |= {"gflops=0.075": "gflops=0.035"}
    with made_quick(host):
        for cell in cells:
            if cell["cell_type"] == "code":
                source = "".join(cell["source"])
                for number, small in tiny.items():
                    source = re.sub(number, small, source)
                shell.run_cell(source).raise_error()
    assert [r.state for r in read_journal(tmp_path / "runs/nas/exp")] == ["complete"] * 2


# What else the pages say ----------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub forms them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = (re.sub(r"[`*]|\]\(.*?\)|\[", "", heading) for heading in re.findall(r"^#+ (.*)$", text, re.M))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)]*)\)", text):
        url = urlsplit(link)
        if url.scheme:
            assert url.scheme == "https" and re.fullmatch(r"[\w.-]+\.[a-z]+", url.netloc), link
            continue
        target = (page.parent / url.path).resolve() if url.path else page
        assert target.exists(), link
        assert not url.fragment or url.fragment in anchors(target), link


def said() -> list[str]:
    """All texts in the package's code, with a 0 byte where a value is put in."""
    found = []
    for path in Path(yolov5_nas.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(p.value if isinstance(p, ast.Constant) else "\0" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_messages_in_troubleshooting_are_the_codes():
    texts, rows = said(), (ROOT / "docs/troubleshooting.md").read_text().splitlines()
    messages = [found[1] for row in rows if (found := re.match(r"\| `([^`]+)` \|", row)) and " " in found[1]]
    assert len(messages) > 30
    for message in messages:
        for part in filter(None, map(str.strip, message.split("..."))):
            assert any(part in text for text in texts), f"{message}: nothing says {part!r}"


def test_every_page_is_in_the_navigation():
    names = [name for pages in runpy.run_path(str(ROOT / "docs/conf.py"))["PAGES"].values() for name in pages]
    assert {str(page.relative_to(ROOT).with_suffix("")) for page in PAGES} - {"README"} <= set(names)

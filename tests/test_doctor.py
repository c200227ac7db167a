"""The doctor tells the truth where all is there, without NNI and YOLOv5, with a broken YOLOv5: real environments."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from yolov5_nas.doctor import ABSENT, BROKEN, OK, Check, _disk, _host, lines
from yolov5_nas.engines.nni import has_nni
from yolov5_nas.latency import PACKAGES

ROOT = Path(__file__).parents[1]


def ask(python, folder, *flags, **env):
    """What the doctor says in a process of its own, by name: mark and text; its exit code; all that it printed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **env}
    command = [str(python), "-m", "yolov5_nas", "doctor", *flags]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    marked = [line for line in done.stdout.splitlines() if line[:1] in (OK, ABSENT, BROKEN)]
    return {line[3:28].strip(): (line[0], line[29:]) for line in marked}, done.returncode, done.stdout


@pytest.fixture(scope="module")
def lean(tmp_path_factory):
    """The Python of an environment that has all that this one has but NNI and YOLOv5."""
    folder = tmp_path_factory.mktemp("lean") / "venv"
    venv.create(folder, with_pip=False)
    packages = Path(sysconfig.get_path("purelib"))
    here = folder / packages.relative_to(sys.prefix)
    for entry in packages.iterdir():
        if not entry.name.startswith(("nni", "yolov5")) and not (here / entry.name).exists():
            (here / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def test_where_all_is_there_it_says_so(host, tmp_path):
    found, code, _ = ask(sys.executable, tmp_path)
    assert code == 0
    assert found["YOLOv5"][0] == OK and str(host.location.root) in found["YOLOv5"][1]
    assert found["engine nni"][0] == (OK if has_nni() else ABSENT)
    assert found["engine ray"][0] == (OK if find_spec("ray") else ABSENT)
    for backend, packages in PACKAGES.items():
        there = all(map(find_spec, packages)) and backend != "engine"
        assert found[f"latency on {backend}"][0] == (OK if there else ABSENT)
    assert {found[name][0] for name in ("Python", "torch", "font of the pictures", "disk for runs")} == {OK}
    assert not list(tmp_path.iterdir())  # it writes nothing


def test_without_nni_and_without_yolov5_it_says_how_to_get_them(lean, tmp_path):
    found, code, printed = ask(lean, tmp_path, YOLOV5_ROOT="")
    assert code == 1 and printed.endswith("to mend: YOLOv5\n")
    assert found["torch"][0] == OK
    assert found["engine nni"] == (ABSENT, "NNI is not installed: searches run with --engine local")
    assert found["YOLOv5"] == (BROKEN, "no YOLOv5 found")
    assert found["latency on pytorch"] == (ABSENT, "can't be tried without YOLOv5")
    assert "-> pip install 'yolov5-nas[nni]'" in printed
    assert "-> git clone https://github.com/ultralytics/yolov5 and give it by --yolov5" in printed


@pytest.fixture
def copied(host, tmp_path):
    """A copy of YOLOv5's code, and the variables by which it is found."""
    root = tmp_path / "yolov5"
    skipped = shutil.ignore_patterns(".git", "__pycache__", "*.pt", "*.jpg", "runs", "datasets")
    shutil.copytree(host.location.root, root, ignore=skipped)
    if host.location.kind == "clone":
        return root, {"YOLOV5_ROOT": str(root)}
    return root, {"YOLOV5_ROOT": "", "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}


def test_a_broken_yolov5_is_named_with_what_is_wrong(lean, copied, tmp_path):
    root, env = copied
    yolo = root / "models" / "yolo.py"
    yolo.write_bytes(yolo.read_bytes()[:5000] + b"\n(")  # a download that was cut off
    found, code, printed = ask(lean, tmp_path, **env)
    assert code == 1 and printed.endswith("to mend: YOLOv5\n")
    mark, text = found["YOLOv5"]
    assert mark == BROKEN and str(root) in text and "SyntaxError" in text
    assert "-> git clone" in printed


def test_a_yolov5_that_lacks_a_package_is_named_with_what_to_install(copied, tmp_path):
    root, env = copied
    general = root / "utils" / "general.py"
    text = general.read_text().replace("from __future__ import annotations", "")
    general.write_text("import no_such_package\n" + text)
    code = "from yolov5_nas.doctor import _host; c = _host(None)[1]; print(c.mark, c.text, c.fix, sep='\\n')"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **env}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    mark, text, fix = done.stdout.splitlines()[-3:]
    assert mark == BROKEN and "No module named 'no_such_package'" in text
    assert fix == f"pip install -r {root}/requirements.txt"


def test_a_path_that_is_no_clone(tmp_path):
    host, check = _host(str(tmp_path))
    assert (host, check.mark) == (None, BROKEN)
    assert check.text == "--yolov5 must be a clone of ultralytics/yolov5" and "git clone" in check.fix


def test_a_full_disk_and_a_folder_that_is_to_be_made(tmp_path, monkeypatch):
    assert _disk("disk", tmp_path / "runs" / "nas").mark == OK
    monkeypatch.setattr("yolov5_nas.doctor.FREE", 1e9)
    check = _disk("disk", tmp_path)
    assert (check.mark, check.fix) == (BROKEN, "make 1e+09 GB free")


def test_a_terminal_without_ticks_gets_letters():
    check = Check("torch", OK, "2.14")
    assert lines(check, "utf-8") == ["✓  torch                     2.14"]
    assert lines(check, "ascii") == lines(check, None) == ["ok torch                     2.14"]

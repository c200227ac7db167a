"""The doctor tells the truth, quickly and thoroughly: of this machine, and of broken ones."""

import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from places import ROOT

from yolov5_nas import cli
from yolov5_nas.doctor import doctor, packages
from yolov5_nas.doctor.check import ABSENT, BROKEN, OK, Check, lines
from yolov5_nas.engines.nni.checks import has_nni
from yolov5_nas.errors import UserError
from yolov5_nas.records.metrics import PACKAGES

HEAVY = ("torch", "torchvision", "ultralytics", "yolov5", "models", "nni", "ray", "numpy", "pandas", "matplotlib")
SHOULD = "\na search should run here (yolov5-nas doctor --thorough tries it for real)\n"


def python(program, folder, *arguments, **env):
    """Run a Python in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **env}
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def ask(program, folder, *flags, **env):
    """What `yolov5-nas doctor` says, by name: mark and text; its exit code; all that it printed."""
    done = python(program, folder, "-m", "yolov5_nas", "doctor", *flags, **env)
    assert done.returncode in (0, 1), done.stderr
    marked = [line for line in done.stdout.splitlines() if line[:1] in (OK, ABSENT, BROKEN)]
    return {line[3:28].strip(): (line[0], line[29:]) for line in marked}, done.returncode, done.stdout


def check_marks(found):
    """Whether this machine's marks, by name, are right."""
    assert {found[name] for name in ("Python", "torch", "YOLOv5", "font of the pictures", "disk for runs")} == {OK}
    assert found["engine nni"] == (OK if has_nni() else ABSENT)
    assert found["engine ray"] == (OK if find_spec("ray") else ABSENT)
    for backend, needed in PACKAGES.items():
        there = all(map(find_spec, needed)) and (backend != "engine" or found["CUDA"] == OK)
        assert found[f"latency on {backend}"] == (OK if there else ABSENT)


# This machine ---------------------------------------------------------------------------------------------------------


def test_the_whole_quick_command_takes_less_than_five_seconds_of_processor_time(host, tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found, code, printed = ask(sys.executable, tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
    assert code == 0 and printed.endswith(SHOULD)
    check_marks({name: mark for name, (mark, _) in found.items()})
    assert str(host.location.root) in found["YOLOv5"][1]
    assert not list(tmp_path.iterdir())  # it writes nothing


def test_a_quick_look_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from yolov5_nas.cli import main; main(['doctor']);"
        f" print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = python(sys.executable, tmp_path, "-c", code)
    assert done.stdout.endswith("\n[]\n"), done.stdout + done.stderr


@pytest.fixture(scope="module")
def thorough(host, tmp_path_factory):
    """What a thorough look finds, by name; and the folder that it looked from."""
    folder = tmp_path_factory.mktemp("thorough")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return {check.name: check for check in doctor.doctor(str(host.location.root), thorough=True)}, folder


def test_a_thorough_look_tries_everything(thorough, host):
    found, folder = thorough
    check_marks({name: check.mark for name, check in found.items()})
    assert " on " in found["latency on pytorch"].text  # the device that it ran on
    assert not list(folder.iterdir())


def test_a_quick_look_finds_what_a_thorough_one_does(thorough, host):
    quick = {check.name: check.mark for check in doctor.doctor(str(host.location.root))}
    assert quick == {name: check.mark for name, check in thorough[0].items()}


# Environments that lack something -------------------------------------------------------------------------------------


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


def test_without_nni_and_without_yolov5_it_says_how_to_get_them(lean, tmp_path):
    found, code, printed = ask(lean, tmp_path, YOLOV5_ROOT="")
    assert code == 1 and printed.endswith("to fix: YOLOv5\n")
    assert found["torch"][0] == OK
    assert found["engine nni"] == (ABSENT, "NNI is not installed: searches run with --engine local")
    assert found["YOLOv5"] == (BROKEN, "no YOLOv5 found")
    assert found["latency on pytorch"][0] == OK
    assert "-> pip install 'yolov5-nas[nni]'" in printed
    assert "-> git clone https://github.com/ultralytics/yolov5 and give it by --yolov5" in printed


def test_what_is_not_installed_is_named(monkeypatch):
    folder_of = packages.folder_of
    missing = {"torchvision", "ray", "onnx", "matplotlib", "opencv-python", "pandas"}
    monkeypatch.setattr(packages, "folder_of", lambda name: None if name in missing else folder_of(name))
    required = {name: Requirement(f"{name}>=1.4") for name in ("opencv-python", "pandas", "numpy")}
    monkeypatch.setattr(packages, "required_packages", lambda: required)
    found = {check.name: check for check in doctor.doctor("package")}
    check = found["required packages"]
    assert (check.mark, check.text) == (BROKEN, "not installed: opencv-python, pandas")
    assert check.fix == "pip install 'opencv-python>=1.4' 'pandas>=1.4'"
    assert (found["torch"].mark, found["torch"].text) == (BROKEN, "not installed: torchvision")
    assert (found["engine ray"].mark, found["engine ray"].text) == (ABSENT, "not installed: ray")
    assert (found["latency on onnx"].mark, found["latency on pytorch"].mark) == (ABSENT, OK)
    assert found["latency on onnx"].fix == "pip install onnx onnxruntime"
    assert found["font of the pictures"].mark == BROKEN


def test_a_version_that_is_not_taken_is_broken(monkeypatch):
    monkeypatch.setattr(packages, "required_packages", lambda: {"torch": Requirement("torch>=99")})
    check = doctor._torch()
    assert check.mark == BROKEN and check.text.startswith("torch must be >=99, is ")
    monkeypatch.setattr(packages, "required_packages", lambda: {"torch": Requirement("torch>=1.0")})
    assert doctor._torch().mark == OK


def test_without_metadata_there_are_no_requirements(monkeypatch):
    monkeypatch.setattr(packages, "required_packages", dict)
    check = doctor._requirements()
    assert (check.mark, check.text) == (ABSENT, "not known, since yolov5-nas is not installed")
    assert doctor._torch().mark == OK


def test_the_requirements_of_the_installed_package_are_read():
    for name, required in packages.required_packages().items():
        assert required.name == name
        if not required.marker:
            assert packages.folder_of(name), f"{name} is imported as something else: say so in IMPORTED_AS"


def test_a_mere_folder_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "left_over").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert find_spec("left_over") and packages.folder_of("left_over") is None


# YOLOv5 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(host, tmp_path):
    """A copy of YOLOv5's code."""
    root = tmp_path / "clone"
    skipped = shutil.ignore_patterns(".git", "__pycache__", "*.pt", "*.jpg", "runs", "datasets")
    shutil.copytree(host.location.root, root, ignore=skipped)
    return root


def test_a_copy_without_git_is_found(copied):
    location, check = doctor._host(str(copied))
    assert location.root == copied and check.mark == OK
    assert check.text == f"version unknown (git does not say), YOLOv5 clone at {copied} (--yolov5)"


def cut_off(root):
    (root / "models/yolo.py").write_bytes((root / "models/yolo.py").read_bytes()[:5000] + b"\n(")


def without_a_file(root):
    (root / "utils/loss.py").unlink()


def without_yolo(root):
    (root / "models/yolo.py").unlink()


def too_old(root):
    common = root / "models/common.py"
    common.write_text(common.read_text().replace(" d=1,", ""))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_off, "is broken: SyntaxError: "),
        (without_a_file, "lacks utils/loss.py"),
        (without_yolo, "--yolov5 must be a clone of ultralytics/yolov5: {root} lacks models/yolo.py"),
        (too_old, "must be v7.0 or newer"),
        (shutil.rmtree, "{root} lacks models/common.py and 10 more files"),
    ],
)
def test_a_broken_yolov5_is_named_with_what_is_wrong(damage, said, copied):
    damage(copied)
    _, check = doctor._host(str(copied))
    assert check.mark == BROKEN and str(copied) in check.text and said.format(root=copied) in check.text
    assert check.fix.startswith("git clone ")


def test_a_yolov5_that_may_not_be_read(monkeypatch):
    def find(_):
        raise PermissionError(13, "Permission denied", "/root/yolov5")

    monkeypatch.setattr(doctor, "find", find)
    location, check = doctor._host("/root/yolov5")
    assert (location, check.mark) == (None, BROKEN)
    assert check.text == "PermissionError: [Errno 13] Permission denied: '/root/yolov5'"


def test_a_yolov5_that_lacks_a_package_is_named_with_what_to_install(copied, tmp_path):
    (copied / "models" / "__init__.py").write_text("import no_such_package")  # the first file that is imported
    code = (
        "import sys; from yolov5_nas.doctor.doctor import _host; c = _host(sys.argv[1])[1];"
        " print(c.mark); c = c.tried(); print(c.mark, c.text, c.fix, sep='\\n')"
    )
    done = python(sys.executable, tmp_path, "-c", code, copied)
    quick, mark, text, fix = done.stdout.splitlines()
    assert (quick, mark) == (OK, BROKEN) and "No module named 'no_such_package'" in text
    assert fix == f"pip install -r {copied}/requirements.txt"


def test_a_yolov5_that_breaks_while_a_model_is_built(host, monkeypatch):
    location, check = doctor._host(str(host.location.root))

    def load(_):
        raise SystemExit("no way")

    monkeypatch.setattr(doctor, "load", load)
    tried = check.tried()
    assert (tried.mark, tried.text) == (BROKEN, f"{location} is broken: SystemExit: no way")


def test_backends_are_not_tried_without_yolov5():
    check = doctor._backend("pytorch", False, None)
    assert check.mark == OK
    assert (check.tried().mark, check.tried().text) == (ABSENT, "can't be tried without YOLOv5")


def test_the_font_is_looked_for_where_yolov5_does(host):
    check = doctor._host_font()
    assert str(Path(host.general.CONFIG_DIR) / "Arial.ttf") in check.text + check.fix


# GPUs -----------------------------------------------------------------------------------------------------------------

LISTED = """echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)
  MIG 1g.10gb     Device  0: (UUID: MIG-1)
GPU 1: NVIDIA T4 (UUID: GPU-2)'"""
FOR_CUDA, FOR_CPU = "__version__ = '2.14.1+cu130'\ncuda: Optional[str] = '13.0'\n", "cuda: Optional[str] = None\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Make a machine: how many GPUs, the script that nvidia-smi is, torch's version.py."""

    def make(devices, smi, torch):
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch" / "version.py").write_text(torch)
        for number in range(devices):
            (tmp_path / f"nvidia{number}").touch()
        (tmp_path / "nvidia-caps").touch()
        if smi:
            (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
            (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setattr(doctor, "DEVICES", tmp_path)
        monkeypatch.setattr(packages, "folder_of", lambda name: tmp_path / name)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return make


@pytest.mark.parametrize(
    ("devices", "smi", "torch", "mark", "text"),
    [
        (0, None, FOR_CUDA, ABSENT, "no GPU: trials train on the CPU"),
        (0, "echo NVIDIA-SMI has failed; exit 9", FOR_CUDA, ABSENT, "no GPU: trials train on the CPU"),
        (2, LISTED, FOR_CUDA, OK, "NVIDIA H100, NVIDIA T4; torch is built for CUDA 13.0"),
        (0, LISTED, FOR_CUDA, OK, "NVIDIA H100, NVIDIA T4; torch is built for CUDA 13.0"),  # WSL
        (2, None, FOR_CUDA, OK, "GPU 0, GPU 1; torch is built for CUDA 13.0"),
        (1, None, FOR_CPU, BROKEN, "there is an NVIDIA GPU, and the installed torch is for the CPU only"),
        (1, "echo Failed to initialize NVML; exit 18", FOR_CUDA, BROKEN, "nvidia-smi: Failed to initialize NVML"),
    ],
)
def test_gpus_are_found_without_torch(machine, devices, smi, torch, mark, text):
    machine(devices, smi, torch)
    check = doctor._cuda()
    assert (check.mark, check.text) == (mark, text)


def test_nvidia_smi_that_does_not_answer(machine, monkeypatch):
    machine(1, "exec /bin/sleep 60", FOR_CUDA)
    monkeypatch.setattr(doctor, "QUICK", 0.2)
    assert doctor._cuda().text == "GPU 0; torch is built for CUDA 13.0"


def test_a_gpu_that_is_hidden(machine, monkeypatch):
    machine(1, None, FOR_CUDA)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert doctor._cuda().text == "there is an NVIDIA GPU, and CUDA_VISIBLE_DEVICES hides it"


@pytest.mark.parametrize("mark", [OK, ABSENT])
def test_a_gpu_that_torch_does_not_see(mark, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    check = Check("CUDA", mark, "as before", attempt=doctor._try_cuda).tried()
    sees_none = (BROKEN, "there is an NVIDIA GPU, and torch sees none")
    assert (check.mark, check.text) == (sees_none if mark == OK else (ABSENT, "as before"))


def test_a_driver_that_torch_does_not_take(monkeypatch):
    def fail():
        raise RuntimeError("the driver is too old\nmore")

    monkeypatch.setattr("torch.cuda.device_count", fail)
    check = Check("CUDA", OK, "", attempt=doctor._try_cuda).tried()
    assert (check.mark, check.text) == (BROKEN, "RuntimeError: the driver is too old")
    assert check.fix.startswith("make torch and the NVIDIA driver fit")


def test_tensorrt_needs_a_gpu():
    assert doctor._backend("engine", False, None).text == "TensorRT needs an NVIDIA GPU"
    assert doctor._backend("engine", True, None).text != "TensorRT needs an NVIDIA GPU"


# Engines, disks, terminals --------------------------------------------------------------------------------------------


def test_a_node_program_that_does_not_start(monkeypatch):
    def check_nni():
        raise UserError("NNI's node program does not start here")

    monkeypatch.setattr(doctor, "has_nni", lambda: True)
    monkeypatch.setattr(doctor, "check_nni", check_nni)
    check = doctor._nni()
    assert (check.mark, check.text) == (BROKEN, "NNI's node program does not start here")
    assert "--engine local" in check.fix


def test_a_module_that_does_not_import(monkeypatch):
    def tried(module):
        return Check("engine", OK, "1.0", "install", packages.importing(module)).tried()

    assert (tried("json").mark, tried("json").text) == (OK, "1.0")
    check = tried("no_such_module")
    assert (check.mark, check.fix) == (BROKEN, "install")
    assert check.text == "it can't be imported: ModuleNotFoundError: No module named 'no_such_module'"
    monkeypatch.setattr(packages, "PATIENCE", 0.001)
    assert tried("json").text == "its import takes longer than 0.001 s"


def test_a_full_disk_and_folders_that_can_and_cannot_be_made(tmp_path, monkeypatch):
    assert doctor._disk("disk", lambda: tmp_path / "runs" / "nas", "mend").mark == OK
    (tmp_path / "file").touch()
    assert doctor._disk("disk", lambda: tmp_path / "file" / "nas", "mend").mark == BROKEN
    monkeypatch.setattr(doctor, "FREE", 1e9)
    check = doctor._disk("disk", lambda: tmp_path, "mend")
    assert (check.mark, check.fix) == (BROKEN, "make 1e+09 GB free")


def test_a_disk_that_can_only_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: mode != os.W_OK)
    check = doctor._disk("disk", lambda: tmp_path, "mend")
    assert (check.mark, check.text) == (BROKEN, f"{tmp_path} is no folder that can be written")


def test_a_working_directory_that_is_gone_and_no_temporary_folder(tmp_path, monkeypatch):
    def no_folder():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(doctor.tempfile, "gettempdir", no_folder)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    *_, runs, temporary = doctor.doctor()
    assert (runs.mark, runs.fix) == (BROKEN, "give another --project")
    assert (temporary.mark, temporary.fix) == (BROKEN, "set TMPDIR")


def test_a_user_without_a_home(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(doctor.Path, "home", no_home)
    assert doctor._host_font().fix.startswith("offline: copy any .ttf to") or doctor._host_font().mark == OK


def test_a_terminal_without_ticks_gets_letters():
    check = Check("torch", OK, "2.14", "not to be told")
    assert lines(check, "utf-8") == ["✓  torch                     2.14"]
    assert lines(check, "ascii") == lines(check, None) == ["ok torch                     2.14"]
    assert lines(Check("disk", BROKEN, "/ü", "mend"), "ascii") == [
        "!! disk                      /\\xfc",
        "                             -> mend",
    ]


@pytest.mark.parametrize(
    ("flags", "mark", "code", "end"),
    [
        ((), OK, 0, SHOULD),
        (("--thorough",), OK, 0, "\na search can run here\n"),
        (("--thorough",), ABSENT, 0, "\na search can run here\n"),
        ((), BROKEN, 1, "\nto fix: YOLOv5\n"),
        (("--thorough",), BROKEN, 1, "\nto fix: YOLOv5\n"),
    ],
)
def test_the_last_line_and_the_exit_code(flags, mark, code, end, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "doctor", lambda *_: iter([Check("YOLOv5", mark, "")]))
    assert cli.main(["doctor", *flags]) == code
    assert capsys.readouterr().out.endswith(end)

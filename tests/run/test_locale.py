"""Names in any language, whatever the locale's encoding."""

import os
import subprocess
import sys

import pytest
import yaml
from datasets import write_data

from yolov5_nas.cli import main
from yolov5_nas.errors import UserError
from yolov5_nas.files import make_folder
from yolov5_nas.host.dataset import check_data, read_data, resolve_data
from yolov5_nas.records.journal import read_journal

# A container without a language, where Python is told not to take UTF-8 by itself.
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NAMES = ["人", "车"]
CALLS = """
import sys
from yolov5_nas.cli import main
words = iter(sys.argv[1:])
for count in words:
    sys.argv = ["yolov5-nas", *(next(words) for _ in range(int(count)))]
    if code := main():
        sys.exit(code)
"""


def call(*commands, **env):
    """Commands of `yolov5-nas`, one after the other, in a process of their own."""
    words = [str(word) for command in commands for word in (len(command), *command)]
    command = [sys.executable, "-c", CALLS, *words]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, encoding="utf-8")


def test_names_in_chinese_in_a_locale_that_has_none(host, tmp_path):
    labels = [f"{i % 2} .5 .5 .3 .3" for i in range(8)]
    data = write_data(tmp_path / "数据", labels, names=NAMES, train="列表.txt", imgsz=64)
    images = sorted((data.parent / "images").iterdir())
    (data.parent / "列表.txt").write_text("".join(f"{image}\n" for image in images), encoding="utf-8")
    run = tmp_path / "运行" / "一"
    root = ["--yolov5", os.environ["YOLOV5_ROOT"]] if "YOLOV5_ROOT" in os.environ else []
    few = ["--epochs", "1", "--trials", "1", "--device", "cpu", "--engine", "local", "--subset", "0.9", *root]
    place = ["--project", run.parent, "--name", run.name]
    search = ["search", "--cfg", "yolov5n_nas.yaml", "--data", data, *place, *few]
    done = call(search, ["report", run], ["export", run, "--trial", 0], **PLAIN)
    assert done.returncode == 0, done.stderr[-3000:]
    (record,) = read_journal(run)
    assert record.state == "complete" and {name for name, _ in record.classes} <= set(NAMES)
    assert str(run) in done.stdout and "运行" in (run / "report.html").read_text(encoding="utf-8")
    names = host.load_checkpoint(run / "export/0/weights/best.pt").names
    assert list(names.values() if isinstance(names, dict) else names) == NAMES


def test_text_is_read_and_written_in_utf8_in_another_locale(tmp_path):
    """In Python itself, which is not started again: what is shown of a class may be escaped, files are as ever."""
    code = (
        "import sys; from pathlib import Path; from yolov5_nas.files import write_whole;"
        "from yolov5_nas.training.process import log_to; folder = Path(sys.argv[1]); name = chr(0x8f66)\n"
        "write_whole(folder / 'a.txt', name)\n"
        "with log_to(folder): print(name, chr(0xdce4))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], env={**os.environ, **PLAIN}, check=True)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "车"
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").endswith("车 \\udce4\n")


def test_a_path_that_is_no_text_is_refused_before_anything_is_written(host, tmp_path, capsys):
    """As torch, ONNX and TensorBoard refuse it, in the middle of a search."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(UserError, match=r"must be text in the locale's encoding \(utf-8\)"):
        make_folder(folder / "run")
    data = write_data(tmp_path / "set").parent.rename(folder) / "data.yaml"
    data.write_text(data.read_text().replace(str(tmp_path / "set"), "."))
    assert main(["search", "--data", str(data), "--project", str(tmp_path / "runs"), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "caf" in line and "must be text" in line and not (tmp_path / "runs").exists()


def test_a_yaml_of_a_windows_editor_is_read(tmp_path):
    data = write_data(tmp_path, names=NAMES)
    text = yaml.safe_dump({**yaml.safe_load(data.read_text()), "names": NAMES}, allow_unicode=True)
    data.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read_data(data)["names"] == dict(enumerate(NAMES))
    data.write_bytes(text.encode("utf-16"))  # which stock YOLOv5 does not read
    with pytest.raises(UserError, match=r"data\.yaml: invalid YAML: unacceptable character"):
        read_data(data)


@pytest.mark.parametrize("bad", [b"\x00", b"caf\xe9.png\n", b"\xff\xfe\x00"])
@pytest.mark.parametrize("file", ["list.txt", "data.yaml"])
def test_bytes_that_are_no_text_are_one_line(host, tmp_path, bad, file):
    data = write_data(tmp_path, train="list.txt")
    (tmp_path / "list.txt").write_bytes(f"{tmp_path}/images/0.png\n".encode())
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[:-1] + bad + content[-1:])
    with pytest.raises(UserError) as refused:
        check_data(resolve_data(data, host), host, 64, data)
    assert len(str(refused.value).splitlines()) == 1 and str(tmp_path) in str(refused.value)

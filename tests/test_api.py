"""What `import yolov5_nas` gives: ten names, light, each with a docstring whose examples run."""

import doctest
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from inline import inline

import yolov5_nas
from yolov5_nas.errors import UserError
from yolov5_nas.weights.elastic import unregister

ROOT = Path(__file__).parents[1]
TOGETHER = ("search", "export", "read_journal")  # the examples of the last two read the run that the first leaves


@pytest.fixture(scope="module")
def folder(host, digits_yaml, tmp_path_factory):
    """A working directory with `digits.yaml`."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "digits.yaml").write_text(digits_yaml.read_text())
    here = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(here)
    unregister(host)


def test_there_are_ten_names_at_most_and_docs_describe_each():
    assert len(yolov5_nas.__all__) <= 10
    described = re.findall(r"^\| `(\w+)", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(described) == sorted(yolov5_nas.__all__)
    assert set(yolov5_nas.__all__) <= set(dir(yolov5_nas))


def test_no_module_hides_a_name():
    modules = {module.name for module in pkgutil.iter_modules(yolov5_nas.__path__)}
    assert not modules & set(yolov5_nas.__all__)


def test_the_import_is_light():
    code = "import sys, yolov5_nas; print([m for m in ('torch', 'numpy', 'pandas', 'optuna') if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_error():
    with pytest.raises(AttributeError, match="has no attribute 'serch'"):
        yolov5_nas.serch  # noqa: B018


@pytest.mark.parametrize("names", [TOGETHER, *((n,) for n in sorted(yolov5_nas.__all__) if n not in TOGETHER)])
def test_a_docstring_says_what_is_raised_and_its_examples_run(names, folder):
    with inline():
        run_examples(names)


def run_examples(names):
    for name in names:
        value = getattr(yolov5_nas, name)
        assert name == "Architecture" or "Raises:" in value.__doc__ or "Raises:" in value.from_yaml.__doc__
        module = sys.modules[value.__module__]
        examples = doctest.DocTestFinder(recurse=False).find(value, name, globs=dict(vars(module)))
        runner = doctest.DocTestRunner()
        for example in examples:
            runner.run(example)
        assert runner.summarize().attempted > 0 and runner.summarize().failed == 0


def test_evaluate_refuses_what_is_not_of_the_space_and_the_folder_of_a_run(folder):
    (folder / "run" / "shared").mkdir(parents=True)  # all that one has that was killed early
    with pytest.raises(UserError, match="the folder holds a run already"):
        yolov5_nas.evaluate(folder="run", data="digits.yaml", imgsz=64, epochs=1, device="cpu")
    with pytest.raises(UserError, match="an architecture must have a value for nasconv_0"):
        yolov5_nas.evaluate({"c3_2": 1.5}, "new", data="digits.yaml", imgsz=64, epochs=1, device="cpu")
    assert not (folder / "new").exists()

# Needs Python 3.11 and make, and makes its own environment: `make demo`, `make test`; `make docs` builds the site.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Runs `make test-cuda`; any Python that has torch, pytest and YOLOv5 will do, without an installation of this project.
CUDA_PYTHON ?= $(if $(wildcard $(VENV)/plain),$(BIN)/python,$(PYTHON))
# One thread for each process where processes run side by side.
export OMP_NUM_THREADS ?= 1
export GOMP_SPINCOUNT ?= 10000
# Each of the suite's hundred processes would compile all our files again.
test test-slow: export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-cuda test-slow lint docs install clean

# A stock yolov5n is trained on the built-in digits with YOLOv5's own train.py, then made faster.
demo: $(VENV)/plain
	OMP_NUM_THREADS=2 $(BIN)/yolov5-nas with train.py --cfg yolov5n.yaml --weights '' --data digits.yaml --hyp hyp.short.yaml \
	  --optimizer AdamW --imgsz 96 --batch-size 32 --epochs 20 --cache --workers 0 --device cpu --noplots \
	  --project runs/demo --name parent --exist-ok
	$(BIN)/yolov5-nas search --method replace --weights runs/demo/parent/weights/best.pt --data digits.yaml --imgsz 96 \
	  --target gflops=0.075 --epochs 8 --batch-size 32 --rivals none --device cpu --concurrency 2 \
	  --project runs/demo --name search

test: install
	$(BIN)/python -m pytest -n 3 --no-loadscope-reorder -m "not slow and not cuda" tests

test-cuda:
	$(CUDA_PYTHON) -m pytest -m cuda -vv -rs tests/test_cuda.py

test-slow: install
	$(BIN)/python -m pytest -m slow tests

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: install
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env -c docs . site

install: $(VENV)/installed

# uv installs in a quarter of pip's time. Compiled, since the environment may tell Python not to write bytecode.
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode

# What a search needs is less than what all tests need.
$(VENV)/plain: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(INSTALL) -e '.[yolov5,nni]'
	touch $@

$(VENV)/installed: $(VENV)/plain
	$(INSTALL) -e '.[yolov5,nni,onnx,openvino,ray,docs,dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

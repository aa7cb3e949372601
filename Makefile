# make demo | make test | make lint; each makes .venv where there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
DEMO := runs/demo
export PATH := $(BIN):$(PATH)
export WANDB_MODE ?= offline

.PHONY: demo test test-slow bench lint format clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is older than 3.10; run make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[face,remote,onnx,dev]"
	@touch $@

# Synthetic faces -> shards -> pretraining on DeepSpeed -> leave-one-subject-out, pretrained against random -> report.
demo: $(VENV)/.installed
	python launch/synthesise.py --out $(DEMO)/data --size 96 --videos 80 --seconds 1.6 --folders 8 --subjects 10 --clips_per_subject 16 --keyframes_only true
	python launch/shard.py $(DEMO)/data/videos --out $(DEMO)/shards --size 96 --workers 2
	deepspeed launch/pretrain.py --config launch/recipes/pretrain/demo.yaml
	python launch/finetune.py --config launch/recipes/finetune/demo.yaml --data.root $(DEMO)/data/casme2 --encoder $(DEMO)/pretrain

test: $(VENV)/.installed
	python -m pytest

test-slow: $(VENV)/.installed
	python -m pytest -m slow

# Reader, writer, training step and folds against their peers. MosaicML Streaming goes where only the benchmarks look: its
# own dependencies would replace numpy.
STREAMING := mosaicml-streaming==0.13.0 brotli==1.2.1 python-snappy==0.7.3 cramjam==2.14.0 zstd==1.5.7.2 catalogue==2.0.10
bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/bench $(STREAMING)
	python launch/bench.py reader --json runs/bench/reader.json
	python launch/bench.py writer --json runs/bench/writer.json
	python launch/bench.py step --json runs/bench/step.json
	python launch/bench.py loso --json runs/bench/loso.json
	python -m launch.benchmarks.sizing runs/bench/reader.json runs/bench/writer.json

lint: $(VENV)/.installed
	ruff check .
	ruff format --check .
	mypy

format: $(VENV)/.installed
	ruff check --fix .
	ruff format .

clean:
	rm -rf $(VENV) runs build *.egg-info

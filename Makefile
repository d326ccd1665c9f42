# make demo    the whole lab on generated sample cells: install, make data, train the three depths, evaluate, predict
# make test    the tests          make lint    ruff, mypy, imports          make bench    the benchmarks
# make fuzz    malformed and hostile lists and images, 10,000 generated cases and more; make fuzz SEED=7 repeats a seed's

PYTHON ?= python3
BIN := .venv/bin
DATA := csv/sample
# The demo's settings: small enough for ten minutes on two processor cores.
RECIPE := --data $(DATA) --size 48 --batch-size 16
EPOCHS_18 := 12
EPOCHS_50 := 12
EPOCHS_152 := 10

SEED := $(shell date +%s)

.PHONY: demo test fuzz lint bench clean
.DELETE_ON_ERROR:

demo: .venv/run
	$(BIN)/python prepare.py sample --out $(DATA)
	$(BIN)/python train.py --model resnet18 $(RECIPE) --epochs $(EPOCHS_18)
	$(BIN)/python train.py --model resnet50 $(RECIPE) --epochs $(EPOCHS_50)
	$(BIN)/python train.py --model resnet152 $(RECIPE) --epochs $(EPOCHS_152)
	$(BIN)/python evaluate.py --data $(DATA)
	$(BIN)/python predict.py --data $(DATA)
	$(BIN)/python demo.py --data $(DATA)
	$(BIN)/python report.py --data $(DATA)
	$(BIN)/python -m lab.outputs $(DATA)

test: .venv/dev # a file of tests on each of up to four cores
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

fuzz: .venv/dev
	@echo "seed $(SEED)"
	$(BIN)/python -m pytest $(shell find tests -name "test_fuzz_*.py") --hypothesis-profile=fuzz --hypothesis-seed=$(SEED)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports

bench: .venv/dev
	test -f $(DATA)/train.csv || $(BIN)/python prepare.py sample --out $(DATA)
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.predict
	$(BIN)/python -m benchmarks.roofline
	$(BIN)/python -m benchmarks.operators
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.snapshot
	$(BIN)/python -m benchmarks.compile
	$(BIN)/python -m benchmarks.gpu
	rm -f benchmarks/results/quick/accuracy_time.csv # finished runs are not repeated
	$(BIN)/python -m benchmarks.accuracy_time --data $(DATA) --size 32 --epochs 4 --threshold 0.7
	$(BIN)/python -m benchmarks.ablate --table
	$(BIN)/python -m benchmarks.curves
	if test -d weights/$(notdir $(DATA)); then $(BIN)/python -m benchmarks.page --data $(DATA); else echo "benchmarks.page: make demo first"; fi

.venv/run: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	touch $@

.venv/dev: requirements-dev.txt requirements-extras.txt .venv/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

clean: # of the sample only
	rm -rf csv/sample .store/sample weights/sample report/sample

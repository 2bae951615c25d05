# Headstart: extract once, retrain in seconds. `make help` lists what there is.
#
# Variables, all optional:
#   DATA=folder      class folders, or train/ and validation/ with class folders (default: solar cells)
#   STORE=folder     the feature store              RUN=folder   the fitted head
#   OUT=folder       the exported model             WEIGHTS=     auto, imagenet, nsfwjs, random, or a file
#   CUT= VIEWS=      the layer whose output is stored, or several (mixed5,mixed7); augmentations (docs/performance.md)
#   IMAGE_SIZE= POOL= ENGINE= PRECISION= THREADS=    how features are made
#   MAX_BAD= MAX_PIXELS= WEIGHTS_SHA256=             what is refused (docs/inputs.md)
#   EPOCHS= DROPOUT= UNITS= BATCH_SIZE= LEARNING_RATE= OPTIMIZER= MOMENTUM= L2= CLASS_WEIGHT= PATIENCE= SEED=
#                    the head, and how it is fitted
#   UNFREEZE_FROM= FINE_TUNE_EPOCHS= FINE_TUNE_LEARNING_RATE=   layers trained again after the head (docs/fine-tuning.md)
#   SOLVER= RANK=    auto, reduced or full          REPEATS= FOLDS=   how sure the accuracy is
#   SWEEP=folder     many heads side by side        SEARCH= TRIALS=   grid or optuna, and how many heads it tries
#   TENSORBOARD=1    write logs for TensorBoard too
#   TEST=1           judge the pictures in test/ too
#   OVERWRITE=1      replace another run in RUN     ARGS=        anything else, handed on as it is

DATA ?= data/elpv
WEIGHTS ?= auto
NAME := $(or $(notdir $(abspath $(DATA))),root)
HEAD_VARIABLES := EPOCHS DROPOUT UNITS BATCH_SIZE LEARNING_RATE OPTIMIZER MOMENTUM L2 CLASS_WEIGHT PATIENCE SEED \
	SOLVER RANK REPEATS FOLDS CUT VIEWS UNFREEZE_FROM FINE_TUNE_EPOCHS FINE_TUNE_LEARNING_RATE
# Features that are made in another way get a store of their own; more views and threads do not change them.
STORE_VARIABLES := IMAGE_SIZE POOL ENGINE PRECISION
lower = $(shell echo '$(1)' | tr 'A-Z_' 'a-z-')
options = $(foreach v,$(1),$(if $($(v)),--$(call lower,$(v)) $($(v))))
tag = $(subst $(eval ) ,,$(foreach v,$(1),$(if $($(v)),-$(call lower,$(v))$($(v)))))
HEAD_OPTIONS := $(call options,$(HEAD_VARIABLES))
FLAGS := $(if $(OVERWRITE),--overwrite) $(if $(TENSORBOARD),--tensorboard)
EXTRACT_OPTIONS := $(call options,CUT VIEWS THREADS MAX_BAD MAX_PIXELS WEIGHTS_SHA256 $(STORE_VARIABLES))
STORE_SUFFIX := $(call tag,$(STORE_VARIABLES))
# A changed head gets a run of its own: `make train DROPOUT=0.5` stands beside the first.
HEAD_SUFFIX := $(STORE_SUFFIX)$(call tag,$(HEAD_VARIABLES))
STORE ?= work/$(NAME)/store$(STORE_SUFFIX)
RUN ?= work/$(NAME)/run$(HEAD_SUFFIX)
OUT ?= work/$(NAME)/model$(HEAD_SUFFIX)
COMPARE ?= work/$(NAME)/compare$(HEAD_SUFFIX)
# One folder for all sweeps of a store: what an earlier one has fitted is found again.
SWEEP ?= work/$(NAME)/sweep$(HEAD_SUFFIX)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/runtime.done
DEV := $(VENV)/dev.done
OPENVINO := $(VENV)/openvino.done
OPTUNA := $(VENV)/optuna.done
TENSORBOARD_DONE := $(VENV)/tensorboard.done
LOGS := $(if $(TENSORBOARD),$(TENSORBOARD_DONE))
FAULTS := $(VENV)/faults.so

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Stages read what the one before wrote, also under -j.
.NOTPARALLEL:
.PHONY: help demo extract train sweep compare report export predict summary info check data test torture lint lock gpu benchmark benchmark-tuning benchmark-extraction clean

help:  ## list the targets
	@sed -n 's/^# \{0,1\}//;2,/^$$/p' Makefile | sed -n '/^Variables/,/^$$/p'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-20s %s\n", $$1, $$2 }' Makefile

demo: extract train export  ## extract, train and export on the default data, and say what was found
	@echo
	@echo "The model is in $(OUT). What it learned, and what it gets wrong: open $(RUN)/report.html"
	@echo "Try it: $(BIN)/python -m train_head.predict --model $(OUT)/model.keras FILE_OR_DIR..."

extract: $(RUNTIME) $(if $(filter openvino,$(ENGINE)),$(OPENVINO)) $(if $(filter data/elpv,$(DATA)),data)  ## run the backbone over every new picture once
	$(BIN)/python -m extract --images "$(DATA)" --store "$(STORE)" --weights "$(WEIGHTS)" $(EXTRACT_OPTIONS) $(ARGS)

train: $(RUNTIME) $(LOGS)  ## fit a head on the stored features
	$(BIN)/python -m train_head --store "$(STORE)" --run "$(RUN)" $(HEAD_OPTIONS) $(FLAGS) $(ARGS)

sweep: $(RUNTIME) $(LOGS) $(if $(filter optuna,$(SEARCH)),$(OPTUNA))  ## fit many heads, and keep the best (docs/choosing.md)
	$(BIN)/python -m train_head.sweep --store "$(STORE)" --out "$(SWEEP)" $(HEAD_OPTIONS) \
		$(call options,SEARCH TRIALS) $(FLAGS) $(ARGS)

compare: $(RUNTIME) $(LOGS)  ## fit the same head without and with dropout, and show how far each overfits
	$(BIN)/python -m train_head.compare --store "$(STORE)" --run "$(COMPARE)" $(HEAD_OPTIONS) \
		$(FLAGS) $(ARGS)

report: $(RUNTIME)  ## write the run's report.html again; TEST=1 judges the pictures in test/ too, for the final number
	$(BIN)/python -m train_head.report --run "$(RUN)" $(if $(TEST),--test) $(ARGS)

export: $(RUNTIME)  ## write the Keras model that takes raw pixels
	$(BIN)/python -m train_head.export --run "$(RUN)" --out "$(OUT)" $(call options,MAX_PIXELS) $(ARGS)

predict: $(RUNTIME)  ## use the exported model on FILES="..."
	$(BIN)/python -m train_head.predict --model "$(OUT)/model.keras" $(FILES) $(call options,MAX_PIXELS) $(ARGS)

summary: $(RUNTIME)  ## show the backbone's layers and where it is cut
	$(BIN)/python -m extract summary $(call options,CUT IMAGE_SIZE) $(ARGS)

info: $(RUNTIME)  ## say what the store holds
	$(BIN)/python -m features info "$(STORE)" $(call options,CUT) $(ARGS)

check: $(RUNTIME)  ## check every byte of the store
	$(BIN)/python -m features check "$(STORE)" --read-data $(call options,CUT) $(ARGS)

data: $(RUNTIME)  ## lay out the default data, photographs of solar cells
	@$(BIN)/python -m extract.elpv --out data/elpv

torture: $(DEV) $(FAULTS)  ## kill, fail, unplug and corrupt the store, and mutate files, thousands of times (ten minutes)
	LD_PRELOAD=$(abspath $(FAULTS)) $(BIN)/python -m tests.torture.run $(ARGS)
	$(BIN)/python -m tests.torture.hostile $(ARGS)

test: $(DEV)  ## run the tests
	$(BIN)/python -m pytest $(ARGS)

lint: $(DEV)  ## run ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmark: $(DEV)  ## measure what an epoch costs with and without the cache
	$(BIN)/python -m benchmarks.epoch --images "$(DATA)" --weights "$(WEIGHTS)" $(ARGS)

benchmark-tuning: $(DEV)  ## measure an epoch of fine-tuning with its prefix cached, and from pixels
	$(BIN)/python -m benchmarks.tuning --images "$(DATA)" --weights "$(WEIGHTS)" $(ARGS)

benchmark-extraction: $(DEV)  ## measure engines, files to store, large photographs and memory (half an hour)
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-benchmark.lock
	$(BIN)/python -m benchmarks.extraction --images "$(DATA)" --weights "$(WEIGHTS)" $(ARGS)

gpu: $(RUNTIME)  ## put TensorFlow with CUDA in the place of the CPU-only one
	$(BIN)/pip uninstall --quiet --yes tensorflow-cpu
	$(BIN)/pip install --quiet --constraint requirements.lock "tensorflow[and-cuda]==2.21.*"

lock: $(DEV)  ## pin the newest versions again
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
		--no-emit-index-url --extra demo pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
		--no-emit-index-url --extra dev --constraint requirements.lock pyproject.toml --output-file requirements-dev.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
		--no-emit-index-url --extra dev --extra benchmark --constraint requirements-dev.lock pyproject.toml \
		--output-file requirements-benchmark.lock

clean:  ## remove the environment and everything made in work/ and data/
	rm -rf $(VENV) work data

$(RUNTIME): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.11 to 3.13 is needed; name one: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

$(FAULTS): tests/torture/faults.c
	@mkdir -p $(@D)
	@$(CC) -O1 -Wall -shared -fPIC -o $@ $< -ldl

$(OPENVINO): requirements-dev.lock $(RUNTIME)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements-dev.lock openvino
	@touch $@

$(OPTUNA) $(TENSORBOARD_DONE): $(VENV)/%.done: requirements-dev.lock $(RUNTIME)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements-dev.lock $*
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	@touch $@

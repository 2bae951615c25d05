# Headstart: extract once, retrain in seconds. `make help` lists what there is.
#
# Variables, all optional:
#   DATA=folder      class folders, or train/ and validation/ with class folders (default: solar cells)
#   STORE=folder     the feature store              RUN=folder   the fitted head
#   OUT=folder       the exported model             COMPARE=folder   two heads, without and with dropout
#   WEIGHTS=         auto (the store's own, where it exists), imagenet, nsfwjs, random, or a file; of every stage
#   CUT= VIEWS=      the layer whose output is stored, or several (mixed5,mixed7); augmentations (docs/performance.md)
#   IMAGE_SIZE= POOL= ENGINE= PRECISION= THREADS=    how features are made
#   MAX_BAD= MAX_PIXELS= WEIGHTS_SHA256=             what is refused (docs/inputs.md)
#   EPOCHS= DROPOUT= UNITS= BATCH_SIZE= LEARNING_RATE= OPTIMIZER= MOMENTUM= L2= CLASS_WEIGHT= PATIENCE= SEED=
#                    the head, and how it is fitted
#   UNFREEZE_FROM= FINE_TUNE_EPOCHS= FINE_TUNE_LEARNING_RATE=   layers trained again after the head (docs/fine-tuning.md)
#   SOLVER= RANK=    auto, reduced or full          REPEATS= FOLDS=   how sure the accuracy is
#   SWEEP=folder     many heads side by side        SEARCH= TRIALS=   grid or optuna, and how many heads it tries
#   TENSORBOARD=yes  write logs for TensorBoard too
#   TEST=yes         evaluate the pictures in test/ too
#   OVERWRITE=yes    replace another run in RUN, instead of keeping it beside the new one
#   NEW_STORE=yes    start a new store in STORE, and keep the old one beside it
#   CHECK=           how many pictures an export is checked on, or all
#   ARGS=            anything else, passed on as it is
#   FILES=paths      what to predict: one path, or several, each with its spaces quoted: FILES="a.jpg 'my pictures'"
#   CONFIRM=yes      remove what `make clean-all` lists
#   PYTHON=python3   the Python that .venv is made with; it alone may come from the environment as well

empty :=
space := $(empty) $(empty)
# Of a value on the command line, in the shell's quotes: it may hold spaces, quotes and dollars.
quote = '$(subst ','\'',$(1))'

# Variables come from the command line alone. An assignment here also drops what the shell's environment holds.
HEAD_VARIABLES := EPOCHS DROPOUT UNITS BATCH_SIZE LEARNING_RATE OPTIMIZER MOMENTUM L2 CLASS_WEIGHT PATIENCE SEED \
	SOLVER RANK REPEATS FOLDS CUT VIEWS UNFREEZE_FROM FINE_TUNE_EPOCHS FINE_TUNE_LEARNING_RATE
# Features that are made in another way get a store of their own; more views and threads do not change them.
STORE_VARIABLES := IMAGE_SIZE POOL ENGINE PRECISION
FOLDERS := DATA STORE RUN OUT COMPARE SWEEP
SWITCHES := OVERWRITE NEW_STORE TENSORBOARD TEST CONFIRM
VARIABLES := $(FOLDERS) $(HEAD_VARIABLES) $(STORE_VARIABLES) WEIGHTS WEIGHTS_SHA256 THREADS MAX_BAD MAX_PIXELS \
	CHECK SEARCH TRIALS $(SWITCHES) FILES ARGS
TOOLS := PYTHON CC SHELL VENV BIN RUNTIME DEV OPENVINO OPTUNA TENSORBOARD_DONE FAULTS
GIVEN := $(foreach v,$(.VARIABLES),$(if $(findstring command line,$(origin $(v))),$(v)))
$(foreach v,$(VARIABLES),$(eval $(v) :=))
# A dollar on the command line is a dollar.
$(foreach v,$(filter $(VARIABLES),$(GIVEN)),$(eval override $(v) := $$(value $(v))))

# A variable that nothing reads is a mistake: the command would do something else than it seems to.
UNKNOWN := $(firstword $(filter-out $(VARIABLES) $(TOOLS),$(GIVEN)))
find_nearest = $(shell $(PYTHON) -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1].upper(), sys.argv[2:], 1))' \
	$(call quote,$(UNKNOWN)) $(VARIABLES) 2>/dev/null)
PYTHON ?= python3
ifneq ($(UNKNOWN),)
$(error $(UNKNOWN): expected a variable that `make help` lists, got $(UNKNOWN)=$($(UNKNOWN)). $(if $(find_nearest),Write $(find_nearest),Leave it out))
endif
check_folder = $(if $(strip $($(1))),,$(error $(1): expected a folder, got an empty value. Leave $(1) out, or give a path))
$(foreach v,$(filter $(FOLDERS),$(GIVEN)),$(call check_folder,$(v)))
YES := 1 y Y yes Yes YES true True TRUE on On ON
NO := 0 n N no No NO false False FALSE off Off OFF
check_switch = $(if $(filter-out $(YES) $(NO),$($(1)))$(word 2,$($(1))),$(error $(1): expected yes or no, got $($(1)). Give $(1)=yes, or leave it out))
$(foreach v,$(SWITCHES),$(call check_switch,$(v))$(eval override $(v) := $(filter $(YES),$($(v)))))

DATA := data/elpv
# The folder in work/ follows from the whole path: two folders of one last name share nothing.
# Functions of make split at spaces.
make_word = $(subst $(space),|,$(1))
data_path := $(call make_word,$(abspath $(call make_word,$(DATA))))
is_default := $(if $(subst <$(call make_word,$(abspath data/elpv))>,,<$(data_path)>),,yes)
data_name := $(or $(subst |,_,$(notdir $(data_path))),root)
make_digest = $(shell printf %s $(call quote,$(1)) | cksum | { read sum _; printf %08x "$$sum"; })
NAME := $(if $(is_default),elpv,$(data_name)-$(call make_digest,$(data_path)))
# Before, it followed from the last name alone.
is_folder = $(shell test -d $(call quote,$(1)) && echo yes)
ifneq ($(filter extract train sweep compare report export predict info check runs,$(MAKECMDGOALS)),)
ifneq ($(if $(is_default)$(call is_folder,work/$(NAME)),,$(call is_folder,work/$(data_name))),)
$(warning work/$(data_name) is of an earlier version, for any DATA of that last name. To go on with it: ln -s $(call quote,$(data_name)) $(call quote,work/$(NAME)))
endif
endif

lower = $(shell echo $(1) | tr 'A-Z_' 'a-z-')
options = $(strip $(foreach v,$(1),$(if $($(v)),--$(call lower,$(v)) $(call quote,$($(v))))))
tag = $(subst /,_,$(subst $(space),,$(foreach v,$(1),$(if $($(v)),-$(call lower,$(v))$($(v))))))
HEAD_OPTIONS := $(call options,$(HEAD_VARIABLES))
FLAGS := $(if $(OVERWRITE),--overwrite) $(if $(TENSORBOARD),--tensorboard)
EXTRACT_OPTIONS := $(call options,CUT VIEWS THREADS MAX_BAD MAX_PIXELS WEIGHTS_SHA256 $(STORE_VARIABLES))
# Without WEIGHTS, a store's own weights are used in every stage.
WEIGHTS_OPTION := $(if $(filter-out auto,$(WEIGHTS)),--weights $(call quote,$(WEIGHTS)))
IMAGES_OPTION := --images $(call quote,$(DATA))
GIVEN_IMAGES := $(if $(filter DATA,$(GIVEN)),$(IMAGES_OPTION))
# A store that was made from other pictures than DATA is refused; STORE without DATA may be of any.
STORE_IMAGES := $(if $(filter STORE,$(GIVEN)),$(GIVEN_IMAGES),$(IMAGES_OPTION))
STORE_SUFFIX := $(call tag,$(STORE_VARIABLES))
# A changed head gets a run of its own: `make train DROPOUT=0.5` stands beside the first.
HEAD_SUFFIX := $(STORE_SUFFIX)$(call tag,$(HEAD_VARIABLES))
STORE := work/$(NAME)/store$(STORE_SUFFIX)
RUN := work/$(NAME)/run$(HEAD_SUFFIX)
OUT := work/$(NAME)/model$(HEAD_SUFFIX)
COMPARE := work/$(NAME)/compare$(HEAD_SUFFIX)
# One folder for all sweeps of a store: what an earlier one has fitted is found again.
SWEEP := work/$(NAME)/sweep$(HEAD_SUFFIX)
# With a space in it, FILES is one path where there is one; else the shell splits it, and obeys quotes in it.
FILE_ARGUMENTS = $(if $(strip $(FILES)$(ARGS)),,$(error FILES: expected pictures or folders, got none. Give FILES=path))$(strip \
	$(if $(shell test -e $(call quote,$(FILES)) && echo yes),$(call quote,$(FILES)),$(FILES)))

# What a failed stage ends with, where the one before it has made nothing yet: its command, with this command's variables.
show = $(if $(findstring $(space),$(1)),$(call quote,$(1)),$(1))
assign = $(foreach v,$(filter $(GIVEN),$(1)),$(v)=$(call show,$($(v))))
EXTRACT_VARIABLES := DATA STORE WEIGHTS WEIGHTS_SHA256 CUT VIEWS THREADS MAX_BAD MAX_PIXELS $(STORE_VARIABLES)
RUN_VARIABLES := $(filter-out SEARCH TRIALS CHECK FILES ARGS $(SWITCHES),$(VARIABLES))
hint = status=$$?; test -e $(call quote,$(1)) || echo $(call quote,First run: $(strip make $(2) $(call assign,$(3)))) >&2; exit $$status
train sweep compare info check: export HINT = $(call hint,$(STORE),extract,$(EXTRACT_VARIABLES))
report export: export HINT = $(call hint,$(RUN),train,$(RUN_VARIABLES))
predict: export HINT = $(call hint,$(OUT)/model.keras,export,$(RUN_VARIABLES))
OR_HINT := || eval "$$HINT"

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
.PHONY: help demo extract train sweep compare report export predict summary info check data test torture lint lock gpu benchmark benchmark-tuning benchmark-extraction runs clean clean-all

help:  ## list the targets
	@sed -n 's/^# \{0,1\}//;2,/^$$/p' Makefile | sed -n '/^Variables/,/^$$/p'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-20s %s\n", $$1, $$2 }' Makefile

demo: extract train export  ## extract, train and export on the default data, and show what was found
	@echo
	@echo $(call quote,The model is in $(OUT). Open $(RUN)/report.html to see what it learned and what it gets wrong.)
	@echo $(call quote,Try it: $(strip make predict $(call assign,$(RUN_VARIABLES))) FILES=FILE_OR_FOLDER)

extract: $(RUNTIME) $(if $(filter openvino,$(ENGINE)),$(OPENVINO)) $(if $(is_default),data)  ## run the backbone over every new picture once
	$(BIN)/python -m extract $(IMAGES_OPTION) --store $(call quote,$(STORE)) $(WEIGHTS_OPTION) $(EXTRACT_OPTIONS) \
		$(if $(NEW_STORE),--new-store) $(ARGS)

train: $(RUNTIME) $(LOGS)  ## fit a head on the stored features
	$(BIN)/python -m train_head --store $(call quote,$(STORE)) --run $(call quote,$(RUN)) $(STORE_IMAGES) $(WEIGHTS_OPTION) \
		$(HEAD_OPTIONS) $(FLAGS) $(ARGS) $(OR_HINT)

sweep: $(RUNTIME) $(LOGS) $(if $(filter optuna,$(SEARCH)),$(OPTUNA))  ## fit many heads, and keep the best (docs/choosing.md)
	$(BIN)/python -m train_head.sweep --store $(call quote,$(STORE)) --out $(call quote,$(SWEEP)) $(STORE_IMAGES) \
		$(WEIGHTS_OPTION) $(HEAD_OPTIONS) $(call options,SEARCH TRIALS) $(FLAGS) $(ARGS) $(OR_HINT)

compare: $(RUNTIME) $(LOGS)  ## fit the same head without and with dropout, and show how far each overfits
	$(BIN)/python -m train_head.compare --store $(call quote,$(STORE)) --run $(call quote,$(COMPARE)) $(STORE_IMAGES) \
		$(WEIGHTS_OPTION) $(HEAD_OPTIONS) $(FLAGS) $(ARGS) $(OR_HINT)

report: $(RUNTIME)  ## write the run's report.html again; TEST=yes evaluates the pictures in test/ too, for the final number
	$(BIN)/python -m train_head.report --run $(call quote,$(RUN)) $(GIVEN_IMAGES) $(WEIGHTS_OPTION) $(if $(TEST),--test) \
		$(ARGS) $(OR_HINT)

export: $(RUNTIME)  ## write the Keras model that takes raw pixels
	$(BIN)/python -m train_head.export --run $(call quote,$(RUN)) --out $(call quote,$(OUT)) $(GIVEN_IMAGES) \
		$(WEIGHTS_OPTION) $(call options,MAX_PIXELS CHECK) $(ARGS) $(OR_HINT)

predict: $(RUNTIME)  ## use the exported model on FILES="..."
	$(BIN)/python -m train_head.predict --model $(call quote,$(OUT)/model.keras) $(FILE_ARGUMENTS) \
		$(call options,MAX_PIXELS) $(ARGS) $(OR_HINT)

runs: $(RUNTIME)  ## list the runs of DATA: folder, date, options, pictures, accuracy, exported or not
	$(BIN)/python -m train_head.runs $(call quote,work/$(NAME)) $(ARGS)

summary: $(RUNTIME)  ## show the backbone's layers and where it is cut
	$(BIN)/python -m extract summary $(call options,CUT IMAGE_SIZE) $(ARGS)

info: $(RUNTIME)  ## show what the store holds
	$(BIN)/python -m features info $(call quote,$(STORE)) $(call options,CUT) $(ARGS) $(OR_HINT)

check: $(RUNTIME)  ## check every byte of the store
	$(BIN)/python -m features check $(call quote,$(STORE)) --read-data $(call options,CUT) $(ARGS) \
		$(OR_HINT)

data: $(RUNTIME)  ## lay out the default data, photographs of solar cells
	@$(BIN)/python -m extract.demo_data --out data/elpv

torture: $(DEV) $(FAULTS)  ## kill, fail, unplug and corrupt store and commands, and mutate files, thousands of times (half an hour)
	LD_PRELOAD=$(abspath $(FAULTS)) $(BIN)/python -m tests.torture.run $(ARGS)
	LD_PRELOAD=$(abspath $(FAULTS)) $(BIN)/python -m tests.torture.run_commands $(ARGS)
	$(BIN)/python -m tests.torture.hostile $(ARGS)

test: $(DEV)  ## run the tests, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(DEV)  ## run ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmark: $(DEV)  ## measure what an epoch costs with and without the cache
	$(BIN)/python -m benchmarks.epoch $(IMAGES_OPTION) --weights $(call quote,$(or $(WEIGHTS),auto)) $(ARGS)

benchmark-tuning: $(DEV)  ## measure an epoch of fine-tuning with its prefix cached, and from pixels
	$(BIN)/python -m benchmarks.tuning $(IMAGES_OPTION) --weights $(call quote,$(or $(WEIGHTS),auto)) $(ARGS)

benchmark-extraction: $(DEV)  ## measure engines, files to store, large photographs and memory (half an hour)
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-benchmark.lock
	$(BIN)/python -m benchmarks.extraction $(IMAGES_OPTION) --weights $(call quote,$(or $(WEIGHTS),auto)) $(ARGS)

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

clean:  ## remove the environment and the tools' caches; work/ and data/ stay
	@test ! -e $(VENV) || test -L $(VENV) || test -e $(VENV)/pyvenv.cfg || \
		{ echo "$(VENV): expected a virtual environment, got another folder. Nothing was removed." >&2; exit 1; }
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache
	@find base benchmarks extract features headstart tests train_head -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

clean-all:  ## remove work/ and the solar cells in data/elpv too: lists them, and removes them with CONFIRM=yes
	@echo "$(if $(CONFIRM),Removed is,This would remove) $(VENV), the caches, and:"
	@test ! -e work || du -sh work/* work
	@test ! -e data/elpv || echo "	data/elpv: the pictures that make data put there, and no others"
	@$(if $(CONFIRM),:,{ echo "CONFIRM: expected yes, got none. To remove all that: make clean-all CONFIRM=yes" >&2; exit 2; })
	@if test ! -e data/elpv; then :; elif test -x $(BIN)/python; then $(BIN)/python -m extract.demo_data --remove; \
		else echo "data/elpv: kept, as only the package in $(VENV) shows which pictures are its own" >&2; fi
	rm -rf work
	@$(MAKE) --no-print-directory clean

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

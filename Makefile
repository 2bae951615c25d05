# Headstart: extract once, retrain in seconds. `make help` lists the targets and the variables.
#
# Variables, all optional:
#   DATA=folder      a folder per class, or train/ and validation/ with a folder per class (default: solar cells);
#                    also an archive, tar shards, or a URL (docs/how-to/urls.md)
#   LABELS=file      a table with the label of each picture, instead of class folders (docs/how-to/label-table.md)
#   COLUMNS=         columns of LABELS, if they are not found: path=id,label=breed
#   STORE=folder     the feature store              RUN=folder       the fitted head
#   OUT=folder       the exported model             COMPARE=folder   two heads: without and with dropout
#   SWEEP=folder     the heads of a sweep           SEARCH= TRIALS=  grid or optuna; number of heads for optuna
#   PRESET=          course (default), accurate or small: one word for the options of every stage (docs/how-to/presets.md)
#   WEIGHTS=         auto (default: the weights of an existing store), imagenet, nsfwjs, random, or a file
#   CUT= VIEWS=      cut layer, or several (mixed5,mixed7), which training joins if POOL=avg; stored views per training
#                    picture (docs/explanation/accuracy.md)
#   IMAGE_SIZE= POOL= THREADS=   how features are computed
#   PRECISION=       float32 (default), bfloat16, int8 or auto (docs/explanation/performance.md)
#   ENGINE=          auto (default), tensorflow or openvino (docs/explanation/performance.md)
#   SAMPLE_BITS=     significant bits of 16-bit pictures: auto (default), 8, 10, 12, 14 or 16 (docs/how-to/inputs.md)
#   CLASSES= MIN_PICTURES=   classes to use (cats,dogs); leave out classes with fewer pictures (docs/how-to/inputs.md)
#   CALIBRATION=     store whose quantised backbone is used, for int8 (docs/how-to/scale.md)
#   PART=            part of DATA to extract, such as 3/16; each part has its own STORE (docs/how-to/scale.md)
#   MAX_BAD= MAX_PIXELS= WEIGHTS_SHA256=             limits on the input files (docs/how-to/inputs.md)
#   DISTRIBUTE=      where to extract and to reduce: local (default), ray, auto, or the address of a Ray cluster
#                    (docs/how-to/scale.md)
#   EPOCHS= DROPOUT= UNITS= BATCH_SIZE= LEARNING_RATE= OPTIMIZER= MOMENTUM= L2= CLASS_WEIGHT= PATIENCE= SEED=
#                    the head, and how it is fitted
#   UNFREEZE_FROM= FINE_TUNE_EPOCHS= FINE_TUNE_LEARNING_RATE=   backbone layers to retrain (docs/how-to/fine-tuning.md)
#   SOLVER= RANK=    auto, reduced, full or ridge; number of inputs that reduced and ridge keep (docs/explanation/solver.md)
#   REPEATS= FOLDS=  number of seeds; number of cross-validation folds
#   SPLIT=group      keep near-duplicates together in training or in validation (docs/how-to/duplicates.md)
#   FALSE_ALARMS=    share of pictures like the training pictures to classify as none of these (docs/how-to/outliers.md)
#   TENSORBOARD=yes  write logs for TensorBoard
#   TEST=yes         evaluate the pictures in test/ (make report)
#   OVERWRITE=yes    replace an earlier run in RUN; without it, the earlier run is kept beside the new one
#   NEW_STORE=yes    start a new store in STORE, and keep the old one beside it
#   OUTLIER_SCORE=yes  write the distance from the training pictures as a second output (make export)
#   FORMATS=         formats of the export, such as keras,litert,onnx (docs/how-to/export.md)
#   DTYPE=           weights of the export: float32 (default), float16 or int8
#   FACTORED=yes     write the head of the reduced solver as two small kernels (make export)
#   CHECK=           number of pictures that an export is checked on, or all
#   THRESHOLD=       probability from which an export predicts a label, if pictures have several, or f1
#   ARGS=            further options of the command, for example ARGS="--dry-run -v"
#   COUNT=           number of pictures that `make suggest` suggests
#   TOP= UNSURE= SORT_INTO=folder   classes in the table of `make predict`; the margin below which a picture is unsure;
#                    a folder to fill with links to the pictures by class (docs/how-to/predict.md)
#   PORT=            port of the page of `make serve` (default 8000)
#   FILES=paths      the pictures to classify or to suggest from; quote paths with spaces: FILES="a.jpg 'my pictures'"
#   CONFIRM=yes      confirm `make prune` and `make clean-all`
#   PYTHON=python3   the Python that creates .venv; the only variable that is also read from the environment

empty :=
comma := ,
space := $(empty) $(empty)
# Quote a value for the shell. It may contain spaces, quotes and dollar signs.
quote = '$(subst ','\'',$(1))'

# Variables are read from make's command line only. The assignments below override the environment.
HEAD_VARIABLES := EPOCHS DROPOUT UNITS BATCH_SIZE LEARNING_RATE OPTIMIZER MOMENTUM L2 CLASS_WEIGHT PATIENCE SEED \
	SOLVER RANK REPEATS FOLDS SPLIT FALSE_ALARMS CUT VIEWS UNFREEZE_FROM FINE_TUNE_EPOCHS FINE_TUNE_LEARNING_RATE
# Each value of these has its own store. Views and threads do not change stored features.
STORE_VARIABLES := IMAGE_SIZE POOL ENGINE PRECISION PART
INPUT_VARIABLES := LABELS COLUMNS CLASSES MIN_PICTURES WEIGHTS_SHA256 CALIBRATION THREADS DISTRIBUTE SAMPLE_BITS MAX_BAD MAX_PIXELS
FOLDERS := DATA STORE RUN OUT COMPARE SWEEP
SWITCHES := OVERWRITE NEW_STORE TENSORBOARD TEST OUTLIER_SCORE FACTORED CONFIRM
VARIABLES := $(FOLDERS) PRESET $(HEAD_VARIABLES) $(STORE_VARIABLES) $(INPUT_VARIABLES) WEIGHTS FORMATS DTYPE CHECK THRESHOLD \
	SEARCH TRIALS $(SWITCHES) COUNT TOP UNSURE SORT_INTO PORT FILES ARGS
TOOLS := PYTHON CC SHELL VENV BIN RUNTIME DEV OPENVINO INT8 PARQUET RAY OPTUNA TENSORBOARD_DONE CONVERTERS SERVE SITE FAULTS PARALLEL CHROMIUM
GIVEN := $(foreach v,$(.VARIABLES),$(if $(findstring command line,$(origin $(v))),$(v)))
$(foreach v,$(VARIABLES),$(eval $(v) :=))
# In the environment, COLUMNS is the width of the terminal.
unexport COLUMNS
# Values are used literally: a dollar sign in them is not expanded.
$(foreach v,$(filter $(VARIABLES),$(GIVEN)),$(eval override $(v) := $$(value $(v))))

# Refuse unknown variables: a misspelt one would silently have no effect.
UNKNOWN := $(firstword $(filter-out $(VARIABLES) $(TOOLS),$(GIVEN)))
PYTHON ?= python3
ifneq ($(UNKNOWN),)
NEAREST := $(shell $(PYTHON) -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1].upper(), sys.argv[2:], 1))' \
	$(call quote,$(UNKNOWN)) $(VARIABLES) 2>/dev/null)
$(error $(UNKNOWN): expected a variable listed by `make help`, got $(UNKNOWN)=$($(UNKNOWN)). $(if $(NEAREST),Did you mean $(NEAREST)?,Remove it))
endif
check_folder = $(if $(strip $($(1))),,$(error $(1): expected a folder, got an empty value. Give a path, or remove $(1)))
$(foreach v,$(filter $(FOLDERS),$(GIVEN)),$(call check_folder,$(v)))
YES := 1 y Y yes Yes YES true True TRUE on On ON
NO := 0 n N no No NO false False FALSE off Off OFF
check_switch = $(if $(filter-out $(YES) $(NO),$($(1)))$(word 2,$($(1))),$(error $(1): expected yes or no, got $($(1)). Give $(1)=yes, or remove $(1)))
$(foreach v,$(SWITCHES),$(call check_switch,$(v))$(eval override $(v) := $(filter $(YES),$($(v)))))

DATA := data/elpv
# The folder in work/ is named after the last part of DATA and a digest of its whole path.
# Functions of make split at spaces, so spaces are replaced first.
make_word = $(subst $(space),|,$(1))
data_path := $(call make_word,$(abspath $(call make_word,$(DATA))))
is_default := $(if $(subst <$(call make_word,$(abspath data/elpv))>,,<$(data_path)>),,yes)
data_name := $(or $(subst |,_,$(notdir $(data_path))),root)
make_digest = $(shell printf %s $(call quote,$(1)) | cksum | { read sum _; printf %08x "$$sum"; })
NAME := $(if $(is_default),elpv,$(data_name)-$(call make_digest,$(data_path)))
# Earlier versions named it after the last part of DATA only.
is_folder = $(shell test -d $(call quote,$(1)) && echo yes)
ifneq ($(filter extract train sweep advise compare report export predict serve suggest info check runs prune,$(MAKECMDGOALS)),)
ifneq ($(if $(is_default)$(call is_folder,work/$(NAME)),,$(call is_folder,work/$(data_name))),)
$(warning work/$(data_name) was made by an earlier version of Headstart. To keep using it for this DATA, run: ln -s $(call quote,$(data_name)) $(call quote,work/$(NAME)))
endif
endif

lower = $(shell echo $(1) | tr 'A-Z_' 'a-z-')
options = $(strip $(foreach v,$(1),$(if $($(v)),--$(call lower,$(v)) $(call quote,$($(v))))))
tag = $(subst /,_,$(subst $(space),,$(foreach v,$(1),$(if $($(v)),-$(call lower,$(v))$($(v))))))
# The preset course is the defaults, so it shares their folders.
override PRESET := $(filter-out course,$(PRESET))
HEAD_OPTIONS := $(call options,PRESET $(HEAD_VARIABLES) DISTRIBUTE)
FLAGS := $(if $(OVERWRITE),--overwrite) $(if $(TENSORBOARD),--tensorboard)
EXTRACT_OPTIONS := $(call options,PRESET CUT VIEWS $(INPUT_VARIABLES) $(STORE_VARIABLES))
# Without WEIGHTS, every stage uses the weights that the store was made with.
WEIGHTS_OPTION := $(if $(filter-out auto,$(WEIGHTS)),--weights $(call quote,$(WEIGHTS)))
IMAGES_OPTION := --images $(call quote,$(DATA))
GIVEN_IMAGES := $(if $(filter DATA,$(GIVEN)),$(IMAGES_OPTION))
# Commands refuse a store that was made from pictures other than DATA. STORE without DATA accepts any store.
STORE_IMAGES := $(if $(filter STORE,$(GIVEN)),$(GIVEN_IMAGES),$(IMAGES_OPTION))
PRESET_SUFFIX := $(subst /,_,$(if $(PRESET),-$(subst $(space),,$(PRESET))))
STORE_SUFFIX := $(PRESET_SUFFIX)$(call tag,$(STORE_VARIABLES))
# Each set of head options has its own run: `make train DROPOUT=0.5` does not replace `make train`.
HEAD_SUFFIX := $(STORE_SUFFIX)$(call tag,$(HEAD_VARIABLES))
STORE := work/$(NAME)/store$(STORE_SUFFIX)
RUN := work/$(NAME)/run$(HEAD_SUFFIX)
OUT := work/$(NAME)/model$(HEAD_SUFFIX)
COMPARE := work/$(NAME)/compare$(HEAD_SUFFIX)
# Sweeps with the same store and head options share a folder, whatever SEARCH and TRIALS are.
# A later sweep reuses fitted heads.
SWEEP := work/$(NAME)/sweep$(HEAD_SUFFIX)
SUGGESTIONS := work/$(NAME)/suggestions$(HEAD_SUFFIX)
# FILES with spaces is one path if that path exists. Otherwise the shell splits it, and respects quotes.
FILE_ARGUMENTS = $(if $(strip $(FILES)$(ARGS)),,$(error FILES: expected pictures or folders, got nothing. Give FILES=path))$(strip \
	$(if $(shell test -e $(call quote,$(FILES)) && echo yes),$(call quote,$(FILES)),$(FILES)))

# $(call run,COMMAND) runs COMMAND, and prints it without the shell code around it. If it fails and the output of the
# earlier stage is missing, a hint is printed: the make command of that stage, with the same variables.
unsafe = $(shell printf %s $(call quote,$(1)) | tr -d 'A-Za-z0-9_./:=,@%+-')
show = $(if $(findstring $(space),$(1))$(call unsafe,$(1)),$(call quote,$(1)),$(1))
# PWD is the user's folder. It differs from that of make after `make -C folder`.
MAKE_HERE := make$(if $(subst <$(call make_word,$(CURDIR))>,,<$(call make_word,$(or $(PWD),$(CURDIR)))>), -C $(call show,$(CURDIR)))
EXTRACT_VARIABLES := WEIGHTS PRESET CUT VIEWS $(INPUT_VARIABLES) $(STORE_VARIABLES)
# Messages of the commands suggest commands of make: see base/invocation.py.
STAGES := demo extract train sweep advise compare report export predict serve suggest summary info check runs prune
$(STAGES): export HEADSTART_MAKE := $(MAKE_HERE)
$(STAGES): export HEADSTART_MAKE_DATA := $(DATA)
$(STAGES): export HEADSTART_MAKE_EXTRACT := $(EXTRACT_VARIABLES)
$(STAGES): export HEADSTART_MAKE_TRAIN := WEIGHTS PRESET $(HEAD_VARIABLES) DISTRIBUTE
assign = $(foreach v,$(filter $(GIVEN),$(1)),$(v)=$(call show,$($(v))))
RUN_VARIABLES := $(filter-out SEARCH TRIALS FORMATS DTYPE CHECK THRESHOLD COUNT TOP UNSURE SORT_INTO PORT FILES ARGS $(SWITCHES),$(VARIABLES))
train sweep compare info check: NEEDED = $(STORE)
train sweep compare info check: HINT = $(MAKE_HERE) extract $(call assign,DATA STORE $(EXTRACT_VARIABLES))
report export: NEEDED = $(RUN)
report export: HINT = $(MAKE_HERE) train $(call assign,$(RUN_VARIABLES))
suggest: NEEDED = $(OUT)/model.keras
predict serve: NEEDED = $(OUT)
predict serve suggest: HINT = $(MAKE_HERE) export $(call assign,$(RUN_VARIABLES))
print_hint = test -e $(call quote,$(NEEDED)) || echo $(call quote,To create $(NEEDED)$(comma) run: $(strip $(HINT))) >&2
# The one-letter flags of make, such as -ns. With -n, commands are printed but not run; with -s, they are not printed.
MAKE_FLAGS = $(firstword -$(MAKEFLAGS))
print_command = $(if $(findstring s,$(MAKE_FLAGS)),,printf '%s\n' $(call quote,$(1));)
run = $(if $(findstring n,$(MAKE_FLAGS)),$(1),@$(call print_command,$(1)) $(1) || { status=$$?; $(print_hint); exit $$status; })

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/runtime.done
DEV := $(VENV)/dev.done
OPENVINO := $(VENV)/openvino.done
INT8 := $(VENV)/int8.done
PARQUET := $(VENV)/pyarrow.done
RAY := $(VENV)/ray.done
OPTUNA := $(VENV)/optuna.done
TENSORBOARD_DONE := $(VENV)/tensorboard.done
SERVE := $(VENV)/serve.done
# What the formats of FORMATS need; keras, saved_model and web need no further packages.
comma := ,
CONVERTERS := $(foreach v,$(filter litert onnx openvino,$(subst $(comma), ,$(FORMATS))),$(VENV)/$v.done)
LOGS := $(if $(TENSORBOARD),$(TENSORBOARD_DONE))
FAULTS := $(VENV)/faults.so
SITE := $(VENV)/docs.done
# worksteal: an idle worker takes tests from the end of another worker's queue.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Each stage reads the output of the stage before it, so they run in order even with -j.
.NOTPARALLEL:
.PHONY: help demo doctor extract train sweep advise compare report export predict serve suggest summary info check data docs check-links test test-fast test-keras test-browser torture lint lock heic gpu benchmark benchmark-tuning benchmark-extraction benchmark-export runs prune release-check clean clean-all

help:  ## list the targets and the variables
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-20s %s\n", $$1, $$2 }' Makefile && echo
	@sed -n 's/^# \{0,1\}//;2,/^$$/p' Makefile | sed -n '/^Variables/,/^$$/p'

EXTRACT_ARGUMENTS := $(IMAGES_OPTION) --store $(call quote,$(STORE)) $(WEIGHTS_OPTION) $(EXTRACT_OPTIONS) \
	$(if $(NEW_STORE),--new-store)
TRAIN_ARGUMENTS := --store $(call quote,$(STORE)) --run $(call quote,$(RUN)) $(STORE_IMAGES) $(WEIGHTS_OPTION) \
	$(HEAD_OPTIONS) $(FLAGS)
EXPORT_ARGUMENTS := --run $(call quote,$(RUN)) --out $(call quote,$(OUT)) $(GIVEN_IMAGES) $(WEIGHTS_OPTION) \
	$(call options,FORMATS DTYPE MAX_PIXELS CHECK THRESHOLD) $(if $(OUTLIER_SCORE),--outlier-score) \
	$(if $(FACTORED),--factored)

demo: $(RUNTIME) $(LOGS) $(CONVERTERS)  ## extract, train and export the default data, in one process
	@$(BIN)/python -m headstart.demo $(if $(is_default),,$(IMAGES_OPTION)) --extract $(call quote,$(EXTRACT_ARGUMENTS)) \
		--train $(call quote,$(TRAIN_ARGUMENTS)) --export $(call quote,$(EXPORT_ARGUMENTS)) $(ARGS)

doctor: $(RUNTIME)  ## check the installation and the computer (docs/how-to/troubleshooting.md)
	@$(BIN)/python -m headstart.doctor $(ARGS)

extract demo: $(if $(filter openvino,$(ENGINE)),$(OPENVINO)) $(if $(filter int8,$(PRECISION)),$(INT8)) $(if $(filter %.parquet %.pq,$(LABELS)),$(PARQUET))
extract train sweep compare demo: $(if $(filter-out local,$(DISTRIBUTE)),$(RAY))
extract: $(RUNTIME) $(if $(is_default),data)  ## compute the features of new pictures
	$(BIN)/python -m extract $(EXTRACT_ARGUMENTS) $(ARGS)

train: $(RUNTIME) $(LOGS)  ## fit a head on the stored features
	$(call run,$(BIN)/python -m train_head $(TRAIN_ARGUMENTS) $(ARGS))

sweep: $(RUNTIME) $(LOGS) $(if $(filter optuna,$(SEARCH)),$(OPTUNA))  ## fit many heads, and keep the best one (docs/how-to/choosing.md)
	$(call run,$(BIN)/python -m train_head.sweep --store $(call quote,$(STORE)) --out $(call quote,$(SWEEP)) $(STORE_IMAGES) \
		$(WEIGHTS_OPTION) $(HEAD_OPTIONS) $(call options,SEARCH TRIALS) $(FLAGS) $(ARGS))

advise: $(if $(filter %.parquet %.pq,$(LABELS)),$(PARQUET))
advise: $(RUNTIME) $(if $(is_default),$(if $(filter STORE,$(GIVEN)),,data))  ## compare features, and print the command to run next (docs/how-to/presets.md)
	$(BIN)/python -m train_head.advise $(if $(shell test -e $(call quote,$(STORE)) && echo yes),--store $(call quote,$(STORE))) $(STORE_IMAGES) \
		--out $(call quote,work/$(NAME)/advise) $(WEIGHTS_OPTION) $(call options,LABELS COLUMNS CLASSES MIN_PICTURES THREADS) $(ARGS)

compare: $(RUNTIME) $(LOGS)  ## fit a head without and with dropout, and compare their overfitting
	$(call run,$(BIN)/python -m train_head.compare --store $(call quote,$(STORE)) --run $(call quote,$(COMPARE)) $(STORE_IMAGES) \
		$(WEIGHTS_OPTION) $(HEAD_OPTIONS) $(FLAGS) $(ARGS))

report: $(RUNTIME)  ## write a run's report again; TEST=yes also evaluates the pictures in test/
	$(call run,$(BIN)/python -m train_head.report --run $(call quote,$(RUN)) $(GIVEN_IMAGES) $(WEIGHTS_OPTION) $(if $(TEST),--test) \
		$(ARGS))

export: $(RUNTIME) $(CONVERTERS)  ## write the model that takes raw pixels, in one or more formats (docs/how-to/export.md)
	$(call run,$(BIN)/python -m train_head.export $(EXPORT_ARGUMENTS) $(ARGS))

predict: $(RUNTIME)  ## classify FILES with the exported model, of any format (docs/how-to/predict.md)
	$(call run,$(BIN)/python -m train_head.predict --model $(call quote,$(OUT)) $(FILE_ARGUMENTS) \
		$(call options,MAX_PIXELS TOP UNSURE SORT_INTO) $(ARGS))

serve: $(RUNTIME) $(SERVE)  ## show a page that classifies pictures with the exported model (docs/how-to/serve.md)
	$(call run,$(BIN)/python -m train_head.serve --model $(call quote,$(OUT)) \
		$(if $(shell test -e $(call quote,$(RUN)) && echo yes),--run $(call quote,$(RUN)) $(GIVEN_IMAGES)) $(call options,PORT MAX_PIXELS) $(ARGS))

suggest: $(RUNTIME)  ## rank the unlabelled pictures in FILES by what labelling them would teach (docs/how-to/labels.md)
	$(call run,$(BIN)/python -m train_head.suggest $(call quote,$(OUT)/model.keras) $(FILE_ARGUMENTS) \
		--out $(call quote,$(SUGGESTIONS)) $(call options,COUNT MAX_PIXELS) $(ARGS))

runs: $(RUNTIME)  ## list the runs of DATA
	$(BIN)/python -m train_head.runs $(call quote,work/$(NAME)) $(ARGS)

prune: $(RUNTIME)  ## list files that are no longer needed for DATA; remove them with CONFIRM=yes (docs/how-to/disk.md)
	$(BIN)/python -m train_head.prune $(call quote,work/$(NAME)) $(if $(CONFIRM),--confirm) $(ARGS)

summary: $(RUNTIME)  ## list the backbone's layers and mark the cut layer
	$(BIN)/python -m extract summary $(call options,CUT IMAGE_SIZE) $(ARGS)

info: $(RUNTIME)  ## describe the store
	$(call run,$(BIN)/python -m features info $(call quote,$(STORE)) $(call options,CUT) $(ARGS))

check: $(RUNTIME)  ## verify every byte of the store
	$(call run,$(BIN)/python -m features check $(call quote,$(STORE)) --read-data $(call options,CUT) $(ARGS))

data: $(RUNTIME)  ## write the default pictures (solar cells) to data/elpv
	@$(BIN)/python -m extract.demo_data --out data/elpv

torture: $(DEV) $(FAULTS)  ## inject faults into the store and the commands, and read mutated files (half an hour)
	LD_PRELOAD=$(abspath $(FAULTS)) $(BIN)/python -m tests.torture.run $(ARGS)
	LD_PRELOAD=$(abspath $(FAULTS)) $(BIN)/python -m tests.torture.run_commands $(ARGS)
	$(BIN)/python -m tests.torture.hostile $(ARGS)
	$(BIN)/python -m tests.torture.kill_export

test: $(DEV)  ## run all tests except those marked torture, keras_versions or browser, on up to four cores
	$(BIN)/python -m pytest $(PARALLEL) -m "not torture and not keras_versions and not browser" $(ARGS)

test-fast: $(DEV)  ## run the unit tests, in less than a minute
	$(BIN)/python -m pytest $(PARALLEL) -m unit $(ARGS)

test-keras: $(DEV)  ## load exported models in earlier versions of Keras, which are installed into .venv/keras-*
	$(BIN)/python -m pytest tests/train_head/export/test_keras_versions.py -m keras_versions -rs $(ARGS)

test-browser: $(DEV)  ## open the pages in headless Chromium, and run the code of model cards; needs chromium, npm and g++
	$(BIN)/python -m pytest $(PARALLEL) -m browser $(ARGS)

lint: $(DEV)  ## run ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 $(addprefix -p ,base extract features headstart train_head)
	$(BIN)/mypy --platform darwin -p base
	$(BIN)/lint-imports

docs: $(RUNTIME) $(SITE)  ## build the site of these pages in build/docs; a warning is an error
	$(BIN)/python -m sphinx --fresh-env --nitpicky --fail-on-warning --keep-going --quiet docs build/docs $(ARGS)

check-links: $(RUNTIME) $(SITE)  ## open every link of the pages; needs a network
	$(BIN)/python -m sphinx --builder linkcheck --quiet docs build/links $(ARGS)

release-check: $(DEV)  ## build the wheel and the source distribution into dist/, and check them (CONTRIBUTING.md)
	$(BIN)/python -m release.check $(ARGS)

benchmark: $(DEV)  ## time an epoch with and without stored features
	$(BIN)/python -m benchmarks.epoch $(IMAGES_OPTION) --weights $(call quote,$(or $(WEIGHTS),auto)) $(ARGS)

benchmark-tuning: $(DEV)  ## time an epoch of fine-tuning from stored features and from pixels
	$(BIN)/python -m benchmarks.tuning $(IMAGES_OPTION) --weights $(call quote,$(or $(WEIGHTS),auto)) $(ARGS)

benchmark-extraction: $(DEV)  ## measure the speed and memory of extraction (a quarter of an hour)
	$(BIN)/python -m benchmarks.extraction $(IMAGES_OPTION) --weights $(call quote,$(or $(WEIGHTS),auto)) $(ARGS)

benchmark-export: $(DEV)  ## measure the run's exports in every format: accuracy, size, speed and memory (docs/how-to/export.md)
	$(call run,$(BIN)/python -m benchmarks.export $(call quote,$(RUN)) $(ARGS))

heic: $(VENV)/heic.done  ## install the decoders of HEIC and JPEG XL pictures (docs/how-to/inputs.md)

gpu: $(RUNTIME)  ## replace the CPU-only TensorFlow with the CUDA build
	$(BIN)/pip uninstall --quiet --yes tensorflow-cpu
	$(BIN)/pip install --quiet --constraint requirements.lock "tensorflow[and-cuda]==2.21.*"

lock: $(DEV)  ## pin the newest versions of all requirements
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
		--no-emit-index-url --extra demo pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
		--no-emit-index-url --extra dev --constraint requirements.lock pyproject.toml --output-file requirements-dev.lock

clean:  ## remove .venv and caches; keep work/ and data/
	@test ! -e $(VENV) || test -L $(VENV) || test -e $(VENV)/pyvenv.cfg || \
		{ echo "$(VENV): expected a virtual environment, got another folder. Remove it yourself; nothing was removed." >&2; exit 1; }
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache
	@find base benchmarks docs extract features headstart release tests train_head -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

clean-all:  ## list .venv, work/ and the solar cells in data/elpv; remove them with CONFIRM=yes
	@echo "$(if $(CONFIRM),Removing,This would remove) $(VENV), the caches, and:"
	@test ! -e work || du -sh work/* work
	@test ! -e data/elpv || echo "	data/elpv: only the pictures that 'make data' wrote"
	@$(if $(CONFIRM),:,{ echo "CONFIRM: expected yes, got nothing. To remove these files, run: make clean-all CONFIRM=yes" >&2; exit 2; })
	@if test ! -e data/elpv; then :; elif test -x $(BIN)/python; then $(BIN)/python -m extract.demo_data --remove; \
		else echo "data/elpv: kept, because the package that identifies its pictures is not installed in $(VENV)" >&2; fi
	rm -rf work
	@$(MAKE) --no-print-directory clean

# uv installs in a sixth of pip's time, and shows its progress. It does not read pip's configuration, so pip is used if it
# fails, for example where packages come from a mirror.
install = $(BIN)/uv pip install --python $(BIN)/python $(1) || $(BIN)/pip install --quiet --disable-pip-version-check $(1)

$(RUNTIME): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "PYTHON: expected Python 3.11 to 3.13, got $$($(PYTHON) --version). Give one: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing $$(grep -c == $<) packages into $(VENV): about 0.5 GB to download, 2 GB on disk. This happens once."
	@test -x $(BIN)/uv || $(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements-dev.lock uv
	@$(call install,-r $<)
	@# By its path: a clone in the user's folder would otherwise hide the package, as a namespace of the same name.
	@$(call install,--quiet --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .)
	@touch $@

$(FAULTS): tests/torture/faults.c
	@mkdir -p $(@D)
	@$(CC) -O1 -Wall -shared -fPIC -o $@ $< -ldl

# Packages of an extra, if it has another name than its only package.
packages_docs := furo myst-parser sphinx sphinx-copybutton
packages_heic := pillow-heif pillow-jxl-plugin
packages_int8 := openvino nncf
packages_litert := ai-edge-litert
packages_onnx := onnx onnxruntime tf2onnx
packages_serve := starlette uvicorn python-multipart
EXTRAS := $(foreach v,docs heic int8 litert onnx openvino optuna pyarrow ray serve tensorboard,$(VENV)/$v.done)

$(EXTRAS): $(VENV)/%.done: requirements-dev.lock $(RUNTIME)
	@$(call install,--constraint requirements-dev.lock $(or $(packages_$*),$*))
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	@$(call install,-r requirements-dev.lock)
	@touch $@

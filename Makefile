# SPDX-License-Identifier: Apache-2.0
#
# Builds, runs and tests Weir. `make help` lists what there is; plain GNU make, nothing generated but what is in $(BUILD).
#
# Sources are found by wildcard: a new file in src/, tests/ or bench/ needs no line here.
#
# Embedded files. Every *.sql, *.html, *.css, *.js and *.svg below src/ is put into the binary as it is. Its symbol is
# embed_ and the path below src/ with every other character than a letter or digit as _ :
#     src/store/migrations/0001_first.sql  ->  extern const char embed_store_migrations_0001_first_sql[];
#                                              extern const size_t embed_store_migrations_0001_first_sql_size;
# (declare those two where they are used). A NUL follows the bytes, and the size does not count it.
#
# Tests. tests/unit/ROOM/NAME_test.c and tests/conform/NAME_test.c are one cmocka program each: $(BUILD)/tests/<path less .c>,
# linked with whatever of src/ they call (all of it but main.c is there as an archive) and of tests/support/*.c.
# Other programs that tests start are tests/programs/NAME.c -> $(BUILD)/tests/programs/NAME (the same libraries, no cmocka).
# Libraries that tests put in front of libc are tests/preload/NAME.c -> $(BUILD)/tests/preload/NAME.so.
# bench/NAME.c is one program each: $(BUILD)/bench/NAME.
#
# examples/shop is an application of its own: of Weir it sees include/weir.h and libweir.so. Its embedded files are named as
# above, below examples/shop/. tests/shop/NAME_test.c are linked with its objects in the place of Weir's.
#
# Variables: CC=gcc|clang  SAN=address,undefined|thread  WERROR=1  BUILD=folder  TESTS="tests/unit tests/flow"
# PYTEST="-k name"  PORT= ADMIN_PORT= FRESH=1 (run)  PREFIX= DESTDIR= (install)

ifeq ($(origin CC),default)
CC := gcc
endif
SAN ?=
WERROR ?=
VERSION := $(shell sed -n 's/^\#define WEIR_VERSION_STRING "\(.*\)"/\1/p' include/weir.h 2>/dev/null)
ifeq ($(VERSION),)
VERSION := 0.1.0
endif

comma := ,
variant := $(if $(findstring clang,$(CC)),/clang)$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))
BUILD ?= build$(variant)
DEPS := .deps

PREFIX ?= /usr/local
DESTDIR ?=
PORT ?= 8000
ADMIN_PORT ?= 8009
FRESH ?=
TESTS ?= tests
PYTEST ?=

# ---- flags ----------------------------------------------------------------------------------------------------------

OPT ?= -O2 -g
WARN := -Wall -Wextra -Wvla $(if $(WERROR),-Werror)
# CPPFLAGS, CFLAGS and LDFLAGS are the caller's and come last. _GNU_SOURCE is defined empty: a file may say it again.
cppflags := -D_GNU_SOURCE= -DWEIR_VERSION='"$(VERSION)"' -Isrc -Iinclude -isystem $(DEPS)/include
cflags := -std=gnu17 $(OPT) $(WARN) -fPIC -fvisibility=hidden -ffunction-sections -fdata-sections \
	-fno-omit-frame-pointer -fno-strict-aliasing -fno-common -pthread
ldflags := -pthread -Wl,--as-needed -Wl,--gc-sections -Wl,-z,relro -Wl,-z,now
ifeq ($(SAN),)
cppflags += $(if $(findstring -O0,$(OPT) $(CFLAGS)),,-D_FORTIFY_SOURCE=2)
cflags += -fstack-protector-strong
else
cflags += -O1 -fsanitize=$(SAN) -fno-sanitize-recover=all
ldflags += -fsanitize=$(SAN)
ifneq ($(findstring thread,$(SAN)),)
cflags += $(if $(findstring clang,$(CC)),,-Wno-tsan) # gcc says that it does not model fences; the rings' fences order flags only
endif
ifneq ($(findstring clang,$(CC)),)
# clang's runtime looks the C++ exceptions of dlopen'ed libraries up at start: libstdc++ must be there by then.
ldflags += -Wl,--no-as-needed -lstdc++ -Wl,--as-needed
endif
endif
compile = $(CC) $(cppflags) $(CPPFLAGS) $(1) $(cflags) $(CFLAGS) -MMD -MP -c -o $@ $<
link = $(CC) $(cflags) $(CFLAGS) $(ldflags) $(LDFLAGS) $(1) -o $@

# The parts in .deps are found at run time by a path relative to the program. It is an RPATH, not a RUNPATH: only that is
# also searched for what libraries ask for, and for dlopen() when a sanitizer stands between.
rel_deps = $$(realpath -m --relative-to=$(dir $@) $(DEPS)/lib)
rel_gpu = $$(realpath -m --relative-to=$(dir $@) $(DEPS)/gpu/lib)
RPATH_BUILD = -Wl,--disable-new-dtags -Wl,-rpath,'$$ORIGIN'/$(rel_deps):'$$ORIGIN'/$(rel_gpu)
LIBS := -L$(DEPS)/lib -lsqlite3 -lyaml -lseccomp -lcrypto -l:libllhttp.a -lyyjson -lpthread -ldl -lm

# ---- sources --------------------------------------------------------------------------------------------------------

SRCS := $(sort $(wildcard src/*.c src/*/*.c src/*/*/*.c))
EMBEDS := $(sort $(foreach e,sql html css js svg,$(wildcard src/*/*.$(e) src/*/*/*.$(e))))
OBJS := $(SRCS:src/%.c=$(BUILD)/obj/%.o)
EMBED_OBJS := $(EMBEDS:src/%=$(BUILD)/obj/embed/%.o)
HOUSE_OBJS := $(filter-out $(BUILD)/obj/main.o,$(OBJS)) $(EMBED_OBJS)

SUPPORT_OBJS := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/support/*.c))
SIM_OBJS := $(patsubst %.c,$(BUILD)/%.o,$(filter-out %_test.c,$(wildcard tests/sim/*.c)))
TEST_SRCS := $(filter-out tests/shop/%,$(sort $(wildcard tests/*/*_test.c tests/*/*/*_test.c tests/*/*/*/*_test.c)))
TEST_BINS := $(TEST_SRCS:%.c=$(BUILD)/%)
PROGRAM_BINS := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/programs/*.c))
PRELOADS := $(patsubst %.c,$(BUILD)/%.so,$(wildcard tests/preload/*.c))
MODELS := $(if $(wildcard tests/support/make_models.py),$(BUILD)/models/.made)
BENCH_BINS := $(patsubst %.c,$(BUILD)/%,$(wildcard bench/*.c))

# As many jobs as processors, unless -j says it.
JOBS = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))

SHOP_SRCS := $(sort $(wildcard examples/shop/*.c examples/shop/*/*.c))
SHOP_EMBEDS := $(sort $(foreach e,sql css js svg,$(wildcard examples/shop/*/*.$(e) examples/shop/*/*/*.$(e))))
SHOP_OBJS := $(SHOP_SRCS:examples/shop/%.c=$(BUILD)/shop/obj/%.o)
SHOP_EMBED_OBJS := $(SHOP_EMBEDS:examples/shop/%=$(BUILD)/shop/obj/embed/%.o)
SHOP_PARTS := $(filter-out $(BUILD)/shop/obj/main.o,$(SHOP_OBJS)) $(SHOP_EMBED_OBJS)
SHOP_TEST_BINS := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/shop/*_test.c))
SHOP_LIBS := -lmicrohttpd -lcurl -lsqlite3 -lyaml -L$(DEPS)/lib -lyyjson

# ---- goals ----------------------------------------------------------------------------------------------------------

.DEFAULT_GOAL := all
.PHONY: all help run shop test unit sim tests lint format bench gpu models-check install clean lib objects FORCE
.DELETE_ON_ERROR:

all: $(BUILD)/weir $(if $(wildcard src/client/weir.c),lib) ## build the server and its commands (build/weir) and the library

help: ## this list
	@echo "make goals:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-22s %s\n", $$1, $$2 }'
	@echo "variables: CC=clang  SAN=address,undefined | thread  WERROR=1  BUILD=folder  TESTS=tests/unit  PYTEST='-k name'"

run: ## set up, build, serve the example models on 127.0.0.1:8000 and print a tour (PORT= ADMIN_PORT= FRESH=1)
	@tools/setup.sh build
	@$(MAKE) $(JOBS) --no-print-directory $(BUILD)/weir
	@exec env WEIR_BUILD=$(BUILD) FRESH=$(FRESH) tools/run.sh $(PORT) $(ADMIN_PORT)

shop: ## set up, build, start the example shop with a private Weir below it and print its address (PORT=8080)
	@tools/setup.sh build shop
	@$(MAKE) $(JOBS) --no-print-directory all $(BUILD)/shop/shop
	@exec env WEIR_BUILD=$(BUILD) examples/shop/start.sh $(if $(filter command line environment,$(origin PORT)),$(PORT))

test: ## set up, build, run every test (TESTS= chooses folders, PYTEST= passes options on)
	@tools/setup.sh build shop test
	@$(MAKE) $(JOBS) --no-print-directory all tests
	@WEIR_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(DEPS)/venv/bin/python -m pytest $(TESTS) $(PYTEST)

unit: ## the C unit tests alone
	@tools/setup.sh build shop test
	@$(MAKE) $(JOBS) --no-print-directory $(BUILD)/weir tests
	@WEIR_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(DEPS)/venv/bin/python -m pytest tests/unit $(PYTEST)

sim: ## the inference room on simulated time (SIM_SCHEDULES=1000000 SIM_SEED=; tests/sim)
	@tools/setup.sh build test
	@$(MAKE) $(JOBS) --no-print-directory $(BUILD)/tests/sim/world_test
	@SIM_SCHEDULES=$(SIM_SCHEDULES) SIM_SEED=$(SIM_SEED) $(BUILD)/tests/sim/world_test

tests: $(TEST_BINS) $(SHOP_TEST_BINS) $(BUILD)/shop/shop $(PROGRAM_BINS) $(PRELOADS) $(MODELS)

# The small models that tests and yardsticks run: $WEIR_BUILD/models/NAME/model.onnx.
$(BUILD)/models/.made: tests/support/make_models.py tests/requirements.txt
	@echo "  MODELS $(@D)"
	@mkdir -p $(@D)
	@PYTHONDONTWRITEBYTECODE=1 $(DEPS)/venv/bin/python $< $(@D)
	@touch $@

lint: ## layer law, format, length and complexity limits, warnings of both compilers
	@tools/setup.sh build shop lint
	@$(DEPS)/venv/bin/python tools/lint.py
	@$(MAKE) $(JOBS) --no-print-directory CC=gcc WERROR=1 BUILD=build/lint/gcc objects
	@$(MAKE) $(JOBS) --no-print-directory CC=clang WERROR=1 BUILD=build/lint/clang objects
	@echo "lint: clean"

objects: $(OBJS) $(SHOP_OBJS) $(SHOP_TEST_BINS:%=%.o) $(TEST_SRCS:%.c=$(BUILD)/%.o) $(SUPPORT_OBJS) $(SIM_OBJS) $(PROGRAM_BINS:%=%.o) $(BENCH_BINS:%=%.o)

lib: $(BUILD)/libweir.a $(BUILD)/libweir.so $(BUILD)/weir.pc ## the client library (include/weir.h), static and shared

install: all $(BUILD)/install/weir ## into PREFIX=/usr/local (DESTDIR= is put before it)
	@echo "  INSTALL $(DESTDIR)$(PREFIX)"
	@install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/weir $(DESTDIR)$(PREFIX)/share/doc/weir/licenses
	@install -m 755 $(BUILD)/install/weir $(DESTDIR)$(PREFIX)/bin/weir
	@for f in $(DEPS)/lib/*.so.*; do \
		[ -L $$f ] && cp -Pf $$f $(DESTDIR)$(PREFIX)/lib/weir/ || install -m 755 $$f $(DESTDIR)$(PREFIX)/lib/weir/; done
	@if [ -d $(DEPS)/gpu ]; then install -d $(DESTDIR)$(PREFIX)/lib/weir/gpu && \
		cp -Pf $(DEPS)/gpu/lib/*.so* $(DESTDIR)$(PREFIX)/lib/weir/gpu/ && \
		cp -R $(DEPS)/gpu/licenses/. $(DESTDIR)$(PREFIX)/share/doc/weir/licenses/; fi
	@install -m 644 LICENSE $(DESTDIR)$(PREFIX)/share/doc/weir/
	@cp -R $(DEPS)/licenses/. $(DESTDIR)$(PREFIX)/share/doc/weir/licenses/
ifneq ($(wildcard src/client/weir.c),)
	@install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig
	@install -m 644 include/weir.h $(DESTDIR)$(PREFIX)/include/
	@install -m 644 $(BUILD)/libweir.a $(DESTDIR)$(PREFIX)/lib/
	@install -m 755 $(BUILD)/libweir.so $(DESTDIR)$(PREFIX)/lib/libweir.so.$(SOVERSION)
	@ln -sf libweir.so.$(SOVERSION) $(DESTDIR)$(PREFIX)/lib/libweir.so
	@sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@LIBS_PRIVATE@|$(LIB_PRIVATE)|' weir.pc.in \
		> $(DESTDIR)$(PREFIX)/lib/pkgconfig/weir.pc
endif

format: ## let clang-format mend what lint would refuse
	@tools/setup.sh lint
	@find src include tests bench examples -name '*.[ch]' -print0 | xargs -0 -r $(DEPS)/venv/bin/clang-format -i

bench: ## Weir beside its yardsticks and its peers on this machine (BENCH="--quick"; bench/README.md)
	@tools/setup.sh build test bench
	@$(MAKE) $(JOBS) --no-print-directory all $(BENCH_BINS) $(MODELS)
	@WEIR_BUILD=$(abspath $(BUILD)) PYTHONDONTWRITEBYTECODE=1 $(DEPS)/venv/bin/python bench/run.py $(BENCH)

gpu: ## fetch ONNX Runtime with its CUDA provider and the CUDA libraries into .deps/gpu (1.6 GB), for device: cuda:N
	@tools/setup.sh build gpu

models-check: ## train and export the example models again and compare (needs their frameworks)
	@python3 examples/models/check.py

clean: ## forget what was built (.deps and weir-data stay)
	rm -rf build

# ---- rules ----------------------------------------------------------------------------------------------------------

$(BUILD)/weir: $(OBJS) $(EMBED_OBJS) $(BUILD)/flags
	@echo "  LINK  $@"
	@$(call link,-pie $(RPATH_BUILD)) $(OBJS) $(EMBED_OBJS) $(LIBS)

$(BUILD)/obj/%.o: src/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(call compile)

# The shop and its tests see include/ and their own folder, nothing of src/.
$(BUILD)/shop/obj/%.o: private cppflags := $(subst -Isrc,-Iexamples/shop,$(cppflags))
$(BUILD)/shop/obj/%.o: examples/shop/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(call compile)

$(BUILD)/tests/shop/%.o: private cppflags := $(subst -Isrc,-Iexamples/shop,$(cppflags))
$(BUILD)/tests/%.o: tests/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(call compile,-Itests)

$(BUILD)/bench/%.o: bench/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(call compile)

embed_name = embed_$(shell printf %s '$(1)' | sed 's/[^A-Za-z0-9]/_/g')
define embed
	@mkdir -p $(@D)
	@echo "  EMBED $<"
	@{ n=$(call embed_name,$*); for s in $$n $${n}_size; do \
		echo ".globl $$s"; echo ".hidden $$s"; echo ".type $$s, @object"; done; \
		echo '.section .rodata.embed, "a", @progbits'; \
		echo ".balign 16"; echo "$$n:"; echo '.incbin "$<"'; echo "$${n}_end: .byte 0"; echo ".size $$n, . - $$n"; \
		echo ".balign 8"; echo "$${n}_size: .quad $${n}_end - $$n"; echo ".size $${n}_size, 8"; \
		echo '.section .note.GNU-stack, "", @progbits'; } > $(@:.o=.S)
	@$(CC) -c -o $@ $(@:.o=.S)
endef

$(BUILD)/obj/embed/%.o: src/% $(BUILD)/flags
	$(embed)

$(BUILD)/shop/obj/embed/%.o: examples/shop/% $(BUILD)/flags
	$(embed)

$(BUILD)/house.a: $(HOUSE_OBJS)
	@echo "  AR    $@"
	@rm -f $@ && ar rcs $@ $^

$(BUILD)/support.a: $(SUPPORT_OBJS)
	@rm -f $@ && ar rcs $@ $^

$(TEST_BINS): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/support.a $(BUILD)/house.a $(BUILD)/flags
	@echo "  LINK  $@"
	@$(call link,-pie $(RPATH_BUILD)) $(filter %.o,$^) -Wl,--start-group $(BUILD)/support.a $(BUILD)/house.a \
		-Wl,--end-group -lcmocka $(LIBS)

$(BUILD)/shop/shop: $(SHOP_OBJS) $(SHOP_EMBED_OBJS) $(BUILD)/libweir.so $(BUILD)/flags
	@echo "  LINK  $@"
	@$(call link,-pie $(RPATH_BUILD):'$$ORIGIN'/..) $(filter %.o,$^) $(BUILD)/libweir.so $(SHOP_LIBS)

$(SHOP_TEST_BINS): $(BUILD)/%: $(BUILD)/%.o $(SHOP_PARTS) $(BUILD)/libweir.so $(BUILD)/flags
	@echo "  LINK  $@"
	@$(call link,-pie $(RPATH_BUILD):'$$ORIGIN'/../..) $(filter %.o,$^) $(BUILD)/libweir.so -lcmocka $(SHOP_LIBS)

# tests/sim puts its own clock, loop and log in the place of the house's: they come before the archive, whose members of
# those names are then not asked for; chance is taken from the seed.
$(BUILD)/tests/sim/world_test: $(SIM_OBJS)
$(BUILD)/tests/sim/world_test: private ldflags += -Wl,--wrap=random_u64

$(PROGRAM_BINS) $(BENCH_BINS): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/support.a $(BUILD)/house.a $(BUILD)/flags
	@echo "  LINK  $@"
	@$(call link,-pie $(RPATH_BUILD)) $< -Wl,--start-group $(BUILD)/support.a $(BUILD)/house.a \
		-Wl,--end-group $(LIBS)

# Without the sanitizer: its own malloc and this one can not both be in front.
$(PRELOADS): $(BUILD)/%.so: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	@$(CC) -D_GNU_SOURCE= -std=gnu17 -O2 -g $(WARN) -fPIC -fvisibility=hidden -shared -pthread -o $@ $< -ldl

# The installed server finds its libraries in lib/weir beside bin, and nowhere in a build tree.
$(BUILD)/install/weir: $(BUILD)/weir
	@mkdir -p $(@D)
	@$(call link,-pie -Wl$(comma)--disable-new-dtags -Wl$(comma)-rpath$(comma)'$$ORIGIN/../lib/weir:$$ORIGIN/../lib/weir/gpu') \
		$(OBJS) $(EMBED_OBJS) $(LIBS)

# libweir is client/weir.c and what that calls, which by way of inproc.c is the whole house, made into one object whose
# hidden symbols are local: the static library then shows an application the weir_* calls and nothing else, like the
# shared one.
SOVERSION := 0
LIB_NEEDS := -lsqlite3 -lyaml -lseccomp -lcrypto -ldl -lm -pthread
LIB_PRIVATE := -L$${libdir}/weir -l:libyyjson.so.0 $(LIB_NEEDS)
LIB_OBJS := $(filter-out $(BUILD)/obj/cli/%,$(HOUSE_OBJS))

$(BUILD)/lib/parts.a: $(LIB_OBJS)
	@mkdir -p $(@D)
	@rm -f $@ && ar rcs $@ $^

# llhttp is taken in: it is a static library that the target machine need not have.
$(BUILD)/lib/weir.o: $(BUILD)/lib/parts.a
	@$(CC) -r -nostdlib -o $@.tmp $(filter $(BUILD)/obj/client/%,$(OBJS)) $(BUILD)/lib/parts.a -L$(DEPS)/lib -l:libllhttp.a
	@objcopy --localize-hidden --wildcard --localize-symbol='llhttp_*' \
		--localize-symbol='llhttp__*' $@.tmp $@
	@rm -f $@.tmp

$(BUILD)/libweir.a: $(BUILD)/lib/weir.o
	@echo "  AR    $@"
	@rm -f $@ && ar rcs $@ $^

$(BUILD)/libweir.so: $(BUILD)/lib/weir.o $(BUILD)/flags
	@echo "  LINK  $@"
	@$(call link,-shared -Wl$(comma)-soname$(comma)libweir.so.$(SOVERSION) -Wl$(comma)-z$(comma)defs \
		-Wl$(comma)--disable-new-dtags -Wl$(comma)-rpath$(comma)'$$ORIGIN/weir:$$ORIGIN'/$(rel_deps)) $< \
		-L$(DEPS)/lib -lyyjson $(LIB_NEEDS)
	@ln -sf $(@F) $@.$(SOVERSION)

# For building against the tree itself: PKG_CONFIG_PATH=build.
$(BUILD)/weir.pc: weir.pc.in Makefile $(BUILD)/flags
	@sed -e '/^prefix=/d' -e '/^exec_prefix=/d' -e 's|^libdir=.*|libdir=$(abspath $(BUILD))|' \
		-e 's|^includedir=.*|includedir=$(abspath include)|' -e 's|@VERSION@|$(VERSION)|' \
		-e 's|@LIBS_PRIVATE@|-L$(abspath $(DEPS))/lib -lyyjson $(LIB_NEEDS)|' $< > $@

# Everything is rebuilt when the compiler or a flag changes.
FLAGS_NOW = $(CC) $(cppflags) $(CPPFLAGS) $(cflags) $(CFLAGS) $(ldflags) $(LDFLAGS)
# Building alone sets up too: the stamp of the last part says that everything is there.
$(DEPS)/.onnxruntime:
	@tools/setup.sh build

$(BUILD)/flags: FORCE | $(DEPS)/.onnxruntime
	@mkdir -p $(@D)
	@echo "$(subst ",\",$(FLAGS_NOW))" | cmp -s - $@ || echo "$(subst ",\",$(FLAGS_NOW))" > $@

.SECONDARY:
-include $(OBJS:.o=.d) $(SHOP_OBJS:.o=.d) $(SHOP_TEST_BINS:%=%.d) $(SUPPORT_OBJS:.o=.d) $(SIM_OBJS:.o=.d) $(TEST_SRCS:%.c=$(BUILD)/%.d) $(PROGRAM_BINS:%=%.d) $(BENCH_BINS:%=%.d)

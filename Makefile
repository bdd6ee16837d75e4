# libsae: no configure, no recursion. `make help` lists the targets.

prefix      ?= /usr/local
exec_prefix ?= $(prefix)
bindir      ?= $(exec_prefix)/bin
libdir      ?= $(exec_prefix)/lib
includedir  ?= $(prefix)/include
INSTALL     ?= install
OBJCOPY     ?= objcopy
PKG_CONFIG  ?= pkg-config
PYTHON      ?= python3
CROSS_CC    ?= aarch64-linux-gnu-gcc
FUZZ_CC     ?= clang
CFLAGS      ?= -O2 -g
comma       := ,
# The BLIS that sae_gemm may use: BLIS=PATH of a serial libblis.a, whose headers lie in the include folder beside its lib folder. Without a path
# Debian's is taken, for which there is no .pc: the compiler is asked. BLIS=0 builds without it, and so does a machine that lacks it.
BLIS        ?=
# The language model, SAE and catalog that the demo shows.
WORLD       ?= examples/world/files
# SAN=address,undefined or SAN=thread, or BLIS=0: a build of its own, beside the plain one.
B           ?= build$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))$(if $(filter 0,$(BLIS)),/no-blis)

# What the code needs to be itself; CFLAGS stays the caller's.
WARN       := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef
SAE_CFLAGS := -std=c11 $(WARN) -D_GNU_SOURCE -fPIC -fvisibility=hidden -ffp-contract=off -Iinclude $(WERROR)
SAN_FLAGS  := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all)
COMPILE     = $(CC) $(CPPFLAGS) $(CFLAGS) $(SAE_CFLAGS) -MMD -MP $(SAN_FLAGS)
LINK        = $(CC) $(CFLAGS) $(LDFLAGS) $(SAN_FLAGS)
# SQLITE=0: without catalogs of features.
SQLITE      ?= 1
ON_SQLITE    = $(if $(filter-out 0,$(SQLITE)),$(1))
CORE_LIBS    = -lm -lpthread
# What the readers of files need.
IO_PKGS      = zlib yaml-0.1
PRIVATE_LIBS = $(call ON_SQLITE,$(call pkg,--libs,sqlite3)) $(call pkg,--libs,$(IO_PKGS)) $(CORE_LIBS)

version_of = $(shell sed -n 's/^.define SAE_VERSION_$(1) //p' include/sae.h)
VERSION := $(call version_of,MAJOR).$(call version_of,MINOR).$(call version_of,PATCH)
SONAME  := libsae.so.$(call version_of,MAJOR)

# The archive and its headers, found when a recipe runs, since `make check` may have installed it.
blis_archive = $(if $(BLIS),$(filter-out 0,$(BLIS)),$(realpath $(shell $(CC) -print-file-name=blis-serial/libblis.a)))
blis_flags   = $(addprefix -DSAEI_BLIS -fno-lto -isystem ,$(subst /lib/,/include/,$(dir $(blis_archive))))

LIB_SRC  := $(filter-out $(if $(call ON_SQLITE,1),,$(filter-out %/absent.c,$(wildcard lib/features/*.c))),$(wildcard lib/*/*.c))
# What is linked: BLIS comes in with the one object that calls it.
LIB_OBJ  := $(patsubst $(B)/lib/gemm/blis.o,$(B)/lib/blis.o,$(LIB_SRC:%.c=$(B)/%.o))
# What needs no files and no library: all except the readers, the writers, fingerprints (xxhash) and catalogs.
CORE_SRC := $(filter-out $(filter-out %/parts.c,$(wildcard lib/io/*.c)) lib/features/% lib/save/% lib/model/open.c lib/model/fingerprint.c,$(LIB_SRC))
CORE_OBJ := $(filter $(CORE_SRC:%.c=$(B)/%.o) $(B)/lib/blis.o,$(LIB_OBJ))
TOOL_OBJ := $(patsubst %.c,$(B)/%.o,$(wildcard src/*.c))
SUPPORT  := $(patsubst %.c,$(B)/%.o,$(wildcard tests/support/*.c))
# Tests: the core ones need libc and the core alone, the api ones see <sae.h> and the .so, the others see lib/ and the archive.
CORE_TESTS  := $(B)/tests/test_kernels $(B)/tests/test_bits
API_TESTS   := $(patsubst %.c,$(B)/%,$(wildcard tests/api_*.c))
UNIT_TESTS  := $(filter-out $(CORE_TESTS),$(patsubst %.c,$(B)/%,$(wildcard tests/test_*.c)))
CROSS_TESTS := $(CORE_TESTS:$(B)/tests/%=$(B)/aarch64/%)
FUZZERS     := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
REPLAYS     := $(FUZZERS:%=$(B)/tests/fuzz/%)
C_TESTS     := $(CORE_TESTS) $(UNIT_TESTS) $(API_TESTS) $(REPLAYS)

Q   := $(if $(V),,@)
say  = $(if $(V),,@printf '  %-5s %s\n' $(1) $@)
# $(call pkg,--libs,NAME...): asked when a recipe runs, so that `make check` may install the package first.
pkg  = $(if $(shell $(PKG_CONFIG) --exists $(2) && echo yes),$(shell $(PKG_CONFIG) $(1) $(2)),$(error \
    $(PKG_CONFIG) does not find $(2): scripts/install-deps.sh installs what is missing, or names the packages))
# `make check` and `make demo` work alone on a fresh machine: what is missing is installed before anything is compiled.
DEPS := $(if $(filter check check-ecosystem demo bench fuzz world world-check,$(MAKECMDGOALS)),deps)

.DEFAULT_GOAL := all
all: $(B)/libsae.a $(B)/$(SONAME) $(B)/sae ## build the library and the tool

# One file, one instruction set: only these see an -m flag. Only catalogs see SQLite, only readers of files their libraries.
on_x86 = $(if $(filter x86_64-%,$(shell $(CC) -dumpmachine)),$(1))
%.o: EXTRA = $(if $(findstring /lib/features/,$@),$(call ON_SQLITE,-DSAEI_SQLITE $(call pkg,--cflags,sqlite3)))$(if \
    $(findstring /lib/io/,$@),$(call pkg,--cflags,$(IO_PKGS)))
%/lib/simd/kernels_avx2.o %/lib/simd/kernels_avx2_vnni.o: EXTRA = $(call on_x86,-mavx2 -mfma -mf16c)
%/lib/simd/kernels_avx512.o %/lib/simd/kernels_avx512_vnni.o: EXTRA = $(call on_x86,-mavx512f -mavx512bw -mavx512dq -mavx512vl \
    -mfma -mf16c)

$(B)/lib/%.o: lib/%.c | $(DEPS)
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(COMPILE) -Ilib $(EXTRA) -c -o $@ $<

# What the backend needs of the archive is linked into its object and made local: no bli_ symbol leaves libsae.so or libsae.a, and a host's own
# BLIS stays another.
$(B)/lib/gemm/blis.o: EXTRA = $(blis_flags)
$(B)/lib/blis.o: $(B)/lib/gemm/blis.o
	$(call say,BLIS)
	$(Q)$(LD) -r -o $@ $< $(blis_archive) && $(OBJCOPY) --wildcard --keep-global-symbol='saei_*' $@

$(B)/libsae.a: $(LIB_OBJ)
	$(call say,AR)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

# A sanitizer's functions come from the program, so -z defs would refuse them.
$(B)/$(SONAME): $(LIB_OBJ) lib/libsae.map
	$(call say,LINK)
	$(Q)$(LINK) -shared -Wl,-soname,$(SONAME) -Wl,--version-script=lib/libsae.map -Wl,--no-undefined-version \
	    $(if $(SAN),,-Wl$(comma)-z$(comma)defs) -o $@ $(LIB_OBJ) $(PRIVATE_LIBS)
	$(Q)ln -sf $(SONAME) $(B)/libsae.so

# The tool sees the public headers and the shared library, as any program would.
$(B)/src/%.o: EXTRA = $(call pkg,--cflags,jansson minizip zlib)
$(B)/src/%.o: src/%.c | $(DEPS)
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(COMPILE) $(EXTRA) -c -o $@ $<
$(B)/sae: $(TOOL_OBJ) $(B)/$(SONAME)
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $(TOOL_OBJ) -L$(B) -lsae $(call pkg,--libs,jansson minizip zlib) -lm -Wl,-rpath,'$$ORIGIN:$$ORIGIN/../lib'

# The engine is a program like any other: public headers, shared library.
ENGINE_OBJ := $(patsubst %.c,$(B)/%.o,$(wildcard examples/engine/*.c))
$(B)/examples/%.o: examples/%.c | $(DEPS)
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(COMPILE) $(call pkg,--cflags,jansson) -c -o $@ $<
$(B)/engine: $(ENGINE_OBJ) $(B)/$(SONAME)
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $(ENGINE_OBJ) -L$(B) -lsae $(call pkg,--libs,jansson) -lm -Wl,-rpath,'$$ORIGIN'
engine: $(B)/engine ## build the reference inference engine of examples/engine

# ---- tests ----
$(B)/tests/%.o: EXTRA = $(if $(filter $(B)/tests/api_%,$@),,-Ilib) -Itests
$(B)/tests/%.o: tests/%.c | $(DEPS)
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(COMPILE) $(EXTRA) -c -o $@ $<
$(CORE_TESTS): %: %.o $(CORE_OBJ)
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $^ $(CORE_LIBS)
$(UNIT_TESTS) $(B)/tests/soak_screen: %: %.o $(SUPPORT) $(B)/libsae.a
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $^ $(call pkg,--libs,check jansson) $(PRIVATE_LIBS)
$(API_TESTS): %: %.o $(SUPPORT) $(B)/$(SONAME)
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $< $(SUPPORT) -L$(B) -lsae -Wl,-rpath,$(abspath $(B)) $(call pkg,--libs,check jansson) $(PRIVATE_LIBS)
$(REPLAYS): %: %.o $(B)/tests/fuzz/fuzz.o $(B)/tests/fuzz/replay.o $(B)/libsae.a
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $^ $(PRIVATE_LIBS)
$(CROSS_TESTS): $(B)/aarch64/%: tests/%.c $(CORE_SRC) $(wildcard include/*.h include/*/*.h lib/*/*.h) | $(DEPS)
	@mkdir -p $(@D)
	$(call say,CROSS)
	$(Q)$(CROSS_CC) -O2 -static $(SAE_CFLAGS) -Ilib -Itests -o $@ $< $(CORE_SRC) $(CORE_LIBS)

# ---- fuzzing: libFuzzer with address and undefined, objects of its own (clang takes minutes for the kernels with undefined) ----
FUZZ_SAN = address$(if $(findstring /kernels_,$@),,$(comma)undefined)
$(B)/fuzz/%.o: %.c | $(DEPS)
	@mkdir -p $(@D)
	$(call say,FUZZ)
	$(Q)$(FUZZ_CC) -O1 -g $(SAE_CFLAGS) -MMD -MP -fsanitize=fuzzer-no-link,$(FUZZ_SAN) -fno-sanitize-recover=all -Ilib $(EXTRA) -c -o $@ $<
$(FUZZERS:%=$(B)/fuzz/%): $(B)/fuzz/%: $(B)/fuzz/tests/fuzz/%.o $(B)/fuzz/tests/fuzz/fuzz.o $(LIB_SRC:%.c=$(B)/fuzz/%.o)
	$(call say,LINK)
	$(Q)$(FUZZ_CC) -g -fsanitize=fuzzer,address,undefined -o $@ $^ $(PRIVATE_LIBS)

check: deps all $(B)/engine $(C_TESTS) $(if $(SAN),,$(CROSS_TESTS)) $(B)/venv/ready ## run all tests; SAE_TEST_DATA=DIR adds real data
	$(Q)B=$(B) SAN=$(SAN) CC='$(CC)' tests/run.sh all
check-c: all $(C_TESTS) ## run the C tests alone (SAN=thread or SAN=address,undefined too)
	$(Q)B=$(B) SAN=$(SAN) tests/run.sh c
check-ecosystem: all $(B)/engine $(B)/venv-ecosystem/ready $(B)/venv-llamacpp/ready ## compare with torch, SAELens and llama.cpp, try the page in Chromium (large, cached)
	$(Q)B=$(B) tests/run.sh ecosystem
fuzz: $(FUZZERS:%=$(B)/fuzz/%) ## fuzz each target for FUZZ_SECONDS (60)
	$(Q)for f in $(FUZZERS); do mkdir -p $(B)/fuzz/corpus/$$f && \
	    $(B)/fuzz/$$f -max_total_time=$(or $(FUZZ_SECONDS),60) -timeout=10 -verbosity=0 -print_final_stats=1 \
	        -artifact_prefix=$(B)/fuzz/ $(B)/fuzz/corpus/$$f tests/fuzz/corpus/$$f || exit 1; done
soak: $(B)/tests/soak_screen ## compare screened and dense codes by the million; SOAK='--wide 0 --rows 1e7 --pairs 1e9 --seconds 60'
	$(Q)$(B)/tests/soak_screen $(SOAK)
bench: all $(B)/venv-bench/ready ## measure libsae and its peers; writes $(B)/bench.json
	$(Q)$(B)/venv-bench/bin/python bench/run.py --build $(B)
demo: all $(B)/engine ## install what is missing, build, and show the main job; writes $(B)/demo.html
	$(Q)$(PYTHON) examples/demo/demo.py --build $(B) --world $(WORLD)
# With this libsae, not an installed one.
HERE = LIBSAE_LIBRARY=$(abspath $(B))/libsae.so PYTHONPATH=bindings/python
world: all $(B)/engine $(B)/venv-ecosystem/ready ## grow the demo's world anew into $(B)/world (torch and SAELens; 13 minutes)
	$(Q)rm -rf $(B)/world
	$(Q)$(HERE) $(B)/venv-ecosystem/bin/python examples/world/make_world.py $(B)/world --tools $(B)
world-check: all $(B)/venv/ready ## measure every figure of the world's card from its files (a few minutes)
	$(Q)$(HERE) $(B)/venv/bin/python examples/world/check_world.py $(WORLD)
storeabi: $(B)/$(SONAME) ## record the ABI of this release
	$(Q)tests/scripts/check-abi.sh $(B) store
format: $(B)/venv/ready ## lay out C as .clang-format says and Python as ruff.toml does
	$(Q)git ls-files -co --exclude-standard '*.c' '*.h' | xargs $(B)/venv/bin/clang-format -i
	$(Q)$(B)/venv/bin/ruff format -q .
deps:
	$(Q)scripts/install-deps.sh $(filter check check-ecosystem demo bench fuzz,$(patsubst world%,check-ecosystem,$(MAKECMDGOALS)))

VENV = $(Q)$(PYTHON) -m venv $(@D) && $(@D)/bin/pip -qq --disable-pip-version-check install -r $< && touch $@
$(B)/venv/ready: tests/requirements.txt | $(DEPS)
	$(VENV)
# Large: where it cannot be had, tests/run.sh says that the comparison is skipped.
$(B)/venv-ecosystem/ready: tests/ecosystem/requirements.txt | $(DEPS)
	$(VENV) || rm -f $@
$(B)/venv-llamacpp/ready: tests/llamacpp/requirements.txt | $(DEPS)
	$(VENV) && tests/llamacpp/headers.sh $(@D) || rm -f $@
$(B)/venv-bench/ready: bench/requirements.txt | $(DEPS)
	$(VENV)

install: all ## install into $(DESTDIR)$(prefix)
	$(INSTALL) -d $(DESTDIR)$(bindir) $(DESTDIR)$(libdir)/pkgconfig $(DESTDIR)$(includedir)/sae
	$(INSTALL) -m 644 include/sae.h $(DESTDIR)$(includedir)
	$(INSTALL) -m 644 include/sae/*.h $(DESTDIR)$(includedir)/sae
	$(INSTALL) -m 644 $(B)/libsae.a $(DESTDIR)$(libdir)
	$(INSTALL) -m 755 $(B)/$(SONAME) $(DESTDIR)$(libdir)/libsae.so.$(VERSION)
	ln -sf libsae.so.$(VERSION) $(DESTDIR)$(libdir)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(libdir)/libsae.so
	$(INSTALL) -m 755 $(B)/sae $(DESTDIR)$(bindir)
	sed -e 's|@prefix@|$(prefix)|; s|@libdir@|$(libdir)|; s|@includedir@|$(includedir)|' \
	    -e 's|@version@|$(VERSION)|; s|@private_libs@|$(PRIVATE_LIBS)|' sae.pc.in >$(DESTDIR)$(libdir)/pkgconfig/sae.pc
uninstall: ## remove what install put there
	rm -rf $(DESTDIR)$(includedir)/sae.h $(DESTDIR)$(includedir)/sae $(DESTDIR)$(libdir)/libsae.a $(DESTDIR)$(libdir)/libsae.so \
	    $(DESTDIR)$(libdir)/$(SONAME) $(DESTDIR)$(libdir)/libsae.so.$(VERSION) $(DESTDIR)$(libdir)/pkgconfig/sae.pc $(DESTDIR)$(bindir)/sae
clean: ## remove the build
	rm -rf $(B)
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 18

-include $(wildcard $(B)/*/*.d $(B)/*/*/*.d $(B)/fuzz/*/*/*.d)
.SECONDARY:
.DELETE_ON_ERROR:
.PHONY: all check check-c check-ecosystem fuzz soak bench demo engine world world-check storeabi format deps install uninstall clean help

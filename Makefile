# libsae: no configure, no recursion. `make help` lists the targets.

prefix      ?= /usr/local
exec_prefix ?= $(prefix)
bindir      ?= $(exec_prefix)/bin
libdir      ?= $(exec_prefix)/lib
includedir  ?= $(prefix)/include
INSTALL     ?= install
PKG_CONFIG  ?= pkg-config
PYTHON      ?= python3
B           ?= build$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))
CFLAGS      ?= -O2 -g
comma       := ,

# What the code needs to be itself; CFLAGS stays the caller's.
WARN       := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef
SAE_CFLAGS := -std=c11 $(WARN) -D_GNU_SOURCE -fPIC -fvisibility=hidden -ffp-contract=off -Iinclude -MMD -MP
SAN_FLAGS  := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all)

version_of = $(shell sed -n 's/^.define SAE_VERSION_$(1) //p' include/sae.h)
VERSION := $(call version_of,MAJOR).$(call version_of,MINOR).$(call version_of,PATCH)
SONAME  := libsae.so.$(call version_of,MAJOR)

MACHINE := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
JANSSON_CFLAGS = $(shell $(PKG_CONFIG) --cflags jansson)
JANSSON_LIBS   = $(shell $(PKG_CONFIG) --libs jansson)

LIB_SRC := $(wildcard lib/*/*.c)
LIB_OBJ := $(LIB_SRC:%.c=$(B)/%.o)
# All of the library that needs nothing but libc: everything except the readers.
CORE_SRC := $(filter-out lib/io/% lib/model/open.c,$(LIB_SRC))
CORE_OBJ := $(CORE_SRC:%.c=$(B)/%.o)
TOOL_SRC := $(wildcard src/*.c)
SUPPORT_SRC := $(wildcard tests/support/*.c)
UNIT_TESTS := $(patsubst tests/%.c,$(B)/tests/%,$(filter-out tests/test_kernels.c tests/test_bits.c,$(wildcard tests/test_*.c)))
API_TESTS  := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/api_*.c))
CORE_TESTS := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/test_kernels.c tests/test_bits.c))

Q   := $(if $(V),,@)
say  = $(if $(V),,@printf '  %-5s %s\n' $(1) $@)

.DEFAULT_GOAL := all
all: $(B)/libsae.a $(B)/$(SONAME) $(if $(TOOL_SRC),$(B)/sae) ## build the library and the tool

# One file, one instruction set: only these see an -m flag.
ifeq ($(MACHINE),x86_64)
$(B)/lib/simd/kernels_avx2.o:   ISA := -mavx2 -mfma -mf16c
$(B)/lib/simd/kernels_avx512.o: ISA := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c
endif
$(B)/lib/io/%.o: EXTRA = $(JANSSON_CFLAGS)
$(B)/lib/%.o: lib/%.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(SAE_CFLAGS) $(SAN_FLAGS) -Ilib $(EXTRA) $(ISA) -c -o $@ $<

$(B)/libsae.a: $(LIB_OBJ)
	$(call say,AR)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(B)/$(SONAME): $(LIB_OBJ) lib/libsae.map
	$(call say,LINK)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) $(SAN_FLAGS) -shared -Wl,-soname,$(SONAME) -Wl,--version-script=lib/libsae.map \
	    -Wl,--no-undefined-version $(if $(SAN),,-Wl$(comma)-z$(comma)defs) -o $@ $(LIB_OBJ) $(JANSSON_LIBS) -lm -lpthread
	$(Q)ln -sf $(SONAME) $(B)/libsae.so

.SECONDARY:
-include $(wildcard $(B)/*/*.d $(B)/*/*/*.d)

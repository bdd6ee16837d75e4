#include "io/pickle.h"

#include <string.h>

#include "io/json.h"

#define TYPED(class, dtype, element, bytes)                               \
    {"torch", class, "torch." dtype, SAEI_PICKLE_CLASS, element, bytes},  \
    {                                                                     \
        "torch", dtype, "torch." dtype, SAEI_PICKLE_DTYPE, element, bytes \
    }
#define UNTYPED(dtype, element, bytes)                                    \
    {                                                                     \
        "torch", dtype, "torch." dtype, SAEI_PICKLE_DTYPE, element, bytes \
    }

/* All that torch.save writes for state dicts of dense tensors. */
const saei_pickle_global saei_pickle_globals[] = {
    {"collections", "OrderedDict", NULL, SAEI_PICKLE_ORDERED_DICT, SAEI_OTHER, 0},
    {"torch._utils", "_rebuild_tensor", NULL, SAEI_PICKLE_REBUILD, SAEI_OTHER, 0},
    {"torch._utils", "_rebuild_tensor_v2", NULL, SAEI_PICKLE_REBUILD_V2, SAEI_OTHER, 0},
    {"torch._utils", "_rebuild_tensor_v3", NULL, SAEI_PICKLE_REBUILD_V3, SAEI_OTHER, 0},
    {"torch._utils", "_rebuild_parameter", NULL, SAEI_PICKLE_PARAMETER, SAEI_OTHER, 0},
    {"torch._utils", "_rebuild_parameter_with_state", NULL, SAEI_PICKLE_PARAMETER, SAEI_OTHER, 0},
    {"torch", "Size", NULL, SAEI_PICKLE_SIZE, SAEI_OTHER, 0},
    {"torch", "device", NULL, SAEI_PICKLE_DEVICE, SAEI_OTHER, 0},
    {"torch.storage", "UntypedStorage", "bytes", SAEI_PICKLE_UNTYPED, SAEI_OTHER, 1},
    TYPED("FloatStorage", "float32", SAEI_F32, 4),
    TYPED("HalfStorage", "float16", SAEI_F16, 2),
    TYPED("BFloat16Storage", "bfloat16", SAEI_BF16, 2),
    TYPED("DoubleStorage", "float64", SAEI_F64, 8),
    TYPED("LongStorage", "int64", SAEI_I64, 8),
    TYPED("IntStorage", "int32", SAEI_I32, 4),
    TYPED("ShortStorage", "int16", SAEI_I16, 2),
    TYPED("CharStorage", "int8", SAEI_I8, 1),
    TYPED("ByteStorage", "uint8", SAEI_U8, 1),
    TYPED("BoolStorage", "bool", SAEI_BOOL, 1),
    UNTYPED("float8_e4m3fn", SAEI_F8_E4M3, 1),
    UNTYPED("float8_e5m2", SAEI_F8_E5M2, 1),
    UNTYPED("float8_e4m3fnuz", SAEI_OTHER, 1),
    UNTYPED("float8_e5m2fnuz", SAEI_OTHER, 1),
    UNTYPED("float8_e8m0fnu", SAEI_OTHER, 1),
    UNTYPED("uint16", SAEI_OTHER, 2),
    UNTYPED("uint32", SAEI_OTHER, 4),
    UNTYPED("uint64", SAEI_OTHER, 8),
};

/* Values that need no opcode of their own, at the front of every pickle's. */
enum { MARK, NONE, FALSE, TRUE, SINGLE_VALUES };

enum { LONGEST_INTEGER = 128 }; /* it is converted wherever it stands, and a memo can put it in many places */

typedef struct parser {
    saei_pickle *out;
    const saei_host *host;
    const unsigned char *text;
    size_t begin, at, bytes;
    size_t op; /* offset of the opcode under way */
    uint32_t *stack, *memo;
    uint32_t n_stack, room_stack, n_memo, room_memo;
    bool stopped;
    const char *name;
    sae_error *err;
} parser;

static sae_status damaged(const parser *p, const char *why)
{
    return saei_fail(p->err, SAE_E_FORMAT, "%s: the pickle is damaged at byte %zu: %s", p->name, p->op, why);
}

/* ---- what the reader keeps ---- */

/* Makes room for one more. Grows by a half: at most 2.5 times what is used is held, and that for the moment of a copy. */
static sae_status grow(const parser *p, void **list, uint32_t *room, uint32_t n, size_t each)
{
    if (n >= SAEI_PICKLE_MOST)
        return saei_fail(p->err, SAE_E_FORMAT, "%s: its pickle holds more than %d values: no state dict of an SAE does", p->name,
                         SAEI_PICKLE_MOST);
    if (n < *room)
        return SAE_OK;
    const uint32_t more = n < 64 ? 64 : n + n / 2;
    void *larger = saei_alloc(p->host, more * each);
    if (!larger)
        return saei_fail(p->err, SAE_E_NOMEM, "no memory for the %u values of the pickle in %s", (unsigned)n + 1, p->name);
    if (*room)
        memcpy(larger, *list, n * each);
    saei_dealloc(p->host, *list, *room * each);
    *list = larger;
    *room = more;
    return SAE_OK;
}

static sae_status push(parser *p, uint32_t value)
{
    void *stack = p->stack;
    const sae_status status = grow(p, &stack, &p->room_stack, p->n_stack, sizeof *p->stack);
    p->stack = stack;
    if (!status)
        p->stack[p->n_stack++] = value;
    return status;
}

static sae_status keep(parser *p, uint32_t *index, saei_pickle_value value)
{
    void *v = p->out->v;
    const sae_status status = grow(p, &v, &p->out->room, p->out->n, sizeof *p->out->v);
    p->out->v = v;
    if (status)
        return status;
    *index = p->out->n++;
    p->out->v[*index] = value;
    return SAE_OK;
}

static sae_status push_new(parser *p, saei_pickle_value value)
{
    uint32_t index;
    const sae_status status = keep(p, &index, value);
    return status ? status : push(p, index);
}

/* Puts a value behind the last of a container. */
static sae_status append(parser *p, uint32_t container, uint32_t value)
{
    saei_pickle *out = p->out;
    void *items = out->items;
    const sae_status status = grow(p, &items, &out->room_items, out->n_items, sizeof *out->items);
    out->items = items;
    if (status)
        return status;
    saei_pickle_value *into = &out->v[container];
    out->items[out->n_items] = (saei_pickle_item){value, 0};
    if (into->n)
        out->items[into->as.items.last].next = out->n_items;
    else
        into->as.items.first = out->n_items;
    into->as.items.last = out->n_items++;
    into->n++;
    return SAE_OK;
}

static sae_status pop(parser *p, uint32_t *value)
{
    *value = MARK;
    if (!p->n_stack || p->stack[p->n_stack - 1] == MARK)
        return damaged(p, "its stack lacks a value");
    *value = p->stack[--p->n_stack];
    return SAE_OK;
}

/* The place of the last mark on the stack. */
static sae_status find_mark(const parser *p, uint32_t *at)
{
    for (*at = p->n_stack; *at; --*at)
        if (p->stack[*at - 1] == MARK) {
            --*at;
            return SAE_OK;
        }
    return damaged(p, "its stack lacks a mark");
}

static uint32_t kind_of(const parser *p, uint32_t value)
{
    return p->out->v[value].kind;
}

/* ---- what follows an opcode ---- */

static sae_status take(parser *p, size_t *at, size_t n)
{
    *at = p->at;
    if (n > p->bytes - p->at)
        return damaged(p, "it is cut off");
    p->at += n;
    return SAE_OK;
}

static uint64_t little_endian(const unsigned char *p, size_t n)
{
    uint64_t value = 0;
    while (n--)
        value = value << 8 | p[n];
    return value;
}

static sae_status take_number(parser *p, uint64_t *out, uint32_t width)
{
    size_t at;
    const sae_status status = take(p, &at, width);
    *out = status ? 0 : little_endian(p->text + at, width);
    return status;
}

/* A length of `width` bytes, and the offset of that many bytes. */
static sae_status take_counted(parser *p, size_t *at, uint32_t *n, uint32_t width)
{
    uint64_t length;
    sae_status status;
    if ((status = take_number(p, &length, width)))
        return status;
    if (length > UINT32_MAX || length > p->bytes - p->at)
        return damaged(p, "it is cut off inside a string");
    *n = (uint32_t)length;
    return take(p, at, (size_t)length);
}

static sae_status take_line(parser *p, size_t *at, size_t *n)
{
    const unsigned char *end = p->at < p->bytes ? memchr(p->text + p->at, '\n', p->bytes - p->at) : NULL;
    *at = p->at;
    *n = 0;
    if (!end)
        return damaged(p, "it is cut off inside a name");
    *n = (size_t)(end - (p->text + p->at));
    p->at += *n + 1;
    return SAE_OK;
}

/* ---- opcodes ---- */

static sae_status do_proto(parser *p, uint32_t arg)
{
    uint64_t protocol;
    const sae_status status = take_number(p, &protocol, arg);
    if (status)
        return status;
    return protocol < 2 || protocol > 5 ? damaged(p, "its protocol is none of 2 to 5") : SAE_OK;
}

static sae_status do_skip(parser *p, uint32_t arg)
{
    size_t at;
    return take(p, &at, arg);
}

static sae_status do_stop(parser *p, uint32_t arg)
{
    (void)arg;
    const sae_status status = pop(p, &p->out->root);
    if (status)
        return status;
    if (p->n_stack)
        return damaged(p, "values are left on its stack");
    p->stopped = true;
    p->out->end = p->at;
    return SAE_OK;
}

/* None, the bools and the mark. */
static sae_status do_push(parser *p, uint32_t arg)
{
    return push(p, arg);
}

static sae_status do_empty(parser *p, uint32_t arg)
{
    return push_new(p, (saei_pickle_value){.kind = arg});
}

static sae_status do_unsigned(parser *p, uint32_t arg)
{
    uint64_t number;
    const sae_status status = take_number(p, &number, arg);
    return status ? status : push_new(p, (saei_pickle_value){.kind = SAEI_PICKLE_INT, .as.integer = (int64_t)number});
}

static int64_t sign_extended(uint64_t number, uint32_t width)
{
    const uint64_t sign = width ? UINT64_C(1) << (8 * width - 1) : 0;
    return (int64_t)((number ^ sign) - sign);
}

static sae_status do_binint(parser *p, uint32_t arg)
{
    uint64_t number;
    const sae_status status = take_number(p, &number, arg);
    return status ? status : push_new(p, (saei_pickle_value){.kind = SAEI_PICKLE_INT, .as.integer = sign_extended(number, arg)});
}

static sae_status do_long(parser *p, uint32_t arg)
{
    saei_pickle_value value = {.kind = SAEI_PICKLE_BIG};
    const sae_status status = take_counted(p, &value.as.at, &value.n, arg);
    if (status)
        return status;
    if (value.n > LONGEST_INTEGER)
        return damaged(p, "an integer has more than 128 bytes");
    if (value.n <= sizeof(int64_t)) {
        value.kind = SAEI_PICKLE_INT;
        value.as.integer = sign_extended(little_endian(p->text + value.as.at, value.n), value.n);
    }
    return push_new(p, value);
}

static sae_status do_float(parser *p, uint32_t arg)
{
    saei_pickle_value value = {.kind = SAEI_PICKLE_FLOAT};
    uint64_t bits = 0;
    size_t at;
    const sae_status status = take(p, &at, arg);
    if (status)
        return status;
    for (uint32_t i = 0; i < arg; i++) /* the one big-endian number of the format */
        bits = bits << 8 | p->text[at + i];
    memcpy(&value.as.number, &bits, sizeof bits);
    return push_new(p, value);
}

static sae_status do_string(parser *p, uint32_t arg)
{
    saei_pickle_value value = {.kind = SAEI_PICKLE_STRING};
    const sae_status status = take_counted(p, &value.as.at, &value.n, arg);
    return status ? status : push_new(p, value);
}

/* All above the last mark, and the mark, become a container. */
static sae_status do_gather(parser *p, uint32_t arg)
{
    uint32_t mark, index;
    sae_status status;
    if ((status = find_mark(p, &mark)))
        return status;
    if (arg == SAEI_PICKLE_DICT && (p->n_stack - mark) % 2 == 0)
        return damaged(p, "a key lacks its value");
    status = keep(p, &index, (saei_pickle_value){.kind = arg});
    for (uint32_t i = mark + 1; !status && i < p->n_stack; i++)
        status = append(p, index, p->stack[i]);
    p->n_stack = mark;
    return status ? status : push(p, index);
}

/* A tuple of `arg` values. */
static sae_status do_tuple(parser *p, uint32_t arg)
{
    uint32_t values[3], index;
    sae_status status = SAE_OK;
    for (uint32_t i = arg; !status && i-- > 0;)
        status = pop(p, &values[i]);
    if (status || (status = keep(p, &index, (saei_pickle_value){.kind = SAEI_PICKLE_TUPLE})))
        return status;
    for (uint32_t i = 0; !status && i < arg; i++)
        status = append(p, index, values[i]);
    return status ? status : push(p, index);
}

/* The container at a place of the stack takes what lies from `first` on. */
static sae_status fill(parser *p, uint32_t place, uint32_t first, uint32_t kind)
{
    const uint32_t container = p->stack[place];
    sae_status status = SAE_OK;
    if (kind_of(p, container) != kind)
        return damaged(p, kind == SAEI_PICKLE_LIST ? "what it appends to is no list" : "what it sets items of is no dict");
    if (kind == SAEI_PICKLE_DICT && (p->n_stack - first) % 2)
        return damaged(p, "a key lacks its value");
    for (uint32_t i = first; !status && i < p->n_stack; i++)
        status = p->stack[i] == MARK ? damaged(p, "its stack lacks a value") : append(p, container, p->stack[i]);
    p->n_stack = place + 1;
    return status;
}

/* APPENDS and SETITEMS. */
static sae_status do_fill(parser *p, uint32_t arg)
{
    uint32_t mark;
    const sae_status status = find_mark(p, &mark);
    if (status)
        return status;
    return mark ? fill(p, mark - 1, mark + 1, arg) : damaged(p, "its stack lacks a value");
}

/* APPEND and SETITEM. */
static sae_status do_fill_one(parser *p, uint32_t arg)
{
    const uint32_t n = arg == SAEI_PICKLE_LIST ? 1 : 2;
    return p->n_stack > n ? fill(p, p->n_stack - n - 1, p->n_stack - n, arg) : damaged(p, "its stack lacks a value");
}

static sae_status do_pop(parser *p, uint32_t arg)
{
    (void)arg;
    if (!p->n_stack)
        return damaged(p, "its stack lacks a value");
    p->n_stack--;
    return SAE_OK;
}

static sae_status do_pop_mark(parser *p, uint32_t arg)
{
    uint32_t mark;
    const sae_status status = find_mark(p, &mark);
    (void)arg;
    if (!status)
        p->n_stack = mark;
    return status;
}

/* ---- the memo ---- */

/* Writers number the memo from 0 on, and each entry takes two bytes or more: a number above the offset is no writer's. */
static sae_status put(parser *p, uint64_t number)
{
    const uint32_t value = p->n_stack ? p->stack[p->n_stack - 1] : MARK;
    if (value == MARK)
        return damaged(p, "its stack lacks a value");
    if (number >= SAEI_PICKLE_MOST || number > p->op - p->begin)
        return damaged(p, "its memo has a number that is too large");
    if (number >= p->room_memo) {
        const uint32_t more = (uint32_t)number < 64 ? 64 : (uint32_t)number + (uint32_t)number / 2;
        uint32_t *larger = saei_zalloc(p->host, more * sizeof *larger);
        if (!larger)
            return saei_fail(p->err, SAE_E_NOMEM, "no memory for the memo of the pickle in %s", p->name);
        if (p->memo)
            memcpy(larger, p->memo, p->n_memo * sizeof *larger);
        saei_dealloc(p->host, p->memo, p->room_memo * sizeof *larger);
        p->memo = larger;
        p->room_memo = more;
    }
    p->memo[number] = value;
    p->n_memo = number < p->n_memo ? p->n_memo : (uint32_t)number + 1;
    return SAE_OK;
}

static sae_status do_put(parser *p, uint32_t arg)
{
    uint64_t number;
    const sae_status status = take_number(p, &number, arg);
    return status ? status : put(p, number);
}

static sae_status do_memoize(parser *p, uint32_t arg)
{
    (void)arg;
    return put(p, p->n_memo);
}

static sae_status do_get(parser *p, uint32_t arg)
{
    uint64_t number;
    const sae_status status = take_number(p, &number, arg);
    if (status)
        return status;
    return number < p->n_memo && p->memo[number] != MARK ? push(p, p->memo[number]) : damaged(p, "its memo lacks what it asks for");
}

/* ---- globals ---- */

static bool same(const char *want, const unsigned char *text, size_t n)
{
    return strlen(want) == n && memcmp(want, text, n) == 0;
}

static sae_status push_global(parser *p, const unsigned char *module, size_t n_module, const unsigned char *name, size_t n_name)
{
    char shown_module[SAEI_SHOWN], shown_name[SAEI_SHOWN];
    for (size_t i = 0; i < sizeof saei_pickle_globals / sizeof *saei_pickle_globals; i++)
        if (same(saei_pickle_globals[i].module, module, n_module) && same(saei_pickle_globals[i].name, name, n_name))
            return push_new(p, (saei_pickle_value){.kind = SAEI_PICKLE_GLOBAL, .as.integer = (int64_t)i});
    return saei_fail(p->err, SAE_E_UNSUPPORTED,
                     "%s names the global %s.%s, which is not one that tensors need: nothing in a file is executed; "
                     "save the state dict alone",
                     p->name, saei_pickle_show(shown_module, module, n_module), saei_pickle_show(shown_name, name, n_name));
}

static sae_status do_global(parser *p, uint32_t arg)
{
    size_t module, n_module, name, n_name;
    sae_status status;
    (void)arg;
    if ((status = take_line(p, &module, &n_module)) || (status = take_line(p, &name, &n_name)))
        return status;
    return push_global(p, p->text + module, n_module, p->text + name, n_name);
}

static sae_status do_stack_global(parser *p, uint32_t arg)
{
    uint32_t module, name;
    sae_status status;
    (void)arg;
    if ((status = pop(p, &name)) || (status = pop(p, &module)))
        return status;
    const saei_pickle_value *m = &p->out->v[module], *n = &p->out->v[name];
    if (m->kind != SAEI_PICKLE_STRING || n->kind != SAEI_PICKLE_STRING)
        return damaged(p, "the name of a global is no string");
    return push_global(p, p->text + m->as.at, m->n, p->text + n->as.at, n->n);
}

/* ---- what would be calls ---- */

/* A new value with the items of another. */
static sae_status push_as(parser *p, uint32_t of, uint32_t kind, uint32_t last)
{
    saei_pickle_value value = p->out->v[of];
    value.kind = kind;
    value.as.items.last = last;
    return push_new(p, value);
}

/* The first argument stands for what the call would give. */
static sae_status push_first(parser *p, uint32_t args, uint32_t kind)
{
    const saei_pickle_value *v = &p->out->v[args];
    const uint32_t first = v->n ? p->out->items[v->as.items.first].value : MARK;
    return kind_of(p, first) == kind ? push(p, first) : damaged(p, "a global has arguments that it does not take");
}

static sae_status do_reduce(parser *p, uint32_t arg)
{
    uint32_t args, called;
    sae_status status;
    (void)arg;
    if ((status = pop(p, &args)) || (status = pop(p, &called)))
        return status;
    if (kind_of(p, args) != SAEI_PICKLE_TUPLE || kind_of(p, called) != SAEI_PICKLE_GLOBAL)
        return damaged(p, "it calls what is no global");
    switch (saei_pickle_globals[p->out->v[called].as.integer].role) {
    case SAEI_PICKLE_ORDERED_DICT:
        return p->out->v[args].n ? damaged(p, "an OrderedDict is made with arguments")
                                 : push_new(p, (saei_pickle_value){.kind = SAEI_PICKLE_DICT});
    case SAEI_PICKLE_REBUILD:
    case SAEI_PICKLE_REBUILD_V2:
    case SAEI_PICKLE_REBUILD_V3:
        return push_as(p, args, SAEI_PICKLE_TENSOR, called);
    case SAEI_PICKLE_PARAMETER:
        return push_first(p, args, SAEI_PICKLE_TENSOR);
    case SAEI_PICKLE_SIZE:
        return push_first(p, args, SAEI_PICKLE_TUPLE);
    case SAEI_PICKLE_DEVICE:
        return push_first(p, args, SAEI_PICKLE_STRING);
    case SAEI_PICKLE_CLASS:
    case SAEI_PICKLE_UNTYPED:
    case SAEI_PICKLE_DTYPE:
        break;
    }
    return damaged(p, "it calls a global that is no function");
}

/* The state of an OrderedDict is its attributes, `_metadata` of torch: of no use here. */
static sae_status do_build(parser *p, uint32_t arg)
{
    uint32_t state;
    const sae_status status = pop(p, &state);
    (void)arg;
    if (status)
        return status;
    return p->n_stack && kind_of(p, p->stack[p->n_stack - 1]) == SAEI_PICKLE_DICT ? SAE_OK
                                                                                  : damaged(p, "it sets the attributes of what has none");
}

/* ("storage", class, key, device, number of elements[, None]) */
static bool is_storage(const parser *p, uint32_t id)
{
    const saei_pickle_value *v = &p->out->v[id];
    if (v->kind != SAEI_PICKLE_TUPLE || v->n < 5 || v->n > 6)
        return false;
    const uint32_t key = saei_pickle_at(p->out, id, 2), n = saei_pickle_at(p->out, id, 4);
    const saei_pickle_global *class = saei_pickle_global_of(p->out, saei_pickle_at(p->out, id, 1));
    return saei_pickle_is(p->out, saei_pickle_at(p->out, id, 0), "storage") && class &&
           (class->role == SAEI_PICKLE_CLASS || class->role == SAEI_PICKLE_UNTYPED) && kind_of(p, key) == SAEI_PICKLE_STRING &&
           p->out->v[key].n <= SAEI_PICKLE_KEY && kind_of(p, n) == SAEI_PICKLE_INT && p->out->v[n].as.integer >= 0 &&
           (v->n == 5 || kind_of(p, saei_pickle_at(p->out, id, 5)) == SAEI_PICKLE_NONE);
}

static sae_status do_binpersid(parser *p, uint32_t arg)
{
    uint32_t id;
    const sae_status status = pop(p, &id);
    (void)arg;
    if (status)
        return status;
    return is_storage(p, id) ? push_as(p, id, SAEI_PICKLE_STORAGE, 0) : damaged(p, "a persistent id is no description of a storage");
}

/* ---- all opcodes; those without a function are refused by name ---- */

static const struct {
    const char *name;
    sae_status (*run)(parser *p, uint32_t arg);
    uint32_t arg;
} ops[256] = {
    [0x80] = {"PROTO", do_proto, 1},
    [0x95] = {"FRAME", do_skip, 8},
    ['.'] = {"STOP", do_stop, 0},
    ['N'] = {"NONE", do_push, NONE},
    [0x88] = {"NEWTRUE", do_push, TRUE},
    [0x89] = {"NEWFALSE", do_push, FALSE},
    ['('] = {"MARK", do_push, MARK},
    [')'] = {"EMPTY_TUPLE", do_empty, SAEI_PICKLE_TUPLE},
    [']'] = {"EMPTY_LIST", do_empty, SAEI_PICKLE_LIST},
    ['}'] = {"EMPTY_DICT", do_empty, SAEI_PICKLE_DICT},
    ['t'] = {"TUPLE", do_gather, SAEI_PICKLE_TUPLE},
    ['l'] = {"LIST", do_gather, SAEI_PICKLE_LIST},
    ['d'] = {"DICT", do_gather, SAEI_PICKLE_DICT},
    [0x85] = {"TUPLE1", do_tuple, 1},
    [0x86] = {"TUPLE2", do_tuple, 2},
    [0x87] = {"TUPLE3", do_tuple, 3},
    ['e'] = {"APPENDS", do_fill, SAEI_PICKLE_LIST},
    ['a'] = {"APPEND", do_fill_one, SAEI_PICKLE_LIST},
    ['u'] = {"SETITEMS", do_fill, SAEI_PICKLE_DICT},
    ['s'] = {"SETITEM", do_fill_one, SAEI_PICKLE_DICT},
    ['K'] = {"BININT1", do_unsigned, 1},
    ['M'] = {"BININT2", do_unsigned, 2},
    ['J'] = {"BININT", do_binint, 4},
    [0x8a] = {"LONG1", do_long, 1},
    [0x8b] = {"LONG4", do_long, 4},
    ['G'] = {"BINFLOAT", do_float, 8},
    [0x8c] = {"SHORT_BINUNICODE", do_string, 1},
    ['X'] = {"BINUNICODE", do_string, 4},
    [0x8d] = {"BINUNICODE8", do_string, 8},
    ['U'] = {"SHORT_BINSTRING", do_string, 1}, /* Python 2's str */
    ['T'] = {"BINSTRING", do_string, 4},
    ['q'] = {"BINPUT", do_put, 1},
    ['r'] = {"LONG_BINPUT", do_put, 4},
    [0x94] = {"MEMOIZE", do_memoize, 0},
    ['h'] = {"BINGET", do_get, 1},
    ['j'] = {"LONG_BINGET", do_get, 4},
    ['c'] = {"GLOBAL", do_global, 0},
    [0x93] = {"STACK_GLOBAL", do_stack_global, 0},
    ['R'] = {"REDUCE", do_reduce, 0},
    ['b'] = {"BUILD", do_build, 0},
    ['Q'] = {"BINPERSID", do_binpersid, 0},
    ['0'] = {"POP", do_pop, 0},
    ['1'] = {"POP_MARK", do_pop_mark, 0},
    /* Protocols 0 and 1, which cannot describe a storage. */
    ['I'] = {"INT", NULL, 0},
    ['L'] = {"LONG", NULL, 0},
    ['F'] = {"FLOAT", NULL, 0},
    ['S'] = {"STRING", NULL, 0},
    ['V'] = {"UNICODE", NULL, 0},
    ['p'] = {"PUT", NULL, 0},
    ['g'] = {"GET", NULL, 0},
    ['P'] = {"PERSID", NULL, 0},
    ['i'] = {"INST", NULL, 0},
    ['o'] = {"OBJ", NULL, 0},
    ['2'] = {"DUP", NULL, 0},
    [0x81] = {"NEWOBJ", NULL, 0},
    [0x92] = {"NEWOBJ_EX", NULL, 0},
    [0x82] = {"EXT1", NULL, 0},
    [0x83] = {"EXT2", NULL, 0},
    [0x84] = {"EXT4", NULL, 0},
    ['B'] = {"BINBYTES", NULL, 0},
    ['C'] = {"SHORT_BINBYTES", NULL, 0},
    [0x8e] = {"BINBYTES8", NULL, 0},
    [0x96] = {"BYTEARRAY8", NULL, 0},
    [0x97] = {"NEXT_BUFFER", NULL, 0},
    [0x98] = {"READONLY_BUFFER", NULL, 0},
    [0x8f] = {"EMPTY_SET", NULL, 0},
    [0x90] = {"ADDITEMS", NULL, 0},
    [0x91] = {"FROZENSET", NULL, 0},
};

static sae_status step(parser *p)
{
    p->op = p->at;
    if (p->at == p->bytes)
        return damaged(p, "it is cut off");
    const unsigned char code = p->text[p->at++];
    if (!ops[code].name)
        return damaged(p, "this byte is no opcode");
    if (!ops[code].run)
        return saei_fail(p->err, SAE_E_UNSUPPORTED,
                         "%s: its pickle uses the opcode %s, which tensors do not need: save the state dict alone", p->name,
                         ops[code].name);
    return ops[code].run(p, ops[code].arg);
}

/* ---- outside ---- */

static sae_status parse(parser *p)
{
    static const saei_pickle_value singles[SINGLE_VALUES] = {
        {.kind = SAEI_PICKLE_MARK}, {.kind = SAEI_PICKLE_NONE}, {.kind = SAEI_PICKLE_BOOL}, {.kind = SAEI_PICKLE_BOOL, .as.integer = 1}};
    sae_status status = SAE_OK;
    uint32_t index;
    for (uint32_t i = 0; !status && i < SINGLE_VALUES; i++)
        status = keep(p, &index, singles[i]);
    p->out->n_items = 1;
    while (!status && !p->stopped)
        status = step(p);
    return status;
}

sae_status saei_pickle_read(saei_pickle *out, const saei_host *host, const unsigned char *text, size_t begin, size_t bytes,
                            const char *name, sae_error *err)
{
    parser p = {.out = out, .host = host, .text = text, .begin = begin, .at = begin, .bytes = bytes, .name = name, .err = err};
    *out = (saei_pickle){.text = text};
    const sae_status status = parse(&p);
    saei_dealloc(host, p.stack, p.room_stack * sizeof *p.stack);
    saei_dealloc(host, p.memo, p.room_memo * sizeof *p.memo);
    if (status)
        saei_pickle_free(out, host);
    return status;
}

void saei_pickle_free(saei_pickle *pickle, const saei_host *host)
{
    saei_dealloc(host, pickle->v, pickle->room * sizeof *pickle->v);
    saei_dealloc(host, pickle->items, pickle->room_items * sizeof *pickle->items);
    *pickle = (saei_pickle){0};
}

uint32_t saei_pickle_at(const saei_pickle *pickle, uint32_t container, uint32_t i)
{
    uint32_t item = pickle->v[container].as.items.first;
    while (i--)
        item = pickle->items[item].next;
    return pickle->items[item].value;
}

bool saei_pickle_is(const saei_pickle *pickle, uint32_t value, const char *text)
{
    const saei_pickle_value *v = &pickle->v[value];
    return v->kind == SAEI_PICKLE_STRING && same(text, pickle->text + v->as.at, v->n);
}

const saei_pickle_global *saei_pickle_global_of(const saei_pickle *pickle, uint32_t value)
{
    const saei_pickle_value *v = &pickle->v[value];
    return v->kind == SAEI_PICKLE_GLOBAL ? &saei_pickle_globals[v->as.integer] : NULL;
}

const char *saei_pickle_show(char *out, const unsigned char *text, size_t n)
{
    char copy[SAEI_SHOWN + 4];
    size_t kept = 0;
    for (size_t i = 0, step; i < n && kept < SAEI_SHOWN; i += step, kept += step) {
        const size_t length = saei_utf8_length(text + i, n - i);
        step = length ? length : 1;
        if (length && text[i])
            memcpy(copy + kept, text + i, step);
        else
            copy[kept] = '?';
    }
    copy[kept] = '\0';
    return saei_show(out, copy);
}

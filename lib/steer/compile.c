/* Spec -> plan: everything that can be wrong is refused here, so that applying has nothing left to refuse but the rows. */
#include <math.h>
#include <string.h>

#include "steer/plan.h"

static const char *const op_names[] = {"unknown", "add", "set", "scale", "min", "max", "ablate"};
static const char *const unit_names[] = {"raw", "unit", "max_act"};

const char *sae_op_name(sae_op op)
{
    return op >= SAE_ADD && op <= SAE_ABLATE ? op_names[op] : "unknown";
}

const char *sae_unit_name(sae_unit unit)
{
    return unit >= SAE_UNIT_RAW && unit <= SAE_UNIT_MAX_ACT ? unit_names[unit] : "unknown";
}

/* ---- checks ---- */

static sae_status check_values(const sae_edit *e, int64_t i, sae_error *err)
{
    const long long at = (long long)i;
    const bool unitless = e->op == SAE_SCALE || e->op == SAE_ABLATE;
    if (e->op < SAE_ADD || e->op > SAE_ABLATE)
        return saei_fail(err, SAE_E_ARG, "edits[%lld]: op = %d is not one of SAE_ADD .. SAE_ABLATE", at, (int)e->op);
    if (e->unit < SAE_UNIT_RAW || e->unit > SAE_UNIT_MAX_ACT || (unitless && e->unit != SAE_UNIT_RAW))
        return saei_fail(err, SAE_E_ARG, "edits[%lld]: unit = %d does not go with %s", at, (int)e->unit, sae_op_name(e->op));
    if (!isfinite(e->value))
        return saei_fail(err, SAE_E_ARG, "edits[%lld]: value = %g is not finite", at, (double)e->value);
    if (e->unit == SAE_UNIT_MAX_ACT && !(isfinite(e->max_act) && e->max_act > 0.0f))
        return saei_fail(err, SAE_E_ARG,
                         "edits[%lld]: max_act = %g, the unit max_act needs the feature's largest activation, finite and > 0", at,
                         (double)e->max_act);
    if (e->reserved)
        return saei_fail(err, SAE_E_ARG, "edits[%lld]: reserved = %u, zero the struct before use", at, (unsigned)e->reserved);
    return SAE_OK;
}

static sae_status check_feature(const sae_edit *e, int64_t i, int32_t d, sae_error *err)
{
    const saei_parts *p = &e->model->parts;
    if (e->vector)
        return saei_fail(err, SAE_E_ARG, "edits[%lld] has a model and a vector: give one of them", (long long)i);
    if (p->d_in != d || p->d_out != d)
        return saei_fail(err, SAE_E_SHAPE, "edits[%lld]: the model has d_in = %d and d_out = %d, the plan's rows have %d elements",
                         (long long)i, (int)p->d_in, (int)p->d_out, (int)d);
    if (p->arch == SAE_TEMPORAL)
        return saei_fail(err, SAE_E_UNSUPPORTED,
                         "edits[%lld]: a temporal SAE's codes depend on the rows before, so that its features are no edits: "
                         "read the decoder row and give it as a vector",
                         (long long)i);
    if (e->feature < 0 || e->feature >= p->d_sae)
        return saei_fail(err, SAE_E_ARG, "edits[%lld]: feature = %d, this SAE has features 0 .. %d", (long long)i, (int)e->feature,
                         (int)p->d_sae - 1);
    return SAE_OK;
}

static sae_status check_vector(const sae_edit *e, int64_t i, int32_t d, sae_error *err)
{
    if (!e->vector)
        return saei_fail(err, SAE_E_ARG, "edits[%lld] has neither a model nor a vector", (long long)i);
    if (e->unit == SAE_UNIT_MAX_ACT)
        return saei_fail(err, SAE_E_ARG, "edits[%lld]: a raw vector has no max_act, use raw or unit", (long long)i);
    const double length = sqrt(saei_square(e->vector, (size_t)d));
    if (!isfinite(length) || length == 0.0)
        return saei_fail(err, SAE_E_ARG, "edits[%lld]: the vector has length %g, a direction needs a finite length above 0", (long long)i,
                         length);
    return SAE_OK;
}

static sae_status check_edit(const void *at, int64_t i, int32_t d, int32_t n_slots, sae_error *err)
{
    sae_edit e;
    sae_error inner = {0};
    sae_status status = saei_read_struct(&e, sizeof e, at, "sae_edit", &inner);
    if (status)
        return saei_fail(err, status, "edits[%lld]: %s", (long long)i, inner.text);
    if (e.slot < 0 || e.slot >= n_slots)
        return saei_fail(err, SAE_E_ARG, "edits[%lld]: slot = %d, the plan has slots 0 .. %d", (long long)i, (int)e.slot, (int)n_slots - 1);
    if ((status = check_values(&e, i, err)))
        return status;
    return e.model ? check_feature(&e, i, d, err) : check_vector(&e, i, d, err);
}

/* ---- building ---- */

/* Edits of the caller have the size that the first one states. */
static const void *edit_at(const sae_edit *edits, int64_t i)
{
    return (const unsigned char *)edits + (size_t)i * edits->struct_size;
}

/* Edit i, once check_all has passed it. */
static sae_edit checked_edit(const sae_edit *edits, int64_t i)
{
    sae_edit e;
    (void)saei_read_struct(&e, sizeof e, edit_at(edits, i), "sae_edit", NULL);
    return e;
}

static bool reads_code(const sae_edit *e)
{
    return e->op != SAE_ADD;
}

/* A raw add of a vector needs nothing of the row. */
static bool wants_group(const sae_edit *e)
{
    return e->model || reads_code(e);
}

static sae_status lay_plan(sae_plan **out, sae_env *env, int32_t d, int32_t n_slots, int64_t n_edits, sae_error *err)
{
    size_t total = 0, floats;
    saei_mul(&floats, (size_t)n_edits, (size_t)d);
    const size_t plan = saei_reserve(&total, 1, sizeof(sae_plan)), slots = saei_reserve(&total, (size_t)n_slots, sizeof(saei_slot));
    const size_t e = saei_reserve(&total, (size_t)n_edits, sizeof(saei_edit)),
                 g = saei_reserve(&total, (size_t)n_edits, sizeof(saei_group));
    const size_t directions = saei_reserve(&total, floats, sizeof(float));
    unsigned char *block = saei_zalloc(&env->host, total);
    if (!block)
        return saei_fail(err, SAE_E_NOMEM, "no memory for a plan of %lld edits of %d elements (%zu bytes)", (long long)n_edits, (int)d,
                         total);
    sae_plan *p = (sae_plan *)(void *)(block + plan);
    p->env = env;
    p->d = d;
    p->n_slots = n_slots;
    p->slots = (saei_slot *)(void *)(block + slots);
    p->edits = (saei_edit *)(void *)(block + e);
    p->groups = (saei_group *)(void *)(block + g);
    p->directions = (float *)(void *)(block + directions);
    p->bytes = total;
    saei_env_take(env);
    *out = p;
    return SAE_OK;
}

/* The direction of a vector edit: as given for a raw add, else of unit length. */
static void vector_direction(float *out, const sae_edit *e, size_t d)
{
    const double length = sqrt(saei_square(e->vector, d));
    for (size_t k = 0; k < d; k++)
        out[k] = e->op == SAE_ADD && e->unit == SAE_UNIT_RAW ? e->vector[k] : (float)((double)e->vector[k] / length);
}

/* A normaliser by element stretches what a feature writes; those by row stretch all of it, and wait for the row. */
static void unnormalise_direction(float *direction, const saei_parts *p, size_t d)
{
    for (size_t k = 0; p->norm == SAE_NORM_AFFINE && !p->norm_in_only && k < d; k++)
        direction[k] *= p->out_scale[k];
}

static sae_status add_edit(sae_plan *p, const sae_edit *e, int64_t i, int32_t group, int32_t lane, sae_error *err)
{
    const size_t d = (size_t)p->d;
    float *direction = p->directions + (size_t)p->n_edits * d;
    saei_edit *to = p->edits + p->n_edits;
    *to = (saei_edit){e->op, false, e->value, group, lane};
    if (!e->model) {
        vector_direction(direction, e, d);
    } else {
        sae_error inner = {0};
        const sae_status status = saei_model_gather_dec(direction, e->model, e->feature, &inner);
        if (status)
            return saei_fail(err, status, "edits[%lld]: %s", (long long)i, inner.text);
        unnormalise_direction(direction, &e->model->parts, d);
        const double length = sqrt(saei_square(direction, d));
        if (e->unit == SAE_UNIT_UNIT && length == 0.0)
            return saei_fail(err, SAE_E_ARG, "edits[%lld]: W_dec of feature %d has length 0, the unit needs a direction", (long long)i,
                             (int)e->feature);
        to->per_length = e->unit == SAE_UNIT_UNIT;
        if (e->unit == SAE_UNIT_UNIT)
            to->value = (float)((double)e->value / length);
        else if (e->unit == SAE_UNIT_MAX_ACT)
            to->value = e->value * e->max_act;
    }
    p->n_edits++;
    return SAE_OK;
}

/* Packs the unit directions of the projection edits of a slot. */
static sae_status vector_lanes(saei_lanes *l, const sae_plan *p, const saei_slot *slot, int32_t group, sae_error *err)
{
    const saei_host *host = &p->env->host;
    const size_t d = (size_t)p->d, n = l->n;
    size_t bytes = 0;
    saei_reserve(&bytes, n, d * sizeof(float));
    float *columns = saei_alloc(host, bytes);
    if (!columns)
        return saei_fail(err, SAE_E_NOMEM, "no memory to pack %zu vectors of %zu elements (%zu bytes)", n, d, bytes);
    for (int32_t i = slot->first_edit; i < slot->first_edit + slot->n_edits; i++)
        if (p->edits[i].group == group && p->edits[i].lane >= 0)
            memcpy(columns + (size_t)p->edits[i].lane * d, p->directions + (size_t)i * d, d * sizeof(float));
    const sae_status status = saei_lanes_of_vectors(l, p->env, columns, n, d, err);
    saei_dealloc(host, columns, bytes);
    return status;
}

static sae_status feature_lanes(saei_group *g, const sae_edit *edits, int64_t n_edits, int32_t slot, size_t n, sae_error *err)
{
    const saei_host *host = &g->model->env->host;
    int32_t *features = saei_alloc(host, n * sizeof *features);
    size_t have = 0;
    if (!features)
        return saei_fail(err, SAE_E_NOMEM, "no memory to list %zu features", n);
    for (int64_t i = 0; i < n_edits; i++) {
        const sae_edit e = checked_edit(edits, i);
        if (e.slot == slot && e.model == g->model && reads_code(&e))
            features[have++] = e.feature;
    }
    const sae_status status = saei_lanes_create(&g->lanes, g->model, features, have, err);
    saei_dealloc(host, features, n * sizeof *features);
    return status;
}

/* The group of this model in the slot under construction, made if it is new. */
static int32_t group_of(sae_plan *p, saei_slot *slot, sae_model *model)
{
    for (int32_t g = slot->first_group; g < slot->first_group + slot->n_groups; g++)
        if (p->groups[g].model == model)
            return g;
    p->groups[p->n_groups].model = model;
    if (model)
        saei_model_take(model);
    slot->n_groups++;
    return p->n_groups++;
}

static sae_status build_slot(sae_plan *p, const sae_edit *edits, int64_t n_edits, int32_t s, sae_error *err)
{
    saei_slot *slot = p->slots + s;
    sae_status status = SAE_OK;
    *slot = (saei_slot){p->n_edits, 0, p->n_groups, 0};
    for (int64_t i = 0; i < n_edits; i++) {
        const sae_edit e = checked_edit(edits, i);
        if (e.slot != s)
            continue;
        const int32_t group = wants_group(&e) ? group_of(p, slot, e.model) : -1;
        const int32_t lane = reads_code(&e) ? (int32_t)p->groups[group].lanes.n++ : -1;
        if ((status = add_edit(p, &e, i, group, lane, err)))
            return status;
        slot->n_edits++;
    }
    for (int32_t g = slot->first_group; g < slot->first_group + slot->n_groups && !status; g++) {
        saei_group *group = p->groups + g;
        const size_t n = group->lanes.n;
        if (n && group->model)
            status = feature_lanes(group, edits, n_edits, s, n, err);
        else if (n)
            status = vector_lanes(&group->lanes, p, slot, g, err);
        const int32_t lanes = (int32_t)(group->lanes.groups * SAEI_LANES);
        p->max_lanes = lanes > p->max_lanes ? lanes : p->max_lanes;
    }
    p->max_edits = slot->n_edits > p->max_edits ? slot->n_edits : p->max_edits;
    return status;
}

static sae_status check_all(int32_t d, int32_t n_slots, const sae_edit *edits, int64_t n_edits, sae_error *err)
{
    if (d < 1 || n_slots < 1 || n_edits < 0 || n_edits > INT32_MAX / SAEI_LANES)
        return saei_fail(err, SAE_E_ARG, "sae_plan_compile: d = %d, n_slots = %d, n_edits = %lld: sizes start at 1 (0 for edits)", (int)d,
                         (int)n_slots, (long long)n_edits);
    if (n_edits && !edits)
        return saei_fail(err, SAE_E_ARG, "sae_plan_compile: edits is NULL, n_edits = %lld", (long long)n_edits);
    for (int64_t i = 0; i < n_edits; i++) {
        if (edits->struct_size < 8 || edits->struct_size % _Alignof(sae_edit) || *(const uint32_t *)edit_at(edits, i) != edits->struct_size)
            return saei_fail(err, SAE_E_ARG, "edits[%lld]: every edit needs struct_size = sizeof(sae_edit), as the first has",
                             (long long)i);
        const sae_status status = check_edit(edit_at(edits, i), i, d, n_slots, err);
        if (status)
            return status;
    }
    return SAE_OK;
}

sae_status sae_plan_compile(sae_plan **out, sae_env *env, int32_t d, int32_t n_slots, const sae_edit *edits, int64_t n_edits,
                            sae_error *err)
{
    sae_plan *plan = NULL;
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_plan_compile: out is NULL");
    *out = NULL;
    if (!env)
        return saei_fail(err, SAE_E_ARG, "sae_plan_compile: env is NULL");
    sae_status status = check_all(d, n_slots, edits, n_edits, err);
    if (status || (status = lay_plan(&plan, env, d, n_slots, n_edits, err)))
        return status;
    const saei_fpmode mode = saei_fp_enter();
    for (int32_t s = 0; s < n_slots && !status; s++)
        status = build_slot(plan, edits, n_edits, s, err);
    saei_fp_leave(mode);
    if (status) {
        sae_plan_free(plan);
        return status;
    }
    *out = plan;
    return saei_ok(err);
}

void sae_plan_free(sae_plan *plan)
{
    if (!plan)
        return;
    sae_env *env = plan->env;
    for (int32_t g = 0; g < plan->n_groups; g++) {
        saei_lanes_free(&plan->groups[g].lanes, plan->groups[g].model ? &plan->groups[g].model->env->host : &env->host);
        sae_model_free(plan->groups[g].model);
    }
    saei_dealloc(&env->host, plan, plan->bytes);
    sae_env_free(env);
}

int32_t sae_plan_slots(const sae_plan *plan)
{
    return plan ? plan->n_slots : 0;
}

int32_t sae_plan_d(const sae_plan *plan)
{
    return plan ? plan->d : 0;
}

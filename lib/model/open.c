#include "model/screen.h"

static sae_status open_into(sae_model *model, const char *path, const sae_open_options *opt, sae_error *err)
{
    sae_status status = saei_parts_open(&model->parts, &model->env->host, path, opt, err);
    if (status)
        return status;
    model->checked = opt->check != SAE_NO && saei_parts_bytes(&model->parts) <= SAEI_CHECKED_WHOLE;
    status = saei_model_finish(model, err);
    if (!status)
        status = saei_screen_attach(model, err);
    if (!status && opt->check == SAE_YES)
        status = sae_model_check(model, err);
    return status;
}

sae_status sae_model_open(sae_model **out, sae_env *env, const char *path, const sae_open_options *opt, sae_error *err)
{
    sae_open_options o = {0};
    sae_status status;
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_model_open: out is NULL");
    *out = NULL;
    if (!env || !path)
        return saei_fail(err, SAE_E_ARG, "sae_model_open: %s is NULL", env ? "path" : "env");
    if (opt && (status = saei_read_struct(&o, sizeof o, opt, "sae_open_options", err)))
        return status;
    sae_model *model;
    if ((status = saei_model_new(&model, env, err)))
        return status;
    const saei_fpmode mode = saei_fp_enter();
    status = open_into(model, path, &o, err);
    saei_fp_leave(mode);
    if (status) {
        sae_model_free(model);
        return status;
    }
    for (int32_t i = 0; i < sae_model_n_warnings(model); i++)
        saei_log(&env->host, SAE_LOG_WARNING, "%s: %s", path, sae_model_warning(model, i));
    *out = model;
    return saei_ok(err);
}

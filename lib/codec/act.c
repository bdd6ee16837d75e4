/* One feature's activation in plain C: what the activate kernel does for many. */
#include <math.h>

#include "codec/codec.h"

float saei_pre(const saei_act *act, size_t i, float dot)
{
    if (act->gate)
        return dot + act->gate[i];
    const float h = act->bias ? dot + act->bias[i] : dot;
    return act->key_scale ? h * act->key_scale[i] : h;
}

float saei_code(const saei_act *act, size_t i, float dot, int64_t *bad)
{
    const float h = saei_pre(act, i, dot);
    const float value = act->gate ? fmaf(dot, act->mag_scale[i], act->mag_bias[i]) : h;
    if (!isfinite(h) || !isfinite(value)) {
        ++*bad;
        return 0.0f;
    }
    if (act->gate ? h <= 0.0f : act->threshold && !(h > act->threshold[i]))
        return 0.0f;
    return value > 0.0f || act->keeps_negative ? value : 0.0f;
}

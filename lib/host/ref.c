#include "host/host.h"

void saei_ref_init(saei_ref *ref)
{
    atomic_init(&ref->count, 1);
}

void saei_ref_take(saei_ref *ref)
{
    atomic_fetch_add_explicit(&ref->count, 1, memory_order_relaxed);
}

bool saei_ref_drop(saei_ref *ref)
{
    return atomic_fetch_sub_explicit(&ref->count, 1, memory_order_acq_rel) == 1;
}

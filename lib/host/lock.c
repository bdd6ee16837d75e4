#include "host/host.h"

bool saei_lock_init(saei_lock *lock)
{
    return pthread_mutex_init(lock, NULL) == 0;
}

void saei_lock_take(saei_lock *lock)
{
    (void)pthread_mutex_lock(lock);
}

void saei_lock_give(saei_lock *lock)
{
    (void)pthread_mutex_unlock(lock);
}

void saei_lock_end(saei_lock *lock)
{
    (void)pthread_mutex_destroy(lock);
}

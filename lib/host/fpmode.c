#include "host/host.h"

/* Rounding, flush and denormal bits are cleared, exceptions masked; the host's sticky flags come back with its mode. */
#if defined(__x86_64__)

saei_fpmode saei_fp_enter(void)
{
    enum { MASK_ALL = 0x1f80 };
    uint32_t now, canonical = MASK_ALL;
    __asm__ volatile("stmxcsr %0" : "=m"(now));
    if ((now & 0xffc0u) != canonical)
        __asm__ volatile("ldmxcsr %0" : : "m"(canonical));
    return (saei_fpmode){now};
}

void saei_fp_leave(saei_fpmode mode)
{
    const uint32_t saved = (uint32_t)mode.saved;
    if ((saved & 0xffc0u) != 0x1f80u)
        __asm__ volatile("ldmxcsr %0" : : "m"(saved));
}

#elif defined(__aarch64__)

saei_fpmode saei_fp_enter(void)
{
    uint64_t now;
    __asm__ volatile("mrs %0, fpcr" : "=r"(now));
    if (now)
        __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return (saei_fpmode){now};
}

void saei_fp_leave(saei_fpmode mode)
{
    if (mode.saved)
        __asm__ volatile("msr fpcr, %0" : : "r"(mode.saved));
}

#else
#error "libsae knows the floating-point control of x86-64 and aarch64 only"
#endif

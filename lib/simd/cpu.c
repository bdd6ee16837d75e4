/* Built without instruction-set flags: this code runs before anything is known. */
#include "simd/cpu.h"

#if defined(__x86_64__)

#include <cpuid.h>

typedef struct features {
    unsigned leaf1_ecx, leaf7_ebx, leaf7_ecx, xcr0;
} features;

static features ask(void)
{
    features f = {0, 0, 0, 0};
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx))
        return f;
    f.leaf1_ecx = ecx;
    if (ecx & bit_OSXSAVE)
        __asm__ volatile("xgetbv" : "=a"(f.xcr0), "=d"(edx) : "c"(0));
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
        f.leaf7_ebx = ebx;
        f.leaf7_ecx = ecx;
    }
    return f;
}

static bool all_set(unsigned word, unsigned bits)
{
    return (word & bits) == bits;
}

static bool has_avx2(const features *f)
{
    enum { YMM_STATE = 0x06 };
    return all_set(f->xcr0, YMM_STATE) && all_set(f->leaf1_ecx, bit_AVX | bit_FMA | bit_F16C) && all_set(f->leaf7_ebx, bit_AVX2);
}

bool saei_cpu_avx2(void)
{
    const features f = ask();
    return has_avx2(&f);
}

bool saei_cpu_avx512_vnni(void)
{
    enum { VNNI = 1 << 11 };
    const features f = ask();
    return saei_cpu_avx512() && all_set(f.leaf7_ecx, VNNI);
}

bool saei_cpu_avx2_vnni(void)
{
    enum { AVX_VNNI = 1 << 4 };
    unsigned eax, ebx, ecx, edx;
    return saei_cpu_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && all_set(eax, AVX_VNNI);
}

bool saei_cpu_neon_dot(void)
{
    return false;
}

bool saei_cpu_neon_i8mm(void)
{
    return false;
}

bool saei_cpu_avx512(void)
{
    enum { ZMM_STATE = 0xe6 };
    const features f = ask();
    return has_avx2(&f) && all_set(f.xcr0, ZMM_STATE) && all_set(f.leaf7_ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL);
}

#else

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

bool saei_cpu_neon_dot(void)
{
#if defined(__aarch64__) && defined(__linux__)
    enum { ASIMDDP = 1 << 20 };
    return (getauxval(AT_HWCAP) & ASIMDDP) != 0;
#elif defined(__aarch64__) && defined(__APPLE__)
    return true; /* all of them */
#else
    return false;
#endif
}

/* Apple's are not asked: there the dot products serve. */
bool saei_cpu_neon_i8mm(void)
{
#if defined(__aarch64__) && defined(__linux__)
    enum { I8MM = 1 << 13 };
    return saei_cpu_neon_dot() && (getauxval(AT_HWCAP2) & I8MM) != 0;
#else
    return false;
#endif
}

bool saei_cpu_avx2_vnni(void)
{
    return false;
}

bool saei_cpu_avx2(void)
{
    return false;
}

bool saei_cpu_avx512(void)
{
    return false;
}

bool saei_cpu_avx512_vnni(void)
{
    return false;
}

#endif

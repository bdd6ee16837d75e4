#define SAEI_TABLE saei_kernels_scalar
#define SAEI_TABLE_ISA SAE_ISA_SCALAR
#include "simd/tables.h"
#include "simd/vec_scalar.h"
#include "simd/kernels_tmpl.h"

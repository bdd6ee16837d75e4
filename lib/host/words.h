/* The system's words for what it refused. */
#ifndef SAEI_WORDS_H
#define SAEI_WORDS_H

#include "base/base.h"

/* SAE_E_IO: "cannot `what` `path`: No such file or directory". */
sae_status saei_io_error(sae_error *err, const char *what, const char *path, int error);

#endif

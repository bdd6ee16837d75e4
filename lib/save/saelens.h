/* SAELens' cfg.json. */
#ifndef SAEI_SAVE_SAELENS_H
#define SAEI_SAVE_SAELENS_H

#include "save/save.h"

/* What sae-lens would call this SAE ("jumprelu_skip_transcoder"), or a refusal that says what sae-lens has no word for. */
sae_status saei_saelens_name(const char **out, const saei_save *s);

/* The text of cfg.json. */
sae_status saei_saelens_text(saei_text *out, saei_save *s, const char *architecture);

/* Are encoder and decoder one matrix? */
bool saei_saelens_tied(const saei_parts *p);

#endif

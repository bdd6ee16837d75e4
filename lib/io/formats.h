/* The readers of formats: each puts the parts together from the files of a source. Which one reads a path is said in detect.c. */
#ifndef SAEI_FORMATS_H
#define SAEI_FORMATS_H

#include "io/source.h"

typedef sae_status saei_reader(saei_source *s);

typedef struct saei_format {
    const char *name; /* SAE_TEXT_FORMAT */
    saei_reader *read;
} saei_format;

saei_reader saei_read_saelens;
saei_reader saei_read_saelens_gguf;
saei_reader saei_read_gemma_scope;
saei_reader saei_read_gemma_scope_2;
saei_reader saei_read_gemma_scope_2_clt;
saei_reader saei_read_dictionary_learning;
saei_reader saei_read_sparsify;
saei_reader saei_read_openai;
saei_reader saei_read_goodfire;
saei_reader saei_read_deepseek;
saei_reader saei_read_qwen_scope;
saei_reader saei_read_apollo;
saei_reader saei_read_connor_rob;
saei_reader saei_read_llama_scope;
saei_reader saei_read_llamascopium;
saei_reader saei_read_circuit_tracer;
saei_reader saei_read_circuit_tracer_clt;
saei_reader saei_read_temporal;
saei_reader saei_read_sae_file;

/* The format of what lies at s->folder and s->named. May open files on the way and, by the option layer, go down into a folder.
 * Errors: SAE_E_IO, SAE_E_UNSUPPORTED, SAE_E_FORMAT, SAE_E_NOMEM. */
sae_status saei_detect(const saei_format **out, saei_source *s);

#endif

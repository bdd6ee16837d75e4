/* engine export. */
#include "show.h"

bool cmd_export(program *p, engine_error *err)
{
    const options *o = &p->opt;
    engine_export_result r;
    if (!program_open_model(p, err) || !program_open_tokenizer(p, err))
        return false;
    const engine_export_options opt = {.texts = o->texts,
                                       .hook_name = o->hook,
                                       .folder = o->out,
                                       .shard_rows = o->shard_rows,
                                       .context = program_context(p),
                                       .force = o->force};
    if (!engine_export(p->model, p->tokenizer, &opt, &r, err))
        return false;
    if (o->json)
        return show_json_object(json_pack("{s:s, s:I, s:I, s:i, s:I}", "folder", o->out, "documents", (json_int_t)r.n_documents, "rows",
                                          (json_int_t)r.n_rows, "shards", (int)r.n_shards, "cut", (json_int_t)r.n_cut),
                                err);
    printf("%lld documents, %lld rows in %d shards in %s", (long long)r.n_documents, (long long)r.n_rows, r.n_shards, o->out);
    printf(r.n_cut ? "; %lld documents were cut at the context of %d\n" : "\n", (long long)r.n_cut, program_context(p));
    return true;
}

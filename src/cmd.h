/* The commands of the tool, one file each. */
#ifndef TOOL_CMD_H
#define TOOL_CMD_H

#include "args.h"

extern const command cmd_info;
extern const command cmd_convert;
extern const command cmd_verify;
extern const command cmd_encode;
extern const command cmd_decode;
extern const command cmd_forward;
extern const command cmd_neighbors;
extern const command cmd_steer;
extern const command cmd_catalog_build;
extern const command cmd_catalog_import;
extern const command cmd_catalog_export;
extern const command cmd_search;
extern const command cmd_top;
extern const command cmd_pull;
extern const command cmd_bench;

#endif

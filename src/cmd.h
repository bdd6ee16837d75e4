/* The commands of the tool, one file each. */
#ifndef TOOL_CMD_H
#define TOOL_CMD_H

#include "args.h"

extern const command cmd_info;
extern const command cmd_encode;
extern const command cmd_decode;
extern const command cmd_neighbors;
extern const command cmd_steer;

#endif

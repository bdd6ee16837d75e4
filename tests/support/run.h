/* The end of every Check program. */
#ifndef SUPPORT_RUN_H
#define SUPPORT_RUN_H

#include <check.h>

/* Runs a suite (verbosity and forking by CK_*) and gives main's return value. */
int run_suite(Suite *suite);

#endif

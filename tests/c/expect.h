/* expect.h - what the C tests share: counted checks that say what differs, and memory of exactly the size asked for.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EXPECT_H
#define EXPECT_H

#include <stdio.h>
#include <stdlib.h>

static int failures = 0, checks = 0;

#define EXPECT(expected, actual)                                                                   \
    do {                                                                                           \
        const long e_ = (long)(expected), a_ = (long)(actual);                                     \
        ++checks;                                                                                  \
        if (e_ != a_) {                                                                            \
            ++failures;                                                                            \
            printf("%s:%d: %s: expected %ld, got %ld\n", __FILE__, __LINE__, #actual, e_, a_);     \
        }                                                                                          \
    } while (0)

static void *allocate(size_t bytes)
{
    void *memory = malloc(bytes > 0 ? bytes : 1);
    if (memory == NULL) {
        printf("out of memory\n");
        exit(1);
    }
    return memory;
}

#endif

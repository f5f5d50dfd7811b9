/* detect_dump.c - boxes from three dumped heads, as a template for firmware.
 *
 *     edge-centernet export-c centernet-nano-256 --out model
 *     cc -std=c99 -O2 -Imodel detect_dump.c model/edgecn_decode.c -o detect_dump
 *     ./detect_dump heat.bin size.bin offset.bin
 *
 * Each file holds a head's tensor as the engine left it: the model's layout and dtype, this machine's byte order.
 * Prints a box a line, best first: class name score x1 y1 x2 y2, in pixels of the network's input.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

/* Your model: the header that export-c wrote, and what its names begin with. */
#ifndef MODEL
#include "centernet_nano_256_model.h"
#define MODEL(name) centernet_nano_256_##name
#endif

enum { WANTED = 100 };

static MODEL(heat_type) heat[MODEL(heat_count)];
static MODEL(size_type) size[MODEL(size_count)];
static MODEL(offset_type) offset[MODEL(offset_count)];
static ecn_box boxes[2 * WANTED];        /* twins take room until they are dropped */

/* Fill `data` from a file of exactly so many bytes; 0 if it is not one. */
static int read_exactly(const char *path, void *data, size_t bytes)
{
    FILE *file = fopen(path, "rb");
    const size_t got = file != NULL ? fread(data, 1, bytes, file) : 0;
    const int longer = file != NULL && fgetc(file) != EOF;
    if (file != NULL) {
        fclose(file);
    }
    if (got != bytes || longer) {
        fprintf(stderr, "%s: expected a file of %lu bytes\n", path, (unsigned long)bytes);
        return 0;
    }
    return 1;
}

int main(int argc, char **argv)
{
    const ecn_heads heads = MODEL(heads)(heat, size, offset);
    int32_t count;
    if (argc != 4) {
        fprintf(stderr, "usage: %s HEAT SIZE OFFSET\n", argv[0]);
        return 2;
    }
    if (!read_exactly(argv[1], heat, sizeof heat) || !read_exactly(argv[2], size, sizeof size)
        || !read_exactly(argv[3], offset, sizeof offset)) {
        return 2;
    }
    count = ecn_decode(&heads, boxes, 2 * WANTED);
    if (count < 0) {
        fprintf(stderr, "%s\n", ecn_strerror(count));
        return 2;
    }
    count = ecn_drop_twins(boxes, count, ECN_SAME_CLASS);
    /* Here ecn_to_image would map them to the camera's picture. */
    if (MODEL(heat_is_logit)) {
        ecn_to_probability(boxes, count);
    }
    for (int32_t i = 0; i < count && i < WANTED; ++i) {
        const ecn_box *box = &boxes[i];
        printf("%d %s %.9g %.9g %.9g %.9g %.9g\n", (int)box->class_id, MODEL(class_names)[box->class_id],
               (double)box->score, (double)box->x1, (double)box->y1, (double)box->x2, (double)box->y2);
    }
    return 0;
}

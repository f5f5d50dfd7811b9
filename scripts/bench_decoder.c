/* bench_decoder - how long ecn_decode takes beside reading the same bytes once. See bench_decoder.py.
 *
 *     bench_decoder MAP CLASSES HEIGHT WIDTH SCALE ZERO_POINT THRESHOLD TURNS
 *
 * MAP: int8 (CLASSES, HEIGHT, WIDTH), raw. Prints microseconds, one line a turn: NCHW, NHWC, nothing found, memcpy, memchr.
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 199309L
#include "edgecn_decode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

static void *allocate(size_t bytes)
{
    void *memory = malloc(bytes);
    if (memory == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

static ecn_tensor tensor(const void *data, float scale, int32_t zero_point, int32_t plane, int32_t width)
{
    const ecn_tensor t = {data, scale, zero_point, ECN_S8, plane, width, 1};
    return t;
}

int main(int argc, char **argv)
{
    static ecn_box out[200];
    if (argc != 9) {
        fprintf(stderr, "usage: %s MAP CLASSES HEIGHT WIDTH SCALE ZERO_POINT THRESHOLD TURNS\n", argv[0]);
        return 2;
    }
    const int32_t classes = atoi(argv[2]), height = atoi(argv[3]), width = atoi(argv[4]), turns = atoi(argv[8]);
    const int32_t plane = height * width, zero = atoi(argv[6]);
    const size_t bytes = (size_t)classes * (size_t)plane;
    int8_t *const planar = (int8_t *)allocate(bytes), *const packed = (int8_t *)allocate(bytes);
    int8_t *const copy = (int8_t *)allocate(bytes), *const boxes = (int8_t *)allocate(2 * (size_t)plane);
    FILE *file = fopen(argv[1], "rb");
    if (file == NULL || fread(planar, 1, bytes, file) != bytes) {
        fprintf(stderr, "%s: expected %lu bytes\n", argv[1], (unsigned long)bytes);
        return 1;
    }
    fclose(file);
    memset(boxes, 30, 2 * (size_t)plane);
    for (int32_t c = 0; c < classes; ++c) {
        for (int32_t i = 0; i < plane; ++i) {
            packed[i * classes + c] = planar[c * plane + i];
        }
    }
    ecn_heads h;
    h.heat = tensor(planar, strtof(argv[5], NULL), zero, plane, width);
    h.size = tensor(boxes, 0.1f, 0, plane, width);
    h.offset = tensor(boxes, 0.01f, 0, plane, width);
    h.classes = classes;
    h.height = height;
    h.width = width;
    h.cell_px = 4.0f;
    h.threshold = strtof(argv[7], NULL);
    h.class_threshold = NULL;
    ecn_heads nhwc = h, nothing = h;
    nhwc.heat.data = packed;
    nhwc.heat.stride_c = 1;
    nhwc.heat.stride_x = classes;
    nhwc.heat.stride_y = classes * width;
    nothing.threshold = (float)(127 - zero) * h.heat.scale;      /* what no cell holds */
    volatile long sink = 0;
    for (int32_t turn = -10; turn < turns; ++turn) {
        double at[6];
        at[0] = microseconds();
        const int32_t found = ecn_decode(&h, out, 200);
        at[1] = microseconds();
        sink += ecn_decode(&nhwc, out, 200);
        at[2] = microseconds();
        sink += ecn_decode(&nothing, out, 200);
        at[3] = microseconds();
        memcpy(copy, planar, bytes);
        sink += copy[bytes / 2];
        at[4] = microseconds();
        sink += memchr(planar, 127, bytes) != NULL;      /* 127 is not in the map */
        at[5] = microseconds();
        if (turn >= 0) {
            printf("%d %.3f %.3f %.3f %.3f %.3f\n", (int)found, at[1] - at[0], at[2] - at[1], at[3] - at[2],
                   at[4] - at[3], at[5] - at[4]);
        }
    }
    free(planar);
    free(packed);
    free(copy);
    free(boxes);
    return 0;
}

/* stack - how much stack the decoder really used, runtime helpers included: paint below the stack pointer, call, look.
 * One line for each function: NAME BYTES. docs/benchmarks/decoder-size.csv holds what the compiler promises.
 * SPDX-License-Identifier: Apache-2.0 */
#include "edgecn_decode.h"

#include <stdio.h>
#include <string.h>

#define WORDS 1024                       /* painted: eight times what the decoder may use */
#define PAINT 0xA5C35A3Cu

/* A macro: nothing may be called between painting and looking but what is measured. */
#define MEASURE(name, call)                                                                        \
    do {                                                                                           \
        volatile uint32_t *bottom;                                                                 \
        int32_t left = 0;                                                                          \
        __asm volatile("mov %0, sp" : "=r"(bottom));                                               \
        bottom -= WORDS;                                                                           \
        for (int32_t i = 0; i < WORDS; ++i) {                                                      \
            bottom[i] = PAINT;                                                                     \
        }                                                                                          \
        call;                                                                                      \
        while (left < WORDS && bottom[left] == PAINT) {                                            \
            ++left;                                                                                \
        }                                                                                          \
        printf("%s %d\n", name, (int)(WORDS - left) * 4);                                          \
    } while (0)

#define SIDE 9
#define PEAKS 16                         /* every second cell of a 9 x 9 map, first row and column left out */
#define CAPACITY 10                      /* fewer than the peaks, so that the heap replaces some */

static float memory[2 * SIDE * SIDE];    /* of all three heads and any dtype: zero but for the peaks */
static ecn_box boxes[PEAKS];
static float table[256];
static volatile int32_t count;

static ecn_tensor tensor(int32_t dtype)
{
    ecn_tensor t;
    memset(&t, 0, sizeof t);
    t.data = memory;
    t.scale = 0.5f;
    t.dtype = dtype;
    t.stride_c = SIDE * SIDE;
    t.stride_y = SIDE;
    t.stride_x = 1;
    return t;
}

static ecn_heads heads(int32_t dtype)
{
    ecn_heads h;
    memset(&h, 0, sizeof h);
    h.heat = h.size = h.offset = tensor(dtype);
    h.classes = 1;
    h.height = h.width = SIDE;
    h.cell_px = 4.0f;
    h.threshold = 0.5f;
    memset(memory, 0, sizeof memory);
    for (int32_t y = 1; y < SIDE; y += 2) {
        for (int32_t x = 1; x < SIDE; x += 2) {
            const int32_t cell = y * SIDE + x, value = 1 + cell % 61;
            const int16_t wide = (int16_t)value;
            if (dtype == ECN_F32) {
                memory[cell] = (float)value;
            } else if (dtype == ECN_S16) {
                memcpy((uint8_t *)memory + 2 * cell, &wide, 2);
            } else {
                ((uint8_t *)memory)[cell] = (uint8_t)value;
            }
        }
    }
    return h;
}

int main(void)
{
    static const char *const NAMES[] = {"ecn_decode_f32", "ecn_decode_s8", "ecn_decode_u8", "ecn_decode_s16"};
    const ecn_frame frame = {640, 480, 36, 27, 0, 4};
    const ecn_tensor s8 = tensor(ECN_S8);
    const ecn_levels levels = {16.0f, 16.0f, 2.0f, 2.0f};
    const ecn_tile tile = {0, 0, 0, 0, SIDE, SIDE};
    const ecn_heads whole = heads(ECN_S8);
    const ecn_heads canvas = whole;
    for (int32_t dtype = ECN_F32; dtype <= ECN_S16; ++dtype) {
        const ecn_heads h = heads(dtype);
        MEASURE(NAMES[dtype], count = ecn_decode(&h, boxes, CAPACITY));
        if (count != CAPACITY) {
            printf("expected %d boxes, got %d\n", CAPACITY, (int)count);
            return 1;
        }
    }
    MEASURE("ecn_drop_twins", count = ecn_drop_twins(boxes, CAPACITY, ECN_ANY_CLASS));
    MEASURE("ecn_stitch", count = ecn_stitch(&whole, &tile, &canvas));
    if (count != 0) {
        printf("expected to stitch, got error %d\n", (int)count);
        return 1;
    }
    MEASURE("ecn_drop_cut", count = ecn_drop_cut(boxes, CAPACITY, &tile, &whole, &canvas));
    MEASURE("ecn_join_levels", count = ecn_join_levels(boxes, CAPACITY / 2, CAPACITY / 2, &levels));
    MEASURE("ecn_to_image", (void)ecn_to_image(boxes, count, &frame));
    MEASURE("ecn_to_probability", ecn_to_probability(boxes, count));
    MEASURE("ecn_probability_table", (void)ecn_probability_table(&s8, table));
    return 0;
}

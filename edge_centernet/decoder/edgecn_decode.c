/* edgecn_decode.c - see edgecn_decode.h for the contract, reference.py for the same rule in NumPy.
 * SPDX-License-Identifier: Apache-2.0 */
#include "edgecn_decode.h"

#include <float.h>
#include <stddef.h>

/* What the heap orders. `stored` is the heatmap's own value: an 8-bit integer is exact in a float. */
typedef struct {
    float   stored;
    int32_t class_id;
    int32_t cell;
} peak;

/* ---- arithmetic ---------------------------------------------------------------------------- */

/* Round to float here and now. The volatile forbids what compilers may otherwise do on their own
 * (fused multiply-add, x87 extra precision), so the boxes are the same bits on every machine. */
static float rounded(float value)
{
    volatile float stored = value;
    return stored;
}

static int is_finite(float value)        /* false for NaN too */
{
    return value >= -FLT_MAX && value <= FLT_MAX;
}

static float dequantised(const ecn_tensor *t, int32_t stored)
{
    return rounded((float)(stored - t->zero_point) * t->scale);
}

static float real_at(const ecn_tensor *t, int32_t index)
{
    float value;
    if (t->dtype == ECN_F32) {
        value = ((const float *)t->data)[index];
    } else if (t->dtype == ECN_S8) {
        value = dequantised(t, ((const int8_t *)t->data)[index]);
    } else {
        value = dequantised(t, ((const uint8_t *)t->data)[index]);
    }
    return is_finite(value) ? value : 0.0f;
}

/* ---- the K best: a heap with the worst peak on top, living in `out` -------------------------- */

/* Only three of ecn_box's fields are copied: a whole struct assignment may call memcpy. */
static peak get(const ecn_box *box)
{
    peak p;
    p.stored = box->score;
    p.class_id = box->class_id;
    p.cell = box->cell;
    return p;
}

static void put(ecn_box *box, peak p)
{
    box->score = p.stored;
    box->class_id = p.class_id;
    box->cell = p.cell;
}

static int better(peak a, peak b)
{
    if (a.stored > b.stored || a.stored < b.stored) {
        return a.stored > b.stored;
    }
    return a.class_id != b.class_id ? a.class_id < b.class_id : a.cell < b.cell;
}

/* Insert `p` into a heap of `count` boxes; heap[count] is free. */
static void sift_up(ecn_box *heap, int32_t count, peak p)
{
    int32_t hole = count;
    while (hole > 0) {
        const int32_t parent = (hole - 1) / 2;
        if (!better(get(&heap[parent]), p)) {
            break;
        }
        put(&heap[hole], get(&heap[parent]));
        hole = parent;
    }
    put(&heap[hole], p);
}

/* Replace the top of a heap of `count` boxes by `p`. Peaks are never neighbours, so count is
 * below ECN_DIM_MAX^3 / 2 = 2^29 and 2 * hole + 2 cannot overflow. */
static void sift_down(ecn_box *heap, int32_t count, peak p)
{
    int32_t hole = 0;
    for (;;) {
        int32_t child = 2 * hole + 1;
        if (child >= count) {
            break;
        }
        if (child + 1 < count && better(get(&heap[child]), get(&heap[child + 1]))) {
            ++child;                     /* the worse of the two */
        }
        if (!better(p, get(&heap[child]))) {
            break;
        }
        put(&heap[hole], get(&heap[child]));
        hole = child;
    }
    put(&heap[hole], p);
}

static void sort_best_first(ecn_box *heap, int32_t count)
{
    for (int32_t last = count - 1; last > 0; --last) {
        const peak p = get(&heap[last]);
        put(&heap[last], get(&heap[0])); /* the worst one left goes to the end */
        sift_down(heap, last, p);
    }
}

/* ---- finding peaks: the same two functions for each stored type ------------------------------ */

/* is_peak: `p` points at the cell; up, down, left, right: is there a neighbour on that side?
 * Written as "a neighbour beats it" so that a NaN neighbour, which compares false, does not.
 * scan: visits classes, then cells in raster order; FLOOR is the lowest value that may pass. */
#define DEFINE_SCAN(NAME, TYPE, FLOOR)                                                             \
    static int is_peak_##NAME(const TYPE *p, int32_t sy, int32_t sx, int up, int down, int left,   \
                              int right)                                                           \
    {                                                                                              \
        const TYPE v = *p;                                                                         \
        if (left && p[-sx] >= v) { return 0; }                                                     \
        if (right && p[sx] > v) { return 0; }                                                      \
        if (up && p[-sy] >= v) { return 0; }                                                       \
        if (up && left && p[-sy - sx] >= v) { return 0; }                                          \
        if (up && right && p[-sy + sx] >= v) { return 0; }                                         \
        if (down && p[sy] > v) { return 0; }                                                       \
        if (down && left && p[sy - sx] > v) { return 0; }                                          \
        if (down && right && p[sy + sx] > v) { return 0; }                                         \
        return 1;                                                                                  \
    }                                                                                              \
                                                                                                   \
    static int32_t scan_##NAME(const ecn_heads *h, FLOOR lowest, ecn_box *out, int32_t capacity)   \
    {                                                                                              \
        const int32_t sy = h->heat.stride_y, sx = h->heat.stride_x;                                \
        int32_t count = 0;                                                                         \
        for (int32_t c = 0; c < h->classes; ++c) {                                                 \
            for (int32_t y = 0; y < h->height; ++y) {                                              \
                const TYPE *row = (const TYPE *)h->heat.data + (c * h->heat.stride_c + y * sy);    \
                for (int32_t x = 0; x < h->width; ++x) {                                           \
                    const TYPE *cell = row + x * sx;                                               \
                    peak p;                                                                        \
                    if (!(*cell >= lowest)) { continue; }          /* NaN too */                   \
                    p.stored = (float)*cell;                                                       \
                    p.class_id = c;                                                                \
                    p.cell = y * h->width + x;                                                     \
                    if (count == capacity && !better(p, get(&out[0]))) { continue; }               \
                    if (!is_peak_##NAME(cell, sy, sx, y > 0, y + 1 < h->height, x > 0,             \
                                        x + 1 < h->width)) { continue; }                           \
                    if (count < capacity) {                                                        \
                        sift_up(out, count++, p);                                                  \
                    } else {                                                                       \
                        sift_down(out, count, p);                                                  \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        return count;                                                                              \
    }

DEFINE_SCAN(f32, float, float)
DEFINE_SCAN(s8, int8_t, int32_t)
DEFINE_SCAN(u8, uint8_t, int32_t)

/* The lowest stored integer whose real value reaches the threshold; high + 1 if none does.
 * Trying all 256 is exact, which dividing by the scale is not. */
static int32_t lowest_stored(const ecn_heads *h, int32_t low, int32_t high)
{
    int32_t stored = low;
    while (stored <= high && dequantised(&h->heat, stored) < h->threshold) {
        ++stored;
    }
    return stored;
}

/* ---- peaks to boxes -------------------------------------------------------------------------- */

/* The two sides of a box along one axis, 0: x, 1: y. */
static void place(const ecn_heads *h, int32_t axis, int32_t y, int32_t x, float *low, float *high)
{
    const ecn_tensor *s = &h->size, *o = &h->offset;
    const float offset = real_at(o, axis * o->stride_c + y * o->stride_y + x * o->stride_x);
    const float size = real_at(s, axis * s->stride_c + y * s->stride_y + x * s->stride_x);
    const float half = size > 0.0f ? rounded(size * 0.5f) : 0.0f;
    const float centre = rounded((float)(axis == 0 ? x : y) + offset);
    *low = rounded(rounded(centre - half) * h->cell_px);
    *high = rounded(rounded(centre + half) * h->cell_px);
}

static void complete(const ecn_heads *h, ecn_box *box)
{
    const int32_t y = box->cell / h->width, x = box->cell % h->width;
    place(h, 0, y, x, &box->x1, &box->x2);
    place(h, 1, y, x, &box->y1, &box->y2);
    if (h->heat.dtype != ECN_F32) {      /* until now the score held the stored integer */
        box->score = dequantised(&h->heat, (int32_t)box->score);
    }
}

/* ---- arguments ------------------------------------------------------------------------------- */

static int32_t check_quant(const ecn_tensor *t)
{
    const int32_t low = t->dtype == ECN_S8 ? -128 : 0;
    if (t->dtype == ECN_F32) {
        return 0;
    }
    if (t->dtype != ECN_S8 && t->dtype != ECN_U8) {
        return ECN_ERR_DTYPE;
    }
    if (!(t->scale > 0.0f) || !is_finite(t->scale)) {
        return ECN_ERR_QUANT;
    }
    return t->zero_point >= low && t->zero_point <= low + 255 ? 0 : ECN_ERR_QUANT;
}

/* Take (dim - 1) * stride out of `room` elements; what is left, or -1 if it does not fit.
 * Dividing first keeps every product inside int32_t without 64-bit arithmetic. */
static int32_t room_left(int32_t room, int32_t dim, int32_t stride)
{
    if (room < 0 || stride < 0) {
        return -1;
    }
    if (dim > 1 && stride > room / (dim - 1)) {
        return -1;
    }
    return room - (dim - 1) * stride;
}

static int32_t check_tensor(const ecn_tensor *t, int32_t channels, int32_t height, int32_t width)
{
    int32_t room = INT32_MAX, error;
    if (t->data == NULL) {
        return ECN_ERR_NULL;
    }
    error = check_quant(t);
    if (error != 0) {
        return error;
    }
    room = room_left(room, channels, t->stride_c);
    room = room_left(room, height, t->stride_y);
    room = room_left(room, width, t->stride_x);
    return room < 0 ? ECN_ERR_SHAPE : 0;
}

static int is_dim(int32_t dim)
{
    return dim >= 1 && dim <= ECN_DIM_MAX;
}

static int32_t check_heads(const ecn_heads *h)
{
    int32_t error;
    if (!is_dim(h->classes) || !is_dim(h->height) || !is_dim(h->width)) {
        return ECN_ERR_SHAPE;
    }
    error = check_tensor(&h->heat, h->classes, h->height, h->width);
    if (error == 0) {
        error = check_tensor(&h->size, 2, h->height, h->width);
    }
    if (error == 0) {
        error = check_tensor(&h->offset, 2, h->height, h->width);
    }
    if (error != 0) {
        return error;
    }
    if (!(h->cell_px > 0.0f) || !is_finite(h->cell_px) || h->threshold != h->threshold) {
        return ECN_ERR_ARG;
    }
    return 0;
}

/* ---- the three public functions -------------------------------------------------------------- */

int32_t ecn_decode(const ecn_heads *heads, ecn_box *out, int32_t capacity)
{
    int32_t count, error;
    if (heads == NULL || (out == NULL && capacity > 0)) {
        return ECN_ERR_NULL;
    }
    if (capacity < 0) {
        return ECN_ERR_ARG;
    }
    error = check_heads(heads);
    if (error != 0 || capacity == 0) {
        return error;
    }
    if (heads->heat.dtype == ECN_F32) {
        count = scan_f32(heads, heads->threshold, out, capacity);
    } else if (heads->heat.dtype == ECN_S8) {
        count = scan_s8(heads, lowest_stored(heads, -128, 127), out, capacity);
    } else {
        count = scan_u8(heads, lowest_stored(heads, 0, 255), out, capacity);
    }
    sort_best_first(out, count);
    for (int32_t i = 0; i < count; ++i) {
        complete(heads, &out[i]);
    }
    return count;
}

uint32_t ecn_version(void)
{
    return ECN_VERSION;
}

const char *ecn_strerror(int32_t code)
{
    switch (code) {
    case ECN_ERR_NULL:  return "a required pointer is NULL";
    case ECN_ERR_DTYPE: return "unknown dtype: expected ECN_F32, ECN_S8 or ECN_U8";
    case ECN_ERR_QUANT: return "scale is not a positive finite number, or zero_point does not fit the dtype";
    case ECN_ERR_SHAPE: return "a dimension is outside 1..1024, a stride is negative, or the last index reaches 2^31";
    case ECN_ERR_ARG:   return "capacity is negative, cell_px is not a positive finite number, or threshold is NaN";
    default:            return code < 0 ? "unknown error" : "no error";
    }
}

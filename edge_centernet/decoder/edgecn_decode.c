/* edgecn_decode.c - see edgecn_decode.h for the contract, rule.py for the same rule in NumPy.
 * SPDX-License-Identifier: Apache-2.0 */
#include "edgecn_decode.h"

#include <float.h>
#include <stddef.h>
#include <string.h>

/* What the heap orders. `stored` is the heatmap's own value: a 16-bit integer is exact in a float. */
typedef struct {
    float   stored;
    int32_t class_id;
    int32_t cell;
} peak;

/* ---- arithmetic ---------------------------------------------------------------------------- */

/* Constants that no float holds exactly are cast: where FLT_EVAL_METHOD is not 0 (x87, s390x) they would keep more digits.
 * Round to float here and now. The volatile forbids what compilers may otherwise do on their own
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
    } else if (t->dtype == ECN_U8) {
        value = dequantised(t, ((const uint8_t *)t->data)[index]);
    } else {
        value = dequantised(t, ((const int16_t *)t->data)[index]);
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

/* ---- the order of the heatmap in memory -------------------------------------------------------- */

/* The three axes from the closest in memory to the farthest. The first ones that follow each other without a gap are one
 * run: all of a dense map, in either layout, is a single one. */
typedef struct {
    int32_t dim[3], stride[3];
    int32_t axis[3];                     /* 0: class, 1: y, 2: x */
    int32_t run;                         /* cells in a run, stride[0] apart */
    int32_t merged;                      /* how many axes it spans */
} walk;

static walk walk_of(const ecn_heads *h)
{
    walk w;
    w.dim[0] = h->width;
    w.dim[1] = h->height;
    w.dim[2] = h->classes;
    w.stride[0] = h->heat.stride_x;
    w.stride[1] = h->heat.stride_y;
    w.stride[2] = h->heat.stride_c;
    for (int32_t i = 0; i < 3; ++i) {
        w.axis[i] = 2 - i;
        w.stride[i] = w.dim[i] > 1 ? w.stride[i] : INT32_MAX;    /* never walked along: last */
    }
    for (int32_t pass = 0; pass < 2; ++pass) {           /* bubble sort of three */
        for (int32_t i = 0; i < 2; ++i) {
            if (w.stride[i] > w.stride[i + 1]) {
                const int32_t dim = w.dim[i], stride = w.stride[i], axis = w.axis[i];
                w.dim[i] = w.dim[i + 1];
                w.stride[i] = w.stride[i + 1];
                w.axis[i] = w.axis[i + 1];
                w.dim[i + 1] = dim;
                w.stride[i + 1] = stride;
                w.axis[i + 1] = axis;
            }
        }
    }
    w.run = w.dim[0];
    w.merged = 1;
    while (w.merged < 3 && (w.dim[w.merged] == 1 || (w.stride[0] > 0 && w.stride[w.merged] % w.stride[0] == 0
           && w.stride[w.merged] / w.stride[0] == w.run))) {
        w.run *= w.dim[w.merged++];
    }
    return w;
}

/* Where cell `i` of the run at (far, near) lies: at[0] class, at[1] y, at[2] x. */
static void locate(const walk *w, int32_t i, int32_t near, int32_t far, int32_t at[3])
{
    at[w->axis[0]] = w->merged > 1 ? i % w->dim[0] : i;
    at[w->axis[1]] = w->merged > 1 ? i / w->dim[0] : near;
    at[w->axis[2]] = far;
    if (w->merged == 3) {
        at[w->axis[2]] = at[w->axis[1]] / w->dim[1];
        at[w->axis[1]] = at[w->axis[1]] % w->dim[1];
    }
}

static float threshold_of(const ecn_heads *h, int32_t class_id)
{
    return h->class_threshold != NULL ? h->class_threshold[class_id] : h->threshold;
}

static float real_score(const ecn_heads *h, float stored)
{
    return h->heat.dtype == ECN_F32 ? stored : dequantised(&h->heat, (int32_t)stored);
}

/* ---- finding peaks: the same functions for each stored type ---------------------------------- */

/* Where it becomes vector instructions, a BLOCK of cells is tested at once, LANES at a time, and what is kept is in which
 * lanes a cell passed: only those lanes' cells are looked at. It changes nothing but the time: a processor without them is
 * faster one cell at a time. */
#define LANES 16
#define BLOCK 256
#if defined(__SSE2__) || defined(_M_X64) || defined(__ARM_NEON) || defined(__ALTIVEC__) || defined(__VX__) \
    || defined(__riscv_vector)
#define SKIPPING 1
#else
#define SKIPPING 0
#endif

/* One line of the heatmap, and the heap that its peaks go to. */
typedef struct {
    const ecn_heads *heads;
    walk     lines;
    int32_t  near, far;                  /* which line: see locate() */
    ecn_box *out;
    int32_t  capacity, count;
} search;

/* is_peak: `p` points at the cell; up, down, left, right: is there a neighbour on that side?
 * Written as "a neighbour beats it" so that a NaN neighbour, which compares false, does not.
 * test: do any of COUNT cells, a constant, reach `lowest`? below[k]: all ones while no cell of lane k does; a NaN seems to.
 *       MASK is as wide as TYPE, so that lanes stay lanes.
 * visit: put the peaks among cells i, i + step, ... below `end` into the heap; what a cell must reach from then on.
 * visit_lanes: the same for the lanes in which test found one.
 * scan: in the order of memory, or a block's lanes in turn: the heap's order is total, so the K best are the same in any. */
#define DEFINE_TEST(NAME, SIZE, TYPE, MASK, COUNT)                                                 \
    static int test_##SIZE##_##NAME(const TYPE *p, TYPE lowest, MASK below[LANES])                 \
    {                                                                                              \
        uint64_t word[LANES * sizeof(MASK) / 8], all = ~(uint64_t)0;                               \
        MASK lane[LANES];                                                                          \
        memset(lane, 0xFF, sizeof lane);                                                           \
        for (int32_t i = 0; i < (COUNT); i += LANES) {                                             \
            for (int32_t k = 0; k < LANES; ++k) {                                                  \
                lane[k] = (MASK)(lane[k] & (MASK)-(p[i + k] < lowest));                            \
            }                                                                                      \
        }                                                                                          \
        memcpy(word, lane, sizeof word);                                                           \
        for (size_t k = 0; k < sizeof word / sizeof word[0]; ++k) {                                \
            all &= word[k];                                                                        \
        }                                                                                          \
        if (all == ~(uint64_t)0) { return 0; }                                                     \
        memcpy(below, lane, sizeof lane);                                                          \
        return 1;                                                                                  \
    }

#define DEFINE_SCAN(NAME, TYPE, MASK)                                                              \
    static int is_peak_##NAME(const TYPE *p, int32_t sy, int32_t sx, int up, int down, int left,   \
                              int right)                                                           \
    {                                                                                              \
        const TYPE v = *p;                                                                         \
        for (int32_t dy = -up; dy <= down; ++dy) {                 /* loops take half the code */  \
            for (int32_t dx = -left; dx <= right; ++dx) {                                          \
                const TYPE n = p[dy * sy + dx * sx];                                               \
                if (n > v || (n >= v && (dy < 0 || (dy == 0 && dx < 0)))) { return 0; }            \
            }                                                                                      \
        }                                                                                          \
        return 1;                                                                                  \
    }                                                                                              \
                                                                                                   \
    DEFINE_TEST(NAME, block, TYPE, MASK, BLOCK)                                                    \
    DEFINE_TEST(NAME, few, TYPE, MASK, LANES)                                                      \
                                                                                                   \
    static TYPE visit_##NAME(search *s, const TYPE *cells, int32_t i, int32_t step, int32_t end,   \
                             TYPE lowest)                                                          \
    {                                                                                              \
        const ecn_heads *h = s->heads;                                                             \
        for (; i < end; i += step) {                                                               \
            const TYPE *cell = cells + i * s->lines.stride[0];                                     \
            int32_t at[3];                                                                         \
            peak p;                                                                                \
            if (!(*cell >= lowest)) { continue; }                  /* NaN too */                   \
            locate(&s->lines, i, s->near, s->far, at);                                             \
            p.stored = (float)*cell;                                                               \
            p.class_id = at[0];                                                                    \
            p.cell = at[1] * h->width + at[2];                                                     \
            if (s->count == s->capacity && !better(p, get(&s->out[0]))) { continue; }              \
            if (h->class_threshold != NULL                                                         \
                && !(real_score(h, p.stored) >= h->class_threshold[at[0]])) { continue; }          \
            if (!is_peak_##NAME(cell, h->heat.stride_y, h->heat.stride_x, at[1] > 0,               \
                                at[1] + 1 < h->height, at[2] > 0, at[2] + 1 < h->width)) { continue; } \
            if (s->count < s->capacity) {                                                          \
                sift_up(s->out, s->count++, p);                                                    \
            } else {                                                                               \
                sift_down(s->out, s->count, p);                                                    \
            }                                                                                      \
            if (s->count == s->capacity) { lowest = (TYPE)s->out[0].score; }                       \
        }                                                                                          \
        return lowest;                                                                             \
    }                                                                                              \
                                                                                                   \
    static TYPE visit_lanes_##NAME(search *s, const TYPE *cells, int32_t i, int32_t end,           \
                                   const MASK below[LANES], TYPE lowest)                           \
    {                                                                                              \
        int32_t hit[LANES], hits = 0;    /* listed without a branch to mispredict */               \
        for (int32_t k = 0; k < LANES; ++k) {                                                      \
            hit[hits] = i + k;                                                                     \
            hits += below[k] == 0;                                                                 \
        }                                                                                          \
        for (int32_t k = 0; k < hits; ++k) {                                                       \
            lowest = visit_##NAME(s, cells, hit[k], LANES, end, lowest);                           \
        }                                                                                          \
        return lowest;                                                                             \
    }                                                                                              \
                                                                                                   \
    static TYPE scan_line_##NAME(search *s, const TYPE *cells, TYPE lowest)                        \
    {                                                                                              \
        const int32_t run = s->lines.run;                                                          \
        int32_t i = 0;                                                                             \
        if (SKIPPING && s->lines.stride[0] == 1) {                                                 \
            MASK below[LANES];                                                                     \
            for (; run - i >= BLOCK; i += BLOCK) {                                                 \
                if (test_block_##NAME(cells + i, lowest, below)) {                                 \
                    lowest = visit_lanes_##NAME(s, cells, i, i + BLOCK, below, lowest);            \
                }                                                                                  \
            }                                                                                      \
            for (; run - i >= LANES; i += LANES) {                                                 \
                if (test_few_##NAME(cells + i, lowest, below)) {                                   \
                    lowest = visit_lanes_##NAME(s, cells, i, i + LANES, below, lowest);            \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        return visit_##NAME(s, cells, i, 1, run, lowest);                                          \
    }                                                                                              \
                                                                                                   \
    static int32_t scan_##NAME(const ecn_heads *h, TYPE lowest, ecn_box *out, int32_t capacity)    \
    {                                                                                              \
        search s;                                                                                  \
        int32_t far_count, near_count;                                                             \
        s.heads = h;                                                                               \
        s.lines = walk_of(h);                                                                      \
        s.out = out;                                                                               \
        s.capacity = capacity;                                                                     \
        s.count = 0;                                                                               \
        far_count = s.lines.merged > 2 ? 1 : s.lines.dim[2];                                       \
        near_count = s.lines.merged > 1 ? 1 : s.lines.dim[1];                                      \
        for (s.far = 0; s.far < far_count; ++s.far) {                                              \
            for (s.near = 0; s.near < near_count; ++s.near) {                                      \
                const TYPE *cells = (const TYPE *)h->heat.data                                     \
                                  + (s.far * s.lines.stride[2] + s.near * s.lines.stride[1]);      \
                lowest = scan_line_##NAME(&s, cells, lowest);                                      \
            }                                                                                      \
        }                                                                                          \
        return s.count;                                                                            \
    }

DEFINE_SCAN(f32, float, uint32_t)
DEFINE_SCAN(s8, int8_t, uint8_t)
DEFINE_SCAN(u8, uint8_t, uint8_t)
DEFINE_SCAN(s16, int16_t, uint16_t)

/* The lowest stored integer whose real value reaches the threshold; high + 1 if none does.
 * Trying values is exact, which dividing by the scale is not; a larger integer is never a smaller real. */
static int32_t lowest_stored(const ecn_tensor *heat, float threshold, int32_t low, int32_t high)
{
    int32_t end = high + 1;
    while (low < end) {
        const int32_t middle = low + (end - low) / 2;
        if (dequantised(heat, middle) < threshold) {
            low = middle + 1;
        } else {
            end = middle;
        }
    }
    return low;
}

/* The threshold that the easiest class has. */
static float least_threshold(const ecn_heads *h)
{
    float least = threshold_of(h, 0);
    for (int32_t c = 1; c < h->classes; ++c) {
        const float threshold = threshold_of(h, c);
        least = threshold < least ? threshold : least;
    }
    return least;
}

static int32_t scan(const ecn_heads *h, ecn_box *out, int32_t capacity)
{
    const float threshold = least_threshold(h);
    const int32_t low = h->heat.dtype == ECN_S8 ? -128 : h->heat.dtype == ECN_S16 ? -32768 : 0;
    const int32_t high = h->heat.dtype == ECN_S16 ? 32767 : low + 255;
    int32_t lowest;
    if (h->heat.dtype == ECN_F32) {
        return scan_f32(h, threshold, out, capacity);
    }
    lowest = lowest_stored(&h->heat, threshold, low, high);
    if (lowest > high) {
        return 0;
    }
    if (h->heat.dtype == ECN_S8) {
        return scan_s8(h, (int8_t)lowest, out, capacity);
    }
    if (h->heat.dtype == ECN_U8) {
        return scan_u8(h, (uint8_t)lowest, out, capacity);
    }
    return scan_s16(h, (int16_t)lowest, out, capacity);
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
    box->score = real_score(h, box->score);      /* until now it held the stored integer */
}

/* ---- arguments ------------------------------------------------------------------------------- */

static int32_t check_quant(const ecn_tensor *t)
{
    const int32_t low = t->dtype == ECN_S8 ? -128 : t->dtype == ECN_S16 ? -32768 : 0;
    const int32_t high = t->dtype == ECN_S16 ? 32767 : low + 255;
    if (t->dtype == ECN_F32) {
        return 0;
    }
    if (t->dtype != ECN_S8 && t->dtype != ECN_U8 && t->dtype != ECN_S16) {
        return ECN_ERR_DTYPE;
    }
    if (!(t->scale > 0.0f) || !is_finite(t->scale)) {
        return ECN_ERR_QUANT;
    }
    return t->zero_point >= low && t->zero_point <= high ? 0 : ECN_ERR_QUANT;
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
    if (!(h->cell_px > 0.0f) || !is_finite(h->cell_px)) {
        return ECN_ERR_ARG;
    }
    for (int32_t c = 0; c < h->classes; ++c) {
        const float threshold = threshold_of(h, c);
        if (threshold != threshold) {
            return ECN_ERR_ARG;
        }
    }
    return 0;
}

/* ---- public: heads to boxes -------------------------------------------------------------------- */

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
    count = scan(heads, out, capacity);
    sort_best_first(out, count);
    for (int32_t i = 0; i < count; ++i) {
        complete(heads, &out[i]);
    }
    return count;
}

/* ---- public: what may follow --------------------------------------------------------------------- */

static float distance(float a, float b)
{
    const float d = rounded(a - b);
    return d < 0.0f ? -d : d;
}

static void move_box(ecn_box *to, const ecn_box *from)
{
    const ecn_box box = *from;
    *to = box;
}

static float midpoint(float low, float high)
{
    return rounded(rounded(high + low) * 0.5f);
}

/* Along one axis: centres close for the better box's side, and sides alike? */
static int concentric(float low_a, float high_a, float low_b, float high_b)
{
    const float a = rounded(high_a - low_a), b = rounded(high_b - low_b);
    return distance(midpoint(low_a, high_a), midpoint(low_b, high_b)) <= rounded((float)0.15f * a) && b <= rounded(2.0f * a) && a <= rounded(2.0f * b);
}

/* Do the peaks of two boxes of different levels lie within reach? */
static int within_reach(const ecn_box *a, const ecn_box *b, const ecn_levels *levels)
{
    return (a->cell < 0) != (b->cell < 0)
        && distance(midpoint(a->x1, a->x2), midpoint(b->x1, b->x2)) <= levels->reach_x
        && distance(midpoint(a->y1, a->y2), midpoint(b->y1, b->y2)) <= levels->reach_y;
}

/* Drop every box that stands for the same object as one before it that was kept; with levels, of the other level. */
static int32_t keep_first(ecn_box *boxes, int32_t count, int32_t scope, const ecn_levels *levels)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < count; ++i) {
        const ecn_box *box = &boxes[i];
        int twin = 0;
        for (int32_t k = 0; k < kept && !twin; ++k) {
            const ecn_box *best = &boxes[k];
            if (scope != ECN_ANY_CLASS && best->class_id != box->class_id) {
                continue;
            }
            if (levels != NULL) {
                twin = within_reach(best, box, levels);
            } else {
                twin = concentric(best->x1, best->x2, box->x1, box->x2)
                    && concentric(best->y1, best->y2, box->y1, box->y2);
            }
        }
        if (!twin) {
            move_box(&boxes[kept++], box);
        }
    }
    return kept;
}

int32_t ecn_drop_twins(ecn_box *boxes, int32_t count, int32_t scope)
{
    if (boxes == NULL && count > 0) {
        return ECN_ERR_NULL;
    }
    if (count < 0 || (scope != ECN_SAME_CLASS && scope != ECN_ANY_CLASS)) {
        return ECN_ERR_ARG;
    }
    return keep_first(boxes, count, scope, NULL);
}

/* ---- public: tiles ------------------------------------------------------------------------------- */

/* Does first..end - 1, on a canvas of `side` cells, lie in a tile of `length` cells that begins at `begin`? */
static int is_span(int32_t begin, int32_t first, int32_t end, int32_t length, int32_t side)
{
    return begin >= 0 && begin <= first && first <= end && end <= side && end - begin <= length;
}

static void copy_cells(const ecn_tensor *from, const ecn_tensor *onto, int32_t channels, const ecn_tile *tile)
{
    const int32_t bytes = from->dtype == ECN_F32 ? 4 : from->dtype == ECN_S16 ? 2 : 1;
    for (int32_t c = 0; c < channels; ++c) {
        for (int32_t y = tile->y1; y < tile->y2; ++y) {
            for (int32_t x = tile->x1; x < tile->x2; ++x) {
                const int32_t source = c * from->stride_c + (y - tile->top) * from->stride_y + (x - tile->left) * from->stride_x;
                const int32_t target = c * onto->stride_c + y * onto->stride_y + x * onto->stride_x;
                for (int32_t i = 0; i < bytes; ++i) {
                    ((uint8_t *)onto->data + (size_t)target * (size_t)bytes)[i]
                        = ((const uint8_t *)from->data + (size_t)source * (size_t)bytes)[i];
                }
            }
        }
    }
}

int32_t ecn_stitch(const ecn_heads *heads, const ecn_tile *tile, const ecn_heads *canvas)
{
    const ecn_tensor *from[3], *onto[3];
    int32_t error;
    if (heads == NULL || tile == NULL || canvas == NULL) {
        return ECN_ERR_NULL;
    }
    error = check_heads(heads);
    error = error != 0 ? error : check_heads(canvas);
    from[0] = &heads->heat;
    from[1] = &heads->size;
    from[2] = &heads->offset;
    onto[0] = &canvas->heat;
    onto[1] = &canvas->size;
    onto[2] = &canvas->offset;
    for (int32_t i = 0; i < 3 && error == 0; ++i) {
        error = from[i]->dtype == onto[i]->dtype ? 0 : ECN_ERR_DTYPE;
    }
    if (error != 0) {
        return error;
    }
    if (heads->classes != canvas->classes) {
        return ECN_ERR_SHAPE;
    }
    if (!is_span(tile->left, tile->x1, tile->x2, heads->width, canvas->width)
        || !is_span(tile->top, tile->y1, tile->y2, heads->height, canvas->height)) {
        return ECN_ERR_ARG;
    }
    for (int32_t i = 0; i < 3; ++i) {
        copy_cells(from[i], onto[i], i == 0 ? heads->classes : 2, tile);
    }
    return 0;
}

/* Along one axis: does a box come closer than a cell to an edge of its tile that is no edge of the canvas? In cells but
 * for the box. */
static int is_cut(const float *low, int32_t begin, int32_t end, int32_t side, float cell_px)
{
    return (begin > 0 && low[0] < rounded((float)(begin + 1) * cell_px))
        || (end < side && low[2] > rounded((float)(end - 1) * cell_px));
}

int32_t ecn_drop_cut(ecn_box *boxes, int32_t count, const ecn_tile *tile, const ecn_heads *heads, const ecn_heads *canvas)
{
    int32_t kept = 0;
    if (tile == NULL || heads == NULL || canvas == NULL || (boxes == NULL && count > 0)) {
        return ECN_ERR_NULL;
    }
    for (int32_t i = 0; i < count; ++i) {
        const int32_t y = boxes[i].cell / canvas->width, x = boxes[i].cell % canvas->width;
        int cut = 0;
        if (x >= tile->x1 && x < tile->x2 && y >= tile->y1 && y < tile->y2) {
            const float ends[4] = {boxes[i].x1, boxes[i].y1, boxes[i].x2, boxes[i].y2};
            for (int32_t axis = 0; axis < 2; ++axis) {
                const int32_t begin = axis == 0 ? tile->left : tile->top;
                const int32_t end = begin + (axis == 0 ? heads->width : heads->height);
                cut |= is_cut(&ends[axis], begin, end, axis == 0 ? canvas->width : canvas->height, canvas->cell_px);
            }
        }
        if (!cut) {
            move_box(&boxes[kept++], &boxes[i]);
        }
    }
    return kept;
}

/* What a level has to say of a box of this size: the coarse one more, the larger it is, and the fine one less. */
static float say(const ecn_box *box, const ecn_levels *levels)
{
    const float wide = rounded(rounded(box->x2 - box->x1) / levels->width);
    const float high = rounded(rounded(box->y2 - box->y1) / levels->height);
    const float size = wide > high ? wide : high;
    return box->cell < 0 ? rounded(size - 0.5f) : rounded(1.0f - size);
}

static float rank(const ecn_box *box, const ecn_levels *levels)
{
    return levels == NULL ? box->score : rounded(box->score * say(box, levels));
}

/* Insertion sort, which keeps equals in their order: by what levels have to say, or by score. */
static void sort(ecn_box *boxes, int32_t count, const ecn_levels *levels)
{
    for (int32_t i = 1; i < count; ++i) {
        ecn_box box;
        int32_t hole = i;
        move_box(&box, &boxes[i]);
        while (hole > 0 && rank(&boxes[hole - 1], levels) < rank(&box, levels)) {
            move_box(&boxes[hole], &boxes[hole - 1]);
            --hole;
        }
        move_box(&boxes[hole], &box);
    }
}

int32_t ecn_join_levels(ecn_box *boxes, int32_t fine, int32_t coarse, const ecn_levels *levels)
{
    int32_t count = 0;
    if (levels == NULL || (boxes == NULL && (fine > 0 || coarse > 0))) {
        return ECN_ERR_NULL;
    }
    if (fine < 0 || coarse < 0 || coarse > INT32_MAX - fine) {
        return ECN_ERR_ARG;
    }
    for (int32_t i = 0; i < fine + coarse; ++i) {
        boxes[i].cell = i < fine ? boxes[i].cell : -1 - boxes[i].cell;
        if (say(&boxes[i], levels) > 0.0f) {
            move_box(&boxes[count++], &boxes[i]);
        }
    }
    sort(boxes, count, levels);
    count = keep_first(boxes, count, ECN_SAME_CLASS, levels);
    sort(boxes, count, NULL);
    return count;
}

/* ---- public: to the image and to probabilities ---------------------------------------------------- */

/* NaN, which no box of ecn_decode has, becomes 0. */
static float mapped(float value, int32_t before, int32_t src, int32_t resized)
{
    const float moved = rounded(value - (float)before);
    const float image = rounded(rounded(moved * (float)src) / (float)resized);
    if (!(image > 0.0f)) {
        return 0.0f;
    }
    return image > (float)src ? (float)src : image;
}

int32_t ecn_to_image(ecn_box *boxes, int32_t count, const ecn_frame *frame)
{
    if (frame == NULL || (boxes == NULL && count > 0)) {
        return ECN_ERR_NULL;
    }
    if (count < 0 || frame->src_width <= 0 || frame->src_height <= 0 || frame->new_width <= 0
        || frame->new_height <= 0) {
        return ECN_ERR_ARG;
    }
    for (int32_t i = 0; i < count; ++i) {
        ecn_box *box = &boxes[i];
        box->x1 = mapped(box->x1, frame->left, frame->src_width, frame->new_width);
        box->x2 = mapped(box->x2, frame->left, frame->src_width, frame->new_width);
        box->y1 = mapped(box->y1, frame->top, frame->src_height, frame->new_height);
        box->y2 = mapped(box->y2, frame->top, frame->src_height, frame->new_height);
    }
    return 0;
}

/* exp(-z), z in 0..86: 2^-n times a polynomial in what is left, at most ln(2) / 2 (Cody and Waite, 1980, ch. 6). */
static float exp_of_minus(float z)
{
    const int32_t n = (int32_t)rounded(rounded(z * (float)1.44269504f) + 0.5f);
    /* ln 2 in two parts, the first with so few digits that n times it is exact */
    const float r = rounded(rounded(rounded((float)n * 0.693359375f) - z) + rounded((float)n * (float)-2.12194440e-4f));
    float p = (float)(1.0f / 720.0f), power = 0.5f;
    p = rounded(rounded(p * r) + (float)(1.0f / 120.0f));
    p = rounded(rounded(p * r) + (float)(1.0f / 24.0f));
    p = rounded(rounded(p * r) + (float)(1.0f / 6.0f));
    p = rounded(rounded(p * r) + 0.5f);
    p = rounded(rounded(p * r) + 1.0f);
    p = rounded(rounded(p * r) + 1.0f);
    for (int32_t bits = n; bits > 0; bits >>= 1) {       /* powers of two are exact */
        if ((bits & 1) != 0) {
            p = rounded(p * power);
        }
        power = rounded(power * power);
    }
    return p;
}

float ecn_logistic(float logit)
{
    const float z = logit < 0.0f ? -logit : logit;
    const float e = z < 86.0f ? exp_of_minus(z) : 0.0f;
    const float bottom = rounded(1.0f + e);
    if (logit != logit) {
        return 0.0f;
    }
    return rounded((logit < 0.0f ? e : 1.0f) / bottom);
}

void ecn_to_probability(ecn_box *boxes, int32_t count)
{
    for (int32_t i = 0; boxes != NULL && i < count; ++i) {
        boxes[i].score = ecn_logistic(boxes[i].score);
    }
}

int32_t ecn_probability_table(const ecn_tensor *heat, float table[256])
{
    int32_t error;
    if (heat == NULL || table == NULL) {
        return ECN_ERR_NULL;
    }
    if (heat->dtype != ECN_S8 && heat->dtype != ECN_U8) {
        return ECN_ERR_DTYPE;
    }
    error = check_quant(heat);
    for (int32_t i = 0; i < 256 && error == 0; ++i) {
        table[i] = ecn_logistic(dequantised(heat, heat->dtype == ECN_S8 ? i - 128 : i));
    }
    return error;
}

/* ---- public: about the library ------------------------------------------------------------------- */

uint32_t ecn_version(void)
{
    return ECN_VERSION;
}

const char *ecn_strerror(int32_t code)
{
    switch (code) {
    case ECN_ERR_NULL:  return "a required pointer is NULL";
    case ECN_ERR_DTYPE: return "unknown dtype: expected ECN_F32, ECN_S8, ECN_U8 or ECN_S16";
    case ECN_ERR_QUANT: return "scale is not a positive finite number, or zero_point does not fit the dtype";
    case ECN_ERR_SHAPE: return "a dimension is outside 1..1024, a stride is negative, or the last index reaches 2^31";
    case ECN_ERR_ARG:   return "a count is negative, cell_px is not a positive finite number, a threshold is NaN, a side is not positive, or a tile or level cannot be";
    default:            return code < 0 ? "unknown error" : "no error";
    }
}

/* fuzz_decode - a libFuzzer target: any bytes become heads, and what the decoder makes of them is compared with a
 * slow decoder written here from the words of edgecn_decode.h alone.
 *
 *     tests/c/fuzz.sh 60           builds and runs it
 *
 * Every array lies in memory of exactly its own size, so that the address sanitizer sees one element too far.
 * SPDX-License-Identifier: Apache-2.0 */
#include "edgecn_decode.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(promise)                                                                           \
    do {                                                                                           \
        if (!(promise)) {                                                                          \
            fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #promise);          \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#define ELEMENTS_MAX 32768               /* of a tensor; valid heads that need more are not tried */
#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- bytes to arguments: mostly ordinary values, now and then any or a bad one ----------------- */

static const uint8_t *input;
static size_t input_left;

static uint8_t byte(void)
{
    if (input_left == 0) {
        return 0;
    }
    --input_left;
    return *input++;
}

static uint32_t word(void)
{
    uint32_t bits = byte();
    bits |= (uint32_t)byte() << 8;
    bits |= (uint32_t)byte() << 16;
    return bits | (uint32_t)byte() << 24;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int32_t odd_int(void)
{
    static const int32_t ODD[] = {INT32_MIN, -1, 0, 1, 2, 1024, 1025, 65536, 1 << 29, 1 << 30, INT32_MAX};
    const uint8_t which = byte();
    return which < 200 ? ODD[which % COUNT_OF(ODD)] : (int32_t)word();
}

/* first..first + count - 1, or in one case of 16 an odd one */
static int32_t any_int(int32_t first, int32_t count)
{
    const uint8_t b = byte();
    return b < 240 ? first + b % count : odd_int();
}

static float any_float(void)
{
    static const float ODD[] = {0.0f,    -0.0f,    1.0f,      -1.0f, FLT_MIN,  FLT_TRUE_MIN,
                                FLT_MAX, -FLT_MAX, INFINITY, -INFINITY, NAN, 87.0f};
    const uint8_t b = byte();
    if (b < 200) {
        return (float)((int32_t)b - 100) * 0.125f;
    }
    return b < 240 ? ODD[b % COUNT_OF(ODD)] : float_of(word());
}

static float positive_float(void)
{
    const uint8_t b = byte();
    return b < 240 ? (float)(b + 1) / 64.0f : any_float();
}

/* ---- tensors ----------------------------------------------------------------------------------- */

static size_t element_size(int32_t dtype)
{
    return dtype == ECN_F32 ? 4u : dtype == ECN_S16 ? 2u : 1u;
}

/* Bytes as numbers worth comparing: for floats many equal ones, infinities and NaN. */
static float lively_float(uint8_t b)
{
    return b == 0x80 ? NAN : b == 0x7F ? INFINITY : b == 0x81 ? -INFINITY : (float)(int8_t)b * 0.25f;
}

typedef struct {
    ecn_tensor t;
    void *memory;
    int64_t last;                        /* index of the last element; negative: a stride is */
} owned;

static owned any_tensor(int32_t channels, int32_t height, int32_t width)
{
    owned o;
    const uint8_t layout = byte();
    const int32_t c = channels > 0 && channels < 64 ? channels : 1;
    const int32_t h = height > 0 && height < 64 ? height : 1, w = width > 0 && width < 64 ? width : 1;
    memset(&o, 0, sizeof o);
    o.t.dtype = any_int(0, 4);
    o.t.scale = positive_float();
    o.t.zero_point = o.t.dtype == ECN_S8 ? any_int(-128, 240) : any_int(0, 240);
    switch (layout % 6) {
    case 0:                              /* NCHW */
        o.t.stride_c = h * w, o.t.stride_y = w, o.t.stride_x = 1;
        break;
    case 1:                              /* NHWC */
        o.t.stride_c = 1, o.t.stride_y = w * c, o.t.stride_x = c;
        break;
    case 2:                              /* NCHW and NHWC with room between rows */
        o.t.stride_c = h * (w + 3), o.t.stride_y = w + 3, o.t.stride_x = 1;
        break;
    case 3:
        o.t.stride_c = 1, o.t.stride_y = w * (c + 1) + 2, o.t.stride_x = c + 1;
        break;
    case 4:                              /* columns first */
        o.t.stride_c = h * w, o.t.stride_y = 1, o.t.stride_x = h;
        break;
    default:                             /* whatever: cells that share memory too */
        o.t.stride_c = any_int(0, 16), o.t.stride_y = any_int(0, 16), o.t.stride_x = any_int(0, 16);
        break;
    }
    /* In doubles: dimensions and strides of 2^31 each sum to more than 64 bits hold. What is valid is far smaller, and exact. */
    const double last = ((double)channels - 1) * o.t.stride_c + ((double)height - 1) * o.t.stride_y
                        + ((double)width - 1) * o.t.stride_x;
    o.last = last >= -1 && last < (double)INT64_MAX / 2 ? (int64_t)last : last < 0 ? -1 : INT64_MAX / 2;
    if (o.t.stride_c < 0 || o.t.stride_y < 0 || o.t.stride_x < 0) {
        o.last = -1;
    }
    return o;
}

/* Memory for what a valid tensor has, one byte for any other: nobody may look at it. */
static void fill(owned *o, int valid, uint8_t mode, const uint8_t *pool, size_t pool_size)
{
    const size_t each = element_size(o->t.dtype), count = valid ? (size_t)o->last + 1 : 0;
    uint8_t *bytes = (uint8_t *)malloc(count > 0 ? count * each : 1);
    size_t at = mode;                    /* a different part of the pool for each tensor */
    REQUIRE(bytes != NULL);
    for (size_t i = 0; i < count * each; ++i, ++at) {
        bytes[i] = pool_size > 0 ? pool[at % pool_size] : (uint8_t)0;
    }
    for (size_t i = 0; o->t.dtype == ECN_F32 && mode % 4 != 3 && i < count; ++i) {
        const float value = lively_float(pool_size > 0 ? pool[(mode + i) % pool_size] : (uint8_t)0);
        memcpy(bytes + 4 * i, &value, 4);
    }
    o->memory = bytes;
    o->t.data = bytes;
}

/* ---- the slow decoder ---------------------------------------------------------------------------- */

static int finite(float value)
{
    return value - value == 0.0f;
}

static float stored(const ecn_tensor *t, int32_t c, int32_t y, int32_t x)
{
    const size_t index = (size_t)c * (size_t)t->stride_c + (size_t)y * (size_t)t->stride_y + (size_t)x * (size_t)t->stride_x;
    switch (t->dtype) {
    case ECN_F32: return ((const float *)t->data)[index];
    case ECN_S8:  return (float)((const int8_t *)t->data)[index];
    case ECN_U8:  return (float)((const uint8_t *)t->data)[index];
    default:      return (float)((const int16_t *)t->data)[index];
    }
}

/* Exact in a double, so it is rounded once. */
static float real(const ecn_tensor *t, float value)
{
    return t->dtype == ECN_F32 ? value : (float)(((double)value - t->zero_point) * (double)t->scale);
}

static float threshold(const ecn_heads *h, int32_t c)
{
    return h->class_threshold != NULL ? h->class_threshold[c] : h->threshold;
}

static int is_peak(const ecn_heads *h, int32_t c, int32_t y, int32_t x)
{
    const float value = stored(&h->heat, c, y, x);
    if (!(real(&h->heat, value) >= threshold(h, c))) {
        return 0;
    }
    for (int32_t dy = -1; dy <= 1; ++dy) {
        for (int32_t dx = -1; dx <= 1; ++dx) {
            const int earlier = dy < 0 || (dy == 0 && dx < 0);
            float neighbour;
            if ((dy == 0 && dx == 0) || y + dy < 0 || y + dy >= h->height || x + dx < 0 || x + dx >= h->width) {
                continue;
            }
            neighbour = stored(&h->heat, c, y + dy, x + dx);
            if (earlier ? neighbour >= value : neighbour > value) {
                return 0;
            }
        }
    }
    return 1;
}

static float stored_of(const ecn_heads *h, const ecn_box *box)
{
    return stored(&h->heat, box->class_id, box->cell / h->width, box->cell % h->width);
}

static int precedes(const ecn_heads *h, int32_t c, int32_t cell, const ecn_box *box)
{
    const float a = stored(&h->heat, c, cell / h->width, cell % h->width), b = stored_of(h, box);
    return a != b ? a > b : c != box->class_id ? c < box->class_id : cell < box->cell;
}

static void require_side(const ecn_heads *h, int32_t axis, const ecn_box *box, float low, float high)
{
    const int32_t y = box->cell / h->width, x = box->cell % h->width;
    float offset = real(&h->offset, stored(&h->offset, axis, y, x));
    float size = real(&h->size, stored(&h->size, axis, y, x));
    float centre, half, expected_low, expected_high;
    offset = finite(offset) ? offset : 0.0f;
    size = finite(size) && size > 0.0f ? size : 0.0f;
    centre = (float)(axis == 0 ? x : y) + offset;
    half = size * 0.5f;
    expected_low = centre - half;
    expected_low *= h->cell_px;
    expected_high = centre + half;
    expected_high *= h->cell_px;
    REQUIRE(memcmp(&low, &expected_low, 4) == 0);
    REQUIRE(memcmp(&high, &expected_high, 4) == 0);
    REQUIRE(low <= high);                /* so neither is NaN */
}

/* ---- which errors are due: 0 for none, else a bit for each code that fits ------------------------ */

#define BIT(code) (1u << -(code))

static unsigned quant_errors(const ecn_tensor *t)
{
    const int32_t low = t->dtype == ECN_S8 ? -128 : t->dtype == ECN_S16 ? -32768 : 0;
    const int32_t high = t->dtype == ECN_S8 ? 127 : t->dtype == ECN_S16 ? 32767 : 255;
    if (t->dtype < ECN_F32 || t->dtype > ECN_S16) {
        return BIT(ECN_ERR_DTYPE);
    }
    if (t->dtype != ECN_F32 && (!(t->scale > 0.0f) || !finite(t->scale) || t->zero_point < low || t->zero_point > high)) {
        return BIT(ECN_ERR_QUANT);
    }
    return 0;
}

static unsigned tensor_errors(const owned *o, int has_data)
{
    return (has_data ? 0 : BIT(ECN_ERR_NULL)) | quant_errors(&o->t)
           | (o->last < 0 || o->last > INT32_MAX ? BIT(ECN_ERR_SHAPE) : 0);
}

static int is_dim(int32_t dim)
{
    return dim >= 1 && dim <= ECN_DIM_MAX;
}

/* ---- the promises -------------------------------------------------------------------------------- */

static void require_untouched(const void *memory, size_t from, size_t to, uint8_t pattern)
{
    for (size_t i = from; i < to; ++i) {
        REQUIRE(((const uint8_t *)memory)[i] == pattern);
    }
}

static void require_best_peaks(const ecn_heads *h, const ecn_box *boxes, int32_t count, int32_t capacity)
{
    int32_t peaks = 0, ahead = 0;
    for (int32_t i = 0; i < count; ++i) {
        const ecn_box *box = &boxes[i];
        const int32_t cells = h->height * h->width;
        float score;
        REQUIRE(box->class_id >= 0 && box->class_id < h->classes && box->cell >= 0 && box->cell < cells);
        REQUIRE(is_peak(h, box->class_id, box->cell / h->width, box->cell % h->width));
        REQUIRE(i == 0 || precedes(h, boxes[i - 1].class_id, boxes[i - 1].cell, box));
        score = real(&h->heat, stored_of(h, box));
        REQUIRE(memcmp(&score, &box->score, 4) == 0);
        require_side(h, 0, box, box->x1, box->x2);
        require_side(h, 1, box, box->y1, box->y2);
    }
    for (int32_t c = 0; c < h->classes; ++c) {
        for (int32_t cell = 0; cell < h->height * h->width; ++cell) {
            if (is_peak(h, c, cell / h->width, cell % h->width)) {
                ++peaks;
                ahead += count > 0 && precedes(h, c, cell, &boxes[count - 1]);
            }
        }
    }
    REQUIRE(count == (peaks < capacity ? peaks : capacity));
    REQUIRE(count == 0 || ahead == count - 1);           /* no better peak was left out */
}

static ecn_box *copy_of(const ecn_box *boxes, int32_t count)
{
    const size_t bytes = (size_t)count * sizeof *boxes;
    ecn_box *copy = (ecn_box *)malloc(bytes > 0 ? bytes : 1);
    REQUIRE(copy != NULL);
    if (bytes > 0) {
        memcpy(copy, boxes, bytes);
    }
    return copy;
}

static void try_drop_twins(const ecn_box *boxes, int32_t count)
{
    const int32_t scope = any_int(ECN_SAME_CLASS, 2), asked = byte() < 250 ? count : -1 - count;
    ecn_box *left = copy_of(boxes, count);
    const int32_t kept = ecn_drop_twins(left, asked, scope);
    if (asked < 0 || (scope != ECN_SAME_CLASS && scope != ECN_ANY_CLASS)) {
        REQUIRE(kept == ECN_ERR_ARG);
        REQUIRE(count == 0 || memcmp(left, boxes, (size_t)count * sizeof *boxes) == 0);
    } else {
        int32_t from = 0;
        REQUIRE(kept <= count && (count == 0 || kept > 0));
        for (int32_t i = 0; i < kept; ++i, ++from) {     /* the same boxes in the same order, some missing */
            while (from < count && memcmp(&left[i], &boxes[from], sizeof *left) != 0) {
                ++from;
            }
            REQUIRE(from < count);
        }
        REQUIRE(kept == 0 || memcmp(left, boxes, sizeof *left) == 0);
        REQUIRE(ecn_drop_twins(left, kept, scope) == kept);
    }
    free(left);
}

static void try_to_image(const ecn_box *boxes, int32_t count)
{
    ecn_frame f;
    ecn_box *moved = copy_of(boxes, count);
    int32_t status;
    f.src_width = any_int(1, 200);
    f.src_height = any_int(1, 200);
    f.new_width = any_int(1, 200);
    f.new_height = any_int(1, 200);
    f.left = any_int(0, 100);
    f.top = any_int(0, 100);
    status = ecn_to_image(moved, count, &f);
    if (status != 0) {
        REQUIRE(status == ECN_ERR_ARG);
        REQUIRE(f.src_width <= 0 || f.src_height <= 0 || f.new_width <= 0 || f.new_height <= 0 || f.src_width > 1 << 24
                || f.src_height > 1 << 24);
        REQUIRE(count == 0 || memcmp(moved, boxes, (size_t)count * sizeof *boxes) == 0);
    }
    for (int32_t i = 0; status == 0 && i < count; ++i) {
        const ecn_box *box = &moved[i];
        REQUIRE(0.0f <= box->x1 && box->x1 <= box->x2 && box->x2 <= (float)f.src_width);
        REQUIRE(0.0f <= box->y1 && box->y1 <= box->y2 && box->y2 <= (float)f.src_height);
        REQUIRE(memcmp(&box->score, &boxes[i].score, 4) == 0 && box->class_id == boxes[i].class_id);
        REQUIRE(box->cell == boxes[i].cell);
    }
    REQUIRE(ecn_to_image(moved, count, NULL) == ECN_ERR_NULL);
    free(moved);
}

static void require_logistic(float logit, float probability)
{
    const double expected = logit != logit ? 0.0 : 1.0 / (1.0 + exp(-(double)logit));
    REQUIRE(fabs((double)probability - expected) <= 1e-6);
}

static void try_to_probability(const ecn_box *boxes, int32_t count)
{
    ecn_box *after = copy_of(boxes, count);
    ecn_to_probability(after, count);
    for (int32_t i = 0; i < count; ++i) {
        require_logistic(boxes[i].score, after[i].score);
        after[i].score = boxes[i].score;
    }
    REQUIRE(count == 0 || memcmp(after, boxes, (size_t)count * sizeof *boxes) == 0);
    free(after);
}

static void try_probability_table(const ecn_tensor *heat)
{
    float *table = (float *)malloc(256 * sizeof *table);
    unsigned due = quant_errors(heat);
    int32_t status;
    REQUIRE(table != NULL);
    memset(table, 0xA5, 256 * sizeof *table);
    if (heat->dtype != ECN_S8 && heat->dtype != ECN_U8) {
        due = BIT(ECN_ERR_DTYPE);
    }
    status = ecn_probability_table(heat, table);
    REQUIRE(due == 0 ? status == 0 : status < 0 && (due & BIT(status)) != 0);
    if (status != 0) {
        require_untouched(table, 0, 256 * sizeof *table, 0xA5);
    }
    for (int32_t i = 0; status == 0 && i < 256; ++i) {
        const float expected = ecn_logistic(real(heat, (float)(heat->dtype == ECN_S8 ? i - 128 : i)));
        REQUIRE(memcmp(&table[i], &expected, 4) == 0);
    }
    free(table);
}

/* Boxes of an image, split into two levels at will: what is left is some of them, best first, none twice. */
static void try_join_levels(const ecn_box *boxes, int32_t count)
{
    ecn_box *after = copy_of(boxes, count);
    const int32_t fine = any_int(0, count + 1);
    ecn_levels levels;
    int32_t left;
    levels.width = any_float();
    levels.height = any_float();
    levels.reach_x = any_float();
    levels.reach_y = any_float();
    if (fine < 0 || fine > count) {      /* odd on purpose: the rest would be read behind the end */
        free(after);
        return;
    }
    left = ecn_join_levels(after, fine, count - fine, &levels);
    REQUIRE(left >= 0 && left <= count);
    for (int32_t i = 0; i < left; ++i) {
        int32_t from = 0;
        while (from < count && (memcmp(&boxes[from].x1, &after[i].x1, 5 * sizeof(float)) != 0
               || (from < fine ? boxes[from].cell : -1 - boxes[from].cell) != after[i].cell
               || boxes[from].class_id != after[i].class_id)) {
            ++from;
        }
        REQUIRE(from < count);
        REQUIRE(i == 0 || !(after[i - 1].score < after[i].score));
    }
    free(after);
}

static void try_decode(const ecn_heads *h, int32_t capacity, int null_out, unsigned due)
{
    /* Room for all peaks is enough: nothing is written past the count. */
    const int64_t cells = due == 0 ? (int64_t)h->classes * h->height * h->width : 1;
    const int64_t most = capacity < 0 ? 0 : capacity < cells ? capacity : cells;
    const size_t bytes = (size_t)most * sizeof(ecn_box);
    ecn_box *out = (ecn_box *)malloc(bytes > 0 ? bytes : 1), *again = (ecn_box *)malloc(bytes > 0 ? bytes : 1);
    int32_t count;
    REQUIRE(out != NULL && again != NULL);
    memset(out, 0xA5, bytes);
    memset(again, 0x5A, bytes);          /* other bytes: `out` is never read */

    count = ecn_decode(h, null_out ? NULL : out, capacity);
    REQUIRE(due == 0 ? count >= 0 : count < 0 && count >= ECN_ERR_ARG && (due & BIT(count)) != 0);
    if (count < 0) {
        require_untouched(out, 0, bytes, 0xA5);
    } else {
        REQUIRE(count <= most);
        require_untouched(out, (size_t)count * sizeof *out, bytes, 0xA5);
        require_best_peaks(h, out, count, capacity);
        REQUIRE(ecn_decode(h, null_out ? NULL : again, capacity) == count);
        REQUIRE(count == 0 || memcmp(out, again, (size_t)count * sizeof *out) == 0);
        require_untouched(again, (size_t)count * sizeof *out, bytes, 0x5A);
        try_drop_twins(out, count);
        try_to_image(out, count);
        try_to_probability(out, count);
        try_join_levels(out, count);
    }
    free(out);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ecn_heads h;
    owned heat, extent, offset;
    float *thresholds = NULL;
    int32_t capacity, null_out, valid, has_nan = 0;
    uint8_t flags, modes;
    unsigned due;

    input = data;
    input_left = size;
    memset(&h, 0, sizeof h);
    flags = byte();
    modes = byte();
    h.classes = any_int(1, 12);
    h.height = any_int(1, 20);
    h.width = any_int(1, 24);
    capacity = any_int(0, 40);
    h.cell_px = positive_float();
    h.threshold = any_float();
    heat = any_tensor(h.classes, h.height, h.width);
    extent = any_tensor(2, h.height, h.width);
    offset = any_tensor(2, h.height, h.width);
    null_out = (flags & 15) == 1;
    REQUIRE(ecn_strerror(odd_int()) != NULL && ecn_version() == ECN_VERSION);
    {
        const float logit = any_float();
        require_logistic(logit, ecn_logistic(logit));
    }

    due = tensor_errors(&heat, (flags & 0xF0) != 0x10) | tensor_errors(&extent, (flags & 0xF0) != 0x20)
          | tensor_errors(&offset, (flags & 0xF0) != 0x30);
    valid = is_dim(h.classes) && is_dim(h.height) && is_dim(h.width);
    due |= valid ? 0 : BIT(ECN_ERR_SHAPE);
    if ((flags & 15) > 7) {
        const size_t count = valid ? (size_t)h.classes : 0;
        thresholds = (float *)malloc(count > 0 ? count * sizeof *thresholds : 1);
        REQUIRE(thresholds != NULL);
        for (size_t c = 0; c < count; ++c) {
            thresholds[c] = c < 32 ? any_float() : h.threshold;
            has_nan |= thresholds[c] != thresholds[c];
        }
        h.class_threshold = thresholds;
    } else {
        has_nan = h.threshold != h.threshold;
    }
    due |= has_nan || capacity < 0 || !(h.cell_px > 0.0f) || !finite(h.cell_px) ? BIT(ECN_ERR_ARG) : 0;
    due |= null_out && capacity > 0 ? BIT(ECN_ERR_NULL) : 0;

    if (due != 0 || (heat.last < ELEMENTS_MAX && extent.last < ELEMENTS_MAX && offset.last < ELEMENTS_MAX
                     && (int64_t)h.classes * h.height * h.width < ELEMENTS_MAX)) {
        fill(&heat, due == 0, modes & 3, input, input_left);
        fill(&extent, due == 0, modes >> 2 & 7, input, input_left);
        fill(&offset, due == 0, modes >> 5, input, input_left);
        h.heat = heat.t;
        h.size = extent.t;
        h.offset = offset.t;
        h.heat.data = (flags & 0xF0) != 0x10 ? heat.memory : NULL;
        h.size.data = (flags & 0xF0) != 0x20 ? extent.memory : NULL;
        h.offset.data = (flags & 0xF0) != 0x30 ? offset.memory : NULL;
        try_decode(&h, capacity, null_out, due);
        try_probability_table(&h.heat);
        free(heat.memory);
        free(extent.memory);
        free(offset.memory);
    }
    free(thresholds);
    return 0;
}

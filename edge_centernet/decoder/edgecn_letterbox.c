/* edgecn_letterbox.c - see edgecn_letterbox.h for the contract, image.py for the same in Python.
 * SPDX-License-Identifier: Apache-2.0 */
#include "edgecn_letterbox.h"

#include <float.h>
#include <stddef.h>
#include <string.h>

/* Compilers turn the loops over lanes into SIMD code on their own once they know that the arrays
 * are apart. C++ has no such word and does without. */
#ifdef __cplusplus
#define RESTRICT
#else
#define RESTRICT restrict
#endif

#define ONE 2048                         /* 1.0 in OpenCV's 11-bit coefficients */
#define BLOCK 16                         /* lanes come in blocks, so that no SIMD loop has a rest */

/* C leaves open what shifting a negative number to the right does. OpenCV needs the sign kept, as
 * every compiler known to us does; one that does not stops here. */
typedef char right_shift_keeps_the_sign[(-3 >> 1) == -2 ? 1 : -1];

/* A lane is one channel of one column of the resized image: 3 * new_width of them, then zeros up
 * to whole blocks. The arrays lie in the caller's workspace. */
typedef struct {
    int32_t  lanes;
    int32_t  whole;                      /* columns that may be read 4 bytes at a time */
    int16_t *weight;                     /* -32 times that of the farther pixel, which is <= ONE / 2 */
    int16_t *row[2];                     /* rows of the image, resized along x */
    uint16_t *near_x, *far_x;            /* the nearer and the farther of two pixels, per column */
    uint8_t *nearer, *farther;           /* their channels */
    int32_t  row_y[2];                   /* which rows those are; -1: none yet */
} scratch;

typedef struct {
    const ecn_image *image;
    const ecn_input *input;
    ecn_frame frame;
    uint8_t pad[3];                      /* stored values, in the input's order */
    uint8_t flip;                        /* stored = pixel ^ flip where there is no table */
    int swap;                            /* image and input differ in the order of colours */
} job;

/* ---- geometry and coefficients: the only arithmetic in floating point ------------------------ */

/* Round to double here and now, as `rounded` of edgecn_decode.c does for float: no fused
 * multiply-add, no extra precision, the same bits as Python and OpenCV everywhere. */
static double rounded(double value)
{
    volatile double stored = value;
    return stored;
}

static float rounded_to_float(double value)
{
    volatile float stored = (float)value;
    return stored;
}

static int is_finite(double value)       /* false for NaN too */
{
    return value >= -DBL_MAX && value <= DBL_MAX;
}

static int32_t floor_of(double value)    /* |value| < 2^31 */
{
    const int32_t whole = (int32_t)value;
    return (double)whole > value ? whole - 1 : whole;
}

static int32_t nearest(double value)     /* halves to even: Python's round, rint, cvRound */
{
    const int32_t whole = floor_of(value);
    const double rest = value - (double)whole;
    return rest > 0.5 || (rest == 0.5 && whole % 2 != 0) ? whole + 1 : whole;
}

/* A side of the resized image: at least one pixel remains of it. */
static int32_t resized(int32_t side, double scale)
{
    const int32_t pixels = nearest(rounded((double)side * scale));
    return pixels > 1 ? pixels : 1;
}

/* OpenCV's scale, which it gets by dividing twice: image pixels per pixel of the input. */
static double step_of(int32_t src, int32_t dst)
{
    return rounded(1.0 / rounded((double)dst / (double)src));
}

/* Where pixel `at` of the input lies between two pixels of the image: the first one's index, -1
 * before the edge, and the weight of the second. The first one's is ONE - weight: OpenCV rounds
 * both, which gives another sum only for inputs of more than 6000 pixels. */
static int16_t between(int32_t at, double step, int32_t *index)
{
    const float place = rounded_to_float(rounded(rounded((double)at + 0.5) * step) - 0.5);
    *index = floor_of((double)place);
    return (int16_t)nearest((double)rounded_to_float((double)place - (double)*index) * ONE);
}

static int32_t clipped(int32_t value, int32_t high)
{
    return value < 0 ? 0 : value > high ? high : value;
}

/* ---- along x: one row of the image to lanes --------------------------------------------------- */

/* The nearer pixel of a column is the one that weighs more, so the other's weight, 1024 at most,
 * fits 16 bits after the shift that blend_columns needs. */
static void plan_columns(const job *j, scratch *s)
{
    const int32_t last = j->image->width - 1;
    const double step = step_of(j->image->width, j->frame.new_width);
    s->whole = 0;
    for (int32_t x = 0; x < j->frame.new_width; ++x) {
        int32_t index;
        const int16_t weight = between(x, step, &index);
        const int32_t left = clipped(index, last), right = clipped(index + 1, last);
        const int turned = weight > ONE / 2;
        s->near_x[x] = (uint16_t)(turned ? right : left);
        s->far_x[x] = (uint16_t)(turned ? left : right);
        for (int32_t c = 0; c < 3; ++c) {
            s->weight[3 * x + c] = (int16_t)((turned ? ONE - weight : weight) * -32);
        }
        if (right < last) {              /* the right pixel is followed by another byte of the row */
            s->whole = x + 1;
        }
    }
}

/* Four bytes at once, of which the 4th is written over by the next column; a block of lanes has
 * room for the last one's. Everything the loop needs is local: bytes written may alias `s`. */
static void fetch_rgb(const job *j, const scratch *s, int32_t y)
{
    const uint8_t *row = j->image->data + (size_t)y * (size_t)j->image->stride;
    const uint16_t *RESTRICT near_x = s->near_x, *RESTRICT far_x = s->far_x;
    uint8_t *RESTRICT nearer = s->nearer, *RESTRICT farther = s->farther;
    const int32_t whole = s->whole, count = j->frame.new_width;
    int32_t x = 0;
    for (; x < whole; ++x) {
        memcpy(nearer + 3 * x, row + 3 * near_x[x], 4);
        memcpy(farther + 3 * x, row + 3 * far_x[x], 4);
    }
    for (; x < count; ++x) {
        for (int32_t c = 0; c < 3; ++c) {
            nearer[3 * x + c] = row[3 * near_x[x] + c];
            farther[3 * x + c] = row[3 * far_x[x] + c];
        }
    }
}

/* From 20 binary places to a byte, without a branch that bright or dark pixels would mispredict. */
static uint8_t byte_of(int32_t fixed)
{
    const int32_t whole = fixed >> 20, low = whole < 0 ? 0 : whole;
    return (uint8_t)(low > 255 ? 255 : low);
}

/* BT.601 for video (16 is black) with OpenCV's constants. */
static void put_rgb(uint8_t *rgb, int32_t y, int32_t u, int32_t v)
{
    const int32_t light = (y > 16 ? y - 16 : 0) * 1220542 + ((int32_t)1 << 19);
    rgb[0] = byte_of(light + (v - 128) * 1673527);
    rgb[1] = byte_of(light - (u - 128) * 409993 - (v - 128) * 852492);
    rgb[2] = byte_of(light + (u - 128) * 2116026);
}

/* YUYV and NV12 differ in where the next Y, and the V of a U, are: `step` bytes on. */
static void fetch_yuv(const job *j, const scratch *s, int32_t y)
{
    const ecn_image *i = j->image;
    const int nv12 = i->format == ECN_NV12;
    const int32_t step = nv12 ? 1 : 2, count = j->frame.new_width;
    const uint8_t *luma = i->data + (size_t)y * (size_t)i->stride;
    const uint8_t *chroma = nv12 ? i->chroma + (size_t)(y / 2) * (size_t)i->chroma_stride : luma + 1;
    const uint16_t *RESTRICT near_x = s->near_x, *RESTRICT far_x = s->far_x;
    uint8_t *RESTRICT nearer = s->nearer, *RESTRICT farther = s->farther;
    for (int32_t x = 0; x < count; ++x) {
        const int32_t a = near_x[x], b = far_x[x];
        const uint8_t *of_a = chroma + a / 2 * 2 * step, *of_b = chroma + b / 2 * 2 * step;
        put_rgb(nearer + 3 * x, luma[a * step], of_a[0], of_a[step]);
        put_rgb(farther + 3 * x, luma[b * step], of_b[0], of_b[step]);
    }
}

static void fetch(const job *j, const scratch *s, int32_t y)
{
    if (j->image->format == ECN_RGB || j->image->format == ECN_BGR) {
        fetch_rgb(j, s, y);
    } else {
        fetch_yuv(j, s, y);
    }
}

/* OpenCV's a * (ONE - w) + b * w, less the 4 lowest bits, which its next step drops: the 15 that
 * are left fit an int16_t. a * ONE has none of the 4, so this is a * 128 + ((b - a) * w >> 4), and
 * with 7 bits of the shift in (a - b) and 5 in -w it becomes the upper half of a product of two
 * 16-bit numbers: one SIMD instruction, where 32-bit products take ten. */
static void blend_columns(const uint8_t *RESTRICT nearer, const uint8_t *RESTRICT farther,
                          const int16_t *RESTRICT weight, int16_t *RESTRICT row, int32_t lanes)
{
    for (int32_t i = 0; i < lanes; i += BLOCK) {
        for (int32_t k = i; k < i + BLOCK; ++k) {
            const int16_t step = (int16_t)((nearer[k] - farther[k]) * 128);
            row[k] = (int16_t)(nearer[k] * 128 + (int16_t)(((int32_t)step * weight[k]) >> 16));
        }
    }
}

/* ---- along y: two rows of lanes to one row of pixels ------------------------------------------ */

/* Row y of the image, resized along x: kept from before, or made where `other` is not. */
static const int16_t *resized_row(const job *j, scratch *s, int32_t y, int32_t other)
{
    int32_t slot;
    for (slot = 0; slot < 2; ++slot) {
        if (s->row_y[slot] == y) {
            return s->row[slot];
        }
    }
    slot = s->row_y[0] == other ? 1 : 0;
    fetch(j, s, y);
    blend_columns(s->nearer, s->farther, s->weight, s->row[slot], s->lanes);
    s->row_y[slot] = y;
    return s->row[slot];
}

/* Truncated, then rounded, as OpenCV does. The sum is at most 1020, so no byte overflows. */
static void blend_rows(const int16_t *RESTRICT upper, const int16_t *RESTRICT lower, int16_t weight,
                       uint8_t flip, uint8_t *RESTRICT pixels, int32_t lanes)
{
    const int16_t rest = (int16_t)(ONE - weight);
    for (int32_t i = 0; i < lanes; i += BLOCK) {
        for (int32_t k = i; k < i + BLOCK; ++k) {
            const int16_t a = (int16_t)(((int32_t)upper[k] * rest) >> 16);
            const int16_t b = (int16_t)(((int32_t)lower[k] * weight) >> 16);
            pixels[k] = (uint8_t)(((a + b + 2) >> 2) ^ flip);
        }
    }
}

static void flip_all(uint8_t *pixels, uint8_t flip, int32_t lanes)
{
    for (int32_t i = 0; i < lanes; ++i) {
        pixels[i] = (uint8_t)(pixels[i] ^ flip);
    }
}

/* Row y of the resized image into s->nearer, which is free once both rows are lanes. */
static void make_row(const job *j, scratch *s, double step, int32_t y)
{
    const int32_t last = j->image->height - 1;
    const int16_t *upper, *lower;
    int32_t index, first, second;
    int16_t weight;
    if (j->frame.new_width == j->image->width && j->frame.new_height == j->image->height) {
        fetch(j, s, y);
        flip_all(s->nearer, j->flip, s->lanes);
        return;
    }
    weight = between(y, step, &index);
    first = clipped(index, last);
    second = weight > 0 ? clipped(index + 1, last) : first;      /* a row of weight 0 is not made */
    first = weight < ONE ? first : second;
    upper = resized_row(j, s, first, second);
    lower = resized_row(j, s, second, first);
    blend_rows(upper, lower, weight, j->flip, s->nearer, s->lanes);
}

/* ---- into the tensor -------------------------------------------------------------------------- */

/* Where channel c of pixel (x, y) goes. */
static uint8_t *address(const ecn_input *i, int32_t c, int32_t y, int32_t x)
{
    const int32_t at = y * i->width + x;
    return (uint8_t *)i->data + (i->layout == ECN_NHWC ? at * 3 + c : c * i->height * i->width + at);
}

static void copy_channel(const uint8_t *RESTRICT from, uint8_t *RESTRICT to, int32_t step, int32_t count)
{
    for (int32_t x = 0; x < count; ++x) {
        to[x * step] = from[x * 3];
    }
}

static void look_up_channel(const uint8_t *RESTRICT from, uint8_t *RESTRICT to, int32_t step,
                            int32_t count, const uint8_t *RESTRICT table)
{
    for (int32_t x = 0; x < count; ++x) {
        to[x * step] = table[from[x * 3]];
    }
}

static void write_row(const job *j, const uint8_t *pixels, int32_t y)
{
    const ecn_input *i = j->input;
    const int32_t step = i->layout == ECN_NHWC ? 3 : 1, count = j->frame.new_width;
    if (i->table == NULL && i->layout == ECN_NHWC && !j->swap) {
        memcpy(address(i, 0, y, j->frame.left), pixels, (size_t)count * 3);
        return;
    }
    for (int32_t c = 0; c < 3; ++c) {
        const uint8_t *from = pixels + (j->swap ? 2 - c : c);
        uint8_t *to = address(i, c, y, j->frame.left);
        if (i->table == NULL) {
            copy_channel(from, to, step, count);
        } else {
            look_up_channel(from, to, step, count, (const uint8_t *)i->table + c * 256);
        }
    }
}

/* Padding from column `from` up to, but not, column `to`. */
static void pad_row(const job *j, int32_t y, int32_t from, int32_t to)
{
    const ecn_input *i = j->input;
    const size_t count = (size_t)(to - from);
    if (i->layout == ECN_NCHW) {
        for (int32_t c = 0; c < 3; ++c) {
            memset(address(i, c, y, from), j->pad[c], count);
        }
    } else if (j->pad[0] == j->pad[1] && j->pad[1] == j->pad[2]) {
        memset(address(i, 0, y, from), j->pad[0], count * 3);
    } else {
        for (int32_t x = from; x < to; ++x) {
            for (int32_t c = 0; c < 3; ++c) {
                *address(i, c, y, x) = j->pad[c];
            }
        }
    }
}

/* ---- arguments -------------------------------------------------------------------------------- */

static int is_side(int32_t side, int32_t most)
{
    return side >= 1 && side <= most;
}

static int32_t check_image(const ecn_image *i)
{
    const int nv12 = i->format == ECN_NV12, yuv = nv12 || i->format == ECN_YUYV;
    if (i->data == NULL || (nv12 && i->chroma == NULL)) {
        return ECN_ERR_NULL;
    }
    if (i->format < ECN_RGB || i->format > ECN_NV12) {
        return ECN_ERR_ARG;
    }
    if (!is_side(i->width, ECN_IMAGE_MAX) || !is_side(i->height, ECN_IMAGE_MAX)
        || (yuv && i->width % 2 != 0) || (nv12 && i->height % 2 != 0)) {
        return ECN_ERR_SHAPE;
    }
    if (i->stride < i->width * (nv12 ? 1 : yuv ? 2 : 3) || (nv12 && i->chroma_stride < i->width)) {
        return ECN_ERR_SHAPE;
    }
    return 0;
}

static int32_t check_input(const ecn_input *i)
{
    if (i->data == NULL) {
        return ECN_ERR_NULL;
    }
    if (i->dtype != ECN_S8 && i->dtype != ECN_U8) {
        return ECN_ERR_DTYPE;
    }
    if (!is_side(i->width, ECN_INPUT_MAX) || !is_side(i->height, ECN_INPUT_MAX)) {
        return ECN_ERR_SHAPE;
    }
    if ((i->layout != ECN_NHWC && i->layout != ECN_NCHW) || (i->color != ECN_RGB && i->color != ECN_BGR)
        || i->pad < 0 || i->pad > 255) {
        return ECN_ERR_ARG;
    }
    return 0;
}

static int32_t check_all(const ecn_image *image, const ecn_input *input, const void *work, int32_t work_bytes)
{
    int32_t error;
    if (image == NULL || input == NULL || work == NULL) {
        return ECN_ERR_NULL;
    }
    error = check_image(image);
    if (error == 0) {
        error = check_input(input);
    }
    if (error != 0) {
        return error;
    }
    return work_bytes < ECN_LETTERBOX_WORK(input->width) || (uintptr_t)work % 2 != 0 ? ECN_ERR_WORK : 0;
}

static int32_t check_table(const double mean[3], const double std[3], double scale, int32_t zero_point,
                           int32_t dtype)
{
    const int32_t low = dtype == ECN_S8 ? -128 : 0;
    if (dtype != ECN_S8 && dtype != ECN_U8) {
        return ECN_ERR_DTYPE;
    }
    if (!(scale > 0.0) || !is_finite(scale) || zero_point < low || zero_point > low + 255) {
        return ECN_ERR_QUANT;
    }
    for (int32_t c = 0; c < 3; ++c) {
        if (!is_finite(mean[c]) || !(std[c] > 0.0) || !is_finite(std[c])) {
            return ECN_ERR_ARG;
        }
    }
    return 0;
}

/* ---- setting up -------------------------------------------------------------------------------- */

static scratch lay_out(void *work, int32_t new_width)
{
    scratch s;
    s.lanes = (3 * new_width + BLOCK) / BLOCK * BLOCK;
    s.weight = (int16_t *)work;
    s.row[0] = s.weight + s.lanes;
    s.row[1] = s.row[0] + s.lanes;
    s.near_x = (uint16_t *)(void *)(s.row[1] + s.lanes);
    s.far_x = s.near_x + new_width;
    s.nearer = (uint8_t *)(s.far_x + new_width);
    s.farther = s.nearer + s.lanes;
    s.row_y[0] = s.row_y[1] = -1;
    s.whole = 0;
    /* The lanes beyond the last column are computed with the others: let them be zeros. */
    memset(s.weight + s.lanes - BLOCK, 0, BLOCK * sizeof *s.weight);
    memset(s.nearer + s.lanes - BLOCK, 0, BLOCK);
    memset(s.farther + s.lanes - BLOCK, 0, BLOCK);
    return s;
}

static job job_of(const ecn_image *image, const ecn_input *input)
{
    job j;
    j.image = image;
    j.input = input;
    j.flip = input->table == NULL && input->dtype == ECN_S8 ? 0x80 : 0;
    j.swap = (image->format == ECN_BGR) != (input->color == ECN_BGR);
    for (int32_t c = 0; c < 3; ++c) {
        const uint8_t *table = (const uint8_t *)input->table;
        j.pad[c] = (uint8_t)(table == NULL ? input->pad ^ j.flip : table[c * 256 + input->pad]);
    }
    (void)ecn_letterbox_frame(image->width, image->height, input->width, input->height, &j.frame);
    return j;
}

/* ---- the public functions ---------------------------------------------------------------------- */

int32_t ecn_letterbox_work(int32_t width)
{
    return is_side(width, ECN_INPUT_MAX) ? ECN_LETTERBOX_WORK(width) : ECN_ERR_SHAPE;
}

int32_t ecn_letterbox_frame(int32_t src_width, int32_t src_height, int32_t dst_width,
                            int32_t dst_height, ecn_frame *frame)
{
    double across, down, scale;
    if (frame == NULL) {
        return ECN_ERR_NULL;
    }
    if (!is_side(src_width, ECN_IMAGE_MAX) || !is_side(src_height, ECN_IMAGE_MAX)
        || !is_side(dst_width, ECN_INPUT_MAX) || !is_side(dst_height, ECN_INPUT_MAX)) {
        return ECN_ERR_SHAPE;
    }
    across = rounded((double)dst_width / (double)src_width);
    down = rounded((double)dst_height / (double)src_height);
    scale = across < down ? across : down;
    frame->src_width = src_width;
    frame->src_height = src_height;
    frame->new_width = resized(src_width, scale);
    frame->new_height = resized(src_height, scale);
    frame->left = (dst_width - frame->new_width) / 2;
    frame->top = (dst_height - frame->new_height) / 2;
    return 0;
}

int32_t ecn_letterbox(const ecn_image *image, const ecn_input *input, void *work, int32_t work_bytes,
                      ecn_frame *frame)
{
    const int32_t error = check_all(image, input, work, work_bytes);
    scratch s;
    job j;
    double step;
    if (error != 0) {
        return error;
    }
    j = job_of(image, input);
    s = lay_out(work, j.frame.new_width);
    plan_columns(&j, &s);
    step = step_of(image->height, j.frame.new_height);
    for (int32_t y = 0; y < input->height; ++y) {
        const int32_t inside = y - j.frame.top;
        if (inside < 0 || inside >= j.frame.new_height) {
            pad_row(&j, y, 0, input->width);
            continue;
        }
        pad_row(&j, y, 0, j.frame.left);
        make_row(&j, &s, step, inside);
        write_row(&j, s.nearer, y);
        pad_row(&j, y, j.frame.left + j.frame.new_width, input->width);
    }
    if (frame != NULL) {
        *frame = j.frame;
    }
    return 0;
}

int32_t ecn_letterbox_table(const double mean[3], const double std[3], double scale,
                            int32_t zero_point, int32_t dtype, uint8_t table[768])
{
    const int32_t low = dtype == ECN_S8 ? -128 : 0;
    int32_t error;
    if (mean == NULL || std == NULL || table == NULL) {
        return ECN_ERR_NULL;
    }
    error = check_table(mean, std, scale, zero_point, dtype);
    if (error != 0) {
        return error;
    }
    for (int32_t i = 0; i < 768; ++i) {
        const double real = rounded(rounded((double)(i % 256) - mean[i / 256]) / std[i / 256]);
        const double stored = rounded(real / scale);
        /* Far outside, the clipping is the answer and the integer would overflow. */
        const int32_t whole = stored < -1000.0 ? -1000 : stored > 1000.0 ? 1000 : nearest(stored);
        table[i] = (uint8_t)(clipped(whole + zero_point - low, 255) + low);
    }
    return 0;
}

const char *ecn_letterbox_strerror(int32_t code)
{
    switch (code) {
    case ECN_ERR_NULL:  return "a required pointer is NULL";
    case ECN_ERR_DTYPE: return "unknown dtype: expected ECN_S8 or ECN_U8";
    case ECN_ERR_QUANT: return "scale is not a positive finite number, or zero_point does not fit the dtype";
    case ECN_ERR_SHAPE: return "a side is outside its limits or odd where it must be even, or a stride is too short";
    case ECN_ERR_ARG:   return "unknown format, layout or color, pad is not 0..255, or mean or std cannot be";
    case ECN_ERR_WORK:  return "the workspace is smaller than ECN_LETTERBOX_WORK or at an odd address";
    default:            return code < 0 ? "unknown error" : "no error";
    }
}

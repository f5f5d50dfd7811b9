/* edgecn_decode.h - CenterNet head outputs -> boxes, on anything with a C99 compiler.
 * No heap, no libm, no globals: re-entrant; thread-safe when callers do not share `out`.
 * Time O(classes*height*width); workspace none: `out` itself is the heap of the K best.
 * Needs IEEE 754 floats; do not compile with -ffast-math (NaN would no longer be one).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EDGECN_DECODE_H
#define EDGECN_DECODE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ECN_VERSION 0x00010000u          /* major << 16 | minor; compare to ecn_version() */
#define ECN_DIM_MAX 1024                 /* per side and classes: keeps C*H*W inside int32_t */

enum { ECN_F32 = 0, ECN_S8 = 1, ECN_U8 = 2 };      /* ecn_tensor.dtype */

enum {                                   /* negative, so counts can share the return value */
    ECN_ERR_NULL  = -1,                  /* a required pointer is NULL */
    ECN_ERR_DTYPE = -2,                  /* unknown dtype */
    ECN_ERR_QUANT = -3,                  /* scale is not a positive finite number, or
                                          * zero_point does not fit the dtype */
    ECN_ERR_SHAPE = -4,                  /* a dimension or stride is outside its limits */
    ECN_ERR_ARG   = -5                   /* capacity < 0, cell_px is not a positive finite
                                          * number, or threshold is NaN */
};

/* A read-only view of one head. real = scale * (stored - zero_point), rounded once to float;
 * F32 ignores both. Layout is three strides in elements, all >= 0, the last element's index
 * below 2^31:
 *   NCHW: c = H*W, y = W,   x = 1        NHWC: c = 1, y = W*C, x = C */
typedef struct {
    const void *data;                    /* element (c=0, y=0, x=0), aligned for its dtype */
    float   scale;
    int32_t zero_point;
    int32_t dtype;                       /* an int32_t, not an enum: its size never varies */
    int32_t stride_c, stride_y, stride_x;
} ecn_tensor;

typedef struct {
    ecn_tensor heat;                     /* (classes, H, W) logits or probabilities */
    ecn_tensor size;                     /* (2, H, W) box width, height, in cells */
    ecn_tensor offset;                   /* (2, H, W) x, y of the centre inside its cell */
    int32_t classes, height, width;      /* 1..ECN_DIM_MAX each */
    float   cell_px;                     /* input pixels per cell (the model's stride) */
    float   threshold;                   /* in heat's own unit: pass a logit for logits */
} ecn_heads;

typedef struct {
    float   x1, y1, x2, y2;              /* network-input pixels, not clipped, never NaN */
    float   score;                       /* in heat's own unit, dequantised */
    int32_t class_id;
    int32_t cell;                        /* y * width + x: look up other heads with it */
} ecn_box;

/* Write the `capacity` best peaks to `out`, best first, and return how many there are.
 * Never reads `out`, never writes past the count it returns.  `out` may be NULL only if
 * capacity is 0, which checks the arguments and returns 0.
 *
 * Peak: a cell >= threshold, > its 4 earlier and >= its 4 later neighbours in raster order:
 * a flat top gives one box, not one per cell (wide round ones may leave two).  A quantised
 * heatmap is compared as stored: the threshold becomes the lowest stored integer whose real
 * value is >= threshold.  NaN is never a peak and, like a cell outside the map, beats nobody.
 * Order: higher stored value, then lower class_id, then lower cell.
 *
 * Box, each step rounded to float:
 *   x1 = ((x + offset_x) - width * 0.5) * cell_px      y1 alike with offset_y and height
 *   x2 = ((x + offset_x) + width * 0.5) * cell_px
 * where a NaN or infinite size or offset counts as 0 and then a negative size as 0.
 *
 * Negative: ECN_ERR_*, and nothing was written. */
int32_t ecn_decode(const ecn_heads *heads, ecn_box *out, int32_t capacity);

uint32_t ecn_version(void);              /* ECN_VERSION of the compiled library */
const char *ecn_strerror(int32_t code);  /* static English text, never NULL */

#ifdef __cplusplus
}
#endif
#endif

/* edgecn_decode.h - CenterNet head outputs -> boxes, on anything with a C99 compiler.
 *
 * No heap, no libm, no globals: re-entrant; thread-safe when callers do not share `out`.
 * Time: one pass over the heatmap, several cells at a time while none reaches the threshold.
 * Workspace: none, `out` itself is the heap of the K best. Stack: docs/benchmarks/decoder-size.csv.
 * Needs IEEE 754 floats; do not compile with -ffast-math (NaN would no longer be one).
 * The same input gives the same bits on every machine.
 *
 * From heads to what people see, each step but the first optional, all in place:
 *   n = ecn_decode(&heads, boxes, 100);              peaks -> boxes in network-input pixels
 *   n = ecn_drop_twins(boxes, n, ECN_SAME_CLASS);    one object, one box
 *   ecn_to_image(boxes, n, &frame);                  -> pixels of the camera image, clipped
 *   ecn_to_probability(boxes, n);                    logits -> 0..1
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EDGECN_DECODE_H
#define EDGECN_DECODE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ECN_VERSION 0x00020001u          /* major << 16 | minor; compare to ecn_version() */
#define ECN_DIM_MAX 1024                 /* per side and classes: keeps C*H*W inside int32_t */

enum { ECN_F32 = 0, ECN_S8 = 1, ECN_U8 = 2, ECN_S16 = 3 };  /* ecn_tensor.dtype */
enum { ECN_SAME_CLASS = 0, ECN_ANY_CLASS = 1 };    /* who can be twins: see ecn_drop_twins */

enum {                                   /* negative, so counts can share the return value */
    ECN_ERR_NULL  = -1,                  /* a required pointer is NULL */
    ECN_ERR_DTYPE = -2,                  /* unknown dtype */
    ECN_ERR_QUANT = -3,                  /* scale is not a positive finite number, or
                                          * zero_point does not fit the dtype */
    ECN_ERR_SHAPE = -4,                  /* a dimension or stride is outside its limits */
    ECN_ERR_ARG   = -5                   /* capacity < 0, cell_px is not a positive finite
                                          * number, a threshold is NaN, a frame has a side
                                          * that is not positive, or a tile or levels are not
                                          * what their comments say */
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
    const float *class_threshold;        /* one for each class instead of it; NULL for none */
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

/* Drop every box that has a better twin, and return how many are left, in their order: a box whose centre lies within
 * 0.15 of the better one's width and height of its centre, and whose sides are at most twice as long or short. A large
 * object's heatmap has a broad top, which 8 bits may split into two peaks. `boxes`: best first, as ecn_decode leaves
 * them. scope: ECN_SAME_CLASS or ECN_ANY_CLASS. Ask ecn_decode for twice as many as you want to keep: twins take room.
 * Time O(count^2). */
int32_t ecn_drop_twins(ecn_box *boxes, int32_t count, int32_t scope);

/* How an image of src_width x src_height pixels lies in the network's input: as new_width x new_height at (left, top). */
typedef struct {
    int32_t src_width, src_height;       /* 1..2^24, exact in a float */
    int32_t new_width, new_height;       /* of the resized image inside the input */
    int32_t left, top;                   /* padding before it */
} ecn_frame;

/* Boxes in network-input pixels -> pixels of the image, clipped to it, each step rounded to float:
 *   x = (x - left) * src_width / new_width       y alike
 * A box that lay in the padding alone ends up with a side of 0. 0 or ECN_ERR_*, and then nothing is changed. */
int32_t ecn_to_image(ecn_box *boxes, int32_t count, const ecn_frame *frame);

/* Where a tile lies on a canvas, and which of its cells count: columns x1 to x2 - 1, rows y1 to y2 - 1. All in cells of
 * the canvas: 0 <= left <= x1 <= x2 <= left + the tile's width, x2 <= the canvas's width; y alike. */
typedef struct {
    int32_t left, top;
    int32_t x1, y1, x2, y2;
} ecn_tile;

/* Copy the cells of a tile that count, of all three heads, to where they lie on the canvas: written is what the `data` of
 * the canvas's heads points to, which must be writable and must not overlap the tile's. Layouts may differ. Once each
 * cell was written, ecn_decode of the canvas finds the boxes of all tiles, each once, without comparing boxes.
 * Values are copied as stored: both must have the same scales and zero points, as heads of one network have.
 * 0 or ECN_ERR_*, and then nothing was written: ECN_ERR_SHAPE for different numbers of classes, too, ECN_ERR_DTYPE for
 * different types, ECN_ERR_ARG for a tile that is not as above. */
int32_t ecn_stitch(const ecn_heads *heads, const ecn_tile *tile, const ecn_heads *canvas);

/* Drop the boxes of this tile, of those that ecn_decode found on the canvas, that it saw cut off: they come closer than a
 * cell to an edge of the tile that is no edge of the canvas. Once for each tile, before ecn_to_image; returns how many are
 * left, in their order, or ECN_ERR_NULL. Of `heads`, those of a tile, only the sides are read, of the canvas cell_px, too. */
int32_t ecn_drop_cut(ecn_box *boxes, int32_t count, const ecn_tile *tile, const ecn_heads *heads, const ecn_heads *canvas);

/* What tells the two levels of ecn_join_levels apart, in pixels of the image. */
typedef struct {
    float width, height;                 /* above 0: of the largest object that a tile sees
                                          * whole; infinite where there is one tile only */
    float reach_x, reach_y;              /* how far apart the peaks of one object may be: 1.5
                                          * cells of the coarse map */
} ecn_levels;

/* One list of the boxes of two maps: of a canvas of tiles (fine), and of the whole image at once (coarse), which sees what
 * is larger than a tile. `boxes`: `fine` of them, then `coarse` of them, each as ecn_decode, ecn_drop_twins, ecn_to_image
 * and ecn_to_probability leave them. In place; returns how many are left, best first; those of the coarse map have
 * -1 - cell for their cell. Each step is rounded to float:
 *   1. u = max(width of the box / levels->width, height of it / levels->height), and what its level has to say of it:
 *      coarse, u - 0.5; fine, 1 - u. A box of which that is not above 0 is dropped.
 *   2. Order: higher score * that, then fine before coarse, then as they came. In this order one is dropped if one of the
 *      other level and its class was kept whose centre lies within reach of its own.
 *   3. What is left is ordered by score, equals as they are.
 * Time O((fine + coarse)^2). Negative: ECN_ERR_*, and nothing is changed. */
int32_t ecn_join_levels(ecn_box *boxes, int32_t fine, int32_t coarse, const ecn_levels *levels);

/* 1 / (1 + exp(-x)) within 1e-6, without libm and the same bits everywhere; 0 for NaN. */
float ecn_logistic(float logit);

/* The scores of `count` boxes of a heatmap of logits -> probabilities. */
void ecn_to_probability(ecn_box *boxes, int32_t count);

/* For those who want no float arithmetic per box: the probability of each value an 8-bit heatmap of logits can store,
 * table[stored - lowest] with lowest -128 for ECN_S8 and 0 for ECN_U8. 0 or ECN_ERR_*. */
int32_t ecn_probability_table(const ecn_tensor *heat, float table[256]);

uint32_t ecn_version(void);              /* ECN_VERSION of the compiled library */
const char *ecn_strerror(int32_t code);  /* static English text, never NULL */

#ifdef __cplusplus
}
#endif
#endif

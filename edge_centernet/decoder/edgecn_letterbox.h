/* edgecn_letterbox.h - a camera's frame -> the network's input, on anything with a C99 compiler.
 *
 * Resizes with the aspect ratio kept, centres, pads and quantises an RGB, BGR, YUYV or NV12 frame:
 * what edge_centernet/imageio.py does with OpenCV, without OpenCV and to the same bytes.
 *
 *     static int16_t work[ECN_LETTERBOX_WORK(320) / 2];
 *     static int8_t tensor[320 * 320 * 3];
 *     const ecn_image image = {camera, NULL, ECN_YUYV, 1280, 720, 2 * 1280, 0};
 *     const ecn_input input = {tensor, NULL, 320, 320, ECN_S8, ECN_NHWC, ECN_RGB, 128};
 *     ecn_frame frame;
 *     int32_t error = ecn_letterbox(&image, &input, work, sizeof work, &frame);
 *     if (error < 0) { stop(ecn_letterbox_strerror(error)); }
 *     run_network(tensor);
 *     n = ecn_decode(&heads, boxes, 100);
 *     ecn_to_image(boxes, n, &frame);          // boxes in pixels of the camera's frame
 *
 * No heap, no libm, no globals, no recursion: re-entrant; thread-safe when callers share neither
 * `work` nor the tensor. The only outside symbols are memcpy and memset.
 * Needs IEEE 754 float and double (in software will do: a few hundred operations a call), an
 * arithmetic as C has it (no -ffast-math), and 32-bit integers for everything that is per pixel.
 * Time: O(rows used * new_width + width * height of the input). A row of the image is read only
 * if a row of the input needs it, and of that row the pixels needed: at most 2 * new_height rows
 * of 2 * new_width pixels, however large the frame.
 * Workspace: ECN_LETTERBOX_WORK, 28 bytes per column: 9.1 KB for 320. Stack: below 700 bytes.
 *
 * The same bytes as OpenCV: cv2.resize(INTER_LINEAR) of 8-bit pixels in 11-bit fixed point, sampled
 * at the centres of pixels, and cv2.cvtColor (COLOR_YUV2BGR_YUY2, COLOR_YUV2BGR_NV12) of 20-bit
 * BT.601 before it. Identical for every size within the limits, exact halves (which OpenCV takes
 * for an area average: the same sum) and equal sizes too. It holds for OpenCV's own code, which is
 * what x86 wheels run; OpenCV built with a vendor's resize (Arm's KleidiCV, Carotene) may differ
 * from this, and from itself on other machines, by 1.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EDGECN_LETTERBOX_H
#define EDGECN_LETTERBOX_H

#include <stdint.h>

#include "edgecn_decode.h"               /* ecn_frame, ECN_S8, ECN_U8, ECN_ERR_*: not its functions */

#ifdef __cplusplus
extern "C" {
#endif

#define ECN_IMAGE_MAX 8192               /* pixels per side of a camera's frame */
#define ECN_INPUT_MAX 4096               /* pixels per side of the input: ECN_DIM_MAX cells of 4 */

/* Colour formats. ECN_RGB and ECN_BGR are 3 bytes a pixel in the order of their name.
 * ECN_YUYV (YUY2) is Y U Y V, 4 bytes for two pixels of a row: the width must be even.
 * ECN_NV12 is a plane of Y, and one of U V pairs for each 2x2 pixels: both sides must be even. */
enum { ECN_RGB = 0, ECN_BGR = 1, ECN_YUYV = 2, ECN_NV12 = 3 };

enum { ECN_NHWC = 0, ECN_NCHW = 1 };     /* ecn_input.layout */

enum {                                   /* beside those of edgecn_decode.h */
    ECN_ERR_WORK = -16                   /* the workspace is too small, or at an odd address */
};

/* What the camera gives. Only read. */
typedef struct {
    const uint8_t *data;                 /* the upper left pixel; of ECN_NV12, its Y */
    const uint8_t *chroma;               /* ECN_NV12: the first U V pair; else ignored */
    int32_t format;                      /* ECN_RGB, ECN_BGR, ECN_YUYV or ECN_NV12 */
    int32_t width, height;               /* 1..ECN_IMAGE_MAX pixels */
    int32_t stride;                      /* bytes from a row to the next, >= those of a row */
    int32_t chroma_stride;               /* the same of `chroma`, >= width; else ignored */
} ecn_image;

/* What the network takes, as its manifest says: input (shape, dtype, layout) and model (color,
 * pad_value). One byte per value and no gaps: width * height * 3 bytes, every one is written. */
typedef struct {
    void *data;
    const void *table;                   /* stored = table[channel * 256 + pixel], 768 values of
                                          * dtype, channels in `color` order, as
                                          * ecn_letterbox_table makes them. NULL: pixel - 128 for
                                          * ECN_S8, pixel for ECN_U8, which is faster */
    int32_t width, height;               /* 1..ECN_INPUT_MAX pixels */
    int32_t dtype;                       /* ECN_S8 or ECN_U8 */
    int32_t layout;                      /* ECN_NHWC or ECN_NCHW */
    int32_t color;                       /* ECN_RGB or ECN_BGR */
    int32_t pad;                         /* 0..255: the pixel around the image, before `table` */
} ecn_input;

/* Bytes of workspace for an input of `width` columns, as a constant and, checked, as a function:
 * positive, or ECN_ERR_SHAPE. Declare it as int16_t; it may hold anything and keeps nothing between
 * calls. */
#define ECN_LETTERBOX_WORK(width) (8 * ((3 * (int32_t)(width) + 16) / 16 * 16) + 4 * (int32_t)(width))
int32_t ecn_letterbox_work(int32_t width);

/* Where an image of src_width x src_height lies in an input of dst_width x dst_height: what
 * image.py's Letterbox says, with its rounding, for every size. 0, ECN_ERR_NULL or ECN_ERR_SHAPE,
 * and then `frame` is untouched. */
int32_t ecn_letterbox_frame(int32_t src_width, int32_t src_height, int32_t dst_width,
                            int32_t dst_height, ecn_frame *frame);

/* Fill `input->data` from `image`. `work`: `work_bytes` >= ECN_LETTERBOX_WORK(input->width) at an
 * even address. `frame`: where the image lies in the input, for ecn_to_image; may be NULL.
 * 0, or negative and nothing was written:
 *   ECN_ERR_NULL   image, input, work, their data, or the chroma of ECN_NV12 is NULL
 *   ECN_ERR_DTYPE  input->dtype is neither ECN_S8 nor ECN_U8
 *   ECN_ERR_SHAPE  a side is outside its limits or odd where it must be even, or a stride is
 *                  shorter than a row
 *   ECN_ERR_ARG    unknown format, layout or color, or pad is not 0..255
 *   ECN_ERR_WORK   work_bytes is too small, or `work` is at an odd address
 * Neither `work` nor the tensor may overlap the image or each other. */
int32_t ecn_letterbox(const ecn_image *image, const ecn_input *input, void *work, int32_t work_bytes,
                      ecn_frame *frame);

/* The table of a model whose manifest says: real = (pixel - mean) / std per channel,
 * stored = clip(round(real / scale) + zero_point), halves to even as NumPy rounds. Once per model,
 * not per frame. 0, or negative and nothing was written: ECN_ERR_NULL; ECN_ERR_DTYPE; ECN_ERR_QUANT
 * (scale is not a positive finite number, or zero_point does not fit dtype); ECN_ERR_ARG (a mean is
 * not finite, or a std is not a positive finite number). */
int32_t ecn_letterbox_table(const double mean[3], const double std[3], double scale,
                            int32_t zero_point, int32_t dtype, uint8_t table[768]);

const char *ecn_letterbox_strerror(int32_t code);  /* static English text, never NULL */

#ifdef __cplusplus
}
#endif
#endif

/* test_letterbox - edgecn_letterbox against its own header, by hand and without Python.
 *
 *     cc -std=c99 -I edge_centernet/decoder tests/c/test_letterbox.c \
 *         edge_centernet/decoder/edgecn_letterbox.c -o test_letterbox
 *     ./test_letterbox
 *
 * Prints what differs and exits 1, or prints a count and exits 0. Also run under sanitizers: image,
 * tensor and workspace lie in memory of exactly their own size, so one byte too far is found.
 * tests/decoder/test_letterbox_c.py compares with OpenCV.
 * SPDX-License-Identifier: Apache-2.0 */
#include "edgecn_letterbox.h"
#include "expect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A 4x2 image for a 4x4 input, without a gap; each test changes what it is about. */
static uint8_t PIXELS[24];
static uint8_t CHROMA[4] = {128, 128, 128, 128};
static int16_t WORK[ECN_LETTERBOX_WORK(8) / 2];

static ecn_image good_image(void)
{
    ecn_image i;
    i.data = PIXELS;
    i.chroma = NULL;
    i.format = ECN_RGB;
    i.width = 4;
    i.height = 2;
    i.stride = 12;
    i.chroma_stride = 0;
    return i;
}

static ecn_input good_input(void *data)
{
    ecn_input i;
    i.data = data;
    i.table = NULL;
    i.width = 4;
    i.height = 4;
    i.dtype = ECN_U8;
    i.layout = ECN_NHWC;
    i.color = ECN_RGB;
    i.pad = 128;
    return i;
}

/* ---- geometry ---------------------------------------------------------------------------------- */

static void test_frames(void)
{
    /* src_width, src_height, dst_width, dst_height, new_width, new_height, left, top */
    static const int32_t CASES[][8] = {
        {1280, 720, 320, 320, 320, 180, 0, 70},
        {720, 1280, 320, 320, 180, 320, 70, 0},
        {451, 300, 256, 256, 256, 170, 0, 43},
        {8, 1, 20, 20, 20, 2, 0, 9},     /* 2.5 rows: half to even */
        {8, 3, 20, 20, 20, 8, 0, 6},     /* 7.5 rows */
        {1, 1000, 32, 32, 1, 32, 15, 0}, /* 0.032 columns: one remains */
        {8192, 8192, 4096, 1, 1, 1, 2047, 0},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; ++i) {
        const int32_t *c = CASES[i];
        ecn_frame f;
        EXPECT(0, ecn_letterbox_frame(c[0], c[1], c[2], c[3], &f));
        EXPECT(c[0], f.src_width);
        EXPECT(c[1], f.src_height);
        EXPECT(c[4], f.new_width);
        EXPECT(c[5], f.new_height);
        EXPECT(c[6], f.left);
        EXPECT(c[7], f.top);
    }
}

static void test_frame_errors(void)
{
    ecn_frame f, before;
    memset(&f, 0x5A, sizeof f);
    before = f;
    EXPECT(ECN_ERR_NULL, ecn_letterbox_frame(4, 2, 4, 4, NULL));
    EXPECT(ECN_ERR_SHAPE, ecn_letterbox_frame(0, 2, 4, 4, &f));
    EXPECT(ECN_ERR_SHAPE, ecn_letterbox_frame(4, ECN_IMAGE_MAX + 1, 4, 4, &f));
    EXPECT(ECN_ERR_SHAPE, ecn_letterbox_frame(4, 2, -1, 4, &f));
    EXPECT(ECN_ERR_SHAPE, ecn_letterbox_frame(4, 2, 4, ECN_INPUT_MAX + 1, &f));
    EXPECT(0, memcmp(&before, &f, sizeof f));
}

/* ---- pixels ------------------------------------------------------------------------------------ */

/* Two pixels, 0 and 100 (less for green and blue), become four columns: a quarter and three quarters
 * of the way; the one row becomes two; a row of padding above and below. */
static void test_enlarged(void)
{
    static const uint8_t ROW[12] = {0, 8, 4, 25, 26, 4, 75, 62, 4, 100, 80, 4};
    uint8_t out[50];
    ecn_image image = good_image();
    ecn_input input = good_input(out + 1);
    ecn_frame frame;
    const uint8_t two[6] = {0, 8, 4, 100, 80, 4};
    memcpy(PIXELS, two, sizeof two);
    memset(out, 0x5A, sizeof out);
    image.width = 2;
    image.height = 1;
    image.stride = 6;
    EXPECT(0, ecn_letterbox(&image, &input, WORK, sizeof WORK, &frame));
    EXPECT(1, frame.top);
    EXPECT(2, frame.new_height);
    EXPECT(0x5A, out[0]);
    EXPECT(0x5A, out[49]);
    for (int i = 0; i < 12; ++i) {
        EXPECT(128, out[1 + i]);
        EXPECT(ROW[i], out[13 + i]);
        EXPECT(ROW[i], out[25 + i]);
        EXPECT(128, out[37 + i]);
    }
}

/* Exactly half: the mean of four, rounded half up. Then every layout, order and type of it. */
static void test_halved(void)
{
    static const uint8_t MEAN[6] = {2, 20, 200, 2, 21, 255};
    int8_t out[6];
    ecn_image image = good_image();
    ecn_input input = good_input(out);
    const uint8_t rows[24] = {1, 20, 200, 2, 20, 200, 1, 20, 255, 2, 21, 255,
                              1, 20, 200, 2, 20, 200, 2, 21, 255, 3, 21, 255};
    memcpy(PIXELS, rows, sizeof rows);
    input.width = 2;
    input.height = 1;
    EXPECT(0, ecn_letterbox(&image, &input, WORK, sizeof WORK, NULL));
    for (int i = 0; i < 6; ++i) {
        EXPECT(MEAN[i], (uint8_t)out[i]);
    }
    input.dtype = ECN_S8;
    input.color = ECN_BGR;
    EXPECT(0, ecn_letterbox(&image, &input, WORK, sizeof WORK, NULL));
    for (int i = 0; i < 6; ++i) {
        EXPECT(MEAN[i / 3 * 3 + 2 - i % 3] - 128, out[i]);
    }
    image.format = ECN_BGR;
    input.layout = ECN_NCHW;
    EXPECT(0, ecn_letterbox(&image, &input, WORK, sizeof WORK, NULL));
    for (int i = 0; i < 6; ++i) {
        EXPECT(MEAN[i % 2 * 3 + i / 2] - 128, out[i]);
    }
}

/* Video's black, white and red, from both formats, at the image's own size. */
static void test_video(void)
{
    static const uint8_t YUYV[8] = {16, 128, 235, 128, 81, 90, 81, 240};
    static const uint8_t LUMA[8] = {16, 235, 81, 81, 235, 16, 81, 81}, PAIRS[4] = {128, 128, 90, 240};
    static const uint8_t RGB[12] = {0, 0, 0, 255, 255, 255, 254, 0, 0, 254, 0, 0};
    uint8_t out[24];
    ecn_image image = good_image();
    ecn_input input = good_input(out);
    image.data = YUYV;
    image.format = ECN_YUYV;
    image.height = 1;
    image.stride = 8;
    input.height = 1;
    EXPECT(0, ecn_letterbox(&image, &input, WORK, sizeof WORK, NULL));
    EXPECT(0, memcmp(RGB, out, 12));
    image.data = LUMA;
    image.chroma = PAIRS;
    image.format = ECN_NV12;
    image.height = 2;
    image.stride = 4;
    image.chroma_stride = 4;
    input.height = 2;
    EXPECT(0, ecn_letterbox(&image, &input, WORK, sizeof WORK, NULL));
    EXPECT(0, memcmp(RGB, out, 12));
    EXPECT(255, out[12]);
    EXPECT(0, out[15]);
    EXPECT(0, memcmp(RGB + 6, out + 18, 6));
}

/* Padding and pixels go through the table of their own channel. */
static void test_table(void)
{
    static uint8_t table[768];
    uint8_t out[12];
    ecn_image image = good_image();
    ecn_input input = good_input(out);
    for (int i = 0; i < 768; ++i) {
        table[i] = (uint8_t)(i % 256 / 2 + i / 256);
    }
    memset(PIXELS, 60, 6);
    image.width = 2;
    image.height = 1;
    input.width = 2;
    input.height = 2;
    input.table = table;
    EXPECT(0, ecn_letterbox(&image, &input, WORK, sizeof WORK, NULL));
    for (int i = 0; i < 6; ++i) {        /* one row of padding does not divide: it goes below */
        EXPECT(30 + i % 3, out[i]);
        EXPECT(64 + i % 3, out[6 + i]);
    }
    input.layout = ECN_NCHW;
    EXPECT(0, ecn_letterbox(&image, &input, WORK, sizeof WORK, NULL));
    for (int i = 0; i < 12; ++i) {
        EXPECT((i % 4 < 2 ? 30 : 64) + i / 4, out[i]);
    }
}

static uint8_t *filled(size_t bytes, uint8_t value)
{
    uint8_t *memory = (uint8_t *)allocate(bytes);
    memset(memory, value, bytes);
    return memory;
}

/* A grey image stays grey at every size, read and written in memory that ends with its last byte. */
static void expect_grey(int32_t format, int32_t width, int32_t height, int32_t side, int32_t layout)
{
    const int32_t row = width * (format == ECN_NV12 ? 1 : format == ECN_YUYV ? 2 : 3), stride = row + 5;
    uint8_t *pixels = filled((size_t)(stride * (height - 1) + row), format == ECN_YUYV ? 128 : 126);
    uint8_t *pairs = filled((size_t)(stride * (height - 1) + row), 128);
    uint8_t *out = filled((size_t)(side * (side + 1) * 3), 0x5A);
    const int32_t bytes = ecn_letterbox_work(side);
    void *work = allocate((size_t)bytes);
    ecn_image image = good_image();
    ecn_input input = good_input(out);
    long wrong = 0;
    image.data = pixels;
    image.chroma = pairs;
    image.format = format;
    image.width = width;
    image.height = height;
    image.stride = image.chroma_stride = stride;
    input.width = side;
    input.height = side + 1;
    input.layout = layout;
    input.pad = format == ECN_YUYV ? 130 : format == ECN_NV12 ? 128 : 126;
    EXPECT(0, ecn_letterbox(&image, &input, work, bytes, NULL));
    for (int32_t i = 0; i < side * (side + 1) * 3; ++i) {
        wrong += out[i] != input.pad;    /* (128 - 16) * 255 / 219 = 130, (126 - 16) * 255 / 219 = 128 */
    }
    EXPECT(0, wrong);
    free(pixels);
    free(pairs);
    free(out);
    free(work);
}

static void test_every_small_size(void)
{
    for (int32_t format = ECN_RGB; format <= ECN_NV12; ++format) {
        const int32_t across = format >= ECN_YUYV ? 2 : 1, down = format == ECN_NV12 ? 2 : 1;
        for (int32_t width = across; width <= 12; width += across) {
            for (int32_t height = down; height <= 8; height += down) {
                for (int32_t side = 1; side <= 13; ++side) {
                    expect_grey(format, width, height, side, side % 2 ? ECN_NHWC : ECN_NCHW);
                }
            }
        }
    }
}

/* Noise through every part of the code, as two numbers that test_letterbox_c.py gets from OpenCV:
 * here they hold on machines that have none. */
static uint32_t checksum(int32_t format, int32_t width, int32_t height)
{
    static uint8_t noise[160 * 120 * 2], out[96 * 64 * 3];
    static int16_t work[ECN_LETTERBOX_WORK(96) / 2];
    ecn_image image = good_image();
    ecn_input input = good_input(out);
    uint32_t sum = 0;
    for (uint32_t i = 0; i < sizeof noise; ++i) {
        noise[i] = (uint8_t)(i * 2654435761u >> 24);
    }
    image.data = noise;
    image.format = format;
    image.width = width;
    image.height = height;
    image.stride = width * (format == ECN_YUYV ? 2 : 3);
    input.width = 96;
    input.height = 64;
    EXPECT(0, ecn_letterbox(&image, &input, work, sizeof work, NULL));
    for (uint32_t i = 0; i < sizeof out; ++i) {
        sum += out[i] * (i + 1);
    }
    return sum;
}

static void test_noise(void)
{
    EXPECT(1, checksum(ECN_RGB, 67, 43) == 0x0956F74Eu);
    EXPECT(1, checksum(ECN_YUYV, 160, 120) == 0x467AEB94u);
}

/* ---- errors ------------------------------------------------------------------------------------ */

/* One deviation from a good call at a time; the tensor must stay untouched. */
static void test_errors(void)
{
    uint8_t out[48];
    ecn_image image = good_image();
    ecn_input input = good_input(out);
    const ecn_image *no_image = NULL;
    const ecn_input *no_input = NULL;
    memset(out, 0x5A, sizeof out);
    EXPECT(ECN_ERR_NULL, ecn_letterbox(no_image, &input, WORK, sizeof WORK, NULL));
    EXPECT(ECN_ERR_NULL, ecn_letterbox(&image, no_input, WORK, sizeof WORK, NULL));
    EXPECT(ECN_ERR_NULL, ecn_letterbox(&image, &input, NULL, sizeof WORK, NULL));
    EXPECT(ECN_ERR_WORK, ecn_letterbox(&image, &input, WORK, ECN_LETTERBOX_WORK(4) - 1, NULL));
    EXPECT(ECN_ERR_WORK, ecn_letterbox(&image, &input, WORK, -1, NULL));
    EXPECT(ECN_ERR_WORK, ecn_letterbox(&image, &input, (char *)WORK + 1, ECN_LETTERBOX_WORK(4), NULL));

#define ERROR(code, which, field, value)                                                           \
    do {                                                                                           \
        image = good_image();                                                                      \
        input = good_input(out);                                                                   \
        which.field = (value);                                                                     \
        EXPECT(code, ecn_letterbox(&image, &input, WORK, sizeof WORK, NULL));                      \
    } while (0)
    ERROR(ECN_ERR_NULL, image, data, NULL);
    ERROR(ECN_ERR_NULL, image, format, ECN_NV12);        /* its chroma is NULL */
    ERROR(ECN_ERR_ARG, image, format, -1);
    ERROR(ECN_ERR_ARG, image, format, 4);
    ERROR(ECN_ERR_SHAPE, image, width, 0);
    ERROR(ECN_ERR_SHAPE, image, width, ECN_IMAGE_MAX + 1);
    ERROR(ECN_ERR_SHAPE, image, height, -2);
    ERROR(ECN_ERR_SHAPE, image, height, INT32_MAX);
    ERROR(ECN_ERR_SHAPE, image, stride, 11);
    ERROR(ECN_ERR_SHAPE, image, stride, -12);
    ERROR(ECN_ERR_NULL, input, data, NULL);
    ERROR(ECN_ERR_DTYPE, input, dtype, ECN_F32);
    ERROR(ECN_ERR_DTYPE, input, dtype, 3);
    ERROR(ECN_ERR_SHAPE, input, width, 0);
    ERROR(ECN_ERR_SHAPE, input, height, ECN_INPUT_MAX + 1);
    ERROR(ECN_ERR_ARG, input, layout, 2);
    ERROR(ECN_ERR_ARG, input, color, ECN_YUYV);
    ERROR(ECN_ERR_ARG, input, pad, -1);
    ERROR(ECN_ERR_ARG, input, pad, 256);
    for (size_t i = 0; i < sizeof out; ++i) {
        EXPECT(0x5A, out[i]);
    }
}

/* What only the YUV formats ask for. */
static void test_video_errors(void)
{
    /* format, width, height, stride, chroma_stride, what is returned */
    static const int32_t CASES[][6] = {
        {ECN_YUYV, 4, 1, 8, 0, 0},
        {ECN_YUYV, 3, 1, 8, 0, ECN_ERR_SHAPE},           /* half a pair */
        {ECN_YUYV, 4, 1, 7, 0, ECN_ERR_SHAPE},
        {ECN_NV12, 4, 2, 4, 4, 0},
        {ECN_NV12, 3, 2, 4, 4, ECN_ERR_SHAPE},
        {ECN_NV12, 4, 1, 4, 4, ECN_ERR_SHAPE},
        {ECN_NV12, 4, 2, 3, 4, ECN_ERR_SHAPE},
        {ECN_NV12, 4, 2, 4, 3, ECN_ERR_SHAPE},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; ++i) {
        uint8_t out[48];
        ecn_image image = good_image();
        const ecn_input input = good_input(out);
        image.chroma = CHROMA;
        image.format = CASES[i][0];
        image.width = CASES[i][1];
        image.height = CASES[i][2];
        image.stride = CASES[i][3];
        image.chroma_stride = CASES[i][4];
        EXPECT(CASES[i][5], ecn_letterbox(&image, &input, WORK, sizeof WORK, NULL));
    }
}

static void test_made_table(void)
{
    static const double GREY[3] = {128.0, 128.0, 128.0}, NOUGHT[3] = {0.0, 0.0, 255.0}, EACH[3] = {1.0, 1.0, 1.0};
    static const double NONE[3] = {1.0, 0.0, 1.0};
    const double huge = 1e300, zero = 0.0;
    const double infinity = huge * huge, nan = infinity * zero;
    const double endless[3] = {0.0, infinity, 0.0};
    uint8_t table[768];
    EXPECT(0, ecn_letterbox_table(GREY, GREY, 1.0 / 128.0, 0, ECN_S8, table));
    for (int i = 0; i < 768; ++i) {
        EXPECT(i % 256 - 128, (int8_t)table[i]);
    }
    EXPECT(0, ecn_letterbox_table(NOUGHT, EACH, 2.0, 10, ECN_U8, table));
    EXPECT(10, table[1]);                /* 0.5: half to even */
    EXPECT(12, table[3]);                /* 1.5 */
    EXPECT(12, table[5]);                /* 2.5 */
    EXPECT(0, table[512]);               /* -127.5 + 10, clipped */
    EXPECT(0, ecn_letterbox_table(NOUGHT, EACH, 1e-300, -5, ECN_S8, table));
    EXPECT(-5, (int8_t)table[0]);
    EXPECT(127, (int8_t)table[1]);
    EXPECT(-128, (int8_t)table[512]);

    memset(table, 0x5A, sizeof table);
    EXPECT(ECN_ERR_NULL, ecn_letterbox_table(NULL, EACH, 1.0, 0, ECN_S8, table));
    EXPECT(ECN_ERR_NULL, ecn_letterbox_table(NOUGHT, NULL, 1.0, 0, ECN_S8, table));
    EXPECT(ECN_ERR_NULL, ecn_letterbox_table(NOUGHT, EACH, 1.0, 0, ECN_S8, NULL));
    EXPECT(ECN_ERR_DTYPE, ecn_letterbox_table(NOUGHT, EACH, 1.0, 0, ECN_F32, table));
    EXPECT(ECN_ERR_QUANT, ecn_letterbox_table(NOUGHT, EACH, 0.0, 0, ECN_S8, table));
    EXPECT(ECN_ERR_QUANT, ecn_letterbox_table(NOUGHT, EACH, nan, 0, ECN_S8, table));
    EXPECT(ECN_ERR_QUANT, ecn_letterbox_table(NOUGHT, EACH, infinity, 0, ECN_S8, table));
    EXPECT(ECN_ERR_QUANT, ecn_letterbox_table(NOUGHT, EACH, 1.0, 128, ECN_S8, table));
    EXPECT(ECN_ERR_QUANT, ecn_letterbox_table(NOUGHT, EACH, 1.0, -1, ECN_U8, table));
    EXPECT(ECN_ERR_ARG, ecn_letterbox_table(endless, EACH, 1.0, 0, ECN_S8, table));
    EXPECT(ECN_ERR_ARG, ecn_letterbox_table(NOUGHT, NONE, 1.0, 0, ECN_S8, table));
    EXPECT(ECN_ERR_ARG, ecn_letterbox_table(NOUGHT, endless, 1.0, 0, ECN_S8, table));
    for (int i = 0; i < 768; ++i) {
        EXPECT(0x5A, table[i]);
    }
}

static void test_work_and_texts(void)
{
    static const int32_t CODES[] = {0, ECN_ERR_NULL, ECN_ERR_DTYPE, ECN_ERR_QUANT, ECN_ERR_SHAPE, ECN_ERR_ARG,
                                    ECN_ERR_WORK, INT32_MIN};
    const size_t count = sizeof CODES / sizeof CODES[0];
    EXPECT(9088, ecn_letterbox_work(320));
    EXPECT(132, ecn_letterbox_work(1));
    EXPECT(ECN_LETTERBOX_WORK(ECN_INPUT_MAX), ecn_letterbox_work(ECN_INPUT_MAX));
    EXPECT(ECN_ERR_SHAPE, ecn_letterbox_work(0));
    EXPECT(ECN_ERR_SHAPE, ecn_letterbox_work(ECN_INPUT_MAX + 1));
    for (size_t a = 0; a < count; ++a) {
        for (size_t b = a + 1; b < count; ++b) {
            EXPECT(1, strcmp(ecn_letterbox_strerror(CODES[a]), ecn_letterbox_strerror(CODES[b])) != 0);
        }
    }
    EXPECT(0, strcmp("no error", ecn_letterbox_strerror(7)));
    EXPECT(0, strcmp("unknown error", ecn_letterbox_strerror(-99)));
}

int main(void)
{
    test_frames();
    test_frame_errors();
    test_enlarged();
    test_halved();
    test_video();
    test_table();
    test_every_small_size();
    test_noise();
    test_errors();
    test_video_errors();
    test_made_table();
    test_work_and_texts();
    printf("%d checks, %d failures\n", checks, failures);
    return failures == 0 ? 0 : 1;
}

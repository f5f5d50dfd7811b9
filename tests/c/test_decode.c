/* test_decode - edgecn_decode against the goldens and its own header, without Python.
 *
 *     cc -std=c99 -I edge_centernet/decoder tests/c/test_decode.c edge_centernet/decoder/edgecn_decode.c -o test_decode
 *     ./test_decode tests/golden/decoder_v3.bin
 *
 * Prints what differs and exits 1, or prints a count and exits 0. Also run under sanitizers: every
 * tensor lies in memory of exactly its own size, so one element read too far is found.
 * SPDX-License-Identifier: Apache-2.0 */
#include "edgecn_decode.h"
#include "expect.h"

#include <math.h>                        /* INFINITY, NAN */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading the goldens: little-endian bytes, on a machine of any byte order ----------------- */

static FILE *golden;

static void read_bytes(void *to, size_t count)
{
    if (fread(to, 1, count, golden) != count) {
        printf("golden file ends too early: run tests/c/make_goldens.py\n");
        exit(1);
    }
}

static uint32_t read_u32(void)
{
    uint8_t b[4];
    read_bytes(b, 4);
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static int32_t read_i32(void)
{
    const uint32_t bits = read_u32();
    int32_t value;
    memcpy(&value, &bits, 4);
    return value;
}

static float read_f32(void)
{
    const uint32_t bits = read_u32();
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* The caller frees what is returned; `t` points into it. */
static void *read_tensor(ecn_tensor *t)
{
    int32_t bytes;
    void *memory;
    t->dtype = read_i32();
    t->zero_point = read_i32();
    t->stride_c = read_i32();
    t->stride_y = read_i32();
    t->stride_x = read_i32();
    t->scale = read_f32();
    bytes = read_i32();
    memory = allocate((size_t)bytes);
    if (t->dtype == ECN_F32) {
        for (int32_t i = 0; i < bytes / 4; ++i) {
            ((float *)memory)[i] = read_f32();
        }
    } else if (t->dtype == ECN_S16) {
        for (int32_t i = 0; i < bytes / 2; ++i) {
            uint8_t b[2];
            read_bytes(b, 2);
            ((int16_t *)memory)[i] = (int16_t)((b[0] | b[1] << 8) - (b[1] > 127 ? 65536 : 0));
        }
    } else {
        read_bytes(memory, (size_t)bytes);
    }
    t->data = memory;
    return memory;
}

static int same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

static void expect_box(const char *name, int32_t index, const ecn_box *expected, const ecn_box *actual)
{
    ++checks;
    if (same_bits(expected->x1, actual->x1) && same_bits(expected->y1, actual->y1)
        && same_bits(expected->x2, actual->x2) && same_bits(expected->y2, actual->y2)
        && same_bits(expected->score, actual->score) && expected->class_id == actual->class_id
        && expected->cell == actual->cell) {
        return;
    }
    ++failures;
    printf("%s, box %d: expected (%.9g %.9g %.9g %.9g) score %.9g class %d cell %d, "
           "got (%.9g %.9g %.9g %.9g) score %.9g class %d cell %d\n", name, (int)index,
           (double)expected->x1, (double)expected->y1, (double)expected->x2, (double)expected->y2,
           (double)expected->score, (int)expected->class_id, (int)expected->cell,
           (double)actual->x1, (double)actual->y1, (double)actual->x2, (double)actual->y2,
           (double)actual->score, (int)actual->class_id, (int)actual->cell);
}

static ecn_box read_box(void)
{
    ecn_box box;
    box.x1 = read_f32();
    box.y1 = read_f32();
    box.x2 = read_f32();
    box.y2 = read_f32();
    box.score = read_f32();
    box.class_id = read_i32();
    box.cell = read_i32();
    return box;
}

/* Compare `count` boxes with those that follow in the file. */
static void expect_boxes(const char *name, const ecn_box *out, int32_t count)
{
    const int32_t expected_count = read_i32();
    EXPECT(expected_count, count);
    for (int32_t i = 0; i < expected_count; ++i) {
        const ecn_box box = read_box();
        if (i < count) {
            expect_box(name, i, &box, &out[i]);
        }
    }
}

static void test_case(void)
{
    char name[33] = {0};
    ecn_heads h;
    ecn_box *out;
    void *memory[4];
    ecn_frame frame;
    int32_t capacity, count, scope;

    read_bytes(name, 32);
    h.classes = read_i32();
    h.height = read_i32();
    h.width = read_i32();
    capacity = read_i32();
    h.cell_px = read_f32();
    h.threshold = read_f32();
    count = read_i32();
    memory[3] = allocate((size_t)count * sizeof(float));
    for (int32_t i = 0; i < count; ++i) {
        ((float *)memory[3])[i] = read_f32();
    }
    h.class_threshold = count > 0 ? (const float *)memory[3] : NULL;
    memory[0] = read_tensor(&h.heat);
    memory[1] = read_tensor(&h.size);
    memory[2] = read_tensor(&h.offset);

    out = (ecn_box *)allocate((size_t)capacity * sizeof *out);
    count = ecn_decode(&h, out, capacity);
    expect_boxes(name, out, count);

    scope = read_i32();
    frame.src_width = read_i32();
    frame.src_height = read_i32();
    frame.new_width = read_i32();
    frame.new_height = read_i32();
    frame.left = read_i32();
    frame.top = read_i32();
    count = ecn_drop_twins(out, count, scope);
    EXPECT(0, ecn_to_image(out, count, &frame));
    ecn_to_probability(out, count);
    expect_boxes(name, out, count);
    free(out);
    free(memory[0]);
    free(memory[1]);
    free(memory[2]);
    free(memory[3]);
}

static void test_joins(void)
{
    const int32_t joins = read_i32();
    for (int32_t i = 0; i < joins; ++i) {
        ecn_box boxes[64];
        ecn_levels levels;
        int32_t count[2], end = 0;
        levels.width = read_f32();
        levels.height = read_f32();
        levels.reach_x = read_f32();
        levels.reach_y = read_f32();
        for (int32_t level = 0; level < 2; ++level) {
            count[level] = read_i32();
            for (int32_t k = 0; k < count[level]; ++k) {
                boxes[end++] = read_box();
            }
        }
        expect_boxes("join", boxes, ecn_join_levels(boxes, count[0], count[1], &levels));
    }
}

static void test_logistic(void)
{
    const int32_t pairs = read_i32();
    for (int32_t i = 0; i < pairs; ++i) {
        const float logit = read_f32(), expected = read_f32();
        const float probability = ecn_logistic(logit);
        ++checks;
        if (!same_bits(expected, probability)) {
            ++failures;
            printf("logistic of %.9g: expected %.9g, got %.9g\n", (double)logit, (double)expected, (double)probability);
        }
    }
}

static int32_t test_goldens(const char *path)
{
    char magic[8];
    int32_t cases;
    golden = fopen(path, "rb");
    if (golden == NULL) {
        printf("cannot read %s\n", path);
        exit(1);
    }
    read_bytes(magic, 8);
    if (memcmp(magic, "ECNGOLD\3", 8) != 0) {
        printf("%s: expected magic ECNGOLD, version 3: run tests/c/make_goldens.py\n", path);
        exit(1);
    }
    cases = read_i32();
    for (int32_t i = 0; i < cases; ++i) {
        test_case();
    }
    test_joins();
    test_logistic();
    EXPECT(EOF, fgetc(golden));
    fclose(golden);
    return cases;
}

/* ---- the header's promises, by hand ------------------------------------------------------------ */

static const int8_t HEAT[9] = {0, 0, 0, 0, 50, 0, 0, 0, 0};     /* 1 class, 3x3, one peak */
static const int8_t SIZE[18] = {0, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0};
static const int8_t OFFSET[18] = {0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0};

static ecn_tensor tensor(const int8_t *data, float scale)
{
    ecn_tensor t;
    t.data = data;
    t.scale = scale;
    t.zero_point = 0;
    t.dtype = ECN_S8;
    t.stride_c = 9;
    t.stride_y = 3;
    t.stride_x = 1;
    return t;
}

static ecn_heads good(void)
{
    ecn_heads h;
    h.heat = tensor(HEAT, 0.125f);
    h.size = tensor(SIZE, 0.1f);
    h.offset = tensor(OFFSET, 0.1f);
    h.classes = 1;
    h.height = 3;
    h.width = 3;
    h.cell_px = 4.0f;
    h.threshold = 6.25f;                 /* = 50 * 0.125 */
    h.class_threshold = NULL;
    return h;
}

static void test_one_box(void)
{
    ecn_heads h = good();
    ecn_box out[2];
    memset(out, 0x5A, sizeof out);
    EXPECT(1, ecn_decode(&h, out, 2));
    EXPECT(2, (long)out[0].x1);          /* (1 + 0.5 - 1) * 4 */
    EXPECT(10, (long)out[0].x2);
    EXPECT(28, (long)(out[0].y1 * 10.0f));       /* (1 + 0.2 - 0.5) * 4 = 2.8 */
    EXPECT(68, (long)(out[0].y2 * 10.0f + 0.5f));
    EXPECT(625, (long)(out[0].score * 100.0f));
    EXPECT(0, out[0].class_id);
    EXPECT(4, out[0].cell);
    for (size_t i = 0; i < sizeof out[1]; ++i) {
        EXPECT(0x5A, ((unsigned char *)&out[1])[i]);     /* nothing after the last box is touched */
    }
    h.threshold = 6.2500005f;            /* the next float */
    EXPECT(0, ecn_decode(&h, out, 2));
}

/* Every argument error, one deviation from good() at a time; `out` must stay untouched. */
static void test_errors(void)
{
    const float infinity = INFINITY, nan = NAN;
    static const int32_t STRIDES[][2] = {                /* y, x of a 3x3 map */
        {-1, 1},                                         /* negative */
        {INT32_MAX, 1},                                  /* (3 - 1) * stride overflows */
        {1073741824, 0},                                 /* last index is 2^31 */
        {536870912, 536870912},                          /* each fits, the sum is 2^31 */
    };
    ecn_box out[1];
    ecn_heads h;
    memset(out, 0x5A, sizeof out);

    h = good();
    EXPECT(ECN_ERR_NULL, ecn_decode(NULL, out, 1));
    EXPECT(ECN_ERR_NULL, ecn_decode(&h, NULL, 1));
    EXPECT(0, ecn_decode(&h, NULL, 0));
    EXPECT(ECN_ERR_ARG, ecn_decode(&h, out, -1));
    EXPECT(ECN_ERR_ARG, ecn_decode(&h, NULL, -1));

#define ERROR(code, field, value)                                                                  \
    do {                                                                                           \
        h = good();                                                                                \
        h.field = (value);                                                                         \
        EXPECT(code, ecn_decode(&h, out, 1));                                                      \
        EXPECT(code, ecn_decode(&h, NULL, 0));                                                     \
    } while (0)
    ERROR(ECN_ERR_NULL, heat.data, NULL);
    ERROR(ECN_ERR_NULL, size.data, NULL);
    ERROR(ECN_ERR_NULL, offset.data, NULL);
    ERROR(ECN_ERR_DTYPE, heat.dtype, 4);
    ERROR(ECN_ERR_DTYPE, size.dtype, -1);
    ERROR(ECN_ERR_DTYPE, offset.dtype, 99);
    ERROR(ECN_ERR_QUANT, heat.scale, 0.0f);
    ERROR(ECN_ERR_QUANT, size.scale, -1.0f);
    ERROR(ECN_ERR_QUANT, offset.scale, nan);
    ERROR(ECN_ERR_QUANT, heat.scale, infinity);
    ERROR(ECN_ERR_QUANT, heat.zero_point, 128);
    ERROR(ECN_ERR_QUANT, size.zero_point, -129);
    ERROR(ECN_ERR_QUANT, offset.zero_point, INT32_MIN);
    ERROR(ECN_ERR_SHAPE, classes, 0);
    ERROR(ECN_ERR_SHAPE, height, -3);
    ERROR(ECN_ERR_SHAPE, width, ECN_DIM_MAX + 1);
    ERROR(ECN_ERR_SHAPE, size.stride_c, -1);
    ERROR(ECN_ERR_SHAPE, offset.stride_x, INT32_MIN);
    ERROR(ECN_ERR_ARG, cell_px, 0.0f);
    ERROR(ECN_ERR_ARG, cell_px, nan);
    ERROR(ECN_ERR_ARG, cell_px, infinity);
    ERROR(ECN_ERR_ARG, threshold, nan);
    ERROR(ECN_ERR_ARG, class_threshold, &nan);
    for (size_t i = 0; i < sizeof out; ++i) {
        EXPECT(0x5A, ((unsigned char *)out)[i]);
    }
    for (size_t i = 0; i < sizeof STRIDES / sizeof STRIDES[0]; ++i) {
        h = good();
        h.heat.stride_y = STRIDES[i][0];
        h.heat.stride_x = STRIDES[i][1];
        EXPECT(ECN_ERR_SHAPE, ecn_decode(&h, out, 1));
    }
    h = good();
    h.heat.stride_c = INT32_MAX;         /* one class: its stride is never used */
    EXPECT(1, ecn_decode(&h, out, 1));
}

/* A class threshold replaces the other one. */
static void test_class_threshold(void)
{
    static const float ABOVE = 6.2500005f, AT = 6.25f;
    ecn_heads h = good();
    ecn_box out[1];
    h.threshold = 0.0f;
    h.class_threshold = &ABOVE;
    EXPECT(0, ecn_decode(&h, out, 1));
    h.threshold = 100.0f;
    h.class_threshold = &AT;
    EXPECT(1, ecn_decode(&h, out, 1));
}

/* What follows decoding refuses what it cannot do, and changes nothing then. */
static void test_later_steps(void)
{
    const ecn_box box = {1.0f, 2.0f, 3.0f, 4.0f, 0.0f, 5, 6};
    const ecn_frame frame = {100, 50, 10, 5, 0, 2};
    ecn_box boxes[2];
    ecn_frame bad;
    float table[256];
    ecn_tensor heat = tensor(HEAT, 0.5f);
    boxes[0] = box;
    boxes[1] = box;
    EXPECT(1, ecn_drop_twins(boxes, 2, ECN_SAME_CLASS));
    EXPECT(0, ecn_drop_twins(NULL, 0, ECN_ANY_CLASS));
    EXPECT(ECN_ERR_NULL, ecn_drop_twins(NULL, 1, ECN_ANY_CLASS));
    EXPECT(ECN_ERR_ARG, ecn_drop_twins(boxes, -1, ECN_ANY_CLASS));
    EXPECT(ECN_ERR_ARG, ecn_drop_twins(boxes, 1, 2));
    boxes[1].class_id = 4;
    EXPECT(2, ecn_drop_twins(boxes, 2, ECN_SAME_CLASS));
    EXPECT(1, ecn_drop_twins(boxes, 2, ECN_ANY_CLASS));

    EXPECT(ECN_ERR_NULL, ecn_to_image(boxes, 1, NULL));
    EXPECT(ECN_ERR_NULL, ecn_to_image(NULL, 1, &frame));
    EXPECT(ECN_ERR_ARG, ecn_to_image(boxes, -1, &frame));
    bad = frame;
    bad.new_width = 0;
    EXPECT(ECN_ERR_ARG, ecn_to_image(boxes, 1, &bad));
    bad = frame;
    bad.src_height = -1;
    EXPECT(ECN_ERR_ARG, ecn_to_image(boxes, 1, &bad));
    EXPECT(1, (long)boxes[0].x1);
    EXPECT(0, ecn_to_image(boxes, 1, &frame));
    EXPECT(10, (long)boxes[0].x1);       /* (1 - 0) * 100 / 10 */
    EXPECT(0, (long)boxes[0].y1);        /* (2 - 2) * 50 / 5 */
    EXPECT(20, (long)boxes[0].y2);

    EXPECT(500, (long)(ecn_logistic(0.0f) * 1000.0f));
    EXPECT(0, ecn_probability_table(&heat, table));
    EXPECT(1, same_bits(table[128 + 50], ecn_logistic(25.0f)));
    EXPECT(1, table[0] < 1e-6f);
    heat.dtype = ECN_S16;
    EXPECT(ECN_ERR_DTYPE, ecn_probability_table(&heat, table));
    EXPECT(ECN_ERR_NULL, ecn_probability_table(&heat, NULL));
    ecn_to_probability(NULL, 3);
}

/* A map cut into four tiles of another layout, each wrong outside of what counts, is whole again on a canvas. */
static void test_stitch(void)
{
    enum { SIDE = 7, TILE = 5, CLASSES = 2 };
    static const int32_t AXIS[2][3] = {{0, 0, 3}, {2, 3, SIDE}};    /* where a tile begins, and what counts of it */
    int16_t canvas[3][CLASSES * SIDE * SIDE], tiles[3][TILE * TILE * CLASSES];
    ecn_heads h = good(), whole = good();
    ecn_tensor *const parts[3] = {&h.heat, &h.size, &h.offset};
    ecn_tensor *const maps[3] = {&whole.heat, &whole.size, &whole.offset};
    ecn_tile tile;
    memset(canvas, 0x55, sizeof canvas);
    h.classes = whole.classes = CLASSES;
    h.width = h.height = TILE;
    whole.width = whole.height = SIDE;
    for (int32_t i = 0; i < 3; ++i) {
        parts[i]->dtype = maps[i]->dtype = ECN_S16;
        parts[i]->data = tiles[i];
        parts[i]->stride_c = 1;
        parts[i]->stride_y = TILE * CLASSES;
        parts[i]->stride_x = CLASSES;
        maps[i]->data = canvas[i];
        maps[i]->stride_c = SIDE * SIDE;
        maps[i]->stride_y = SIDE;
        maps[i]->stride_x = 1;
    }
    for (int32_t n = 0; n < 4; ++n) {
        const int32_t *column = AXIS[n % 2], *row = AXIS[n / 2];
        tile.left = column[0];
        tile.top = row[0];
        tile.x1 = column[1];
        tile.y1 = row[1];
        tile.x2 = column[2];
        tile.y2 = row[2];
        for (int32_t i = 0; i < 3 * TILE * TILE * CLASSES; ++i) {
            const int32_t map = i / (TILE * TILE * CLASSES), cell = i % (TILE * TILE * CLASSES);
            const int32_t c = cell % CLASSES;
            const int32_t x = cell / CLASSES % TILE + tile.left, y = cell / CLASSES / TILE + tile.top;
            const int counts = x >= tile.x1 && x < tile.x2 && y >= tile.y1 && y < tile.y2;
            tiles[map][cell] = (int16_t)(counts ? 1000 * map + 100 * c + 10 * y + x : -1);
        }
        EXPECT(0, ecn_stitch(&h, &tile, &whole));
    }
    for (int32_t i = 0; i < 3 * CLASSES * SIDE * SIDE; ++i) {
        const int32_t map = i / (CLASSES * SIDE * SIDE), c = i / (SIDE * SIDE) % CLASSES, cell = i % (SIDE * SIDE);
        EXPECT(1000 * map + 100 * c + 10 * (cell / SIDE) + cell % SIDE, canvas[map][i % (CLASSES * SIDE * SIDE)]);
    }

    EXPECT(ECN_ERR_NULL, ecn_stitch(NULL, &tile, &whole));
    EXPECT(ECN_ERR_NULL, ecn_stitch(&h, NULL, &whole));
    EXPECT(ECN_ERR_NULL, ecn_stitch(&h, &tile, NULL));
    ++tile.x2;
    EXPECT(ECN_ERR_ARG, ecn_stitch(&h, &tile, &whole));      /* beyond the canvas */
    tile.x2 -= 2;
    tile.left = 0;
    EXPECT(ECN_ERR_ARG, ecn_stitch(&h, &tile, &whole));      /* beyond the tile */
    tile.left = tile.x1 + 1;
    EXPECT(ECN_ERR_ARG, ecn_stitch(&h, &tile, &whole));      /* before the tile */
    tile.left = tile.x1;
    tile.top = -1;
    EXPECT(ECN_ERR_ARG, ecn_stitch(&h, &tile, &whole));
    h.classes = 1;
    EXPECT(ECN_ERR_SHAPE, ecn_stitch(&h, &tile, &whole));
    h.heat.dtype = ECN_S8;
    EXPECT(ECN_ERR_DTYPE, ecn_stitch(&h, &tile, &whole));
    h.offset.data = NULL;
    EXPECT(ECN_ERR_NULL, ecn_stitch(&h, &tile, &whole));
}

/* Joining refuses what it cannot do, and changes nothing then. */
static void test_join_errors(void)
{
    ecn_box box = {1.0f, 2.0f, 3.0f, 4.0f, 0.5f, 5, 6};
    const ecn_levels levels = {8.0f, 8.0f, 1.0f, 1.0f};
    EXPECT(ECN_ERR_NULL, ecn_join_levels(&box, 1, 0, NULL));
    EXPECT(ECN_ERR_NULL, ecn_join_levels(NULL, 0, 1, &levels));
    EXPECT(ECN_ERR_ARG, ecn_join_levels(&box, -1, 0, &levels));
    EXPECT(ECN_ERR_ARG, ecn_join_levels(&box, 1, -1, &levels));
    EXPECT(6, box.cell);
    EXPECT(0, ecn_join_levels(NULL, 0, 0, &levels));
    EXPECT(1, ecn_join_levels(&box, 1, 0, &levels));
    EXPECT(0, ecn_join_levels(&box, 0, 1, &levels));     /* too small for the coarse level to speak of */
}

/* Of four boxes on a canvas of 40 x 30 cells, a tile drops the one that ends at its own inner edge. */
static void test_drop_cut(void)
{
    const ecn_tile tile = {10, 0, 14, 0, 26, 16};    /* 20 x 20 cells: inner edges at the left, right and bottom */
    ecn_heads h = good(), canvas = good();
    ecn_box boxes[4] = {
        {88.0f, 0.0f, 120.0f, 80.0f, 0.9f, 0, 5 * 40 + 15},  /* a cell from the edge, and at that of the canvas */
        {87.0f, 20.0f, 120.0f, 80.0f, 0.8f, 0, 5 * 40 + 15}, /* closer */
        {87.0f, 20.0f, 120.0f, 80.0f, 0.7f, 0, 5 * 40 + 13}, /* a cell that is not of this tile */
        {200.0f, 20.0f, 230.0f, 153.0f, 0.6f, 0, 10 * 40 + 25},
    };
    h.width = h.height = 20;
    canvas.width = 40;
    canvas.height = 30;
    canvas.cell_px = 8.0f;
    EXPECT(2, ecn_drop_cut(boxes, 4, &tile, &h, &canvas));
    EXPECT(90, (long)(boxes[0].score * 100.0f + 0.5f));
    EXPECT(70, (long)(boxes[1].score * 100.0f + 0.5f));
    EXPECT(ECN_ERR_NULL, ecn_drop_cut(NULL, 1, &tile, &h, &canvas));
    EXPECT(ECN_ERR_NULL, ecn_drop_cut(boxes, 1, NULL, &h, &canvas));
}

static void test_texts(void)
{
    for (int32_t a = -6; a <= 0; ++a) {
        for (int32_t b = a + 1; b <= 0; ++b) {
            EXPECT(1, strcmp(ecn_strerror(a), ecn_strerror(b)) != 0);
        }
    }
    EXPECT(0, strcmp("no error", ecn_strerror(7)));
    EXPECT(0, strcmp("unknown error", ecn_strerror(INT32_MIN)));
    EXPECT(ECN_VERSION, ecn_version());
}

int main(int argc, char **argv)
{
    int32_t cases;
    if (argc != 2) {
        printf("usage: %s decoder_v3.bin\n", argv[0]);
        return 2;
    }
    cases = test_goldens(argv[1]);
    test_one_box();
    test_errors();
    test_class_threshold();
    test_later_steps();
    test_stitch();
    test_join_errors();
    test_drop_cut();
    test_texts();
    printf("%d golden cases, %d checks, %d failures\n", (int)cases, checks, failures);
    return failures == 0 ? 0 : 1;
}

/* _decoder: edgecn_decode for Python, in the stable ABI of 3.10. Arrays are read through NumPy's array interface (their
 * attribute __array_struct__), which needs no NumPy headers; native.py has checked shapes before it passes them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>

#include <stddef.h>

#include "edgecn_decode.h"

#define NOT_WALKABLE (-100)              /* no ECN_ERR_*: the caller has to make a copy */
#define ALIGNED 0x100
#define NOT_SWAPPED 0x200

/* numpy.org/doc/stable/reference/arrays.interface.html */
typedef struct {
    int two;
    int nd;
    char typekind;
    int itemsize;
    int flags;
    Py_ssize_t *shape;
    Py_ssize_t *strides;
    void *data;
    PyObject *descr;
} array_interface;

/* The array's capsule, which owns what `seen` points to; NULL with an exception for what is no array. */
static PyObject *look_at(PyObject *array, array_interface **seen)
{
    PyObject *capsule = PyObject_GetAttrString(array, "__array_struct__");
    *seen = capsule == NULL ? NULL : (array_interface *)PyCapsule_GetPointer(capsule, NULL);
    if (*seen == NULL) {
        Py_XDECREF(capsule);
        return NULL;
    }
    return capsule;
}

static int32_t dtype_of(const array_interface *a)
{
    if (a->typekind == 'f' && a->itemsize == 4) {
        return ECN_F32;
    }
    if (a->typekind == 'i' && a->itemsize <= 2) {
        return a->itemsize == 1 ? ECN_S8 : ECN_S16;
    }
    return a->typekind == 'u' && a->itemsize == 1 ? ECN_U8 : -1;
}

/* Strides in elements; false where they cannot be: negative, no multiple of an element, too far, misaligned. */
static int describe(const array_interface *a, ecn_tensor *t)
{
    int32_t *const strides[3] = {&t->stride_c, &t->stride_y, &t->stride_x};
    Py_ssize_t room = INT32_MAX;
    t->data = a->data;
    t->dtype = dtype_of(a);
    if ((a->flags & ALIGNED) == 0 || (a->flags & NOT_SWAPPED) == 0) {
        return 0;
    }
    for (int i = 0; i < 3; ++i) {
        const Py_ssize_t stride = a->shape[i] > 1 ? a->strides[i] : 0;   /* a lone element's stride is arbitrary */
        if (stride < 0 || stride % a->itemsize != 0 || stride / a->itemsize > INT32_MAX) {
            return 0;
        }
        *strides[i] = (int32_t)(stride / a->itemsize);
        if (stride > 0 && (a->shape[i] - 1) > room / (stride / a->itemsize)) {
            return 0;
        }
        room -= (a->shape[i] - 1) * (stride / a->itemsize);
    }
    return 1;
}

/* decode(heat, size, offset, (scale, zero_point) of each, cell_px, threshold, class_thresholds, out) -> count or code */
static PyObject *decode(PyObject *self, PyObject *args)
{
    PyObject *array[5], *capsule[5] = {NULL, NULL, NULL, NULL, NULL}, *result = NULL;
    array_interface *seen[5];
    ecn_heads h;
    int walkable = 1;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOO(fi)(fi)(fi)ffOO", &array[0], &array[1], &array[2], &h.heat.scale,
            &h.heat.zero_point, &h.size.scale, &h.size.zero_point, &h.offset.scale, &h.offset.zero_point, &h.cell_px,
            &h.threshold, &array[3], &array[4])) {
        return NULL;
    }
    for (int i = 0; i < 5; ++i) {
        if (i == 3 && array[i] == Py_None) {
            continue;
        }
        capsule[i] = look_at(array[i], &seen[i]);
        if (capsule[i] == NULL) {
            goto done;
        }
        if (i < 3) {
            if (seen[i]->nd != 3) {
                PyErr_SetString(PyExc_ValueError, "expected heads of 3 dimensions");
                goto done;
            }
            walkable &= describe(seen[i], i == 0 ? &h.heat : i == 1 ? &h.size : &h.offset);
        }
    }
    if (!walkable) {
        result = PyLong_FromLong(NOT_WALKABLE);
    } else {
        ecn_box *const out = (ecn_box *)seen[4]->data;
        const int32_t capacity = (int32_t)(seen[4]->shape[0] * seen[4]->itemsize / (Py_ssize_t)sizeof(ecn_box));
        int32_t count;
        h.classes = (int32_t)seen[0]->shape[0];
        h.height = (int32_t)seen[0]->shape[1];
        h.width = (int32_t)seen[0]->shape[2];
        h.class_threshold = capsule[3] == NULL ? NULL : (const float *)seen[3]->data;
        Py_BEGIN_ALLOW_THREADS
        count = ecn_decode(&h, out, capacity);
        Py_END_ALLOW_THREADS
        result = PyLong_FromLong(count);
    }
done:
    for (int i = 0; i < 5; ++i) {
        Py_XDECREF(capsule[i]);
    }
    return result;
}

/* The rest works on the first `count` boxes of an array of them, which may come as floats: NumPy describes an array of
 * records in Python, which takes longer than decoding. */
static PyObject *drop_twins(PyObject *self, PyObject *args)
{
    PyObject *boxes, *capsule, *result = NULL;
    array_interface *seen;
    int count, scope;
    (void)self;
    if (PyArg_ParseTuple(args, "Oii", &boxes, &count, &scope) && (capsule = look_at(boxes, &seen)) != NULL) {
        result = PyLong_FromLong(ecn_drop_twins((ecn_box *)seen->data, count, scope));
        Py_DECREF(capsule);
    }
    return result;
}

static PyObject *drop_cut(PyObject *self, PyObject *args)
{
    PyObject *boxes, *capsule, *result = NULL;
    array_interface *seen;
    int count;
    ecn_tile tile;
    ecn_heads heads, canvas;
    (void)self;
    if (PyArg_ParseTuple(args, "Oi(iiiiii)(ii)(ii)f", &boxes, &count, &tile.left, &tile.top, &tile.x1, &tile.y1, &tile.x2,
            &tile.y2, &heads.height, &heads.width, &canvas.height, &canvas.width, &canvas.cell_px)
        && (capsule = look_at(boxes, &seen)) != NULL) {
        result = PyLong_FromLong(ecn_drop_cut((ecn_box *)seen->data, count, &tile, &heads, &canvas));
        Py_DECREF(capsule);
    }
    return result;
}

static PyObject *join_levels(PyObject *self, PyObject *args)
{
    PyObject *boxes, *capsule, *result = NULL;
    array_interface *seen;
    int fine, coarse;
    ecn_levels levels;
    (void)self;
    if (PyArg_ParseTuple(args, "Oii(ffff)", &boxes, &fine, &coarse, &levels.width, &levels.height, &levels.reach_x,
            &levels.reach_y) && (capsule = look_at(boxes, &seen)) != NULL) {
        result = PyLong_FromLong(ecn_join_levels((ecn_box *)seen->data, fine, coarse, &levels));
        Py_DECREF(capsule);
    }
    return result;
}

static PyObject *to_image(PyObject *self, PyObject *args)
{
    PyObject *boxes, *capsule, *result = NULL;
    array_interface *seen;
    int count;
    ecn_frame frame;
    (void)self;
    if (PyArg_ParseTuple(args, "Oi(iiiiii)", &boxes, &count, &frame.src_width, &frame.src_height, &frame.new_width,
            &frame.new_height, &frame.left, &frame.top) && (capsule = look_at(boxes, &seen)) != NULL) {
        result = PyLong_FromLong(ecn_to_image((ecn_box *)seen->data, count, &frame));
        Py_DECREF(capsule);
    }
    return result;
}

static PyObject *to_probability(PyObject *self, PyObject *args)
{
    PyObject *boxes, *capsule, *result = NULL;
    array_interface *seen;
    int count;
    (void)self;
    if (PyArg_ParseTuple(args, "Oi", &boxes, &count) && (capsule = look_at(boxes, &seen)) != NULL) {
        ecn_to_probability((ecn_box *)seen->data, count);
        result = PyLong_FromLong(0);
        Py_DECREF(capsule);
    }
    return result;
}

static PyObject *strerror_(PyObject *self, PyObject *args)
{
    int code;
    (void)self;
    return PyArg_ParseTuple(args, "i", &code) ? PyUnicode_FromString(ecn_strerror(code)) : NULL;
}

/* What native.py compares to its NumPy dtype: the compiler's own layout of ecn_box. */
static int export_layout(PyObject *module)
{
    PyObject *offsets = Py_BuildValue("{s:n,s:n,s:n,s:n,s:n,s:n,s:n}",
        "x1", offsetof(ecn_box, x1), "y1", offsetof(ecn_box, y1),
        "x2", offsetof(ecn_box, x2), "y2", offsetof(ecn_box, y2),
        "score", offsetof(ecn_box, score), "class_id", offsetof(ecn_box, class_id),
        "cell", offsetof(ecn_box, cell));
    const int failed = PyModule_AddObjectRef(module, "BOX_OFFSETS", offsets);
    Py_XDECREF(offsets);
    return failed || PyModule_AddIntConstant(module, "BOX_SIZE", (long)sizeof(ecn_box))
        || PyModule_AddIntConstant(module, "NOT_WALKABLE", NOT_WALKABLE)
        || PyModule_AddIntConstant(module, "VERSION", (long)ecn_version()) ? -1 : 0;
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS, "decode(heat, size, offset, quant, quant, quant, cell_px, threshold, class_thresholds "
        "or None, out) -> count, ECN_ERR_* or NOT_WALKABLE; quant is (scale, zero_point)"},
    {"drop_twins", drop_twins, METH_VARARGS, "drop_twins(boxes, count, scope) -> count or ECN_ERR_*"},
    {"drop_cut", drop_cut, METH_VARARGS, "drop_cut(boxes, count, (left, top, x1, y1, x2, y2), (height, width), (height, "
        "width) of the canvas, cell_px) -> count or ECN_ERR_*"},
    {"join_levels", join_levels, METH_VARARGS, "join_levels(boxes, fine, coarse, (width, height, reach_x, reach_y)) -> count "
        "or ECN_ERR_*"},
    {"to_image", to_image, METH_VARARGS, "to_image(boxes, count, (src_width, src_height, new_width, new_height, left, "
        "top)) -> 0 or ECN_ERR_*"},
    {"to_probability", to_probability, METH_VARARGS, "to_probability(boxes, count) -> 0"},
    {"strerror", strerror_, METH_VARARGS, "strerror(code) -> text"},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)export_layout}, {0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_decoder", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__decoder(void)
{
    return PyModuleDef_Init(&module);
}

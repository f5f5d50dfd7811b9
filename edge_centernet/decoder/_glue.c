/* _decoder: edgecn_decode for Python, in the stable ABI of 3.10. No logic: arguments are plain
 * numbers, and native.py has checked dtypes, shapes and lifetimes before it passes an address.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>

#include <stddef.h>

#include "edgecn_decode.h"

static PyObject *decode(PyObject *self, PyObject *args)
{
    ecn_heads h;
    unsigned long long heat, size, offset, out;
    int capacity;
    int32_t count;
    (void)self;
    if (!PyArg_ParseTuple(args, "(Kfiiiii)(Kfiiiii)(Kfiiiii)iiiffKi",
            &heat, &h.heat.scale, &h.heat.zero_point, &h.heat.dtype,
            &h.heat.stride_c, &h.heat.stride_y, &h.heat.stride_x,
            &size, &h.size.scale, &h.size.zero_point, &h.size.dtype,
            &h.size.stride_c, &h.size.stride_y, &h.size.stride_x,
            &offset, &h.offset.scale, &h.offset.zero_point, &h.offset.dtype,
            &h.offset.stride_c, &h.offset.stride_y, &h.offset.stride_x,
            &h.classes, &h.height, &h.width, &h.cell_px, &h.threshold, &out, &capacity)) {
        return NULL;
    }
    h.heat.data = (const void *)(uintptr_t)heat;
    h.size.data = (const void *)(uintptr_t)size;
    h.offset.data = (const void *)(uintptr_t)offset;
    Py_BEGIN_ALLOW_THREADS
    count = ecn_decode(&h, (ecn_box *)(uintptr_t)out, capacity);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(count);
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
        || PyModule_AddIntConstant(module, "VERSION", (long)ecn_version()) ? -1 : 0;
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS, "decode(heat, size, offset, classes, height, width, cell_px, threshold, out, "
        "capacity) -> count or ECN_ERR_*; a head is (address, scale, zero_point, dtype, 3 element strides)"},
    {"strerror", strerror_, METH_VARARGS, "strerror(code) -> text"},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)export_layout}, {0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_decoder", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__decoder(void)
{
    return PyModuleDef_Init(&module);
}

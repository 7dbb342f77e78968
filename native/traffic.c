// Bytes that the connections of one server have moved together: see sockets/traffic.py.

#include "native.h"

#include <structmember.h>

static PyMemberDef members[] = {
    {"received", T_LONGLONG, offsetof(Traffic, received), 0, NULL},
    {"sent", T_LONGLONG, offsetof(Traffic, sent), 0, NULL},
    {NULL},
};

static void traffic_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot slots[] = {
    {Py_tp_doc, "Two counters that only grow: written on the loop's thread, read in any."},
    {Py_tp_members, members},
    {Py_tp_dealloc, traffic_dealloc},
    {0, NULL},
};

PyType_Spec traffic_spec = {
    .name = "aiosocketserver._native.Traffic",
    .basicsize = sizeof(Traffic),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

// The module `aiosocketserver._native`: its state, and the classes that it makes of the other
// files.

#include "native.h"

// Set by the build, for `compiled.py` to tell a build of other sources.
#ifndef CHECKSUM
#error "CHECKSUM is not defined: build with hatch_build.py"
#endif

static const char *const words[] = {
    "call_soon",
    "_careful_input",
    "_careful_on_readable",
    "_careful_recv",
    "_careful_recv_into",
    "_careful_sendall",
    "fileno",
    "_recv_failed",
    "_send_failed",
    "_send_pending",
    "timeout",
};

State *state_of(PyObject *self) {
    // Never NULL: only classes of this module, or made from them, come here.
    return PyModule_GetState(PyType_GetModuleByDef(Py_TYPE(self), &native_module));
}

static PyObject *import(const char *module, const char *name) {
    PyObject *imported = PyImport_ImportModule(module);
    if (imported == NULL) {
        return NULL;
    }
    PyObject *found = PyObject_GetAttrString(imported, name);
    Py_DECREF(imported);
    return found;
}

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type) {
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

static int execute(PyObject *module) {
    State *state = PyModule_GetState(module);
    PyObject **name = (PyObject **)&state->names;
    static_assert(sizeof(Names) == sizeof words / sizeof *words * sizeof(PyObject *), "");
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if ((name[i] = PyUnicode_InternFromString(words[i])) == NULL) {
            return -1;
        }
    }
    if ((state->scratch = PyMem_Malloc(SCRATCH_SIZE)) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *socket_type = import("socket", "socket");
    state->socket_type = (PyTypeObject *)socket_type;
    if (socket_type == NULL ||
        (state->cancelled_error = import("asyncio", "CancelledError")) == NULL ||
        (state->context_keyword = Py_BuildValue("(s)", "context")) == NULL) {
        return -1;
    }
    if (add_type(module, &waiter_spec, &state->waiter_type) < 0 ||
        add_type(module, &tries_spec, &state->tries_type) < 0 ||
        add_type(module, &traffic_spec, &state->traffic_type) < 0) {
        return -1;
    }
    return PyModule_AddStringConstant(module, "CHECKSUM", CHECKSUM);
}

static int traverse(PyObject *module, visitproc visit, void *arg) {
    State *state = PyModule_GetState(module);
    if (state == NULL) {
        return 0;
    }
    Py_VISIT(state->waiter_type);
    Py_VISIT(state->tries_type);
    Py_VISIT(state->traffic_type);
    Py_VISIT(state->socket_type);
    Py_VISIT(state->cancelled_error);
    Py_VISIT(state->context_keyword);
    return 0;
}

// There is no m_clear: an object of these classes needs the state for as long as it lives, also
// when the collector takes the module apart. The state goes with the module, which its classes
// hold.
static void release(void *module) {
    State *state = PyModule_GetState((PyObject *)module);
    if (state == NULL) {
        return;
    }
    Py_XDECREF(state->waiter_type);
    Py_XDECREF(state->tries_type);
    Py_XDECREF(state->traffic_type);
    Py_XDECREF(state->socket_type);
    Py_XDECREF(state->cancelled_error);
    Py_XDECREF(state->context_keyword);
    PyObject **name = (PyObject **)&state->names;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        Py_XDECREF(name[i]);
    }
    PyMem_Free(state->scratch);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "aiosocketserver._native",
    .m_doc = "The compiled core: the hot path of the package, in C.",
    .m_size = sizeof(State),
    .m_slots = slots,
    .m_traverse = traverse,
    .m_free = release,
};

PyMODINIT_FUNC PyInit__native(void) {
    return PyModuleDef_Init(&native_module);
}

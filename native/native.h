// What the files of the compiled core share: the types, the module's state, and how each is found.
//
// Plan. The core is an option: every class here has a twin in Python, and whatever is not the usual
// case is handed to the Python methods named `_careful_...` of the very same object. So C has the
// short way only, and decides nothing that Python does not decide in the same way.
//
// Nothing is global. A thread can run several interpreters, one after the other, and each has its
// own module, its own types and its own buffer, in the state of the module.

#ifndef AIOSOCKETSERVER_NATIVE_H
#define AIOSOCKETSERVER_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

// Of sockets/credit.py, which says why.
#define TURN_CREDIT (256 * 1024)
#define CALL_COST (2 * 1024)

// What is received at once is put here first: a large `bytes` that is then shrunk costs more than a
// copy of what has come.
#define SCRATCH_SIZE (256 * 1024)

// The words that are looked up while it runs.
typedef struct {
    PyObject *call_soon, *careful_input, *careful_on_readable, *careful_recv, *careful_recv_into,
        *careful_sendall, *fileno, *recv_failed, *send_failed, *send_pending, *timeout;
} Names;

typedef struct {
    PyTypeObject *waiter_type, *tries_type, *traffic_type;
    PyTypeObject *socket_type; // socket.socket, from Python
    PyObject *cancelled_error; // asyncio.CancelledError
    PyObject *context_keyword; // ("context",)
    Names names;
    char *scratch;
} State;

typedef struct {
    PyObject_HEAD PyObject *loop;
    PyObject *get_loop; // a weak reference to it, which returns it when it is called
    PyObject *callback; // of the task that waits; NULL when none does
    PyObject *context;  // in which it is called; set whenever `callback` is
    PyObject *error;    // what `result` is to raise
    char blocking;      // `_asyncio_future_blocking`
    bool to_yield;      // `__await__` was called, and the task has not seen this object yet
} Waiter;

typedef struct {
    PyObject_HEAD long long received, sent;
} Traffic;

extern PyType_Spec waiter_spec, tries_spec, traffic_spec;
extern PyModuleDef native_module;

// The state of the module that has defined the type of `self`, or a base of it.
State *state_of(PyObject *self);

// Run the task that waits, now; 1 when there was one, 0 when not, -1 with what the task has raised.
// For the loop's own callbacks only: inside another task, asyncio would refuse to run this one.
int waiter_resume(Waiter *self);

#endif

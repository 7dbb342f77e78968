// The awaitable behind every wait for a socket: see sockets/waiter.py, whose class this is in C.
//
// Plan. The waiter is its own iterator: `await` calls `__await__`, which returns this very object,
// and the task takes from it one value, this very object again. No iterator is made for a wait.
// The rest is what a task asks of what it waits for: `_asyncio_future_blocking`, `get_loop`,
// `add_done_callback`, `result`, `cancel`. A task looks up each of these and then calls what it has
// found, so that `get_loop` and `result` are callables kept ready: a method would be bound each
// time.

#include "native.h"

#include <structmember.h>

static int waiter_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *keywords[] = {"loop", NULL};
    PyObject *loop;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Waiter", keywords, &loop)) {
        return -1;
    }
    PyObject *get_loop = PyWeakref_NewRef(loop, NULL);
    if (get_loop == NULL) {
        return -1;
    }
    Py_XSETREF(((Waiter *)object)->get_loop, get_loop);
    Py_XSETREF(((Waiter *)object)->loop, Py_NewRef(loop));
    return 0;
}

static int waiter_traverse(PyObject *object, visitproc visit, void *arg) {
    Waiter *self = (Waiter *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->loop);
    Py_VISIT(self->get_loop);
    Py_VISIT(self->callback);
    Py_VISIT(self->context);
    Py_VISIT(self->error);
    return 0;
}

static int waiter_clear(PyObject *object) {
    Waiter *self = (Waiter *)object;
    Py_CLEAR(self->loop);
    Py_CLEAR(self->get_loop);
    Py_CLEAR(self->callback);
    Py_CLEAR(self->context);
    Py_CLEAR(self->error);
    return 0;
}

static void waiter_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    waiter_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

// Awaiting

static PyObject *waiter_await(PyObject *object) {
    ((Waiter *)object)->to_yield = true;
    return Py_NewRef(object);
}

static PyObject *waiter_next(PyObject *object) {
    Waiter *self = (Waiter *)object;
    if (!self->to_yield) {
        return NULL;
    }
    self->to_yield = false;
    self->blocking = 1;
    return Py_NewRef(object);
}

static PyObject *add_done_callback(PyObject *object, PyObject *const *args, Py_ssize_t n,
                                   PyObject *keywords) {
    Waiter *self = (Waiter *)object;
    // The callback, and `context=` by its name.
    Py_ssize_t named = keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords);
    if (n != 1 || named > 1 ||
        (named == 1 &&
         PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(keywords, 0), "context"))) {
        PyErr_SetString(PyExc_TypeError,
                        "add_done_callback() takes a callback, and context by its name");
        return NULL;
    }
    PyObject *context = named && args[1] != Py_None ? Py_NewRef(args[1]) : PyContext_CopyCurrent();
    if (context == NULL) {
        return NULL;
    }
    Py_XSETREF(self->context, context);
    Py_XSETREF(self->callback, Py_NewRef(args[0]));
    Py_RETURN_NONE;
}

static PyObject *raise_error(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    Waiter *self = (Waiter *)object;
    PyObject *error = self->error;
    if (error == NULL) {
        Py_RETURN_NONE;
    }
    self->error = NULL;
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_DECREF(error);
    return NULL;
}

static PyMethodDef raise_error_def = {"result", raise_error, METH_NOARGS, NULL};

// What `result` is: without an error any callable will do, for what it returns is ignored.
static PyObject *result(PyObject *object, void *Py_UNUSED(closure)) {
    if (((Waiter *)object)->error == NULL) {
        return Py_NewRef(&PyBool_Type);
    }
    return PyCFunction_New(&raise_error_def, object);
}

// Waking

int waiter_resume(Waiter *self) {
    PyObject *callback = self->callback;
    if (callback == NULL) {
        return 0;
    }
    // Ours from here on: the task may wait again before it returns.
    PyObject *context = self->context;
    self->callback = self->context = NULL;
    // The task may be the only one that still holds this object.
    Py_INCREF(self);
    int outcome = -1;
    if (PyContext_Enter(context) == 0) {
        PyObject *returned = PyObject_CallOneArg(callback, (PyObject *)self);
        // An error goes on after the context was left; one of leaving would take its place.
        if (PyContext_Exit(context) == 0 && returned != NULL) {
            outcome = 1;
        }
        Py_XDECREF(returned);
    }
    Py_DECREF(self);
    Py_DECREF(callback);
    Py_DECREF(context);
    return outcome;
}

static PyObject *resume(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    int outcome = waiter_resume((Waiter *)object);
    return outcome < 0 ? NULL : PyBool_FromLong(outcome);
}

// Let the task go on, on the next turn of the loop; as `waiter_resume`.
static int wake_later(Waiter *self) {
    PyObject *callback = self->callback;
    if (callback == NULL) {
        return 0;
    }
    if (self->loop == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this waiter was made without a loop");
        return -1;
    }
    State *state = state_of((PyObject *)self);
    // Ours from here on: `call_soon` may run code that waits again, or lets go of this object.
    PyObject *context = self->context, *loop = Py_NewRef(self->loop);
    self->callback = self->context = NULL;
    PyObject *args[] = {loop, callback, (PyObject *)self, context};
    PyObject *handle =
        PyObject_VectorcallMethod(state->names.call_soon, args, 3, state->context_keyword);
    Py_DECREF(callback);
    Py_DECREF(context);
    Py_DECREF(loop);
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 1;
}

static PyObject *wake(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    int outcome = wake_later((Waiter *)object);
    return outcome < 0 ? NULL : PyBool_FromLong(outcome);
}

static PyObject *fail(PyObject *object, PyObject *error) {
    Waiter *self = (Waiter *)object;
    if (!PyExceptionInstance_Check(error)) {
        PyErr_Format(PyExc_TypeError, "fail() takes an exception, not %.200R", error);
        return NULL;
    }
    int outcome = wake_later(self);
    if (outcome < 0) {
        return NULL;
    }
    if (outcome) {
        Py_XSETREF(self->error, Py_NewRef(error));
    }
    return PyBool_FromLong(outcome);
}

static PyObject *cancel(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *keywords[] = {"msg", NULL};
    PyObject *message = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:cancel", keywords, &message)) {
        return NULL;
    }
    PyObject *cls = state_of(object)->cancelled_error;
    PyObject *error =
        message == Py_None ? PyObject_CallNoArgs(cls) : PyObject_CallOneArg(cls, message);
    if (error == NULL) {
        return NULL;
    }
    PyObject *failed = fail(object, error);
    Py_DECREF(error);
    return failed;
}

static PyObject *waiting(PyObject *object, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(((Waiter *)object)->callback != NULL);
}

static PyMethodDef methods[] = {
    {"add_done_callback", (PyCFunction)(void (*)(void))add_done_callback,
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {"cancel", (PyCFunction)(void (*)(void))cancel, METH_VARARGS | METH_KEYWORDS, NULL},
    {"fail", fail, METH_O, NULL},
    {"resume", resume, METH_NOARGS, NULL},
    {"wake", wake, METH_NOARGS, NULL},
    {NULL},
};

static PyMemberDef members[] = {
    {"_asyncio_future_blocking", T_BOOL, offsetof(Waiter, blocking), 0, NULL},
    {"get_loop", T_OBJECT_EX, offsetof(Waiter, get_loop), READONLY, NULL},
    {NULL},
};

static PyGetSetDef getters[] = {
    {"result", result, NULL, NULL, NULL},
    {"waiting", waiting, NULL, NULL, NULL},
    {NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "A place where one task waits; used again for every wait on one side of a socket."},
    {Py_tp_init, waiter_init},
    {Py_tp_traverse, waiter_traverse},
    {Py_tp_clear, waiter_clear},
    {Py_tp_dealloc, waiter_dealloc},
    {Py_am_await, waiter_await},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, waiter_next},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, getters},
    {0, NULL},
};

PyType_Spec waiter_spec = {
    .name = "aiosocketserver._native.Waiter",
    .basicsize = sizeof(Waiter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

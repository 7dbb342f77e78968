// One try of a system call on a stream socket, and what to await before the next: see
// sockets/tries.py, which has the same in Python, and the `_careful_...` methods called here.
//
// Plan. The usual case is a connection without TLS, limits or a time-out, whose socket is a plain
// socket.socket, with `bytes` and no flags. A method looks whether this is one, makes its system
// call, and counts. If it is not one, nothing has been done yet, and the careful method does all of
// it. A call that failed has been made, and may not be made again (it has taken the error off the
// socket): its error goes to `_recv_failed` or `_send_failed`.
//
// The descriptor is asked for each time. A number that is kept while somebody closes the socket
// behind our back is the connection of another client a moment later. No call blocks, and none
// gives up the GIL, so that nobody can close it in between.

#include "native.h"

#include <errno.h>
#include <structmember.h>
#include <sys/socket.h>

typedef struct {
    PyObject_HEAD State *state; // of the module, which the type of this object holds
    PyObject *sock, *loop, *traffic, *timers, *tls, *read_waiter, *write_error, *watch;
    // Bytes, and the credit of this turn of the loop.
    long long credit, received, sent, answered;
    bool plain; // whether `sock` is a socket.socket, and not of a class made from it
    char input_expected, peer_closed, resuming, sending, unsent, writer_registered,
        half_close_requested;
} Tries;

static PyObject *tries_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                           PyObject *Py_UNUSED(kwargs)) {
    PyObject *module = PyType_GetModuleByDef(type, &native_module);
    if (module == NULL) {
        return NULL;
    }
    Tries *self = (Tries *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->state = PyModule_GetState(module);
    }
    return (PyObject *)self;
}

static int tries_traverse(PyObject *object, visitproc visit, void *arg) {
    Tries *self = (Tries *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->sock);
    Py_VISIT(self->loop);
    Py_VISIT(self->traffic);
    Py_VISIT(self->timers);
    Py_VISIT(self->tls);
    Py_VISIT(self->read_waiter);
    Py_VISIT(self->write_error);
    Py_VISIT(self->watch);
    return 0;
}

static int tries_clear(PyObject *object) {
    Tries *self = (Tries *)object;
    self->plain = false;
    Py_CLEAR(self->sock);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->traffic);
    Py_CLEAR(self->timers);
    Py_CLEAR(self->tls);
    Py_CLEAR(self->read_waiter);
    Py_CLEAR(self->write_error);
    Py_CLEAR(self->watch);
    return 0;
}

static void tries_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    tries_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

// What a call needs

static bool is_none(PyObject *object) {
    return object == NULL || object == Py_None;
}

// The descriptor of a socket in its usual state; -1 without an error when it is not.
static int usual_descriptor(Tries *self) {
    if (!self->plain || !is_none(self->tls) || self->traffic == NULL ||
        Py_TYPE(self->traffic) != self->state->traffic_type) {
        return -1;
    }
    PyObject *number = PyObject_CallMethodNoArgs(self->sock, self->state->names.fileno);
    if (number == NULL) {
        // The careful way will meet it again, and tell.
        PyErr_Clear();
        return -1;
    }
    int descriptor = PyLong_CheckExact(number) ? (int)PyLong_AsLong(number) : -1;
    Py_DECREF(number);
    return descriptor;
}

// Hand an error of a call, as errno has it, to a method of the object, with what else it takes.
static PyObject *hand_over(Tries *self, PyObject *method, PyObject *flags) {
    PyErr_SetFromErrno(PyExc_OSError);
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *error = PyErr_GetRaisedException();
#else
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
#endif
    if (error == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *args[] = {(PyObject *)self, error, flags};
    PyObject *returned = PyObject_VectorcallMethod(method, args, flags == NULL ? 2 : 3, NULL);
    Py_DECREF(error);
    return returned;
}

// Receiving

static bool may_receive(Tries *self) {
    return self->input_expected && self->credit > 0;
}

// After a short read: whether another try would be made for nothing. -1 for an error.
static int look_again(Tries *self) {
    if (is_none(self->timers)) {
        return 0;
    }
    // A handler that never waits has to look each time.
    PyObject *timeout = PyObject_GetAttr(self->timers, self->state->names.timeout);
    if (timeout == NULL) {
        return -1;
    }
    int is_zero = 0;
    if (timeout != Py_None) {
        double seconds = PyFloat_AsDouble(timeout);
        is_zero = seconds == 0;
        if (seconds == -1 && PyErr_Occurred()) {
            is_zero = -1;
        }
    }
    Py_DECREF(timeout);
    return is_zero;
}

// Count what a call has received of `room` bytes; 0, or -1 for an error.
static int count_received(Tries *self, Py_ssize_t count, Py_ssize_t room) {
    self->credit -= count + CALL_COST;
    self->received += count;
    ((Traffic *)self->traffic)->received += count;
    if (count < room) {
        int again = look_again(self);
        if (again < 0) {
            return -1;
        }
        self->input_expected = (char)again;
        self->peer_closed = count == 0;
    }
    return 0;
}

// Whether a call that failed has just found nothing there, and the connection is in no hurry.
static bool has_only_to_wait(Tries *self) {
    return (errno == EAGAIN || errno == EWOULDBLOCK) && is_none(self->timers);
}

static PyObject *careful_recv(Tries *self, PyObject *const *args, Py_ssize_t n) {
    PyObject *all[3] = {(PyObject *)self, n > 0 ? args[0] : NULL, n > 1 ? args[1] : NULL};
    return PyObject_VectorcallMethod(self->state->names.careful_recv, all, n + 1, NULL);
}

static PyObject *try_recv(PyObject *object, PyObject *const *args, Py_ssize_t n) {
    Tries *self = (Tries *)object;
    if (n < 1 || n > 2) {
        PyErr_SetString(PyExc_TypeError, "_try_recv() takes a size, and flags");
        return NULL;
    }
    PyObject *no_flags = NULL;
    if (n == 2) {
        if (!PyLong_CheckExact(args[1]) || PyObject_IsTrue(args[1])) {
            return careful_recv(self, args, n);
        }
        no_flags = args[1];
    }
    if (!may_receive(self)) {
        Py_RETURN_NONE;
    }
    if (!PyLong_CheckExact(args[0])) {
        return careful_recv(self, args, n);
    }
    Py_ssize_t size = PyLong_AsSsize_t(args[0]);
    if (size == -1 && PyErr_Occurred()) {
        PyErr_Clear();
    }
    int descriptor = size > 0 && size <= SCRATCH_SIZE ? usual_descriptor(self) : -1;
    if (descriptor < 0) {
        return careful_recv(self, args, n);
    }
    ssize_t count = recv(descriptor, self->state->scratch, (size_t)size, MSG_DONTWAIT);
    if (count < 0) {
        if (has_only_to_wait(self)) {
            self->input_expected = false;
            Py_RETURN_NONE;
        }
        return hand_over(self, self->state->names.recv_failed, no_flags);
    }
    PyObject *data = PyBytes_FromStringAndSize(self->state->scratch, count);
    if (data != NULL && count_received(self, count, size) < 0) {
        Py_CLEAR(data);
    }
    return data;
}

static PyObject *careful_recv_into(Tries *self, PyObject *const *args) {
    PyObject *all[] = {(PyObject *)self, args[0], args[1], args[2]};
    return PyObject_VectorcallMethod(self->state->names.careful_recv_into, all, 4, NULL);
}

static bool is_zero(PyObject *object) {
    return PyLong_CheckExact(object) && !PyObject_IsTrue(object);
}

static PyObject *try_recv_into(PyObject *object, PyObject *const *args, Py_ssize_t n) {
    Tries *self = (Tries *)object;
    if (n != 3) {
        PyErr_SetString(PyExc_TypeError, "_try_recv_into() takes a buffer, a size and flags");
        return NULL;
    }
    if (!is_zero(args[1]) || !is_zero(args[2])) {
        return careful_recv_into(self, args);
    }
    if (!may_receive(self)) {
        Py_RETURN_NONE;
    }
    int descriptor = usual_descriptor(self);
    if (descriptor < 0) {
        return careful_recv_into(self, args);
    }
    Py_buffer buffer;
    if (PyObject_GetBuffer(args[0], &buffer, PyBUF_WRITABLE) < 0) {
        PyErr_Clear();
        return careful_recv_into(self, args);
    }
    if (buffer.len == 0) {
        PyBuffer_Release(&buffer);
        return careful_recv_into(self, args);
    }
    Py_ssize_t room = buffer.len;
    ssize_t count = recv(descriptor, buffer.buf, (size_t)room, MSG_DONTWAIT);
    int number = errno;
    PyBuffer_Release(&buffer);
    if (count < 0) {
        errno = number;
        if (has_only_to_wait(self)) {
            self->input_expected = false;
            Py_RETURN_NONE;
        }
        PyObject *received = hand_over(self, self->state->names.recv_failed, args[2]);
        if (received == NULL || received == Py_None) {
            return received;
        }
        // The end, for the server shuts down.
        Py_DECREF(received);
        return PyLong_FromLong(0);
    }
    return count_received(self, count, room) < 0 ? NULL : PyLong_FromSsize_t(count);
}

static PyObject *input(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    Tries *self = (Tries *)object;
    if (self->credit > 0 && !self->unsent && is_none(self->timers) && !is_none(self->watch) &&
        self->read_waiter != NULL) {
        return Py_NewRef(self->read_waiter);
    }
    return PyObject_CallMethodNoArgs(object, self->state->names.careful_input);
}

static PyObject *on_readable(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    Tries *self = (Tries *)object;
    PyObject *waiter = self->read_waiter;
    if (waiter == NULL || Py_TYPE(waiter) != self->state->waiter_type ||
        ((Waiter *)waiter)->callback == NULL) {
        return PyObject_CallMethodNoArgs(object, self->state->names.careful_on_readable);
    }
    self->input_expected = true;
    self->credit = TURN_CREDIT;
    // While the task runs, `_write` need not see to it that its bytes leave.
    self->resuming = true;
    // The caller holds this object, but nobody else need hold its waiter.
    Py_INCREF(waiter);
    int resumed = waiter_resume((Waiter *)waiter);
    Py_DECREF(waiter);
    self->resuming = false;
    if (resumed < 0) {
        return NULL;
    }
    if (self->unsent && !self->writer_registered) {
        return PyObject_CallMethodNoArgs(object, self->state->names.send_pending);
    }
    Py_RETURN_NONE;
}

// Sending

static PyObject *try_sendall(PyObject *object, PyObject *const *args, Py_ssize_t n) {
    Tries *self = (Tries *)object;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "_try_sendall() takes data and flags");
        return NULL;
    }
    PyObject *data = args[0];
    int descriptor = -1;
    if (PyBytes_CheckExact(data) && is_zero(args[1]) && !self->sending && !self->unsent &&
        !self->half_close_requested && is_none(self->write_error) && self->credit > 0) {
        descriptor = usual_descriptor(self);
    }
    if (descriptor < 0) {
        PyObject *all[] = {object, data, args[1]};
        return PyObject_VectorcallMethod(self->state->names.careful_sendall, all, 3, NULL);
    }
    ssize_t count =
        send(descriptor, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data), MSG_DONTWAIT);
    if (count < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            Py_RETURN_NONE;
        }
        return hand_over(self, self->state->names.send_failed, NULL);
    }
    self->credit -= count + CALL_COST;
    self->sent += count;
    ((Traffic *)self->traffic)->sent += count;
    self->answered = self->received;
    return PyLong_FromSsize_t(count);
}

// The type

static PyObject *get_sock(PyObject *object, void *Py_UNUSED(closure)) {
    PyObject *sock = ((Tries *)object)->sock;
    if (sock == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_sock");
        return NULL;
    }
    return Py_NewRef(sock);
}

static int set_sock(PyObject *object, PyObject *value, void *Py_UNUSED(closure)) {
    Tries *self = (Tries *)object;
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_sock cannot be deleted");
        return -1;
    }
    self->plain = Py_TYPE(value) == self->state->socket_type;
    Py_XSETREF(self->sock, Py_NewRef(value));
    return 0;
}

static PyMethodDef methods[] = {
    {"_try_recv", (PyCFunction)(void (*)(void))try_recv, METH_FASTCALL, NULL},
    {"_try_recv_into", (PyCFunction)(void (*)(void))try_recv_into, METH_FASTCALL, NULL},
    {"_try_sendall", (PyCFunction)(void (*)(void))try_sendall, METH_FASTCALL, NULL},
    {"_input", input, METH_NOARGS, NULL},
    {"_on_readable", on_readable, METH_NOARGS, NULL},
    {NULL},
};

static PyMemberDef members[] = {
    {"_answered", T_LONGLONG, offsetof(Tries, answered), 0, NULL},
    {"_credit", T_LONGLONG, offsetof(Tries, credit), 0, NULL},
    {"_half_close_requested", T_BOOL, offsetof(Tries, half_close_requested), 0, NULL},
    {"_input_expected", T_BOOL, offsetof(Tries, input_expected), 0, NULL},
    {"_loop", T_OBJECT_EX, offsetof(Tries, loop), 0, NULL},
    {"_peer_closed", T_BOOL, offsetof(Tries, peer_closed), 0, NULL},
    {"_read_waiter", T_OBJECT_EX, offsetof(Tries, read_waiter), 0, NULL},
    {"_received", T_LONGLONG, offsetof(Tries, received), 0, NULL},
    {"_resuming", T_BOOL, offsetof(Tries, resuming), 0, NULL},
    {"_sending", T_BOOL, offsetof(Tries, sending), 0, NULL},
    {"_sent", T_LONGLONG, offsetof(Tries, sent), 0, NULL},
    {"_timers", T_OBJECT_EX, offsetof(Tries, timers), 0, NULL},
    {"_tls", T_OBJECT_EX, offsetof(Tries, tls), 0, NULL},
    {"_traffic", T_OBJECT_EX, offsetof(Tries, traffic), 0, NULL},
    {"_unsent", T_BOOL, offsetof(Tries, unsent), 0, NULL},
    {"_watch", T_OBJECT_EX, offsetof(Tries, watch), 0, NULL},
    {"_write_error", T_OBJECT_EX, offsetof(Tries, write_error), 0, NULL},
    {"_writer_registered", T_BOOL, offsetof(Tries, writer_registered), 0, NULL},
    {NULL},
};

static PyGetSetDef getters[] = {
    {"_sock", get_sock, set_sock, NULL, NULL},
    {NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The fields of a stream socket that its system calls need, and the calls."},
    {Py_tp_new, tries_new},
    {Py_tp_traverse, tries_traverse},
    {Py_tp_clear, tries_clear},
    {Py_tp_dealloc, tries_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, getters},
    {0, NULL},
};

PyType_Spec tries_spec = {
    .name = "aiosocketserver._native.StreamTries",
    .basicsize = sizeof(Tries),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

/* Echo over stream sockets: lock-step, pipelined, and a connection for each request. */

#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

/* Connections that are opened before they are served: more would fill the server's backlog,
 * and each of those that did not fit waits a second. */
enum { AT_ONCE = 500 };

struct connection {
    struct channel channel;
    unsigned number;
    unsigned long sequence;
    size_t received;
    double sent_at;
    char *messages; /* what was sent last, and has to come back */
};

static char *buffer;

static void prepare(struct connection *connection, unsigned number, const struct plan *plan) {
    connection->number = number;
    connection->messages = allocate(plan->size * (size_t)plan->depth);
    for (long i = 0; i < plan->depth; i++)
        fill_message(connection->messages + (size_t)i * plan->size, plan->size, number);
}

static void open_connection(struct connection *connection, const struct plan *plan, int epoll) {
    connection->channel = open_channel(plan);
    watch(epoll, connection->channel.descriptor, connection);
}

static void send_next(struct connection *connection, const struct plan *plan, double time) {
    for (long i = 0; i < plan->depth; i++)
        number_message(connection->messages + (size_t)i * plan->size, connection->number,
                       connection->sequence++);
    connection->received = 0;
    connection->sent_at = time;
    send_all(connection->channel, connection->messages, plan->size * (size_t)plan->depth);
}

/* Takes what has arrived. Returns 1 when all answers are there, and their end if that is due. */
static int receive(struct connection *connection, size_t due, int ends) {
    /* One byte more than is due, to see an answer that is too long. */
    ssize_t count = receive_some(connection->channel, buffer, due - connection->received + 1);
    if (count < 0)
        return 0;
    if (count == 0 && ends && connection->received == due)
        return 1;
    if (count == 0) {
        fprintf(stderr, "the server closed connection %u\n", connection->number);
        exit(1);
    }
    if (connection->received + (size_t)count > due ||
        memcmp(buffer, connection->messages + connection->received, (size_t)count) != 0) {
        fprintf(stderr, "connection %u, request %lu: the answer is not what was sent\n",
                connection->number, connection->sequence);
        exit(1);
    }
    connection->received += (size_t)count;
    if (has_more(connection->channel))
        return receive(connection, due, ends);
    return connection->received == due && !ends;
}

static int wait_for(int epoll, struct epoll_event *events) {
    int count = epoll_wait(epoll, events, EVENTS, SILENCE);
    if (count < 0)
        fail("epoll_wait");
    if (count == 0) {
        fprintf(stderr, "no answer for %d seconds\n", SILENCE / 1000);
        exit(1);
    }
    return count;
}

/* Has each of them served once, so that all have been accepted. */
static void serve_once(struct connection *some, long number, const struct plan *plan, int epoll) {
    size_t due = plan->size * (size_t)plan->depth;
    for (long i = 0; i < number; i++)
        send_next(&some[i], plan, 0);
    for (long under_way = number; under_way > 0;) {
        struct epoll_event events[EVENTS];
        int count = wait_for(epoll, events);
        for (int i = 0; i < count; i++)
            under_way -= receive(events[i].data.ptr, due, 0);
    }
}

static void load_stream(const struct plan *plan, int reconnects) {
    size_t due = plan->size * (size_t)plan->depth;
    struct connection *all = allocate((size_t)plan->connections * sizeof *all);
    buffer = allocate(due + 1);
    int epoll = make_epoll();
    for (long i = 0; i < plan->connections; i += AT_ONCE) {
        long number = plan->connections - i < AT_ONCE ? plan->connections - i : AT_ONCE;
        for (long j = i; j < i + number; j++) {
            prepare(&all[j], (unsigned)j, plan);
            open_connection(&all[j], plan, epoll);
        }
        if (!reconnects)
            serve_once(&all[i], number, plan, epoll);
    }
    wait_for_start();

    long requests = 0, under_way = plan->connections;
    double start = now(), time = start;
    for (long i = 0; i < plan->connections; i++)
        send_next(&all[i], plan, now());
    while (under_way > 0) {
        struct epoll_event events[EVENTS];
        int count = wait_for(epoll, events);
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!receive(connection, due, reconnects))
                continue;
            time = now();
            count_latency(time - connection->sent_at);
            requests += plan->depth;
            if (time - start >= plan->seconds) {
                under_way--;
                continue;
            }
            double sent_at = time;
            if (reconnects) {
                close_channel(connection->channel);
                open_connection(connection, plan, epoll);
            }
            send_next(connection, plan, sent_at);
        }
    }
    report(requests, time - start, 0);
}

void load_echo(const struct plan *plan) { load_stream(plan, 0); }

void load_connects(const struct plan *plan) { load_stream(plan, 1); }

/* Opens connections, each of which is served once, and holds them until its input ends. */
void hold_connections(const struct plan *plan) {
    struct connection *all = allocate((size_t)plan->connections * sizeof *all);
    buffer = allocate(plan->size + 1);
    for (long i = 0; i < plan->connections; i++) {
        prepare(&all[i], (unsigned)i, plan);
        all[i].channel = open_channel(plan);
        send_next(&all[i], plan, 0);
        while (!receive(&all[i], plan->size, 0))
            ;
        free(all[i].messages);
    }
    printf("{\"held\": %ld}\n", plan->connections);
}

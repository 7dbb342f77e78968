/* Echo over UDP: one datagram under way for each socket, and what is lost is counted. */

#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* Seconds after which a datagram, or its answer, counts as lost. */
static const double LOST_AFTER = 0.2;

struct sender {
    int descriptor;
    unsigned number;
    unsigned long sequence;
    double sent_at;
    char *message; /* what was sent last, and has to come back */
};

static void send_next(struct sender *sender, size_t size) {
    number_message(sender->message, sender->number, sender->sequence++);
    sender->sent_at = now();
    if (send(sender->descriptor, sender->message, size, 0) != (ssize_t)size)
        fail("send");
}

/* Takes an answer. Returns 0 for one to a datagram that was given up. */
static int receive(struct sender *sender, char *buffer, size_t size) {
    ssize_t count = recv(sender->descriptor, buffer, size + 1, 0);
    if (count < 0)
        fail("recv");
    if ((size_t)count == size && memcmp(buffer, sender->message, size) == 0)
        return 1;
    unsigned number;
    unsigned long sequence;
    if ((size_t)count == size && sscanf(buffer, "%u:%lu:", &number, &sequence) == 2 &&
        number == sender->number && sequence + 1 < sender->sequence)
        return 0;
    fprintf(stderr, "sender %u, datagram %lu: the answer is not what was sent\n", sender->number,
            sender->sequence);
    exit(1);
}

void load_datagrams(const struct plan *plan) {
    struct sender *all = allocate((size_t)plan->connections * sizeof *all);
    char *buffer = allocate(plan->size + 1);
    int epoll = make_epoll();
    for (long i = 0; i < plan->connections; i++) {
        all[i].number = (unsigned)i;
        all[i].message = allocate(plan->size);
        fill_message(all[i].message, plan->size, (unsigned)i);
        all[i].descriptor = connect_to(plan->target, SOCK_DGRAM);
        watch(epoll, all[i].descriptor, &all[i]);
    }
    wait_for_start();

    long requests = 0, lost = 0;
    double start = now(), time = start, looked = start;
    for (long i = 0; i < plan->connections; i++)
        send_next(&all[i], plan->size);
    while (time - start < plan->seconds) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll, events, EVENTS, (int)(LOST_AFTER * 1000));
        if (count < 0)
            fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            struct sender *sender = events[i].data.ptr;
            if (!receive(sender, buffer, plan->size))
                continue;
            count_latency(now() - sender->sent_at);
            requests++;
            send_next(sender, plan->size);
        }
        time = now();
        if (time - looked < LOST_AFTER)
            continue;
        looked = time;
        for (long i = 0; i < plan->connections; i++)
            if (time - all[i].sent_at > LOST_AFTER) {
                lost++;
                send_next(&all[i], plan->size);
            }
    }
    if (requests == 0) {
        fprintf(stderr, "no answer for %.1f seconds\n", time - start);
        exit(1);
    }
    report(requests, time - start, lost);
}

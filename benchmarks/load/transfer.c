/* One large transfer over one connection, up or down: SIZE counts bytes of all of it. */

#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BLOCK = 64 * 1024 };

/* The bytes of a transfer repeat after 256, so every block is the same. */
static char *make_block(void) {
    char *block = allocate(BLOCK);
    for (size_t i = 0; i < BLOCK; i++)
        block[i] = (char)(i % 256);
    return block;
}

/* The server says how many bytes came, in decimal, when it has seen their end. */
void load_upload(const struct plan *plan) {
    char *block = make_block();
    int descriptor = connect_to(plan->target, SOCK_STREAM);
    wait_for_start();
    double start = now();
    for (size_t sent = 0; sent < plan->size; sent += BLOCK)
        send_all((struct channel){descriptor, NULL}, block, plan->size - sent < BLOCK ? plan->size - sent : BLOCK);
    if (shutdown(descriptor, SHUT_WR) < 0)
        fail("shutdown");
    char answer[32] = "";
    size_t length = 0;
    ssize_t count;
    while (length < sizeof answer - 1 &&
           (count = recv(descriptor, answer + length, sizeof answer - 1 - length, 0)) > 0)
        length += (size_t)count;
    double time = now();
    if (strtoull(answer, NULL, 10) != plan->size) {
        fprintf(stderr, "%zu bytes were sent, and the server counted %s\n", plan->size, answer);
        exit(1);
    }
    count_latency(time - start);
    report(1, time - start, 0);
}

void load_download(const struct plan *plan) {
    char *block = make_block(), *buffer = allocate(BLOCK);
    int descriptor = connect_to(plan->target, SOCK_STREAM);
    wait_for_start();
    double start = now();
    size_t received = 0;
    ssize_t count;
    while ((count = recv(descriptor, buffer, BLOCK - received % BLOCK, 0)) > 0) {
        if (memcmp(buffer, block + received % BLOCK, (size_t)count) != 0) {
            fprintf(stderr, "wrong bytes after %zu\n", received);
            exit(1);
        }
        received += (size_t)count;
    }
    if (count < 0)
        fail("recv");
    double time = now();
    if (received != plan->size) {
        fprintf(stderr, "%zu bytes came, and not %zu\n", received, plan->size);
        exit(1);
    }
    count_latency(time - start);
    report(1, time - start, 0);
}

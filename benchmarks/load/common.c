/* Sockets, messages and latencies, for all the ways to load a server. */

#include "load.h"

#include <arpa/inet.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { BUCKETS_FOR_DOUBLING = 64, DOUBLINGS = 36 };

static unsigned long buckets[BUCKETS_FOR_DOUBLING * DOUBLINGS];
static unsigned long latencies;

double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

void fail(const char *what) {
    perror(what);
    exit(1);
}

void wait_for_start(void) {
    int character;
    puts("ready");
    fflush(stdout);
    do
        character = getchar();
    while (character != '\n' && character != EOF);
}

void *allocate(size_t size) {
    void *memory = calloc(1, size);
    if (memory == NULL)
        fail("calloc");
    return memory;
}

static int connect_unix(const char *path, int type) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        fprintf(stderr, "load: the path of a Unix socket is too long: %s\n", path);
        exit(2);
    }
    strcpy(address.sun_path, path);
    int descriptor = socket(AF_UNIX, type, 0);
    if (descriptor < 0)
        fail("socket");
    if (connect(descriptor, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    return descriptor;
}

int connect_to(const char *target, int type) {
    if (target[0] == '/')
        return connect_unix(target, type);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((unsigned short)atoi(target)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int descriptor = socket(AF_INET, type, 0);
    if (descriptor < 0)
        fail("socket");
    if (connect(descriptor, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    int on = 1;
    if (type == SOCK_STREAM &&
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        fail("setsockopt");
    return descriptor;
}

int make_epoll(void) {
    int epoll = epoll_create1(0);
    if (epoll < 0)
        fail("epoll_create1");
    return epoll;
}

void watch(int epoll, int descriptor, void *data) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) < 0)
        fail("epoll_ctl");
}

void fill_message(char *message, size_t size, unsigned number) {
    for (size_t i = 0; i < size; i++)
        message[i] = (char)('a' + (i + number) % 26);
    message[size - 1] = '\n';
}

void number_message(char *message, unsigned number, unsigned long sequence) {
    char head[MIN_SIZE];
    int length = snprintf(head, sizeof head, "%u:%lu:", number, sequence);
    memcpy(message, head, (size_t)length);
}

void count_latency(double seconds) {
    double doublings = log2(fmax(seconds * 1e9, 1));
    unsigned bucket = (unsigned)(doublings * BUCKETS_FOR_DOUBLING);
    unsigned last = sizeof buckets / sizeof *buckets - 1;
    buckets[bucket < last ? bucket : last]++;
    latencies++;
}

double latency_below(double share) {
    unsigned long wanted = (unsigned long)ceil(share * (double)latencies), seen = 0;
    unsigned bucket = 0;
    while ((seen += buckets[bucket]) < wanted)
        bucket++;
    return exp2((bucket + 1.0) / BUCKETS_FOR_DOUBLING) * 1e-9;
}

void report(long requests, double seconds, long lost) {
    printf("{\"requests\": %ld, \"seconds\": %.6f, \"p50\": %.9f, \"p99\": %.9f, \"lost\": %ld}\n",
           requests, seconds, latency_below(0.5), latency_below(0.99), lost);
}

/* What the parts of the load generator share. See main.c for the command line. */

#ifndef LOAD_H
#define LOAD_H

#include <stddef.h>
#include <sys/types.h>

/* A message has to fit into the kernel's buffers, since sending it blocks. */
enum { MIN_SIZE = 32, MAX_SIZE = 64 * 1024, MAX_CONNECTIONS = 20000, EVENTS = 256 };

/* Milliseconds without any answer before the server counts as hung. */
enum { SILENCE = 10000 };

struct plan {
    const char *target; /* a port of 127.0.0.1, or the path of a Unix socket */
    long connections;
    size_t size;    /* bytes of a message */
    long depth;     /* messages that are sent together */
    double seconds; /* after which nothing more is sent */
    int encrypted;
};

/* Seconds, on a clock that only goes forward. */
double now(void);

/* Say what the last system call could not do, and end. */
void fail(const char *what);

/* A blocking socket connected to the target; `type` is SOCK_STREAM or SOCK_DGRAM. */
int connect_to(const char *target, int type);

/* An epoll(7) descriptor, and a descriptor watched by it for input, known by `data`. */
int make_epoll(void);
void watch(int epoll, int descriptor, void *data);

/* Fill `message` with what tells it from those of other connections; it ends in a newline. */
void fill_message(char *message, size_t size, unsigned number);

/* Put the number of the connection and of the request at its beginning. */
void number_message(char *message, unsigned number, unsigned long sequence);

/* Say that everything is ready, and wait until somebody says to begin, or nobody can. */
void wait_for_start(void);

void *allocate(size_t size);

/* A connection to a server, with TLS in between where the plan says so. */
struct channel {
    int descriptor;
    void *tls;
};

struct channel open_channel(const struct plan *plan);
void close_channel(struct channel channel);
void send_all(struct channel channel, const char *data, size_t size);

/* What has arrived, 0 at the end, or -1 when it was nothing for us. */
ssize_t receive_some(struct channel channel, char *data, size_t size);

/* Whether there is more that epoll(7) will not tell of. */
int has_more(struct channel channel);

/* Latencies, in seconds, and what share of them was below which. Buckets grow by 1/64. */
void count_latency(double seconds);
double latency_below(double share);

/* The ways to load a server. Each prints one line of JSON. */
void load_echo(const struct plan *plan);
void load_connects(const struct plan *plan);
void load_datagrams(const struct plan *plan);
void load_upload(const struct plan *plan);
void load_download(const struct plan *plan);
void hold_connections(const struct plan *plan);

void report(long requests, double seconds, long lost);

#endif

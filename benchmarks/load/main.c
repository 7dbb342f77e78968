/* A load generator for echo servers, which checks every byte of every answer.
 *
 *     load HOW TARGET CONNECTIONS SIZE DEPTH SECONDS
 *
 * TARGET is a port of 127.0.0.1 or the path of a Unix socket. HOW is one of
 *
 *     echo       each connection sends DEPTH messages of SIZE bytes, waits until all of
 *                them have come back, and sends the next
 *     connects   the same once: the server closes the connection after its answer, and
 *                another one is opened
 *     echo-tls, connects-tls
 *                the same with TLS; built without OpenSSL it ends with 2
 *     datagrams  as echo, over UDP; what is not answered in time is lost, and counted
 *     upload     one connection sends SIZE bytes; the server answers how many came
 *     download   one connection receives SIZE bytes
 *     hold       opens CONNECTIONS, has each served once, says so, and keeps them until
 *                the end of standard input
 *
 * Messages end in a newline. They differ between connections and from one to the next, so
 * an answer that is late, torn or somebody else's does not pass. After SECONDS nothing
 * more is sent, and the answers under way are waited for.
 *
 * When the connections are open, and for `echo` each has been served once, it says
 * "ready" and waits for a line on standard input, or its end. Then it loads the server,
 * prints a line of JSON, and keeps the connections until standard input ends. The line
 * tells the requests (messages) answered, the seconds that they took, two percentiles of
 * the time from sending to the whole answer, in seconds, and how many were lost. Ends
 * with 1, and a line on standard error, when an answer is wrong, a connection breaks, or
 * nothing comes for ten seconds.
 */

#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

struct way {
    const char *name;
    void (*load)(const struct plan *plan);
    int transfers;
    int encrypted;
};

static const struct way WAYS[] = {
    {"echo", load_echo, 0, 0},           {"connects", load_connects, 0, 0},
    {"echo-tls", load_echo, 0, 1},       {"connects-tls", load_connects, 0, 1},
    {"datagrams", load_datagrams, 0, 0}, {"upload", load_upload, 1, 0},
    {"download", load_download, 1, 0},   {"hold", hold_connections, 0, 0},
};

int main(int argc, char **argv) {
    const struct way *way = NULL;
    for (size_t i = 0; argc == 7 && i < sizeof WAYS / sizeof *WAYS; i++)
        if (strcmp(argv[1], WAYS[i].name) == 0)
            way = &WAYS[i];
    if (way == NULL) {
        fprintf(stderr, "usage: load echo|connects|echo-tls|connects-tls|datagrams|upload|"
                        "download|hold TARGET CONNECTIONS SIZE DEPTH SECONDS\n");
        return 2;
    }
    struct plan plan = {.target = argv[2],
                        .connections = atol(argv[3]),
                        .size = strtoull(argv[4], NULL, 10),
                        .depth = atol(argv[5]),
                        .seconds = atof(argv[6]),
                        .encrypted = way->encrypted};
    if (plan.connections < 1 || plan.connections > MAX_CONNECTIONS || plan.depth < 1 ||
        plan.size < MIN_SIZE ||
        (!way->transfers && plan.size * (size_t)plan.depth > MAX_SIZE)) {
        fprintf(stderr, "load: 1 to %d connections, messages from %d bytes, %d together\n",
                MAX_CONNECTIONS, MIN_SIZE, MAX_SIZE);
        return 2;
    }
    /* A descriptor for each connection. */
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    way->load(&plan);
    /* The connections stay open while somebody looks at the server. */
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}

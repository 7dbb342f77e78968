/* A load generator for echo servers: lock-step requests on several connections.
 *
 *     load PORT CONNECTIONS SIZE SECONDS [reconnect]
 *
 * Each connection sends a message of SIZE bytes that ends in a newline, waits until as
 * many have come back, compares every byte, and sends the next. Messages differ between
 * connections and from one to the next, so an answer that is late, torn or somebody
 * else's does not pass. After SECONDS nothing more is sent, and the answers under way
 * are waited for.
 *
 * With `reconnect` each request has a connection of its own, which the server closes
 * after its answer.
 *
 * Prints the number of requests and the seconds that they took. Ends with 1, and a line
 * on standard error, when an answer is wrong or a connection breaks.
 */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* A message has to fit into the kernel's buffers, since sending it blocks. */
enum { MIN_SIZE = 32, MAX_SIZE = 64 * 1024, MAX_CONNECTIONS = 10000, EVENTS = 256 };

/* Milliseconds without any answer before the server counts as hung. */
enum { SILENCE = 10000 };

struct connection {
    int descriptor;
    unsigned number;
    unsigned long sequence;
    size_t received;
    char *message; /* what was sent last, and has to come back */
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void send_next(struct connection *connection, size_t size) {
    char head[MIN_SIZE];
    int length = snprintf(head, sizeof head, "%u:%lu:", connection->number, connection->sequence++);
    memcpy(connection->message, head, (size_t)length);
    connection->received = 0;
    for (size_t sent = 0; sent < size;) {
        ssize_t count = send(connection->descriptor, connection->message + sent, size - sent,
                             MSG_NOSIGNAL);
        if (count < 0)
            fail("send");
        sent += (size_t)count;
    }
}

static void prepare_message(struct connection *connection, unsigned number, size_t size) {
    connection->number = number;
    connection->message = malloc(size);
    if (connection->message == NULL)
        fail("malloc");
    for (size_t i = 0; i < size; i++)
        connection->message[i] = (char)('a' + (i + number) % 26);
    connection->message[size - 1] = '\n';
}

static void open_connection(struct connection *connection, int port, int epoll) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connection->descriptor = socket(AF_INET, SOCK_STREAM, 0);
    if (connection->descriptor < 0)
        fail("socket");
    if (connect(connection->descriptor, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    int on = 1;
    if (setsockopt(connection->descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        fail("setsockopt");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->descriptor, &event) < 0)
        fail("epoll_ctl");
}

/* Takes what has arrived. Returns 1 when the whole answer is there, and its end if that is due. */
static int receive(struct connection *connection, char *buffer, size_t size, int ends) {
    /* One byte more than is due, to see an answer that is too long. */
    ssize_t count = recv(connection->descriptor, buffer, size - connection->received + 1, 0);
    if (count < 0)
        fail("recv");
    if (count == 0 && ends && connection->received == size)
        return 1;
    if (count == 0) {
        fprintf(stderr, "the server closed connection %u\n", connection->number);
        exit(1);
    }
    if (connection->received + (size_t)count > size ||
        memcmp(buffer, connection->message + connection->received, (size_t)count) != 0) {
        fprintf(stderr, "connection %u, request %lu: the answer is not what was sent\n",
                connection->number, connection->sequence);
        exit(1);
    }
    connection->received += (size_t)count;
    return connection->received == size && !ends;
}

int main(int argc, char **argv) {
    int reconnect = argc == 6 && strcmp(argv[5], "reconnect") == 0;
    if (argc != 5 && !reconnect) {
        fprintf(stderr, "usage: load PORT CONNECTIONS SIZE SECONDS [reconnect]\n");
        return 2;
    }
    int port = atoi(argv[1]);
    long connections = atol(argv[2]), size_given = atol(argv[3]);
    double seconds = atof(argv[4]);
    if (connections < 1 || connections > MAX_CONNECTIONS || size_given < MIN_SIZE ||
        size_given > MAX_SIZE) {
        fprintf(stderr, "load: 1 to %d connections, %d to %d bytes\n", MAX_CONNECTIONS, MIN_SIZE,
                MAX_SIZE);
        return 2;
    }
    size_t size = (size_t)size_given;

    struct connection *all = calloc((size_t)connections, sizeof *all);
    char *buffer = malloc(size + 1);
    int epoll = epoll_create1(0);
    if (all == NULL || buffer == NULL || epoll < 0)
        fail("load");
    for (long i = 0; i < connections; i++) {
        prepare_message(&all[i], (unsigned)i, size);
        open_connection(&all[i], port, epoll);
    }

    long requests = 0, under_way = connections;
    double start = now(), time = start;
    for (long i = 0; i < connections; i++)
        send_next(&all[i], size);
    while (under_way > 0) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll, events, EVENTS, SILENCE);
        if (count < 0)
            fail("epoll_wait");
        if (count == 0) {
            fprintf(stderr, "no answer for %d seconds\n", SILENCE / 1000);
            return 1;
        }
        time = now();
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!receive(connection, buffer, size, reconnect))
                continue;
            requests++;
            if (time - start >= seconds) {
                under_way--;
                continue;
            }
            if (reconnect) {
                close(connection->descriptor);
                open_connection(connection, port, epoll);
            }
            send_next(connection, size);
        }
    }
    printf("%ld %.6f\n", requests, time - start);
    return 0;
}

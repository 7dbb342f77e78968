/* The limit: an echo server on epoll(7), which does nothing but the system calls.
 *
 *     epoll ROLE [PATH]
 *
 * ROLE is echo, connects or datagrams, as in job.py; PATH that of a Unix socket.
 */

#define _GNU_SOURCE /* accept4() */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BLOCK = 64 * 1024, EVENTS = 256, BACKLOG = 1024 };

static char block[BLOCK];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int listen_at(const char *path, int type) {
    struct sockaddr_un named = {.sun_family = AF_UNIX};
    struct sockaddr_in numbered = {.sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr *address = (struct sockaddr *)&numbered;
    socklen_t length = sizeof numbered;
    if (path != NULL) {
        strncpy(named.sun_path, path, sizeof named.sun_path - 1);
        address = (struct sockaddr *)&named;
        length = sizeof named;
    }
    int descriptor = socket(address->sa_family, type | SOCK_NONBLOCK, 0);
    if (descriptor < 0 || bind(descriptor, address, length) < 0)
        fail("bind");
    if (type == SOCK_STREAM && listen(descriptor, BACKLOG) < 0)
        fail("listen");
    length = sizeof numbered;
    if (path != NULL)
        puts(path);
    else if (getsockname(descriptor, (struct sockaddr *)&numbered, &length) == 0)
        printf("%d\n", ntohs(numbered.sin_port));
    fflush(stdout);
    return descriptor;
}

static void watch(int epoll, int descriptor) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) < 0)
        fail("epoll_ctl");
}

static void accept_from(int listener, int epoll) {
    int descriptor;
    while ((descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0)
        watch(epoll, descriptor);
    if (errno != EAGAIN)
        fail("accept4");
}

/* Sends all, and waits where the client is slow: with lock-step clients it never is for long. */
static int send_back(int descriptor, ssize_t count) {
    for (ssize_t sent = 0; sent < count;) {
        ssize_t more = send(descriptor, block + sent, (size_t)(count - sent), MSG_NOSIGNAL);
        if (more > 0)
            sent += more;
        else if (errno != EAGAIN)
            return 0;
    }
    return 1;
}

static void answer(int descriptor, int closes) {
    ssize_t count = recv(descriptor, block, BLOCK, 0);
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0 || !send_back(descriptor, count) || closes)
        close(descriptor);
}

static void answer_datagrams(int descriptor) {
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    ssize_t count;
    while ((count = recvfrom(descriptor, block, BLOCK, 0, (struct sockaddr *)&peer, &length)) >= 0)
        sendto(descriptor, block, (size_t)count, 0, (struct sockaddr *)&peer, length);
}

int main(int argc, char **argv) {
    const char *role = argc > 1 ? argv[1] : "";
    int datagrams = strcmp(role, "datagrams") == 0, closes = strcmp(role, "connects") == 0;
    if (!datagrams && !closes && strcmp(role, "echo") != 0) {
        fprintf(stderr, "usage: epoll echo|connects|datagrams [PATH]\n");
        return 2;
    }
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    int listener = listen_at(argc > 2 ? argv[2] : NULL, datagrams ? SOCK_DGRAM : SOCK_STREAM);
    int epoll = epoll_create1(0);
    if (epoll < 0)
        fail("epoll_create1");
    watch(epoll, listener);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int descriptor = events[i].data.fd;
            if (descriptor != listener)
                answer(descriptor, closes);
            else if (datagrams)
                answer_datagrams(listener);
            else
                accept_from(listener, epoll);
        }
    }
}

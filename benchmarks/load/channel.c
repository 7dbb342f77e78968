/* Connections as they are, or with TLS by OpenSSL where its headers are there (-DTLS). */

#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#ifdef TLS
#include <openssl/err.h>
#include <openssl/ssl.h>

static void fail_tls(const char *what) {
    fprintf(stderr, "%s: ", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void *encrypt(int descriptor) {
    static SSL_CTX *context;
    if (context == NULL) {
        context = SSL_CTX_new(TLS_client_method());
        if (context == NULL)
            fail_tls("SSL_CTX_new");
        /* Or reading would wait for data behind a session ticket. */
        SSL_CTX_clear_mode(context, SSL_MODE_AUTO_RETRY);
#ifdef SSL_OP_IGNORE_UNEXPECTED_EOF
        /* Some servers close without saying so, and the answer has been compared. */
        SSL_CTX_set_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF);
#endif
    }
    /* The handshake blocks. */
    struct timeval silence = {.tv_sec = SILENCE / 1000};
    if (setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence) < 0)
        fail("setsockopt");
    SSL *tls = SSL_new(context);
    if (tls == NULL || SSL_set_fd(tls, descriptor) != 1 || SSL_connect(tls) != 1)
        fail_tls("the TLS handshake failed");
    return tls;
}

static ssize_t receive_encrypted(SSL *tls, char *data, size_t size) {
    int count = SSL_read(tls, data, (int)size);
    if (count > 0)
        return count;
    switch (SSL_get_error(tls, count)) {
    case SSL_ERROR_WANT_READ:
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        fail_tls("SSL_read");
        return 0;
    }
}
#endif

struct channel open_channel(const struct plan *plan) {
    struct channel channel = {connect_to(plan->target, SOCK_STREAM), NULL};
#ifdef TLS
    if (plan->encrypted)
        channel.tls = encrypt(channel.descriptor);
#else
    if (plan->encrypted) {
        fprintf(stderr, "load: built without OpenSSL\n");
        exit(2);
    }
#endif
    return channel;
}

void close_channel(struct channel channel) {
#ifdef TLS
    if (channel.tls != NULL) {
        SSL_shutdown(channel.tls);
        SSL_free(channel.tls);
    }
#endif
    close(channel.descriptor);
}

void send_all(struct channel channel, const char *data, size_t size) {
#ifdef TLS
    if (channel.tls != NULL) {
        if (SSL_write(channel.tls, data, (int)size) != (int)size)
            fail_tls("SSL_write");
        return;
    }
#endif
    while (size > 0) {
        ssize_t count = send(channel.descriptor, data, size, MSG_NOSIGNAL);
        if (count < 0)
            fail("send");
        data += count;
        size -= (size_t)count;
    }
}

ssize_t receive_some(struct channel channel, char *data, size_t size) {
#ifdef TLS
    if (channel.tls != NULL)
        return receive_encrypted(channel.tls, data, size);
#endif
    ssize_t count = recv(channel.descriptor, data, size, 0);
    if (count < 0)
        fail("recv");
    return count;
}

int has_more(struct channel channel) {
#ifdef TLS
    return channel.tls != NULL && SSL_pending(channel.tls) > 0;
#else
    (void)channel;
    return 0;
#endif
}

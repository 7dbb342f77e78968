"""What each option of the servers is, and what its values may be.

A server class has an option where an attribute of it says so, with the option's type and default:

    idle_timeout: Annotated[float | None, option.idle_timeout] = None

The constructor's keywords and errors, the flags and variables of `aiosocketserver serve`, the keys
of its file and the page in the reference come from here and there (see `of_classes`). They stand
in the order of that page.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import checks
from .checks import Check


@dataclass(frozen=True)
class Option:
    """What is to be said of an option beside its name, type and default.

    - check: what it should be instead of a value, or None for one that makes sense
    - help: what it is, in Markdown; a flag's help is what comes before the first semicolon
    - there: what socketserver has
    - note: what follows the default on the page
    - setting: whether a service has it too
    """

    check: Check
    help: str
    there: str = "no such thing"
    note: str = ""
    setting: bool = True


address_family = Option(
    checks.size,
    "the address family; in it a name and the wildcard address are looked up. An IPv6 literal as "
    "the address makes it `AF_INET6`",
    there="the same",
    note=", `AF_UNIX` on Unix sockets",
    setting=False,
)
request_queue_size = Option(
    checks.size_or_zero,
    "connections that the kernel's backlog holds; with 5, a burst of clients waits a second for "
    "its SYN to be sent again. At most the kernel's `net.core.somaxconn`",
    there="5",
)
allow_reuse_address = Option(
    checks.flag,
    "whether a server that is started again may bind while old connections are in TIME_WAIT; "
    "without it, it cannot for a minute. On UDP it is `False`, since it would let another process "
    "take the port over",
    there="`False`",
    note=" on TCP",
)
allow_reuse_port = Option(
    checks.flag,
    "whether several processes may bind the same port; the kernel shares clients among them",
    there="the same",
)
unix_mode = Option(
    checks.mode,
    "permissions of the path of a Unix socket, as `0o660`; nobody else can reach it before it has "
    "them, and who may write to it may connect",
    note=": as the umask says",
)
unix_owner = Option(
    checks.owner,
    "the owner of the path of a Unix socket, by name or number; `None` for the process's own user",
    note=": the process's",
)
unix_group = Option(
    checks.owner,
    "the group of the path of a Unix socket, by name or number; `None` for the process's own",
    note=": the process's",
)
timeout = Option(
    checks.seconds,
    "seconds that `handle_request()` waits before `handle_timeout()`; `None` for ever",
    there="the same",
    setting=False,
)
shutdown_timeout = Option(
    checks.seconds,
    "seconds that `shutdown()` lets handlers go on; `None` for ever, as in socketserver",
)
end_when_draining = Option(
    checks.flag,
    "whether a handler that waits for an idle client, between two of its messages, sees the end of "
    "input when the server shuts down; else it is waited for ([idle "
    "clients](../behaviour.md#idle-clients)). See `StreamSocket.end_when_draining`",
    note=": under `run()`, `serving()` and `aiosocketserver serve` yes, else no",
)
request_timeout = Option(
    checks.above_zero,
    "seconds that a request may take as a whole, from when it was accepted; a coroutine handler "
    "gets a `TimeoutError` where it waits for its client and is cancelled elsewhere, the "
    "connection of a legacy one is shut down, its child is terminated. See `handle_timed_out`",
    note=": no limit",
)
blocking_warning = Option(
    checks.above_zero,
    "seconds for which a handler may hold the loop, and all other clients, before that is logged, "
    "once for each place in the code; a thread looks, while it still does, and wakes the loop for "
    "it",
    note=": none; 0.1 with greenlets",
)
read_timeout = Option(
    checks.above_zero,
    "seconds that a line or block may take from its first byte to its last, for handlers that read "
    "with `rfile`; it stops clients that send a byte now and then, and none that is silent between "
    "two messages",
    note=": no limit",
)
idle_timeout = Option(
    checks.above_zero,
    "seconds that a handler waits for its client while nothing moves in either direction; for "
    "legacy handlers it is the time-out of the socket",
    note=": no limit",
)
write_timeout = Option(
    checks.above_zero,
    "seconds that a client may take nothing of what is sent; one that does not read would hold its "
    "handler, and what it has written, for ever. `None` for no limit",
    there="no limit",
)
tcp_keep_alive = Option(
    checks.keep_alive,
    "seconds of silence after which the kernel asks the client's kernel whether it is still there; "
    "four questions in a minute without an answer end the connection. `None` for what the system "
    "does (Linux: nothing)",
    there="off",
)
ssl_context = Option(
    checks.context,
    "what encrypts connections; an `ssl.SSLContext`, or a function that makes one, as "
    "`CertificateFiles`, which can do it again. The handshake is part of the connection's own task",
    note=": no encryption",
    setting=False,
)
handshake_timeout = Option(
    checks.above_zero,
    "seconds that a client has for the TLS handshake; `None` for no limit",
)
tls_reload_interval = Option(
    checks.above_zero,
    "seconds between two looks whether the files of the certificate have changed; then "
    "`reload_tls()` is called",
    note=": none",
)
linger_timeout = Option(
    checks.seconds,
    "seconds that a closing connection has for each step, so that the peer gets the whole answer; "
    "0 closes at once",
)
max_connections = Option(
    checks.size,
    "connections at once, those included that are closing; at the limit the server stops "
    "accepting, the backlog holds the rest, and it goes on when one has ended",
    note=": as many as there are descriptors",
)
max_connections_per_host = Option(
    checks.size,
    "connections at once of one host; the excess is closed at once, counted in "
    "`statistics.refused`, and `handle_refusal()` is called",
    note=": no limit",
)
ipv6_prefix_length = Option(
    checks.prefix_length,
    "how many leading bits of an IPv6 address tell one host from another for "
    "`max_connections_per_host`; a subscriber has a whole /64",
)
proxy_protocol = Option(
    checks.proxy_protocol,
    'whether connections come through proxies that send a PROXY header first; `"required"`, or '
    '`"optional"` for those that may. From then on `client_address` is the real client\'s, and '
    '`proxy_header()` has all that the header says. With `"optional"` a proxy\'s client that says '
    "nothing first is served after `proxy_timeout`",
)
proxy_trusted = Option(
    checks.networks,
    "the networks of the proxies whose header is believed; it has to be said, as "
    '`["10.1.0.0/16", "fd00::/8"]`, because anybody else could pretend to be any client. With '
    '`"required"` nobody else is served; with `"optional"` others are, and what they send is '
    "never taken for a header. Who can reach a Unix socket is trusted",
)
proxy_timeout = Option(
    checks.above_zero,
    "seconds that the PROXY header may take; HAProxy's specification asks for at least 3, so that "
    "a lost packet can be sent again. `None` for no limit",
)
max_line_size = Option(
    checks.size,
    "bytes of a line that `rfile` takes; a longer one raises `LimitExceeded`",
    there="no limit",
)
max_block_size = Option(
    checks.size,
    "bytes of a block that `rfile` takes; a larger one raises `LimitExceeded`",
    there="no limit",
)
max_packet_size = Option(
    checks.size,
    "bytes of a datagram that are received, the rest is cut off; that is counted, logged and told "
    "to the handler (`DatagramSocket.truncated_from`)",
    there="the same",
)
max_concurrency = Option(
    checks.size,
    "datagrams that are served at once, also in threads or children; more wait in a queue",
    there="1; threads: no limit",
)
max_queue = Option(
    checks.size_or_zero,
    "datagrams that wait to be served, before the newest is dropped and counted; on a Unix socket "
    "its sender waits instead",
)
max_threads = Option(
    checks.size,
    "threads at once; at the limit the server stops accepting, and the backlog holds the rest, "
    "while `run_in_thread` waits. For legacy handlers a fixed number would hang the first client "
    "above it, so by default there is none",
    there="the same",
    note=": no limit",
)
reuse_threads = Option(
    checks.flag,
    "whether a thread serves one request after another; with `False` each request gets a new one, "
    "so that no `threading.local` data outlives it",
    there="a new thread each",
)
daemon_threads = Option(
    checks.flag,
    "whether the threads of requests are daemons, which do not delay the interpreter's exit; "
    "`shutdown()` does not wait for them",
    there="the same",
)
block_on_close = Option(
    checks.flag,
    "whether `shutdown()` waits for threads and children; `server_close()` does in socketserver",
    there="the same",
)
max_children = Option(
    checks.size,
    "children at once, of a server with `ForkingMixIn`; at the limit the server stops accepting, "
    "and the backlog holds the rest",
    there="the same",
)

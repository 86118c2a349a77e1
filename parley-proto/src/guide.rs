//! Pages for users, and the rules by which a client behaves.
//!
//! # 1. Pages
//!
//! The snippets are for `parley-tokio`; on `parley-async-std` another `use`, and that runtime's way to spawn a task, are all that
//! changes. Each is compiled with the tests, and runs there where it can.
//!
//! | page | |
//! |---|---|
//! | [`getting_started`] | the first frame, three ways to hold a client |
//! | [`handlers`] | callbacks, actions, messages from the rest of the program |
//! | [`reconnecting`] | when to come back, and who decides |
//! | [`backpressure`] | what waits for whom; big messages; many receivers |
//! | [`closing`] | ways to end, and what an end is called |
//! | [`tls`] | trust roots, certificates, other makes of TLS |
//! | [`servers`] | requests, origins, rooms, shutdown; inside hyper or axum |
//! | [`testing`] | handlers without a network, in virtual time |
//! | [`telemetry`] | numbers, spans and events |
//! | [`limits`] | every bound, and what a connection can hold |
//! | [`from_tungstenite`] | names and differences, for who has a loop around a stream |
//! | [`from_elixir`] | names and differences, for who knows the original |
//! | [`adapter`] | writing one for another runtime |
//!
//! # 2. Rules
//!
//! The sections below say how a client behaves, in rules with numbers. Each has a test that bears its number.
//!
//! A client is in one of three states until it ends: *disconnected*, *connecting*, *connected*. It starts to connect as
//! soon as [`init`](crate::Handler::init) has run, unless a disconnect was asked for meanwhile.
//!
//! # 3. Callbacks
//!
//! All are async and optional. An `Err` from a callback stops the client with that error: Close 1011, then
//! [`StopReason::Handler`](crate::StopReason::Handler).
//!
//! - **3.1** `init` runs once per client, before anything connects. When it fails, `start` returns its error, nothing
//!   connects, and no other callback runs.
//! - **3.2** `prepare` runs before every attempt, in state connecting and inside the connect timeout, and may change
//!   the URL, the headers and the subprotocols. A disconnect drops it; its `Err` goes to `handle_disconnect`.
//! - **3.3** `handle_connect` runs when the handshake is complete. What it pushes leaves before any frame that was
//!   queued while connecting: authentication comes first.
//! - **3.4** `handle_frame` gets a whole text or binary message, its fragments joined, or a pong. Pongs that answer
//!   pings of our own keepalive are not delivered. `handle_frame_ref` is lent it before, and what that deals with,
//!   `handle_frame` does not get.
//! - **3.5** `handle_ping` gets a ping's payload. The pong is queued before the call, and written when a callback
//!   first waits, at the latest when those for what was read with it have run.
//! - **3.6** `handle_info` gets what other tasks send, in every state, alternating with frames. The queue holds 1,024
//!   of them. A push while not connected is refused; a disconnect while disconnected closes
//!   nothing.
//!   A delayed info (`send_info_after`) counts to them until it is delivered or cancelled.
//! - **3.7** `handle_disconnect` runs when a connection has ended or an attempt has failed. `Policy` follows the
//!   client's options (without reconnection: stay down), `Reconnect` forces an attempt with the backoff, `After` one
//!   after a delay, `Stay` stays down, `Stop` ends the client with this reason.
//! - **3.8** Callbacks of one client never overlap. While one waits, output, timers, commands and reading go on.
//!   Reading pauses when the bytes read and not yet delivered reach 256 KiB; one larger message is allowed. While it is
//!   paused nothing is read: pings behind data are answered on resuming, and the keepalive deadline stands still. After a
//!   close of our own the client reads again, and discards.
//! - **3.9** A push is never refused for lack of room: the next callback waits until what was pushed is under the bound
//!   of the queue (1 MiB). A frame larger than the bound is accepted by an empty queue. A pushed control frame of more
//!   than 125 bytes is refused, and the connection stays.
//! - **3.10** No client can block itself. `disconnect` and `stop` resolve when they are accepted. Through the client's
//!   own handle nothing waits for a connection or for room: a send leaves at once while connected (behind a message that
//!   another task is sending in parts) or while `handle_connect` runs, and fails with `Disconnected` otherwise; an info that finds the queue full is `Full`.
//! - **3.11** `terminate` runs once, last, whenever the client ends after `init` succeeded, but not after a panic. It
//!   has as long as the close timeout.
//! - **3.12** A callback that panics fails the connection with 1011; senders that wait are answered, `join` reports
//!   it, no callback runs after it, and other clients are not touched.
//!
//! # 4. States
//!
//! Disconnected:
//!
//! - **4.1** The transport is closed before `handle_disconnect` runs. There is one `handle_disconnect` per lost
//!   connection or failed attempt, but for 4.2.
//! - **4.2** When the very first attempt fails or times out in DNS, TCP or TLS (and reconnection is off), the client
//!   ends with that error, without `handle_disconnect`: nothing was ever reached, and whoever started it is told. All
//!   else goes to `handle_disconnect`, and the client lives on: a 401 is the handler's to see.
//! - **4.3** A client that is disconnected, with no name, no retry and no delayed info pending, and that no handle
//!   can reach any more, ends with its last reason. Its own handle does not count. So `run` returns after its one connection. Dropping a `Client` detaches it.
//! - **4.4** Sends fail with `Disconnected` at once and give the frame back. `disconnect` cancels a pending
//!   retry (while `init` runs, the first attempt) and calls nothing; `connect` skips the delay before it.
//!
//! Connecting:
//!
//! - **4.5** Sends wait in order of arrival, within the bound of the queue. They go out behind what `handle_connect`
//!   pushed. When the attempt fails, each waiting sender gets `Disconnected` once `handle_disconnect` has run. None is
//!   carried to another attempt.
//! - **4.6** `disconnect` gives up the attempt at once, whatever it is doing, with reason `Local`. A look-up that runs
//!   inside the operating system cannot be stopped; its answer is ignored.
//!
//! Connected:
//!
//! - **4.7** What arrives in the same read as the 101 is delivered, in order.
//! - **4.8** A protocol error fails the connection with its close code and is reported once, to `handle_disconnect`. It
//!   takes effect when the frames before it were delivered and their callbacks' pushes queued, at the latest after
//!   half the close timeout: that we parse ahead is never visible. The same holds for the peer's Close.
//! - **4.9** Pings and pongs go ahead of data that is not begun; begun is what is encoded, at most 64 KiB ahead (112 KiB of answers to frames that are lent). A Close
//!   that we ask for follows all frames accepted before it, within the close timeout counted from the call; but a message in
//!   parts that has no end yet is cut short, and what waits for that end comes back. What is left
//!   then comes back in its `SendError`, and so does what waits for a `handle_connect` that will not run. A Close that fails the connection follows what callbacks pushed before the
//!   error; frames of other tasks that were not begun are given back.
//! - **4.10** Every ping is answered, in order, while the socket takes output. Only while output is blocked is one pong
//!   pending, for the newest ping.
//! - **4.11** The peer's Close is answered with its code; what follows it is dropped. Between our Close and theirs
//!   frames are checked and not delivered; an error then drops TCP without a second Close. Sends after a close fail with
//!   `Closing`. Frames that were received before the end of the stream reach `handle_frame` first; pushes are refused
//!   then, since nobody is left to take them.
//! - **4.12** After both Closes a client waits for the server's FIN until the deadline. A server ends its direction at
//!   once, drains what comes, and closes.
//! - **4.13** A stream that ends without a Close is 1006, which is never on the wire, and unclean. `was_clean` is true
//!   only when both Closes were seen, ours by the transport. A close that times out keeps its reason.
//! - **4.14** [`CloseFrame::new`](crate::codec::CloseFrame::new) refuses the codes 0-999, 1004-1006, 1015-2999, 5000
//!   and up, and reasons of more than 123 bytes.
//! - **4.15** A write that fails gives the same error to the sender that waits for it and to `handle_disconnect`. When
//!   output waits and the peer takes no byte of it for 30 s, that is a failure too: `WriteTimeout`.
//!
//! Keepalive: after 20 s in which no byte has come a ping is sent, with a payload that nobody can guess, ahead of data
//! that is not begun. When no byte at all comes within 20 s of it, the connection is lost with `KeepaliveTimeout`. Any byte
//! is a sign of life; a pong to our own ping gives a round-trip time as well. While reading is paused (3.8) the wait
//! stands still, and starts afresh when it goes on. While output is blocked no ping is sent and none is given up on, for
//! what the peer is still taking may be before it: 4.15 decides, and once output has drained the wait for an answer
//! starts afresh. Once a Close was sent or received, the close timeout alone decides. Both times can be set, and keepalive
//! turned off.
//!
//! Reconnecting, where the option is on or the handler says so:
//!
//! - **4.16** Before retry n (0 for the first) d = min(base * 2^n, max), and the delay is drawn from (d/2, d], or with full
//!   jitter from [0, d]. n returns to 0 once a connection has lived for `min_uptime`.
//! - **4.17** With `max_retries` k there are k retries by policy after the first failure, `handle_disconnect` runs k + 1
//!   times, and the client ends with `MaxRetriesExceeded`, which carries the last reason. Attempts that the handler forces
//!   are not limited.
//! - **4.18** A local disconnect is not followed by an attempt, unless `handle_disconnect` says so. `reconnect` and
//!   `Action::Reconnect` close and dial again at once, unless `handle_disconnect` says otherwise.
//! - **4.19** `Policy` tries again after what [is transient](crate::DisconnectReason::is_transient) only. `Retry-After`, in
//!   seconds or as a date (which counts from the response's own `Date`), is a floor for the delay, at most 5 minutes.
//!
//! # 5. The end
//!
//! [`join`](crate::driver::Client::join) gives the handler back after `stop`, after `Action::Stop`, and after an end by
//! 4.3 that was clean: by a local disconnect, or by both Closes with 1000 or 1001. Anything else is a
//! [`JoinError`](crate::driver::JoinError), which has the reason and, but for panics, the handler too.
//!
//! A client whose future is dropped (its task aborted, its runtime shut down) is *aborted*: the connection is closed at once,
//! without a Close, no callback runs, and the name is free. Who waits is answered: frames that had not begun come back with
//! `Stopped`. `join` and `wait_for` tell [`StopReason::Aborted`](crate::StopReason::Aborted).

// The pages are tests of a crate that has the adapters: this one names no runtime, not for its own tests either.
macro_rules! pages {
    ($($name:ident $file:literal)*) => {
        $(
            pub mod $name {
                #![cfg_attr(not(doctest), doc = include_str!($file))]
                #![cfg_attr(doctest, doc = "")]
            }
        )*
    };
}

pages! {
    getting_started "guide/getting_started.md"
    handlers "guide/handlers.md"
    reconnecting "guide/reconnecting.md"
    backpressure "guide/backpressure.md"
    closing "guide/closing.md"
    tls "guide/tls.md"
    servers "guide/servers.md"
    testing "guide/testing.md"
    telemetry "guide/telemetry.md"
    limits "guide/limits.md"
    from_tungstenite "guide/from_tungstenite.md"
    from_elixir "guide/from_elixir.md"
    adapter "guide/adapter.md"
}

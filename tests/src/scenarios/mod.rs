//! The scenarios: what a user of an adapter sees of clients, servers and sockets, `ws://` and `wss://`.
//!
//! One list for every runtime, the simulated one among them. A runtime's test includes this file with
//! `#[macro_use] #[path]`, has a module `adapter`, and in each module with a `fn block_on` it calls `scenario_tests!()`. That
//! module's name, `on_` something, is the name of the runtime under which `cargo xtask scenarios` counts the outcomes.
//!
//! The module `adapter` has the adapter's public types, `Platform` (its `Runtime`), `platform(Tls)`, and for streams of
//! the user's own: `pair()`, two ends of one; `transport(stream)`; `client`, `server` and `upgraded`.
//!
//! The peers by hand are where [`peers`] has them, so that nothing here names a runtime, nor a socket.

mod client;
mod hazards;
mod limits;
mod server;
mod socket;

pub(crate) use client::*;
pub(crate) use hazards::*;
pub(crate) use limits::*;
pub(crate) use server::*;
pub(crate) use socket::*;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parley_proto::driver::{JoinError, Platform as _};
use parley_proto::handshake::Origins;
use parley_proto::{Action, DisconnectReason, StopReason};
use parley_tests::peers::{self, CA};
use parley_tests::raw::{End, RawConn, RawFrame, frame};
use parley_tests::recorder::{Events, Recorder, Seen, answering};
use tokio::sync::oneshot;

use crate::adapter::{Client, ClientBuilder, Incoming, Platform, Server, ServerBuilder, Tls, WebSocket};

/// FIN and opcode.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// Long enough for a handshake on a machine that has other things to do, short enough to wait for.
const SHORT: Duration = Duration::from_millis(1_500);
/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);

/// A test per scenario and scheme, each on `super::block_on`.
macro_rules! scenario_tests {
    () => {
        scenario_tests! {
            both [
                // A client
                text_and_binary_messages_arrive,
                a_message_of_a_mebibyte_goes_both_ways,
                fragments_arrive_as_one_message,
                a_callback_echoes,
                a_ping_is_answered,
                a_subprotocol_is_agreed_on,
                the_server_sees_headers_and_basic_credentials,
                a_header_overrides_the_credentials_of_the_url,
                frames_in_the_packet_of_the_101_are_delivered,
                a_refusal_reaches_the_handler,
                hazard_4_a_handshake_that_breaks_the_protocol_sends_no_frame,
                the_peer_closes,
                this_side_closes,
                hazard_13_an_end_without_a_close_is_told_apart,
                hazard_13_a_reset_is_told_apart,
                a_refused_connection_ends_the_client,
                the_second_address_is_tried,
                a_server_that_does_not_answer_times_out,
                hazard_18_a_silent_server_is_pinged_and_given_up,
                hazard_17_a_server_that_takes_nothing_is_given_up,
                a_sent_frame_is_on_the_wire,
                a_full_queue_gives_the_frame_back,
                a_refused_send_gives_the_frame_back,
                ten_thousand_fed_frames_arrive_in_order,
                many_tasks_share_a_handle,
                a_started_client_is_connecting,
                an_info_reaches_the_handler_in_every_state,
                a_disconnected_client_lives_until_it_is_stopped,
                a_disconnect_abandons_the_attempt,
                a_failing_init_fails_the_start,
                a_run_returns_after_its_one_connection,
                a_run_that_is_dropped_closes_the_socket,
                a_detached_client_goes_on_to_its_connections_end,
                hazard_22_a_panic_fails_one_client_alone,
                an_error_of_a_callback_stops_the_client,
                hazard_8_a_protocol_error_is_answered_with_its_code,
                frames_before_a_protocol_error_are_answered,
                frames_before_the_peers_close_are_answered,
                secrets_stay_out_of_debug,
                // A server
                a_handler_serves_a_client,
                a_request_is_seen_as_it_came,
                hazard_21_an_origin_that_is_not_welcome_is_refused,
                a_rejection_reaches_the_client,
                a_dropped_request_is_answered_with_503,
                a_request_that_nobody_answers_gets_503,
                a_failing_init_is_answered_with_500,
                a_request_without_upgrade_is_answered,
                frames_in_the_packet_of_the_request_are_delivered,
                a_protocol_error_of_a_client_is_answered_and_drained,
                hazard_22_a_panic_of_a_served_handler_fails_one_connection_alone,
                hazard_2_a_silent_client_is_given_up,
                accepting_waits_while_there_are_enough,
                a_broadcast_reaches_all_who_have_subscribed,
                a_big_message_goes_through_handlers_in_parts,
                a_shutdown_closes_all_with_1001_and_waits,
                what_does_not_end_in_time_is_dropped,
                a_stream_of_the_users_own_is_served,
                a_handler_serves_what_another_server_has_upgraded,
                // A socket
                a_socket_sends_and_receives_and_a_clean_end_is_none,
                a_socket_closes,
                a_socket_tells_an_eof_once,
                a_refusal_is_an_error_of_connect,
                a_protocol_error_ends_a_socket_with_its_code,
                a_silent_peer_of_a_socket_is_given_up,
                a_dropped_socket_sends_no_close,
                the_halves_of_a_socket_work_in_two_tasks,
                ten_thousand_frames_fed_to_a_socket_arrive_in_order,
                a_corked_socket_answers_a_batch,
                a_mebibyte_goes_both_ways_between_sockets,
                a_big_message_goes_through_sockets_in_parts,
                a_socket_over_a_stream_of_the_users_own,
                a_stream_that_was_upgraded_elsewhere,
                // Limits
                limits_on_what_a_client_receives_are_inclusive,
                limits_on_what_a_server_receives_are_inclusive,
                limits_on_a_request_are_inclusive,
                a_head_may_be_as_long_as_its_limit,
                limits_on_a_response_are_inclusive,
                // Hazards
                hazard_5_what_was_not_offered_is_refused_before_the_socket_opens,
                hazard_11_a_close_is_echoed_where_its_code_is_legal_and_else_answered_with_an_error,
                hazard_13_a_reset_behind_both_closes_keeps_code_and_cleanness,
                hazard_16_more_fragments_than_the_limit_get_1008,
                hazard_18_a_peer_that_stalls_within_a_frame_is_given_up,
                hazard_25_a_callback_that_sends_and_closes_waits_for_nobody_and_keeps_the_order,
            ]
            wss [
                hazard_14_a_cut_tls_stream_is_no_clean_end,
                hazard_14_a_server_tells_a_cut_tls_stream_from_a_clean_end,
                hazard_14_behind_both_closes_a_cut_tls_stream_is_a_clean_end,
                an_unknown_authority_ends_the_client,
                a_silent_tls_handshake_times_out,
                the_handler_sees_what_tls_agreed_on,
            ]
        }
    };
    (both [$($both:ident,)*] wss [$($wss:ident,)*]) => {
        scenario_tests! { in ws(false): $($both,)* }
        scenario_tests! { in wss(true): $($both,)* $($wss,)* }
    };
    (in $scheme:ident($secure:expr): $($name:ident,)*) => {
        mod $scheme {
            $(#[test]
            fn $name() {
                parley_tests::peers::within_deadline(|| {
                    super::block_on($crate::scenarios::$name($crate::scenarios::Bed::new($secure, stringify!($name))));
                });
            })*
        }
    };
}

/// What a scenario is played on.
#[derive(Clone)]
pub(crate) struct Bed {
    secure: bool,
    tls: Tls,
}

/// A client whose handshake is complete, what its handler sees, and the server's side.
struct Open {
    client: Client<Recorder, u32>,
    events: Events,
    peer: RawConn,
    request: String,
}

/// A server of the adapter's.
struct Serving {
    server: Server,
    addr: SocketAddr,
    secure: bool,
}

impl Bed {
    /// Trusts the scenarios' authority, by one way or the other.
    pub(crate) fn new(secure: bool, scenario: &str) -> Self {
        let tls = match scenario.len() % 2 {
            _ if !secure => Tls::new(),
            0 => Tls::new().root_certificate(CA.root()),
            _ => Tls::with_config(Arc::new(CA.client_config())),
        };
        Self { secure, tls }
    }

    /// A server by hand.
    async fn server(&self) -> peers::Server {
        peers::Server::bind(self.secure).await
    }

    fn builder(&self, url: &str) -> ClientBuilder {
        Client::builder(url).unwrap().tls(self.tls.clone())
    }

    fn scheme(&self) -> &'static str {
        if self.secure { "wss" } else { "ws" }
    }

    async fn open(&self) -> Open {
        self.open_answering(|_| Action::Continue).await
    }

    async fn open_answering(&self, answer: impl FnMut(&Seen) -> Action + Send + 'static) -> Open {
        let server = self.server().await;
        let (handler, mut events) = answering(answer);
        let client = self.builder(&server.url("/")).start(handler).await.unwrap();
        let mut peer = server.accept().await;
        let request = peer.upgrade("").await;
        events.connected().await;
        Open { client, events, peer, request }
    }

    /// A server with these options, or others than these.
    fn serve_with(&self, origins: Origins, options: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Serving {
        let mut builder = options(Server::builder(origins));
        if let Some(tls) = peers::server_config(self.secure) {
            builder = builder.tls(tls);
        }
        let server = builder.bind("127.0.0.1:0").unwrap();
        let addr = server.local_addr().unwrap();
        Serving { server, addr, secure: self.secure }
    }

    fn serve(&self) -> Serving {
        self.serve_with(Origins::any(), |builder| builder)
    }

    /// One that sends every message back, as long as its runtime runs.
    fn echo_server(&self) -> peers::Address {
        let Serving { server, addr, .. } = self.serve();
        Platform::spawn(async move {
            while let Some(incoming) = server.next().await {
                let _ = incoming.accept(answering(echo).0).await; // whoever dialled sees what came of it
            }
        });
        peers::Address { addr, secure: self.secure }
    }

    /// Two sockets, the client's and the server's.
    async fn sockets(&self, serving: &Serving) -> (WebSocket, WebSocket) {
        let accept = async { serving.next().await.into_websocket().await };
        let (client, server) = tokio::join!(self.builder(&serving.url("/")).connect(), accept);
        (client.unwrap(), server.unwrap())
    }
}

impl Serving {
    fn url(&self, path: &str) -> String {
        peers::Address { addr: self.addr, secure: self.secure }.url(path)
    }

    /// The next request.
    async fn next(&self) -> Incoming {
        self.server.next().await.expect("the server runs")
    }

    /// A client by hand that has said this.
    async fn dial(&self, bytes: &[u8]) -> RawConn {
        let mut peer = peers::dial(self.addr, self.secure).await;
        peer.send(bytes).await;
        peer
    }
}

impl Open {
    /// The client is stopped, and ends as it should.
    async fn stop(mut self) {
        self.client.stop().await;
        assert_eq!(close_of(&mut self.peer).await, close(1000, ""));
        self.ends().await.unwrap();
    }

    /// Our Close has come: it is answered, and the client's end awaited.
    async fn ends(mut self) -> Result<Recorder, JoinError<Recorder>> {
        self.peer.send(&frame(CLOSE, &close(1000, ""))).await;
        self.peer.shutdown().await;
        assert_eq!(self.peer.end().await, End::Fin);
        self.client.join().await
    }
}

/// The payload of a close frame.
fn close(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

/// The payload of the Close that comes next.
async fn close_of(peer: &mut RawConn) -> Vec<u8> {
    let frame = peer.frame().await;
    assert_eq!((frame.first, frame.masking_key.is_some()), (CLOSE, true), "a masked Close: {frame:?}");
    frame.payload
}

/// What comes next, as a client has to send it: masked.
async fn masked(peer: &mut RawConn) -> (u8, Vec<u8>) {
    let RawFrame { first, masking_key, payload } = peer.frame().await;
    assert!(masking_key.is_some(), "a client masks what it sends (section 5.3)");
    (first, payload)
}

fn echo(seen: &Seen) -> Action {
    match seen {
        Seen::Frame(frame) => Action::Push(frame.clone()),
        _ => Action::Continue,
    }
}

/// What a client that could not connect ended with.
fn disconnected<H>(result: Result<H, JoinError<H>>) -> DisconnectReason {
    match result {
        Ok(_) => panic!("a clean end"),
        Err(error) => match error.reason() {
            StopReason::Disconnected(reason) => reason.clone(),
            other => panic!("{other:?}"),
        },
    }
}

/// Runs a future in a task of the runtime under test, and gives its outcome.
fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> oneshot::Receiver<T> {
    let (sender, receiver) = oneshot::channel();
    Platform::spawn(async move {
        let _ = sender.send(future.await); // the scenario may have seen enough
    });
    receiver
}

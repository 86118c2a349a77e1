//! The server's side: requests are refused or accepted, by a handler or as a socket.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use parley_proto::driver::{Error, Incoming, Platform, Server, StartError};
use parley_proto::handshake::{Acceptance, Rejection};
use parley_proto::session::ClientState;

use super::ledger::{End, Pair, lock};
use super::message::Side;
use super::talk::talk;
use super::worker::{Order, Seat, Sender, Worker, close, code, code_of_a_callback, pause};
use super::{Round, proxy, sleep};
use crate::dice::Dice;

/// Answers requests until the server shuts down.
pub(super) async fn serve<P: Platform>(server: Arc<Server<P>>, round: Arc<Round>, mut dice: Dice) {
    while let Some(incoming) = server.next().await {
        let (round, dice) = (round.clone(), dice.fork());
        P::spawn(answer(incoming, round, dice));
    }
}

async fn answer<P: Platform>(incoming: Incoming<P::Transport, P>, round: Arc<Round>, mut dice: Dice) {
    let id = incoming.request().headers().get(proxy::HEADER).and_then(|id| id.to_str().ok()?.parse().ok());
    let Some(pair) = id.and_then(|id| round.ledger.find(id)) else {
        return round.ledger.violation(format!("a request bears the number {id:?}, which is over or was never given"));
    };
    pair.requested();
    pair.asked(Side::Server, 1001); // by a shutdown, at any time
    if dice.chance(5) {
        sleep::<P>(dice.millis(100)).await;
    }
    match dice.below(100) {
        0..3 => refuse(incoming, &pair, StatusCode::SERVICE_UNAVAILABLE),
        3 => refuse(incoming, &pair, StatusCode::UNAUTHORIZED),
        4 => {
            pair.ended(Side::Server, End::Refused(503));
            drop(incoming);
        }
        5..60 => session(incoming, &round, pair, &mut dice).await,
        _ => match incoming.into_websocket().await {
            Ok(socket) => {
                pair.opened(Side::Server);
                talk::<P, _>(socket, &round, &pair, Side::Server, &mut dice).await;
            }
            Err(Error::Disconnected(reason)) => pair.ended(Side::Server, End::Failed(reason)),
            Err(other) => {
                pair.violation(&format!("accept failed: {other}"));
                pair.ended(Side::Server, End::Dropped);
            }
        },
    }
}

fn refuse<P: Platform>(incoming: Incoming<P::Transport, P>, pair: &Pair, status: StatusCode) {
    pair.ended(Side::Server, End::Refused(status.as_u16()));
    match Rejection::new(status) {
        Ok(rejection) => incoming.reject(rejection),
        Err(error) => pair.violation(&format!("{status} is no rejection: {error}")),
    }
}

/// A connection with a handler, and a task beside it, which is this one.
async fn session<P: Platform>(
    incoming: Incoming<P::Transport, P>,
    round: &Arc<Round>,
    pair: Arc<Pair>,
    dice: &mut Dice,
) {
    let ledger = &round.ledger;
    let seat = Arc::new(Seat::of(&pair));
    let fails_init = dice.chance(1);
    let forked = dice.fork();
    let accepted = incoming.accept_with(Acceptance::new(), |own| {
        Worker::server(ledger.clone(), pair.clone(), seat.clone(), own, forked, fails_init)
    });
    let client = match accepted.await {
        Ok(client) => client,
        Err(StartError::Disconnected(reason)) => {
            if !pair.has_ended(Side::Server) {
                pair.ended(Side::Server, End::Failed(reason));
            }
            return;
        }
        Err(StartError::Init(_)) if fails_init => return,
        // The server left while `init` had yet to run, for as long as a close may take.
        Err(StartError::Aborted) if ledger.ebbs() => return,
        Err(other) => return pair.violation(&format!("a handler was not accepted: {other}")),
    };
    let sender = Sender { side: Side::Server, ledger, seat: &seat, handle: &client };
    for _ in 0..1 + dice.below(40) {
        tokio::select! {
            _ = client.wait_for(ClientState::Stopped) => break,
            () = sleep::<P>(pause(dice)) => {}
        }
        match dice.below(100) {
            0..60 => sender.burst::<P>(dice).await,
            60..75 => sender.order(Order::Push(1 + dice.below(6))),
            75..83 => sender.order(Order::Own(1 + dice.below(3))),
            83..95 => sender.ping(),
            95 => sender.order(Order::Disconnect(code_of_a_callback(dice))),
            96 => sender.order(Order::Stop(code_of_a_callback(dice))),
            97 => sender.order(Order::Fail),
            98 => sender.order(Order::Panic),
            _ => sender.abandon(dice).await,
        }
    }
    if client.state() != ClientState::Stopped && dice.chance(60) {
        let code = code(dice);
        sender.closes(code);
        if dice.chance(50) {
            client.disconnect_with(close(code)).await;
        } else {
            client.stop_with(close(code)).await;
        }
    }
    // A session ends with its connection: by the peer, if by nobody else.
    let handle = client.handle();
    let ended = client.join().await;
    let panicked = matches!(&ended, Err(error) if matches!(error.reason(), parley_proto::StopReason::Panicked));
    let aborted = matches!(&ended, Err(error) if matches!(error.reason(), parley_proto::StopReason::Aborted));
    drop(ended);
    let terminated = *lock(&seat.terminated);
    if terminated != usize::from(!panicked && !aborted) {
        pair.violation(&format!("`terminate` of the server's session ran {terminated} times"));
    }
    let (heard, received) = (seat.heard.load(Ordering::SeqCst), handle.stats().frames_received);
    if !aborted && heard != received {
        pair.violation(&format!("the server's session has heard {heard} frames, and counts {received}"));
    }
    if !pair.has_ended(Side::Server) {
        pair.violation("the server's session has ended, and its connection has not");
    }
}

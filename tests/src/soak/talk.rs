//! A loop around a socket, on either side.

use std::sync::Arc;

use bytes::Bytes;
use parley_proto::SendError;
use parley_proto::codec::Frame;
use parley_proto::connection::Closed;
use parley_proto::driver::{Error, Platform, Transport, WebSocket};

use super::Round;
use super::ledger::{End, Pair};
use super::message::{Label, Side, Stream, size};
use super::sleep;
use super::worker::{close, code, echo, pause};
use crate::dice::Dice;

/// Whether the socket is still of use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    On,
    /// Nothing can be sent any more; what has come is still to be had.
    Drain,
    Drop,
}

/// Sends and receives until the connection has ended, or is dropped.
pub(super) async fn talk<P: Platform, T: Transport>(
    mut socket: WebSocket<T, P::Clock>,
    round: &Round,
    pair: &Arc<Pair>,
    side: Side,
    dice: &mut Dice,
) {
    if dice.chance(20) {
        socket.set_auto_cork(true);
    }
    let mut turns = 1 + dice.below(30);
    let mut then = Then::On;
    let mut over = false;
    while !over && then != Then::Drop {
        let draining = then == Then::Drain;
        let next = tokio::select! {
            next = socket.next() => Some(next),
            () = sleep::<P>(pause(dice)), if !draining => None,
        };
        match next {
            Some(None) => over = true,
            Some(Some(Err(Error::Disconnected(reason)))) => {
                over = true;
                pair.note(Some(side), format!("next: {reason}"));
            }
            Some(Some(Err(error))) => {
                pair.violation(&format!("{side:?}: next gave {error}"));
                over = true;
            }
            Some(Some(Ok(frame))) => then = take(&mut socket, pair, side, &frame, dice, then).await,
            None if turns == 0 || round.is_over() && side == Side::Client => {
                if dice.chance(75) {
                    return closes(socket, pair, side, dice).await;
                }
                then = Then::Drop;
            }
            None => {
                turns -= 1;
                then = act::<P, T>(&mut socket, pair, side, dice).await;
            }
        }
    }
    if then == Then::Drop {
        pair.ended(side, End::Dropped);
        return; // and the socket goes
    }
    finish(socket, pair, side).await;
}

/// The end was told: it is the same whoever asks, and nothing comes behind it.
async fn finish<T: Transport, C: parley_proto::driver::Clock>(mut socket: WebSocket<T, C>, pair: &Pair, side: Side) {
    match socket.closed().map(|closed: &Closed| End::from(closed)) {
        Some(end) => pair.ended(side, end),
        None => {
            pair.violation(&format!("{side:?}: the socket has ended, and does not say how"));
            pair.ended(side, End::Dropped);
        }
    }
    if socket.next().await.is_some() {
        pair.violation(&format!("{side:?}: a frame, or another error, behind the end"));
    }
    match socket.send(Frame::text("behind the end")).await {
        Err(Error::Send(error)) if error.frame().is_some() => {}
        other => pair.violation(&format!("{side:?}: a send behind the end gave {other:?}")),
    }
}

async fn closes<T: Transport, C: parley_proto::driver::Clock>(
    mut socket: WebSocket<T, C>,
    pair: &Pair,
    side: Side,
    dice: &mut Dice,
) {
    let code = code(dice);
    pair.asked(side, code);
    pair.closes_behind(side, code, &[Stream::Sent, Stream::Echo, Stream::Ping, Stream::Empty]);
    let outcome = socket.close_with(close(code)).await;
    let good = socket.closed().is_some_and(|closed| closed.error.is_none());
    if outcome.is_ok() != good {
        pair.violation(&format!("{side:?}: close gave {outcome:?}, and the end is {:?}", socket.closed()));
    }
    let told = socket.next().await; // nothing, or the error once more: `close` has told it, the stream has not
    if let Some(Ok(frame)) = told {
        pair.violation(&format!("{side:?}: a frame of {} bytes behind its own Close", frame.len()));
    }
    finish(socket, pair, side).await;
}

/// A frame has come.
async fn take<T: Transport, C: parley_proto::driver::Clock>(
    socket: &mut WebSocket<T, C>,
    pair: &Pair,
    side: Side,
    frame: &Frame,
    dice: &mut Dice,
    then: Then,
) -> Then {
    let label = match frame {
        Frame::Pong(payload) => {
            pair.pong(side, payload);
            return then;
        }
        Frame::Ping(payload) => {
            pair.pinged(side, payload);
            return then;
        }
        frame => pair.received(side, frame.payload()),
    };
    if then == Then::On && label.is_some_and(|label| label.stream == Stream::Sent) && dice.chance(60) {
        let answer = echo(pair, side, frame);
        let Ok(label) = Label::read(answer.payload()) else { return then };
        let payload = answer.payload().clone();
        return outcome(pair, label, &payload, socket.send(answer).await, false);
    }
    then
}

/// What became of a send.
fn outcome(pair: &Pair, label: Label, payload: &Bytes, outcome: Result<(), Error>, settled: bool) -> Then {
    match outcome {
        Ok(()) => {
            if settled {
                pair.settled(label);
            }
            Then::On
        }
        Err(Error::Send(error)) => {
            if error.frame().is_none_or(|frame| frame.payload() != payload) || matches!(error, SendError::Full(_)) {
                pair.violation(&format!("{label} came back changed, or for no reason: {error}"));
            }
            pair.given_back(label, &error.to_string());
            Then::Drain
        }
        Err(Error::Disconnected(reason)) => {
            pair.note(Some(label.side), format!("{label} may be sent or not: {reason}"));
            Then::Drain
        }
        Err(error) => {
            pair.violation(&format!("{label} was refused: {error}"));
            Then::Drain
        }
    }
}

/// Something to send.
async fn act<P: Platform, T: Transport>(
    socket: &mut WebSocket<T, P::Clock>,
    pair: &Pair,
    side: Side,
    dice: &mut Dice,
) -> Then {
    let messages = 1 + dice.below(8);
    match dice.below(10) {
        0..4 => {
            for _ in 0..messages {
                let label = pair.offer(side, Stream::Sent);
                let frame = label.frame(size(dice));
                let payload = frame.payload().clone();
                let cancels = dice.chance(10);
                let sent = tokio::select! {
                    sent = socket.send(frame) => Some(sent),
                    () = sleep::<P>(dice.millis(5)), if cancels => None,
                };
                match sent {
                    // What a corked socket was given may wait.
                    Some(sent) => match outcome(pair, label, &payload, sent, false) {
                        Then::On => {}
                        then => return then,
                    },
                    None => pair.unsure(label, "given up"),
                }
            }
            flush(socket, pair, side).await
        }
        4..8 => {
            for _ in 0..messages {
                let label = pair.offer(side, Stream::Sent);
                let frame = label.frame(size(dice));
                let payload = frame.payload().clone();
                match outcome(pair, label, &payload, socket.feed(frame).await, false) {
                    Then::On => {}
                    then => return then,
                }
            }
            if dice.chance(80) { flush(socket, pair, side).await } else { Then::On }
        }
        8 => {
            let label = pair.offer(side, Stream::Ping);
            let frame = label.ping();
            let payload = frame.payload().clone();
            outcome(pair, label, &payload, socket.send(frame).await, false)
        }
        _ => {
            let label = pair.offer(side, Stream::Empty);
            outcome(pair, label, &Bytes::new(), socket.send(Frame::text("")).await, false)
        }
    }
}

async fn flush<T: Transport, C: parley_proto::driver::Clock>(
    socket: &mut WebSocket<T, C>,
    pair: &Pair,
    side: Side,
) -> Then {
    match socket.flush().await {
        Ok(()) => {
            for stream in [Stream::Sent, Stream::Echo, Stream::Empty] {
                pair.flushed(side, stream);
            }
            Then::On
        }
        Err(Error::Disconnected(reason)) => {
            pair.note(Some(side), format!("flush: {reason}"));
            Then::Drain
        }
        Err(error) => {
            pair.violation(&format!("{side:?}: flush gave {error}"));
            Then::Drain
        }
    }
}

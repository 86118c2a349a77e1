//! The clients: those with a handler, which come back by themselves, and sockets, which are opened again and again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parley_proto::StopReason;
use parley_proto::connection::Keepalive;
use parley_proto::driver::{Client, ClientBuilder, Error, Platform, Setup};
use parley_proto::session::{ClientOptions, ClientState, Reconnect};
use tokio::sync::oneshot;

use super::ledger::{End, lock};
use super::message::Side;
use super::talk::talk;
use super::worker::{Order, Seat, Sender, Worker, code, code_of_a_callback, pause};
use super::{CLOSE_TIMEOUT, HANDSHAKE_TIMEOUT, Round, proxy, sleep};
use crate::dice::Dice;

/// Silence before a ping, and behind it: for most, and for the hasty.
const KEEPALIVE: [Duration; 2] = [Duration::from_secs(15), Duration::from_millis(1500)];
/// What an end may take, above the close timeout.
const END: Duration = Duration::from_secs(60);

/// One place among the clients of a round: one client after another, until the round is over.
pub(super) async fn place<P: Platform>(round: Arc<Round>, mut dice: Dice) {
    sleep::<P>(dice.millis(round.length.as_millis() as usize / 10 + 1)).await;
    while !round.is_over() {
        if dice.chance(60) {
            life::<P>(&round, &mut dice).await;
        } else {
            socket::<P>(&round, &mut dice).await;
        }
        sleep::<P>(dice.millis(100)).await;
    }
}

fn keepalive(dice: &mut Dice) -> (bool, Option<Keepalive>) {
    let hasty = dice.chance(20);
    let time = KEEPALIVE[usize::from(hasty)];
    (hasty, Keepalive::new(time, time).ok())
}

/// A socket, from dialling to its end.
async fn socket<P: Platform>(round: &Arc<Round>, dice: &mut Dice) {
    let (hasty, keepalive) = keepalive(dice);
    let pair = round.ledger.attempt(hasty, None);
    let builder = Client::<(), (), P>::builder(&round.url).and_then(|builder: ClientBuilder<P>| {
        let builder = builder.connect_timeout(HANDSHAKE_TIMEOUT).close_timeout(CLOSE_TIMEOUT).keepalive(keepalive);
        builder.header(proxy::HEADER, pair.id().to_string())
    });
    let builder = match builder {
        Ok(builder) => builder,
        Err(error) => return pair.violation(&format!("no builder: {error}")),
    };
    let connected = tokio::select! {
        connected = builder.connect() => connected,
        () = sleep::<P>(dice.millis(50)), if dice.chance(4) => return pair.ended(Side::Client, End::Dropped),
    };
    match connected {
        Ok(socket) => {
            pair.opened(Side::Client);
            talk::<P, _>(socket, round, &pair, Side::Client, dice).await;
        }
        Err(Error::Disconnected(reason)) => pair.ended(Side::Client, End::Failed(reason)),
        Err(other) => {
            pair.violation(&format!("connect failed: {other}"));
            pair.ended(Side::Client, End::Dropped);
        }
    }
}

/// How a client's life shall end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Stop,
    StopByCallback,
    Abort,
    Fail,
    Panic,
    /// Left alone, it ends with its last connection: nobody can reach it any more.
    Detach,
}

/// A client with a handler, from its start to its end.
async fn life<P: Platform>(round: &Arc<Round>, dice: &mut Dice) {
    let ledger = &round.ledger;
    let seat = Arc::new(Seat::default());
    let (hasty, keepalive) = keepalive(dice);
    let (options, platform) = match (ClientOptions::new(&round.url), P::create(P::Tls::default())) {
        (Ok(options), Ok(platform)) => (options, platform),
        (options, platform) => {
            return ledger.violation(format!("no client: {:?}, {:?}", options.err(), platform.err()));
        }
    };
    let mut options = options;
    options.connect_timeout = HANDSHAKE_TIMEOUT;
    options.connection.close_timeout = CLOSE_TIMEOUT;
    options.connection.keepalive = keepalive;
    let backoff = Reconnect::default().base(Duration::from_millis(50)).max(Duration::from_millis(500));
    options.reconnect = Some(backoff.min_uptime(Duration::from_secs(1)));

    let setup = Setup::new(options);
    let worker = Worker::client(ledger.clone(), seat.clone(), setup.own_handle(), dice.fork(), hasty);
    let own = setup.own_handle();
    let (client, running) = setup.client(platform, worker);
    let (abort, aborted) = oneshot::channel::<()>();
    P::spawn(async move {
        tokio::select! {
            () = running => {}
            Ok(()) = aborted => {}
        }
    });

    // One that is stopped before has nothing to terminate.
    if let Err(error) = client.started().await {
        return ledger.violation(format!("a client did not start: {error}"));
    }
    let sender = Sender { side: Side::Client, ledger, seat: &seat, handle: &client };
    let lives = 1 + dice.below(40);
    for _ in 0..lives {
        if round.is_over() || client.state() == ClientState::Stopped {
            break;
        }
        sleep::<P>(pause(dice)).await;
        if client.state() == ClientState::Disconnected && dice.chance(60) {
            client.connect().await;
        }
        match dice.below(100) {
            0..55 => sender.burst::<P>(dice).await,
            55..67 => sender.order(Order::Push(1 + dice.below(6))),
            67..75 => sender.order(Order::Own(1 + dice.below(3))),
            75..83 => sender.ping(),
            83..87 => {
                let code = code(dice);
                sender.closes(code);
                client.disconnect_with(super::worker::close(code)).await;
                let down = client.wait_for(ClientState::Disconnected);
                tokio::select! {
                    _ = down => {}
                    () = sleep::<P>(dice.millis(300)) => {}
                }
                client.connect().await;
            }
            87..91 => {
                let code = code(dice);
                sender.closes(code);
                client.reconnect(super::worker::close(code)).await;
            }
            91..94 => sender.order(Order::Disconnect(code_of_a_callback(dice))),
            94..97 => sender.order(Order::Reconnect(code_of_a_callback(dice))),
            97 => sender.abandon(dice).await,
            _ => {
                sender.burst::<P>(dice).await;
                sender.burst::<P>(dice).await;
            }
        }
    }

    let last = match dice.below(100) {
        0..55 => Last::Stop,
        55..65 => Last::StopByCallback,
        65..80 => Last::Abort,
        80..85 => Last::Fail,
        85..90 => Last::Panic,
        _ => Last::Detach,
    };
    match last {
        Last::Stop => {
            let code = code(dice);
            sender.closes(code);
            client.stop_with(super::worker::close(code)).await;
        }
        Last::StopByCallback => sender.order(Order::Stop(code_of_a_callback(dice))),
        Last::Abort => drop(abort.send(())),
        Last::Fail => sender.order(Order::Fail),
        Last::Panic => sender.order(Order::Panic),
        Last::Detach => {
            seat.leaves.store(true, Ordering::SeqCst);
            let code = code(dice);
            sender.closes(code);
            client.disconnect_with(super::worker::close(code)).await;
        }
    }
    let now = seat.now();
    let ended = tokio::select! {
        ended = client.join() => ended,
        () = sleep::<P>(CLOSE_TIMEOUT + END) => {
            let (state, stats, present) = (own.state(), own.stats(), seat.now());
            return ledger.violation(format!(
                "a client does not end by {last:?}: it is {state:?}, its connection {present:?} (was {now:?}), {stats:?}"
            ));
        }
    };
    let reason = match &ended {
        Ok(_) => None,
        Err(error) => Some(error.reason().clone()),
    };
    let fits = match (last, &reason) {
        (Last::Stop | Last::StopByCallback, None) => true,
        // It was disconnected, and by its last handle's end ended before it was aborted.
        (Last::Abort, None | Some(StopReason::Aborted | StopReason::Disconnected(_))) => true,
        (Last::Fail, Some(StopReason::Handler(_))) => true,
        (Last::Panic, Some(StopReason::Panicked)) => true,
        // It was clean, or its last connection ended otherwise before the disconnect came to it.
        (Last::Detach, None | Some(StopReason::Disconnected(_))) => true,
        _ => false,
    };
    if !fits {
        ledger.violation(format!(
            "a client was to end by {last:?}, and ended by {reason:?}; its last connection: {now:?}"
        ));
    }
    drop(ended);
    let terminated = *lock(&seat.terminated);
    let wanted = usize::from(!matches!(reason, Some(StopReason::Aborted | StopReason::Panicked)));
    if fits && terminated != wanted {
        ledger.violation(format!("a client ended by {last:?}, and `terminate` ran {terminated} times"));
    }
    let stats = own.stats();
    let (attempts, ends) = (stats.attempts, seat.ends.load(Ordering::SeqCst));
    // The last attempt, or its connection, may have been ended by the client's own end.
    let aborted = matches!(reason, Some(StopReason::Aborted));
    if fits && !aborted && !(attempts == ends || attempts == ends + 1) {
        ledger.violation(format!("a client has seen {ends} ends of {attempts} attempts, and ended by {last:?}"));
    }
    let heard = seat.heard.load(Ordering::SeqCst);
    if fits && !aborted && stats.frames_received != heard {
        ledger.violation(format!("a client has heard {heard} frames, and counts {}", stats.frames_received));
    }
    if let Some(pair) = seat.now() {
        pair.violation("its client has ended, and it has not");
    }
}

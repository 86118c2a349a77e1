//! Fault injection: a corpus of conversations, both roles, each replayed under every way of cutting it, ending it, and
//! damaging it.
//!
//! ```text
//! (a) whole   (b) a byte at a time   (c) every cut in two   (d) 1,000 cuts at random        the same events
//! (e) an end of stream, (f) a reset, after every byte         one terminal event, clean only after both Closes
//! (g) a byte flipped, dropped or doubled, at every offset     no panic, no hang, nothing beyond the limits
//! (h) output taken 0, 1 or some bytes at a time               the same bytes
//! ```
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

mod corpus;
mod play;

use std::iter::once;

use corpus::{Conversation, conversations};
use play::{End, Played, play};
use rand::rngs::ChaCha12Rng;
use rand::{Rng, RngExt, SeedableRng};

/// All of it takes an optimised build, as CI makes one; else every tenth.
const SHARE: usize = if cfg!(debug_assertions) { 10 } else { 1 };

fn at_once(_: usize) -> usize {
    usize::MAX
}

fn whole(conversation: &Conversation) -> Played {
    play(conversation, once(&conversation.input[..]), End::Eof, at_once)
}

/// For each conversation; what goes wrong says in which.
fn each(check: impl Fn(&Conversation)) {
    for conversation in conversations() {
        let name = conversation.name.clone();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&conversation)));
        assert!(caught.is_ok(), "in the conversation {name:?}");
    }
}

#[test]
fn the_corpus_is_large_and_its_conversations_end_as_they_should() {
    let all = conversations();
    assert!(all.len() >= 60, "{}", all.len());
    for conversation in &all {
        let played = whole(conversation);
        assert_eq!(played.ends, 1, "{}: {:?}", conversation.name, played.events);
        let (code, clean) = played.closed.unwrap();
        assert_eq!((code, clean), conversation.outcome, "{}: {:?}", conversation.name, played.events);
        assert_eq!(clean, conversation.close_end.is_some(), "{}", conversation.name);
    }
}

#[test]
fn any_chunking_gives_the_same_events() {
    each(|conversation| {
        let input = &conversation.input;
        let expected = whole(conversation).events;
        let check = |events: Vec<String>, how: &str| assert_eq!(events, expected, "{how}");
        check(play(conversation, input.chunks(1), End::Eof, at_once).events, "byte by byte");
        for cut in (0..=input.len()).step_by(SHARE.div_ceil(3) * (1 + input.len() / 1_000)) {
            let (first, second) = input.split_at(cut);
            check(play(conversation, [first, second], End::Eof, at_once).events, "in two");
        }
        let mut rng = ChaCha12Rng::from_seed([1; 32]);
        let times = if input.len() > 10_000 { 100 } else { 1_000 } / SHARE;
        for _ in 0..times {
            let most = rng.random_range(1..=input.len());
            let mut rest = &input[..];
            let pieces = std::iter::from_fn(|| {
                let (piece, after) = rest.split_at(rng.random_range(0..=most).min(rest.len()));
                (!rest.is_empty()).then(|| rest = after).map(|()| piece)
            });
            check(play(conversation, pieces, End::Eof, at_once).events, "at random");
        }
    });
}

#[test]
fn hazard_13_an_end_after_any_byte_is_one_end_and_clean_only_after_both_closes() {
    each(|conversation| {
        let input = &conversation.input;
        let step = SHARE.div_ceil(3) * (1 + input.len() / 1_000);
        for cut in (0..=input.len()).step_by(step) {
            for end in [End::Eof, End::Reset, End::Silence] {
                let played = play(conversation, once(&input[..cut]), end, at_once);
                assert_eq!(played.ends, 1, "{end:?} after {cut} bytes: {:?}", played.events);
                assert!(played.events.last().is_some_and(|last| last.starts_with("closed")), "the last event");
                let both = conversation.close_end.is_some_and(|close| cut >= close);
                assert_eq!(played.closed.unwrap().1, both, "{end:?} after {cut} bytes: {:?}", played.events);
            }
        }
    });
}

/// A flip may make one legal message of another; what it may not do is panic, hang, or hold more than the limits.
#[test]
fn a_damaged_byte_is_survived() {
    each(|conversation| {
        let step = SHARE * (1 + conversation.input.len() / 300);
        for at in (0..conversation.input.len()).step_by(step) {
            let damaged = [0x01, 0x80, 0xff].map(|flip| {
                let mut input = conversation.input.clone();
                input[at] ^= flip;
                input
            });
            let mut dropped = conversation.input.clone();
            dropped.remove(at);
            let mut doubled = conversation.input.clone();
            doubled.insert(at, doubled[at]);
            for input in damaged.iter().chain([&dropped, &doubled]) {
                for end in [End::Eof, End::Silence] {
                    let played = play(conversation, input.chunks(97), end, at_once);
                    assert_eq!(played.ends, 1, "byte {at}: {:?}", played.events);
                }
            }
        }
    });
}

#[test]
fn output_that_leaves_in_bits_is_the_same_output() {
    each(|conversation| {
        let once_whole = || once(&conversation.input[..]);
        let expected = play(conversation, once_whole(), End::Eof, at_once).wire_without_pongs();
        let few = if conversation.input.len() > 10_000 { 997 } else { 1 };
        let bytewise = play(conversation, once_whole(), End::Eof, |_| few).wire_without_pongs();
        assert_eq!(bytewise, expected, "a byte at a time");
        for seed in 0..20 {
            let mut rng = ChaCha12Rng::from_seed([seed; 32]);
            let some = |queued: usize| if rng.next_u32() % 3 == 0 { 0 } else { rng.random_range(0..=queued) };
            assert_eq!(play(conversation, once_whole(), End::Eof, some).wire_without_pongs(), expected, "at random");
        }
    });
}

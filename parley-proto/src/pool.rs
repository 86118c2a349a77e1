//! What connections share: buffers, of which one that is at rest holds none, and what clients that are alike are told alike.
//!
//! Every thread keeps at most [`KEPT`] of a kind. A buffer is given back by whoever empties it, on whatever thread
//! that happens.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use bytes::BytesMut;

use crate::codec::Queue;
use crate::connection::Config;
use crate::session::Target;

/// How many buffers of one kind a thread keeps.
const KEPT: usize = 4;
/// The capacity of a window in bytes: what one read takes at most.
pub(crate) const WINDOW: usize = 64 * 1024;
/// An output buffer that has grown beyond so many bytes is not kept.
const MAX_OUTPUT: usize = 128 * 1024;

struct Pool {
    windows: Vec<BytesMut>,
    #[allow(clippy::vec_box, reason = "decoders hold their queue in a box, and the box is what is kept")]
    queues: Vec<Box<Queue>>,
    outputs: Vec<Vec<u8>>,
    config: Option<Arc<Config>>,
    /// Weak: credentials may be in it, which go with the last client that has them.
    target: Weak<Target>,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { windows: Vec::new(), queues: Vec::new(), outputs: Vec::new(), config: None, target: Weak::new() }) };
}

/// Runs `f` on the pool of this thread; `None` while the thread is being torn down.
#[inline]
fn with<T>(f: impl FnOnce(&mut Pool) -> T) -> Option<T> {
    POOL.try_with(|pool| f(&mut pool.borrow_mut())).ok()
}

/// An empty window with [`WINDOW`] bytes of capacity.
#[inline]
pub(crate) fn window() -> BytesMut {
    with(|pool| pool.windows.pop()).flatten().unwrap_or_else(|| BytesMut::with_capacity(WINDOW))
}

/// Takes a window back, if nothing refers to it any more: a frame that someone keeps may be a slice of it.
#[inline]
pub(crate) fn give_window(mut window: BytesMut) {
    window.clear();
    with(|pool| {
        if pool.windows.len() < KEPT && window.try_reclaim(WINDOW) && window.capacity() <= 2 * WINDOW {
            pool.windows.push(window);
        }
    });
}

/// An empty queue.
#[inline]
pub(crate) fn queue() -> Box<Queue> {
    with(|pool| pool.queues.pop()).flatten().unwrap_or_default()
}

/// Takes a queue back.
#[inline]
pub(crate) fn give_queue(mut queue: Box<Queue>) {
    if queue.reset() {
        with(|pool| {
            if pool.queues.len() < KEPT {
                pool.queues.push(queue);
            }
        });
    }
}

/// An output buffer, all of it initialised, with any length; what it holds has no meaning.
#[inline]
pub(crate) fn output() -> Vec<u8> {
    with(|pool| pool.outputs.pop()).flatten().unwrap_or_default()
}

/// Takes an output buffer back. Its contents are never shown: whoever takes it next writes before it reads.
#[inline]
pub(crate) fn give_output(output: Vec<u8>) {
    if output.capacity() <= MAX_OUTPUT && !output.is_empty() {
        with(|pool| {
            if pool.outputs.len() < KEPT {
                pool.outputs.push(output);
            }
        });
    }
}

/// This configuration to be shared: with those before it on this thread, if theirs is the same one.
pub(crate) fn config(config: Config) -> Arc<Config> {
    let known = with(|pool| pool.config.clone()).flatten().filter(|known| **known == config);
    known.unwrap_or_else(|| {
        let config = Arc::new(config);
        with(|pool| pool.config = Some(config.clone()));
        config
    })
}

/// The same for what clients dial, and how.
pub(crate) fn target(target: Target) -> Arc<Target> {
    let known = with(|pool| pool.target.upgrade()).flatten().filter(|known| **known == target);
    known.unwrap_or_else(|| {
        let target = Arc::new(target);
        with(|pool| pool.target = Arc::downgrade(&target));
        target
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Role;
    use crate::handshake::ClientRequest;
    use crate::transport::TcpOptions;

    #[test]
    fn connections_that_are_configured_alike_share_it() {
        let other = Config { chunks_above: Some(1), ..Config::new(Role::Client) };
        let [a, b, c, d] = [Config::new(Role::Client), Config::new(Role::Client), other.clone(), other].map(config);
        assert!(Arc::ptr_eq(&a, &b) && Arc::ptr_eq(&c, &d));
        assert_eq!((&*a, c.chunks_above), (&Config::new(Role::Client), Some(1)));
    }

    #[test]
    fn clients_that_dial_alike_share_what_they_dial_and_it_goes_with_the_last() {
        let shared = |url: &str| {
            let request = ClientRequest::new(url).unwrap();
            target(Target::new(request, Duration::ZERO, None, TcpOptions::default()))
        };
        let [a, b, c] = ["ws://localhost/", "ws://localhost/", "ws://user:secret@localhost/"].map(shared);
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &c));
        let secret = Arc::downgrade(&c);
        drop(c);
        assert!(secret.upgrade().is_none());
    }

    #[test]
    fn a_request_with_a_secret_does_not_share_that_of_one_without() {
        let marked = |secret| {
            let mut key = http::HeaderValue::from_static("hunter8");
            key.set_sensitive(secret);
            let mut request = ClientRequest::new("ws://localhost/").unwrap();
            request.header("x-key", key).unwrap();
            target(Target::new(request, Duration::ZERO, None, TcpOptions::default()))
        };
        let [plain, secret, same] = [false, true, true].map(marked);
        assert!(!Arc::ptr_eq(&plain, &secret), "it would be shown");
        assert!(Arc::ptr_eq(&secret, &same));
    }

    #[test]
    fn a_window_is_kept_once_nothing_refers_to_it() {
        let mut first = window();
        first.extend_from_slice(b"abc");
        let held = first.split_to(3).freeze();
        let address = held.as_ptr();
        give_window(first);
        assert_ne!(window().as_ptr(), address, "still referred to");

        let mut second = window();
        second.extend_from_slice(b"abc");
        let frame = second.split_to(3).freeze();
        let address = frame.as_ptr();
        drop(frame);
        give_window(second);
        let third = window();
        assert_eq!((third.as_ptr(), third.capacity(), third.len()), (address, WINDOW, 0));
    }

    #[test]
    fn no_more_than_a_few_are_kept() {
        let windows: Vec<_> = (0..KEPT + 3).map(|_| window()).collect();
        windows.into_iter().for_each(give_window);
        assert_eq!(with(|pool| pool.windows.len()), Some(KEPT));
    }
}

//! A queue that is nearly always empty, and takes a word then.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

/// Boxed from its first item until [`rest`](Self::rest) finds it empty.
#[expect(clippy::box_collection, reason = "a connection has several, and nearly always all are empty")]
pub(crate) struct Sparse<T>(Option<Box<VecDeque<T>>>);

impl<T> Sparse<T> {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        self.0.as_mut()?.pop_front()
    }

    #[inline]
    pub(crate) fn front_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut()?.front_mut()
    }

    pub(crate) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> {
        self.0.iter_mut().flat_map(|queue| queue.iter_mut())
    }

    /// All that is in it.
    pub(crate) fn take(&mut self) -> VecDeque<T> {
        self.0.take().map_or_else(VecDeque::new, |queue| *queue)
    }

    /// Drops all that is in it.
    #[inline]
    pub(crate) fn clear(&mut self) {
        if let Some(queue) = &mut self.0 {
            queue.clear();
        }
    }

    /// An empty one keeps room for so many, if it has it.
    #[inline]
    pub(crate) fn shrink_to(&mut self, kept: usize) {
        if let Some(queue) = self.0.as_mut().filter(|queue| queue.is_empty()) {
            queue.shrink_to(kept);
        }
    }

    /// Nothing will come soon: an empty one holds no memory.
    #[inline]
    pub(crate) fn rest(&mut self) {
        self.0.take_if(|queue| queue.is_empty());
    }
}

impl<T> From<VecDeque<T>> for Sparse<T> {
    fn from(queue: VecDeque<T>) -> Self {
        Self(Some(Box::new(queue)))
    }
}

impl<T> Deref for Sparse<T> {
    type Target = VecDeque<T>;

    #[inline]
    fn deref(&self) -> &VecDeque<T> {
        match &self.0 {
            Some(queue) => queue,
            None => const { &VecDeque::new() },
        }
    }
}

/// To put something in: this makes room.
impl<T> DerefMut for Sparse<T> {
    fn deref_mut(&mut self) -> &mut VecDeque<T> {
        self.0.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_queue_holds_nothing_once_it_rests() {
        let mut queue = Sparse::new();
        assert!(queue.is_empty() && queue.iter().next().is_none());
        assert!(queue.iter_mut().next().is_none() && queue.front_mut().is_none());
        assert_eq!((queue.pop_front(), queue.take().len()), (None, 0));
        assert!(queue.0.is_none(), "looking makes no room");
        queue.clear();
        assert!(queue.0.is_none());
        queue.extend([1, 2, 3]);
        queue.rest();
        assert_eq!((queue.pop_front(), queue.len()), (Some(1), 2));
        queue.clear();
        assert_eq!(queue.pop_front(), None);
        queue.rest();
        assert!(queue.0.is_none());
    }
}

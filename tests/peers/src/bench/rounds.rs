//! The libraries of one row in turn, A B B A: what disturbs the machine meets them all alike.
//!
//! The clock is the thread's own CPU time, which stands still while the processor is somebody else's.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Values a library and row.
    pub rounds: usize,
    /// What one round of one library takes, about.
    pub per_round: Duration,
}

/// A library that is ready to run one row.
pub struct Contender {
    pub library: &'static str,
    /// Handles exactly so many messages.
    pub run: Box<dyn FnMut(u64)>,
    /// What is to be said of its figure: see [`Sample::mark`](super::Sample::mark).
    pub mark: Option<&'static str>,
}

impl Contender {
    pub fn new(library: &'static str, run: impl FnMut(u64) + 'static) -> Self {
        Self { library, run: Box::new(run), mark: None }
    }

    /// As many messages as fill a round, found by doubling; warms up as well.
    fn messages(&mut self, per_round: Duration) -> u64 {
        let mut messages = 1;
        loop {
            let took = self.time(messages);
            if took >= per_round / 2 {
                let fill = per_round.as_secs_f64() / took.as_secs_f64();
                return ((messages as f64 * fill).ceil() as u64).max(1);
            }
            messages *= 2;
        }
    }

    fn time(&mut self, messages: u64) -> Duration {
        let start = thread_time();
        (self.run)(messages);
        thread_time().saturating_sub(start)
    }
}

/// What this thread has used of a processor.
#[must_use]
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let since = |part: i64| u64::try_from(part).expect("it counts up from zero");
    Duration::from_secs(since(time.tv_sec)) + Duration::from_nanos(since(time.tv_nsec))
}

/// Runs the contenders in rounds, every other one backwards. Returns nanoseconds a message, in the contenders' order, one value a
/// round.
pub fn compete(contenders: &mut [Contender], effort: Effort) -> Vec<Vec<f64>> {
    let messages: Vec<_> = contenders.iter_mut().map(|contender| contender.messages(effort.per_round)).collect();
    let mut values = vec![Vec::with_capacity(effort.rounds); contenders.len()];
    for round in 0..effort.rounds {
        let mut order: Vec<_> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for number in order {
            let took = contenders[number].time(messages[number]);
            values[number].push(took.as_secs_f64() * 1e9 / messages[number] as f64);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn every_other_round_goes_backwards_and_each_has_a_value_a_round() {
        let calls = Rc::new(RefCell::new(String::new()));
        let contender = |library: &'static str| {
            let calls = calls.clone();
            Contender::new(library, move |_| calls.borrow_mut().push_str(library))
        };
        let mut contenders = [contender("a"), contender("b")];
        // A round of no length: one message is enough.
        let effort = Effort { rounds: 4, per_round: Duration::ZERO };
        let values = compete(&mut contenders, effort);
        assert_eq!(*calls.borrow(), "ababbaabba");
        assert!(values.iter().all(|values| values.len() == 4 && values.iter().all(|value| *value >= 0.0)));
    }
}

//! When to try again: the backoff between attempts.

use std::time::Duration;

use http::HeaderMap;
use http::header::{DATE, HeaderName, RETRY_AFTER};
use httpdate::parse_http_date;
use rand::{Rng, RngExt};

/// How a client comes back by itself. Off unless it is given to the builder.
///
/// The delay before retry n (0 for the first) is drawn below `d = min(base * 2^n, max)`; n returns to 0 once a
/// connection has lived for `min_uptime`.
///
/// ```
/// use std::time::Duration;
/// use parley_proto::session::{Jitter, Reconnect};
///
/// let patient = Reconnect::default().base(Duration::from_secs(5)).jitter(Jitter::Full).max_retries(10);
/// assert_eq!(patient, Reconnect::default().base(Duration::from_secs(5)).jitter(Jitter::Full).max_retries(10));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconnect {
    base: Duration,
    max: Duration,
    first_delay: Option<Duration>,
    max_retries: Option<u32>,
    jitter: Jitter,
    min_uptime: Duration,
}

/// From which part of the backoff a delay is drawn, so that many clients do not come back at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Jitter {
    /// From the upper half: `(d/2, d]`.
    #[default]
    Half,
    /// From all of it: `[0, d]`.
    Full,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            max: Duration::from_secs(30),
            first_delay: None,
            max_retries: None,
            jitter: Jitter::Half,
            min_uptime: Duration::from_secs(5),
        }
    }
}

impl Reconnect {
    /// The backoff before it doubles. Default 1 s.
    #[must_use]
    pub fn base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// The backoff never exceeds this. Default 30 s.
    #[must_use]
    pub fn max(mut self, max: Duration) -> Self {
        self.max = max;
        self
    }

    /// The backoff before the first retry. Default: [`base`](Self::base).
    #[must_use]
    pub fn first_delay(mut self, delay: Duration) -> Self {
        self.first_delay = Some(delay);
        self
    }

    /// So many retries by policy after a failure, then the client ends with
    /// [`StopReason::MaxRetriesExceeded`](crate::StopReason::MaxRetriesExceeded). Default: no limit. Attempts that the
    /// handler forces are not limited, but they count.
    #[must_use]
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = Some(retries);
        self
    }

    /// Default [`Jitter::Half`].
    #[must_use]
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// A connection that lived so long starts the backoff anew when it ends; zero: any connection does. Default 5 s.
    #[must_use]
    pub fn min_uptime(mut self, uptime: Duration) -> Self {
        self.min_uptime = uptime;
        self
    }
}

/// The retries since a connection last lived long enough.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    retries: u32,
}

impl Backoff {
    /// A connection has ended after this long.
    pub(super) fn lived(&mut self, reconnect: &Reconnect, uptime: Duration) {
        if uptime >= reconnect.min_uptime {
            self.retries = 0;
        }
    }

    /// All retries that the policy allows were used.
    pub(super) fn is_exhausted(&self, reconnect: &Reconnect) -> bool {
        reconnect.max_retries.is_some_and(|most| self.retries >= most)
    }

    /// A retry after a delay that is none of the backoff's.
    pub(super) fn count(&mut self) {
        self.retries = self.retries.saturating_add(1);
    }

    /// The delay before the next retry; it counts as one.
    pub(super) fn next(&mut self, reconnect: &Reconnect, rng: &mut impl Rng) -> Duration {
        let doubled = 2_u32.checked_pow(self.retries).and_then(|factor| reconnect.base.checked_mul(factor));
        let backoff = match (self.retries, reconnect.first_delay) {
            (0, Some(first)) => first,
            _ => doubled.unwrap_or(reconnect.max).min(reconnect.max),
        };
        self.count();
        let nanos = u64::try_from(backoff.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(match reconnect.jitter {
            Jitter::Half if nanos > 0 => rng.random_range(nanos / 2 + 1..=nanos),
            _ => rng.random_range(0..=nanos),
        })
    }
}

/// How long a server that refused wants to be left alone (RFC 9110, 10.2.3), at most 5 minutes.
///
/// A date is one of the server's calendar, and so is taken against the `Date` of the same response (6.6.1): no clock is
/// needed here, and one that is set wrong, there or here, does no harm. Where that is missing, it says nothing.
pub(super) fn retry_after(headers: &HeaderMap) -> Duration {
    const MOST: Duration = Duration::from_secs(5 * 60);
    let field = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let Some(value) = field(RETRY_AFTER).filter(|value| !value.is_empty()) else { return Duration::ZERO };
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.parse().map_or(MOST, Duration::from_secs).min(MOST); // digits alone fail by being too many
    }
    let wait = || {
        let until = parse_http_date(value).ok()?;
        until.duration_since(parse_http_date(field(DATE)?).ok()?).ok() // an error when it is over already
    };
    wait().unwrap_or_default().min(MOST)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use rand::SeedableRng;
    use rand::rngs::ChaCha12Rng;

    use super::*;

    fn delays(reconnect: &Reconnect, seed: u8, count: usize) -> Vec<Duration> {
        let mut rng = ChaCha12Rng::from_seed([seed; 32]);
        let mut backoff = Backoff::default();
        (0..count).map(|_| backoff.next(reconnect, &mut rng)).collect()
    }

    #[test]
    fn rule_4_16_the_backoff_doubles_up_to_its_maximum_and_half_of_it_is_drawn() {
        for seed in 0..50 {
            for (delay, seconds) in delays(&Reconnect::default(), seed, 8).into_iter().zip([1, 2, 4, 8, 16, 30, 30, 30])
            {
                let most = Duration::from_secs(seconds);
                assert!(delay > most / 2 && delay <= most, "{delay:?} of {most:?}");
            }
        }
    }

    #[test]
    fn rule_4_16_full_jitter_draws_from_all_of_it() {
        let reconnect = Reconnect::default().jitter(Jitter::Full);
        let first: Vec<_> = (0..100).map(|seed| delays(&reconnect, seed, 1)[0]).collect();
        assert!(first.iter().all(|delay| *delay <= Duration::from_secs(1)));
        assert!(first.iter().any(|delay| *delay < Duration::from_millis(300)));
        assert!(first.iter().any(|delay| *delay > Duration::from_millis(700)));
    }

    #[test]
    fn rule_4_16_the_first_delay_may_differ_and_many_retries_do_not_overflow() {
        let reconnect = Reconnect::default().first_delay(Duration::ZERO);
        let delays = delays(&reconnect, 1, 100);
        assert_eq!(delays[0], Duration::ZERO);
        assert!(delays[1] > Duration::from_secs(1) && delays[1] <= Duration::from_secs(2));
        assert!(delays[99] <= Duration::from_secs(30));
    }

    #[test]
    fn rule_4_16_a_long_life_starts_it_anew() {
        let reconnect = Reconnect::default().max_retries(1);
        let mut rng = ChaCha12Rng::from_seed([0; 32]);
        let mut backoff = Backoff::default();
        backoff.next(&reconnect, &mut rng);
        backoff.lived(&reconnect, Duration::from_millis(4999));
        assert!(backoff.is_exhausted(&reconnect));
        backoff.lived(&reconnect, Duration::from_secs(5));
        assert!(!backoff.is_exhausted(&reconnect));
    }

    fn floor(value: &'static str, date: Option<&'static str>) -> u64 {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_static(date));
        }
        retry_after(&headers).as_secs()
    }

    #[test]
    fn rule_4_19_retry_after_in_seconds() {
        for (value, seconds) in [
            ("0", 0),
            ("120", 120),
            (" 7 ", 7),
            ("300", 300),
            ("301", 300),
            ("99999999999999999999999", 300),
            ("", 0),
            ("-1", 0),
            ("+5", 0),
            ("1.5", 0),
            ("soon", 0),
        ] {
            assert_eq!(floor(value, None), seconds, "{value:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), Duration::ZERO);
    }

    #[test]
    fn rule_4_19_retry_after_as_a_date_of_each_form_counts_from_the_responses_date() {
        // RFC 9110, 5.6.7: IMF-fixdate, and the two that are obsolete and still to be read.
        let dates = ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"];
        let later = ["Sun, 06 Nov 1994 08:51:07 GMT", "Sunday, 06-Nov-94 08:51:07 GMT", "Sun Nov  6 08:51:07 1994"];
        for until in later {
            for date in dates {
                assert_eq!(floor(until, Some(date)), 90, "{until} of {date}");
                assert_eq!(floor(date, Some(until)), 0, "{date} is over at {until}");
            }
            assert_eq!(floor(until, None), 0, "counted from nothing");
        }
        assert_eq!(floor(dates[0], Some(dates[0])), 0);
        assert_eq!(floor("Fri, 31 Dec 9999 23:59:59 GMT", Some(dates[0])), 300);
        assert_eq!(floor("Mon, 01 Jan 2001 00:01:00 GMT", Some("Sun, 31 Dec 2000 23:59:30 GMT")), 90);
    }

    #[test]
    fn rule_4_19_retry_after_with_a_date_that_is_none_says_nothing() {
        let good = "Sun, 06 Nov 1994 08:49:37 GMT";
        for bad in [
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1894 08:49:37 GMT",
            "Sun, 06 Nov 1994",
            "1994-11-06T08:49:37Z",
            "\t",
        ] {
            assert_eq!(floor(bad, Some(good)), 0, "{bad:?}");
            assert_eq!(floor("Sun, 06 Nov 1994 08:50:37 GMT", Some(bad)), 0, "of {bad:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(retry_after(&headers), Duration::ZERO);
    }
}

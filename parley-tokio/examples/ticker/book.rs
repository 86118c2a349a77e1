//! What is known of the market: the messages of the feed, and the prices they add up to.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

/// A message of the feed.
pub(crate) enum Message<'a> {
    /// All prices, and the number of the last tick that is in them.
    Snapshot { sequence: u64, quotes: Vec<(&'a str, &'a str)> },
    /// A price has moved. Ticks are numbered without gaps.
    Tick { sequence: u64, symbol: &'a str, price: &'a str },
    /// There is nothing more today.
    Closed,
}

/// The feed says something that is none of its messages.
#[derive(Debug)]
pub(crate) struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a message of the feed: {:?}", self.0)
    }
}

impl Error for Malformed {}

impl<'a> Message<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, Malformed> {
        let malformed = || Malformed(text.chars().take(80).collect());
        let words: Vec<&str> = text.split(' ').collect();
        let sequence = |word: &str| word.parse().map_err(|_| malformed());
        match words.as_slice() {
            ["tick", number, symbol, price] => Ok(Self::Tick { sequence: sequence(number)?, symbol, price }),
            ["snapshot", number, quotes @ ..] if quotes.len() % 2 == 0 => {
                let quotes = quotes.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
                Ok(Self::Snapshot { sequence: sequence(number)?, quotes })
            }
            ["closed"] => Ok(Self::Closed),
            _ => Err(malformed()),
        }
    }
}

/// The last price of each symbol.
#[derive(Default)]
pub(crate) struct Book {
    /// Of the last tick that is in it; 0 before the first snapshot.
    sequence: u64,
    prices: BTreeMap<String, String>,
    /// A tick was missed, or the connection is new: only a snapshot helps.
    stale: bool,
}

/// What a tick did.
pub(crate) enum Applied {
    Moved,
    /// Ticks are missing before this one: it is not applied, nor is any other before the next snapshot.
    Gap {
        missing: u64,
    },
    /// It waits for no tick but for a snapshot, or the tick is older than that was.
    Ignored,
}

impl Book {
    /// What comes next need not follow on what came last.
    pub(crate) fn invalidate(&mut self) {
        self.stale = true;
    }

    pub(crate) fn tick(&mut self, sequence: u64, symbol: &str, price: &str) -> Applied {
        if self.stale || sequence <= self.sequence {
            return Applied::Ignored;
        }
        let missing = sequence - self.sequence - 1;
        if missing > 0 {
            self.stale = true;
            return Applied::Gap { missing };
        }
        self.sequence = sequence;
        self.prices.insert(symbol.to_owned(), price.to_owned());
        Applied::Moved
    }

    /// Returns how many ticks it makes up for; `None` for the first, which makes up for nothing.
    pub(crate) fn snapshot(&mut self, sequence: u64, quotes: &[(&str, &str)]) -> Option<u64> {
        let missed = sequence.saturating_sub(self.sequence);
        let is_first = self.prices.is_empty();
        self.sequence = sequence;
        self.prices = quotes.iter().map(|&(symbol, price)| (symbol.to_owned(), price.to_owned())).collect();
        self.stale = false;
        (!is_first).then_some(missed)
    }
}

impl fmt::Display for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (symbol, price)) in self.prices.iter().enumerate() {
            write!(f, "{}{symbol} {price}", if nth == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

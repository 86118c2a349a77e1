//! A fuzzer's input as a source of choices: bytes are taken from its front, and what is missing is zero.

/// What is left of an input.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of it.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    /// The next two bytes as a number.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Up to `n` bytes.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A byte that says how many, then as many bytes.
    pub fn counted(&mut self) -> &'a [u8] {
        let n = self.byte();
        self.bytes(n.into())
    }

    /// What is left.
    #[must_use]
    pub const fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// `wire` cut at random into pieces of 1 to 1 + `longest` squared bytes.
#[must_use]
pub fn pieces(mut wire: &[u8], longest: u8, seed: u8) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut state = u32::from(seed) + 1;
    while !wire.is_empty() {
        // xorshift32 (Marsaglia)
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let length = 1 + state as usize % (usize::from(longest).pow(2) + 1);
        let (piece, rest) = wire.split_at(length.min(wire.len()));
        pieces.push(piece);
        wire = rest;
    }
    pieces
}

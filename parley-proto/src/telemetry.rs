//! What is told to [`tracing`](https://docs.rs/tracing), with the feature of that name: spans and events under names that
//! stay. Without the feature nothing of it is compiled.
//!
//! All have the target `parley`, and events their name as their message too. Times are whole microseconds, sizes bytes. No payload, query, header or credential is
//! among the fields; reasons are the texts that [`DisconnectReason`](crate::DisconnectReason) and
//! [`StopReason`](crate::StopReason) show.
//!
//! Numbers, and how to see all this, are in the guide's [page on telemetry](crate::guide::telemetry).
//!
//! # Spans
//!
//! | span | level | fields | around |
//! |---|---|---|---|
//! | `parley.client` | info | `role` (`client` or `server`), `name` | all that a client's task does, its callbacks too |
//!
//! # Events of a client
//!
//! | event | level | fields |
//! |---|---|---|
//! | `attempt` | debug | `number`, `host`, `port`, `secure`: before `prepare` |
//! | `phase` | debug | `phase` (`prepare`, `dns`, `tcp`, `tls`, `upgrade`), `elapsed_us`, `ok` |
//! | `connected` | info | `elapsed_us` since the attempt began, `status`, `peer`, `tls` (its version), `subprotocol` |
//! | `disconnected` | info | `reason`, `code` (of a Close that was received or asked for by a callback), `transient`, `lived_us`, `bytes_received`, `bytes_sent`, `frames_received`, `frames_sent` of this connection, `queued` (cost of what waits to be sent), `rtt_us` (smoothed) |
//! | `retry` | debug | `delay_us` until the next attempt |
//! | `lost` | warn | `dropped`: frames that nobody waits for and that were not sent; `refused`: pushes without a connection |
//! | `stopped` | info | `reason` |
//!
//! A [`WebSocket`](crate::driver::WebSocket) that was dialled tells of its attempt and phases; at its end, of whatever
//! make it is:
//!
//! | event | level | fields |
//! |---|---|---|
//! | `closed` | info | `code`, `clean`, `error`, `bytes_received`, `bytes_sent` |
//!
//! # Events of a server
//!
//! | event | level | fields |
//! |---|---|---|
//! | `accepted` | debug | `peer` |
//! | `accept_failed` | warn | `error` of the system |
//! | `requested` | debug | `path`, `host`, `origin`: a request for the application |
//! | `refused` | warn | `path`, `host`, `origin`: a request whose origin is not welcome |
//! | `answered` | debug | `path`, `status`: a request without upgrade |
//! | `handshake_failed` | debug | `reason` |
//! | `shut_down` | info | `connections` that there were, `dropped` of them at the end |

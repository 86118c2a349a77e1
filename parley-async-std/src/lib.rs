//! Parley for async-std: not there yet. The core and its driver are in `parley-proto`.

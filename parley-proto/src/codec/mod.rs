//! Frames on the wire: RFC 6455, section 5.
